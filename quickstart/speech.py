"""The data sets of the quickstart: instruction groups spoken by espeak-ng, written once and kept in the cache.

A split becomes a folder ``<cache>/quickstart/<digest of all settings>/<split>/`` with ``manifest.jsonl`` and ``audio/``.
It is built under another name and renamed, so a killed synthesis leaves nothing that looks complete.
"""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from protocol.dataset import ManifestWriter, audio_hash
from protocol.messages import InstructionGroup, Utterance
from quickstart.language import CODE
from quickstart.tasks import PROMPTS, Task, wanted
from quickstart.voices import HELD_OUT, SAMPLING_RATE_HZ, TRAINING, Speaker, Voice, resample
from quickstart.world import Difficulty, Instruction, Split, draw, members

FORMAT = 1
"""Part of the cache's digest: rises when the same settings give other files."""
WINDOW_S = 4.0
TRAILING_SILENCE = 640
"""Samples of digital silence after the speech: the last frames of the spectrogram see past the end of a clip."""
PEAK = 0.5
VOICE_KEYS = ("name", "espeak", "words_per_minute", "pitch", "pitch_range")
"""What makes a voice of espeak-ng."""
REFERENCES = Path(__file__).parent / "checkpoints" / "references.json.gz"
"""The teacher's own greedy answers to the training instructions, `{instruction: answer}`."""


def cache_root() -> Path:
    """Where synthesised data sets are kept: `RBA_CACHE`, else ``~/.cache/rba``."""
    return Path(os.environ.get("RBA_CACHE") or Path.home() / ".cache" / "rba") / "quickstart"


