"""The learner's step beside the loop that a user would write, at sizes from the quickstart's 1.5 M to 255 M parameters, on random weights.

    python -m benchmarks.learner [--sizes quickstart 26M 115M 255M] [--json FILE]

The plain loop: Hugging Face's model with its 30 s window, chosen and rejected answers and the references in a forward pass each, logits of
all positions, AdamW. A second peer has the learner's window and everything else as plain. Both sides take turns in one process and have
to give the same loss. Memory is measured in a process per side: the peak above weights, gradients and Adam's moments.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.command import command
from benchmarks.rows import row, table
from benchmarks.sides import LOSS, Ours, PlainLoop, section_for
from benchmarks.speechlm import Size, batch, noise, write_checkpoint
from configs.training import LearnerSection
from learner.clips import Clips
from learner.collate import TrainingGroup
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from policies.adapter import adapter

SHORT_S, LONG_S = 4, 30
SPOKEN = noise(1.0, 3.0)


@dataclass(frozen=True)
class Case:
    """A model, and the groups of its step."""

    size: Size
    groups: int
    repeats: int


SIZES = {
    "quickstart": Case(Size(128, 3, 4, 578), 8, 9),
    "26M": Case(Size(384, 6, 6, 4096), 2, 5),
    "115M": Case(Size(640, 9, 10, 16384), 2, 3),
    "255M": Case(Size(1024, 8, 16, 20000), 1, 2),
}


def plain(checkpoint: Path, items: Sequence[TrainingGroup]) -> PlainLoop:
    """The loop on a checkpoint."""
    family = adapter("qwen2_audio")
    return PlainLoop(family.load_model(checkpoint, "float32"), family.open(checkpoint), items, SPOKEN)


def ours(checkpoint: Path, items: Sequence[TrainingGroup], ranks: Ranks, **options: Any) -> Ours:
    """The learner on a checkpoint; without `options` in float32 at ZeRO stage 0."""
    family = adapter("qwen2_audio")
    processing = family.open(checkpoint)
    section = section_for(len(items), **{"precision": "float32", "zero_stage": 0, **options})
    return Ours(Engine(section, LOSS, family, checkpoint, processing, Clips(SPOKEN, processing), ranks), items)


Side = Callable[[], float]


def times(sides: Sequence[Side], repeats: int) -> list[float]:
    """Median seconds of a step of each side, taking turns. Raises `RuntimeError` when their first losses differ."""
    first = [side() for side in sides]
    if max(abs(loss - first[0]) for loss in first) > 1e-3 * abs(first[0]):
        raise RuntimeError(f"the sides do not compute the same loss: {first}")
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, seconds in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def compare(name: str, ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    """Rows of one size, one peer after the other: three models of the largest size do not fit beside each other."""
    case = SIZES[name]
    items = batch(case.groups)
    short, long = (write_checkpoint(folder / f"{name}-{window_s}", case.size, window_s) for window_s in (SHORT_S, LONG_S))
    peers = (("plain loop, 30 s window", long, {"quickstart": 5.0, "255M": 2.0}.get(name)), ("plain loop, same window", short, 0.9))
    rows = []
    for peer, checkpoint, target in peers:
        seconds = times([ours(short, items, ranks).step, plain(checkpoint, items).step], case.repeats)
        rows.append(row(name, "pairs/s", case.groups / seconds[0], peer, case.groups / seconds[1], target))
        gc.collect()
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def resident_bytes(key: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def extra_bytes(name: str, side: str) -> int:
    """Peak of two steps above what the process had before, weights, gradients and two moments in float32 taken off."""
    prepare_environment(LearnerSection(cpu_threads=0))
    case = SIZES[name]
    items = batch(case.groups)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder), case.size, LONG_S if side == "plain" else SHORT_S)
        parameters = sum(each.numel() for each in adapter("qwen2_audio").load_model(checkpoint, "float32").parameters())
        ranks = Ranks(0, 1, "")
        gc.collect()
        before = resident_bytes("VmRSS")
        step = plain(checkpoint, items).step if side == "plain" else ours(checkpoint, items, ranks).step
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far was that of loading
    step()
    step()
    return resident_bytes("VmHWM") - before - 16 * parameters


def memory(name: str) -> dict[str, Any]:
    """The memory row of one size, each side in a process of its own."""
    found = {}
    for side in ("ours", "plain"):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found[side] = process.submit(extra_bytes, name, side).result()
    return row(f"{name}, memory of a step", "bytes", found["ours"], "plain loop, 30 s window", found["plain"], 0.6)


def measure(sizes: Sequence[str] = tuple(SIZES)) -> list[dict[str, Any]]:
    """Every row; the memory of a step at 255 M parameters only."""
    prepare_environment(LearnerSection(cpu_threads=0))
    ranks = Ranks(0, 1, "")
    rows = [memory("255M")] if "255M" in sizes else []  # first, while this process has nothing in memory
    with tempfile.TemporaryDirectory() as folder:
        for name in sizes:
            rows += compare(name, ranks, Path(folder))
    ranks.close()
    return rows


if __name__ == "__main__":
    command("learner", __doc__, measure, {"sizes": {"nargs": "+", "choices": SIZES, "default": list(SIZES)}})
