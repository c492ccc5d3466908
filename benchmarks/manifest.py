"""What a data set of the paper's size costs to open and to read: 250,000 groups of four utterances.

    python -m benchmarks.manifest [--groups N] [--clips N] [--json FILE]

Opening reads and validates every line; the peers parse them without a check. Each side of an opening runs in a process of its own, so
that its memory is its own too. Streaming decodes clips of `SECONDS` from shards, beside `tarfile` and soundfile in a plain loop.
Single processes, page cache warm; a manifest of the paper's size takes 360 MB of temporary space.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.command import command
from benchmarks.rows import row
from protocol.audio import SAMPLE_RATE
from protocol.dataset import DataSet, DataSetWriter, Location
from protocol.messages import InstructionGroup, Utterance

GROUPS, VOICES, CLIPS, SECONDS = 250_000, 4, 2_000, 5.0
INSTRUCTION_WORDS, REFERENCE_WORDS = 12, 60
REPEATS = 3
PICKED = 20_000
"""Groups that are read in a random order."""
TARGETS = {"json.loads": 1.0, "datasets": 1.0, "memory": 0.5, "audio": 0.8}


# --- the manifest -------------------------------------------------------------------------------------------


def write_manifest(folder: Path, groups: int) -> Path:
    """A finished manifest whose shards are named and are not there."""
    draws = random.Random(0)
    words = [f"word{number}" for number in range(2_000)]
    with DataSetWriter(folder) as writer:
        manifest = writer.manifest("train.jsonl")
        for number in range(groups):
            audios = [f"xxh128:{draws.getrandbits(128):032x}" for _ in range(VOICES)]
            shard = f"shards/{number // 500:05d}.tar"
            locations = {audio: Location(shard, 40_960 * index, 40_000) for index, audio in enumerate(audios)}
            spoken = [Utterance(f"voice-{index}", audio, 5.125) for index, audio in enumerate(audios)]
            instruction, reference = (" ".join(draws.choices(words, k=count)) for count in (INSTRUCTION_WORDS, REFERENCE_WORDS))
            manifest.append(InstructionGroup(f"group-{number}", instruction, reference, spoken), locations)
        writer.finish()
    return folder / "train.jsonl"


def open_ours(path: Path, _: Path) -> tuple[int, Callable[[int], Any]]:
    """Groups, and how to read one."""
    data = DataSet.open(path)
    return len(data.groups), data.groups.__getitem__


def open_json(path: Path, _: Path) -> tuple[int, Callable[[int], Any]]:
    """Every line as a dictionary, in a list."""
    with path.open("rb") as file:
        lines = [json.loads(line) for line in file]
    return len(lines), lines.__getitem__


def open_datasets(path: Path, cache: Path) -> tuple[int, Callable[[int], Any]]:
    """Hugging Face's reader, with an empty cache as on the first opening."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=cache) as inside:
        loaded: Any = datasets.load_dataset("json", data_files=str(path), cache_dir=inside, split="train")
        return len(loaded), loaded.__getitem__


OPENERS = {"ours": open_ours, "json.loads": open_json, "datasets": open_datasets}


def opening(name: str, path: Path, cache: Path) -> tuple[float, float, float]:
    """Seconds to open, MiB of memory that it took at most, and groups a second in a random order."""
    opener = OPENERS[name]
    if name == "datasets":
        import datasets  # noqa: F401 -- importing is no part of opening
    before = most_memory()
    started = time.perf_counter()
    count, at = opener(path, cache)
    seconds = time.perf_counter() - started
    memory = most_memory() - before
    picked = random.Random(1).choices(range(count), k=min(PICKED, count))
    started = time.perf_counter()
    for number in picked:
        at(number)
    return seconds, memory, len(picked) / (time.perf_counter() - started)