def provide_split(split: Split, difficulty: Difficulty | None = None, *, task: Task = "answer", progress: bool = True) -> Path:
    """The manifest of a split for a task; synthesises it when the cache lacks it."""
    difficulty = difficulty or Difficulty()
    groups = members(split, difficulty)
    target = cache_root() / settings_digest(groups, split, difficulty, task) / split
    manifest = target / "manifest.jsonl"
    if not manifest.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{split}.draft-", dir=target.parent))
        try:
            synthesise(groups, split, difficulty, draft, task=task, progress=progress)
            _commit(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return manifest


def provide_voices() -> Path:
    """A bank of the training voices, as `speech.bank` of a synthesis reads it."""
    content = "".join(json.dumps({key: getattr(voice, key) for key in VOICE_KEYS}) + "\n" for voice in TRAINING)
    target = cache_root() / f"voices-{audio_hash(content.encode()).split(':')[1][:16]}.jsonl"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(content)
        draft.rename(target)
    return target


def _commit(draft: Path, target: Path) -> None:
    draft.chmod(0o755)  # mkdtemp's is private
    try:
        draft.rename(target)
    except OSError:  # another process was faster with the same data set
        if not (target / "manifest.jsonl").is_file():
            raise


def settings_digest(groups: list[Instruction], split: Split, difficulty: Difficulty, task: Task = "answer") -> str:
    """Hash of everything that a data set depends on: format, difficulty, voices, instructions, references, the task's prompt."""
    group_texts = [[each.text, wanted(task, each), reference(each, split, task)] for each in groups]
    voices = [{key: getattr(voice, key) for key in VOICE_KEYS} for voice in (*TRAINING, *HELD_OUT)]
    settings = [FORMAT, split, asdict(difficulty), voices, group_texts, *([PROMPTS[task]] if PROMPTS[task] else [])]
    return audio_hash(json.dumps(settings).encode()).split(":")[1][:16]


@cache
def _references() -> dict[str, str]:
    if not REFERENCES.is_file():  # while the teacher itself is being built
        return {}
    return dict(json.loads(gzip.decompress(REFERENCES.read_bytes())))


def reference(instruction: Instruction, split: Split, task: Task = "answer") -> str:
    """What the losses of a split learn from: the teacher's answer in training, the truth in validation and test, and of other tasks."""
    right = wanted(task, instruction)
    return _references().get(instruction.text, right) if task == "answer" and split in {"learned", "train"} else right


def voices_of(instruction: Instruction, split: Split, difficulty: Difficulty) -> list[Voice]:
    """The distinct voices of a group, drawn by a hash of its instruction.

    Training groups have training voices only. In validation and test the last voice is a held-out one.
    """
    seed, group_id = difficulty.seed, instruction.group_id
    pool = sorted(TRAINING[: difficulty.training_voices], key=lambda voice: draw("voice", seed, group_id, voice.name))
    if split in {"learned", "train"}:
        return pool[: difficulty.voices_per_group]
    unheard = HELD_OUT[draw("held out", seed, group_id) % len(HELD_OUT)]
    return [*pool[: difficulty.voices_per_group - 1], unheard]


# --- synthesis ----------------------------------------------------------------------------------------------

Order = tuple[Instruction, Split, Difficulty, Task]
Spoken = tuple[InstructionGroup, list[bytes]]
"""A group and the content of its audio files."""


def synthesise(
    groups: list[Instruction], split: Split, difficulty: Difficulty, folder: Path, *, task: Task = "answer", progress: bool = True
) -> Path:
    """Speak `groups` into a manifest with its audio in `folder`, with one process per CPU core. Returns the manifest's path."""
    orders = [(group, split, difficulty, task) for group in groups]
    processes = max(1, min(len(os.sched_getaffinity(0)), len(orders) // 50))
    manifest = folder / "manifest.jsonl"
    with ManifestWriter(manifest) as writer, bar(enabled=progress) as shown:
        for group, contents in shown.track(_spoken(orders, processes), total=len(orders), description=f"speaking {split}"):
            for content in contents:
                writer.add_audio(content)
            writer.add(group)
    return manifest


def _spoken(orders: list[Order], processes: int) -> Iterator[Spoken]:
    if processes == 1:
        yield from map(speak_group, orders)
        return
    # spawn: espeak-ng's globals, and the threads of whoever calls, must not be forked
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(speak_group, orders, chunksize=16)


def speak_group(order: Order) -> Spoken:
    """One group, spoken by its voices."""
    import soundfile  # here, since whoever hosts vLLM must not have it loaded

    instruction, split, difficulty, task = order
    utterances, contents = [], []
    with Speaker() as speaker:
        for voice in voices_of(instruction, split, difficulty):
            samples = finish(speaker.say(instruction.text, voice), difficulty, f"{instruction.text}/{voice.name}")
            if len(samples) > WINDOW_S * SAMPLING_RATE_HZ:
                raise RuntimeError(f"{voice.name} takes {len(samples) / SAMPLING_RATE_HZ:.2f} s for {instruction.text!r}, over the window")
            encoded = io.BytesIO()
            soundfile.write(encoded, samples, SAMPLING_RATE_HZ, format="FLAC", subtype="PCM_16")
            contents.append(encoded.getvalue())
            duration_s = round(len(samples) / SAMPLING_RATE_HZ, 4)
            utterances.append(Utterance(speaker=voice.name, audio=audio_hash(contents[-1]), duration_s=duration_s))
    group = InstructionGroup(
        group_id=instruction.group_id,
        instruction=instruction.text,
        reference=reference(instruction, split, task),
        utterances=utterances,
        prompt=PROMPTS[task],
        topic=instruction.topic,
        language=CODE if task == "s2tt" else "en",
        answers=[wanted(task, instruction), *(instruction.answers if difficulty.several_answers and task == "answer" else ())],
    )
    return group, contents


def finish(spoken: NDArray[np.float64], difficulty: Difficulty, name: str) -> NDArray[np.int16]:
    """Raw speech at 22,050 Hz to the clip: 16 kHz, one loudness, noise drawn from `name`, silence after it."""
    samples = resample(spoken)
    loud = np.nonzero(np.abs(samples) > 0.01 * np.abs(samples).max())[0]
    samples = samples[max(0, loud[0] - 160) : loud[-1] + 320]
    samples *= PEAK / np.abs(samples).max()
    if difficulty.noise_db is not None:
        scale = np.sqrt(np.mean(samples**2)) * 10 ** (-difficulty.noise_db / 20)
        samples += np.random.default_rng(draw("noise", difficulty.seed, name)).normal(scale=scale, size=len(samples))
    samples = np.concatenate([samples, np.zeros(TRAILING_SILENCE)])
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def bar(*, enabled: bool) -> Progress:
    """A progress bar on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (enabled and console.is_terminal))
