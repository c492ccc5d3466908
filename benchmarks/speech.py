"""What speaking costs: the stage `speech` with espeak-ng, beside a plain loop over the same library.

    python -m benchmarks.speech [--groups N] [--json FILE]

Both sides speak the same texts with the same voices, bring them to 16 kHz and write FLAC. The loop loads espeak-ng once, resamples by
straight lines between samples, checks nothing, and so says something else each time; the stage loads the library for every utterance,
resamples without aliases, trims, checks and writes shards, and always makes the same bytes. Sides take turns. Processes are started
before the clock is. Goals: a hundred seconds of speech a second and core.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.synthesis.records import Draft
from actors.synthesis.speaking import Speaking
from actors.synthesis.speech.builtin import builtin
from actors.synthesis.speech.espeak import ESPEAK_RATE_HZ, Speaker
from benchmarks.command import command
from benchmarks.rows import row
from configs.synthesis import SynthesisConfig
from protocol.audio import SAMPLE_RATE

GOAL = 100.0
"""Seconds of speech a second and core."""
REPEATS = 5
PARTS = (
    ("What would you pack", "How should I prepare", "Could you explain what people need", "Give me three ideas of what to buy"),
    ("for a week in the mountains", "for a dinner with old friends", "for the first day at a new school", "for a long journey by train"),
    ("if it might rain every day?", "when there is little money to spend?", "and why would that be the right choice?", "in late November?"),
)


def drafts(count: int) -> list[Draft]:
    """Instructions of some 15 words."""
    texts = [f"{one} {two} {three}" for one in PARTS[0] for two in PARTS[1] for three in PARTS[2]]
    return [Draft(id=f"{number:09d}", instruction=texts[number % len(texts)]) for number in range(count)]


def ours(stage: Speaking, number: int, block: list[Draft]) -> tuple[float, float]:
    """Seconds of speech, and seconds that they took, of one block."""
    started = time.perf_counter()
    done = stage.run(number, block)
    return sum(each.duration_s for draft in done for each in draft.utterances), time.perf_counter() - started


def loop(folder: Path, lines: list[tuple[str, str]]) -> tuple[float, float]:
    """The same of a plain loop."""
    import soundfile

    folder.mkdir()
    voices = {voice.name: voice for voice in builtin()}
    spoken_s = 0.0
    with Speaker() as speaker:
        started = time.perf_counter()
        for number, (text, name) in enumerate(lines):
            samples = speaker.say(text, voices[name])
            wanted = len(samples) * SAMPLE_RATE // ESPEAK_RATE_HZ
            straight = np.interp(np.arange(wanted) * (ESPEAK_RATE_HZ / SAMPLE_RATE), np.arange(len(samples)), samples)
            soundfile.write(folder / f"{number}.flac", straight, SAMPLE_RATE, subtype="PCM_16")
            spoken_s += wanted / SAMPLE_RATE
        return spoken_s, time.perf_counter() - started


def compare(folder: Path, processes: int, count: int) -> tuple[float, float]:
    """Speech a second of the stage and of the loop: the best of some turns, for what else the machine does only takes away."""
    config = SynthesisConfig.model_validate({"teacher": {"model": "nobody"}, "speech": {"processes": processes}})
    block = drafts(count)
    mine, plain = [], []
    with Speaking(config, folder) as stage:
        first = stage.run(0, block)  # starts the processes
        lines = [(draft.instruction, each.speaker) for draft in first for each in draft.utterances]
        for turn in range(1, REPEATS + 1):
            mine.append(ours(stage, turn, block))
            plain.append(loop(folder / f"loop-{turn}", lines))
    return max(spoken / took for spoken, took in mine), max(spoken / took for spoken, took in plain)


def measure(groups: int = 64) -> list[dict[str, Any]]:
    """Every row."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as inside:
        one, plain = compare(Path(inside) / "one", 1, groups)
        rows = [
            row("espeak-ng, one process", "s of speech/s", one, "goal", GOAL, 1.0),
            row("espeak-ng, one process", "s of speech/s", one, "plain loop", plain, None),
        ]
        if cores > 1:
            every, plain = compare(Path(inside) / "every", cores, groups)
            rows.append(row(f"espeak-ng, {cores} processes", "s of speech/s", every, "goal", GOAL * cores, 1.0))
            rows.append(row(f"espeak-ng, {cores} processes", "s of speech/s", every, "plain loop", plain, None))
        return rows


if __name__ == "__main__":
    command("speech", __doc__, measure, {"groups": {"type": int, "default": 64}})