def most_memory() -> float:
    """MiB that this process has taken at most; `getrusage` would count what its parent took before it."""
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def apart(name: str, path: Path, cache: Path) -> tuple[float, float, float]:
    """`opening` in a new process, the median of some."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        taken = [pool.apply(opening, (name, path, cache)) for _ in range(REPEATS)]
    seconds, memory, rate = (median(each) for each in zip(*taken, strict=True))
    return seconds, memory, rate


def openings(folder: Path, groups: int) -> list[dict[str, Any]]:
    """Rows of opening a manifest, and of reading its groups."""
    path = write_manifest(folder, groups)
    opening("ours", path, folder)  # warm
    seconds, memory, rate = apart("ours", path, folder)
    rows = []
    for peer in ("json.loads", "datasets"):
        if find_spec(peer.partition(".")[0]) is None:
            print(f"{peer} is not installed", file=sys.stderr)
            continue
        theirs = apart(peer, path, folder)
        rows.append(row(f"open {groups} groups", "groups/s", groups / seconds, peer, groups / theirs[0], TARGETS[peer]))
        rows.append(row(f"memory of {groups} groups", "MiB", memory, peer, theirs[1], TARGETS["memory"] if peer == "json.loads" else None))
        if peer == "datasets":
            rows.append(row("groups in a random order", "groups/s", rate, peer, theirs[2], TARGETS[peer]))
    return rows


# --- the audio ----------------------------------------------------------------------------------------------


def write_audio(folder: Path, clips: int) -> Path:
    """A data set of noise that rises and falls like syllables do, with all its shards."""
    import soundfile

    noise = np.random.default_rng(0)
    time_s = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    with DataSetWriter(folder) as writer:
        manifest = writer.manifest("train.jsonl")
        for first in range(0, clips // VOICES, 125):
            shard, locations, groups = f"shards/{first:05d}.tar", {}, []
            with writer.shard(shard) as shard_writer:
                for number in range(first, min(first + 125, clips // VOICES)):
                    utterances = []
                    for voice in range(VOICES):
                        loud = 0.1 * (1 + np.sin(2 * np.pi * (3 + voice) * time_s))
                        encoded = io.BytesIO()
                        soundfile.write(encoded, loud * noise.normal(size=len(time_s)) * 0.3, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                        audio, offset, size_bytes = shard_writer.add(encoded.getvalue())
                        locations[audio] = Location(shard, offset, size_bytes)
                        utterances.append(Utterance(f"voice-{voice}", audio, SECONDS))
                    groups.append(InstructionGroup(f"group-{number}", "say it", "it", utterances))
            for group in groups:
                manifest.append(group, locations)
        writer.finish()
    return folder / "train.jsonl"


def streamed(path: Path) -> int:
    """Utterances that were read, checked and decoded."""
    return sum(len(samples) for _, samples in DataSet.open(path).heard())


def looked_up(path: Path) -> int:
    """The same by their hashes, as actors do."""
    data = DataSet.open(path)
    audios = [one.audio for group in data.groups for one in group.utterances if one.audio]
    random.Random(2).shuffle(audios)
    for audio in audios:
        data.samples(audio)
    return len(audios)


def plain(path: Path) -> int:
    """What a user would write; nothing is checked."""
    import soundfile

    count = 0
    for shard in sorted((path.parent / "shards").iterdir()):
        with tarfile.open(shard) as file:
            for member in file:
                content = file.extractfile(member)
                if content is not None:
                    soundfile.read(io.BytesIO(content.read()), dtype="float32")
                    count += 1
    return count


def clips_per_s(read: Callable[[Path], int], path: Path) -> float:
    """The best of some turns, for what else the machine does only takes away."""
    rates = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        rates.append(read(path) / (time.perf_counter() - started))
    return max(rates)


def audio(folder: Path, clips: int) -> list[dict[str, Any]]:
    """Rows of reading and decoding audio."""
    path = write_audio(folder, clips)
    theirs = clips_per_s(plain, path)
    case = f"clips of {SECONDS:g} s"
    return [
        row(f"{case}, in order", "utterances/s", clips_per_s(streamed, path), "tarfile + soundfile", theirs, TARGETS["audio"]),
        row(f"{case}, by hash", "utterances/s", clips_per_s(looked_up, path), "tarfile + soundfile", theirs, TARGETS["audio"]),
    ]


def measure(groups: int = GROUPS, clips: int = CLIPS) -> list[dict[str, Any]]:
    """Every row."""
    with tempfile.TemporaryDirectory() as inside:
        return [*openings(Path(inside) / "manifest", groups), *audio(Path(inside) / "audio", clips)]


if __name__ == "__main__":
    command("manifest", __doc__, measure, {"groups": {"type": int, "default": GROUPS}, "clips": {"type": int, "default": CLIPS}})
