"""The learner's step on one GPU beside the loop that a user would write, at the dimensions of Qwen2-Audio-7B-Instruct, on random weights.

    python -m benchmarks.gpu_learner [--layers N] [--json FILE]

As many of the language model's layers as the learner can train without gradient checkpointing, under ZeRO-3 on one rank in bfloat16;
all of the audio tower. The plain loop: Hugging Face's model under autocast to bfloat16, chosen and rejected answers and the references
in a forward pass each, with the whole window and logits of all positions, fused AdamW; where it runs out of memory, that is told.
Short clips and long ones, with and without gradient checkpointing; each measurement in a process of its own. Rows:

    tokens/s   positions without padding as the learner packs them, over the median time of a step, for both sides
    TFLOP/s    what the step needs (benchmarks/flops.py) over that time, beside a matrix product of the same machine: the ratio is the
               model FLOP utilisation
    bytes      most memory that was allocated at once
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.fitting import layers_that_fit
from benchmarks.flops import Work, step_flops, work_of
from benchmarks.rows import row, table
from benchmarks.sides import LOSS, Ours, PlainLoop, Speech, section_for
from benchmarks.speechlm import Size, Tower, batch, noise, random_model, write_shell
from learner.clips import Clips
from learner.collate import TrainingGroup, collate
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from policies.adapter import Processing, adapter

WINDOW_S = 30
SEVEN_B = Size(hidden=4096, layers=32, heads=32, vocabulary=156_032, intermediate=11_008, tower=Tower(1280, 32, 20, 5120, mel=128))
ANSWER_TOKENS = (48, 96)
REFERENCE = " ".join(["the capital of peru is lima"] * 8)
PRODUCT = 8192
LOSS_TOLERANCE = 0.02


@dataclass(frozen=True)
class Audio:
    """Clips of a case, and the groups of its step."""

    name: str
    clips_s: tuple[float, float]
    groups: int


AUDIOS = (Audio("3 to 8 s", (3.0, 8.0), 2), Audio("20 to 30 s", (20.0, 30.0), 1))


@dataclass(frozen=True)
class Task:
    """One measurement."""

    side: str
    """`ours` | `plain` | `product`."""
    audio: int = 0
    checkpointing: bool = False
    layers: int = 0
    repeats: int = 7


@dataclass(frozen=True)
class Bench:
    """What is measured; tests measure something smaller."""

    size: Size = SEVEN_B
    audios: tuple[Audio, ...] = AUDIOS
    window_s: int = WINDOW_S
    product: int = PRODUCT
    device: str = "cuda"


Found = dict[str, Any]


# --- one measurement ----------------------------------------------------------------------------------------


def works_of(bench: Bench) -> list[Work]:
    """The work of a step, case by case; needs no weights."""
    with tempfile.TemporaryDirectory() as name:
        write_shell(Path(name), bench.size, bench.window_s)
        processing = adapter("qwen2_audio").open(Path(name))
        return [step_work(audio, processing) for audio in bench.audios]


def step_work(audio: Audio, processing: Processing) -> Work:
    """What the learner computes in a step."""
    clips = Clips(noise(*audio.clips_s), processing)
    return work_of(collate(items_of(audio), processing, clips, cross_entropy=True))


def items_of(audio: Audio) -> list[TrainingGroup]:
    """The groups of a step."""
    return batch(audio.groups, ANSWER_TOKENS, REFERENCE)


class InMemoryEngine(Engine):
    """The learner's engine around a model that was never on a disk."""

    def __init__(self, make: Callable[[str], nn.Module], *arguments: Any) -> None:
        self._make = make
        super().__init__(*arguments)

    def _load(self, directory: Path) -> nn.Module:  # noqa: ARG002 - there is nothing in it
        return self._make(self._section.precision)


def measure_one(bench: Bench, task: Task) -> Found:
    """Carry out one measurement in this process."""
    device = torch.device(bench.device)
    if task.side == "product":
        return {"flops_per_s": product_rate(bench.product, device)}
    audio, size = bench.audios[task.audio], replace(bench.size, layers=task.layers)
    items, spoken = items_of(audio), noise(*audio.clips_s)
    with tempfile.TemporaryDirectory() as name:
        config = write_shell(Path(name), size, bench.window_s)
        processing = adapter("qwen2_audio").open(Path(name))
        work = step_work(audio, processing)
        made = {"tokens": work.tokens, "flops": step_flops(size, work)}

        def make(dtype: str) -> nn.Module:
            return random_model(config, dtype, device)

        if task.side == "plain":
            return made | timed(plain(make, processing, items, spoken, task).step, task.repeats, device)
        prepare_environment(section_for(audio.groups))
        ranks = Ranks(0, 1, "")
        try:
            return made | timed(ours(make, Path(name), processing, items, spoken, task, ranks).step, task.repeats, device)
        finally:
            ranks.close()


def plain(
    make: Callable[[str], nn.Module], processing: Processing, items: Sequence[TrainingGroup], spoken: Speech, task: Task
) -> PlainLoop:
    """The loop that a user would write."""
    model: Any = make("float32")
    if task.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return PlainLoop(model, processing, items, spoken, autocast=True)


def ours(
    make: Callable[[str], nn.Module],
    shell: Path,
    processing: Processing,
    items: Sequence[TrainingGroup],
    spoken: Speech,
    task: Task,
    ranks: Ranks,
) -> Ours:
    """The learner's step."""
    section = section_for(len(items), gradient_checkpointing=task.checkpointing)
    engine = InMemoryEngine(make, section, LOSS, adapter("qwen2_audio"), shell, processing, Clips(spoken, processing), ranks)
    return Ours(engine, items)


def timed(step: Callable[[], float], repeats: int, device: torch.device) -> Found:
    """First loss, median seconds of a step after two others, and peak memory, which is not known on a CPU."""
    first = step()
    step()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {"loss": first, "seconds": statistics.median(taken), "peak_bytes": peak}


def product_rate(size: int, device: torch.device, repeats: int = 10) -> float:
    """Operations a second of a square matrix product in bfloat16, the best of several."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best_s = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        synchronise(device)
        started = time.perf_counter()
        left @ right
        synchronise(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * size**3 / best_s


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- all of them --------------------------------------------------------------------------------------------


def in_a_process(task: Task) -> Found:
    """`measure_one` of the default benchmark in a process of its own, which leaves the GPU's memory as it was."""
    command = [sys.executable, "-m", "benchmarks.gpu_learner", "--one", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"failure": next((line for line in reversed(said) if "Error" in line), f"exit code {done.returncode}")}
    found: Found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return found


def compare(bench: Bench, layers: int, one: Callable[[Task], Found], repeats: int = 7) -> list[dict[str, Any]]:
    """Every row. What cannot be measured, for want of memory say, is told on standard error and has no row."""
    product = one(Task("product"))
    if "failure" in product:
        raise RuntimeError(f"a matrix product cannot be measured: {product['failure']}")
    rows = []
    for number, audio in enumerate(bench.audios):
        for checkpointing in (False, True):
            case = f"{layers} layers, audio of {audio.name}{', gradient checkpointing' if checkpointing else ''}"
            found = {}
            for side in ("ours", "plain"):
                found[side] = one(Task(side, number, checkpointing, layers, repeats))
                if "failure" in found[side]:
                    print(f"gpu-learner: {case}, {side}: {found[side]['failure']}", file=sys.stderr)
            rows += case_rows(case, found["ours"], found["plain"], product["flops_per_s"], f"{bench.product}³ bfloat16 product")
    return rows


def case_rows(case: str, mine: Found, theirs: Found, rate: float, product: str) -> list[dict[str, Any]]:
    """The rows of one case. Raises `RuntimeError` when the two sides do not compute the same loss."""
    if "failure" in mine:
        return []
    rows = []
    if "failure" not in theirs:
        if abs(mine["loss"] - theirs["loss"]) > LOSS_TOLERANCE * abs(theirs["loss"]):
            raise RuntimeError(f"the sides do not compute the same loss: {mine['loss']}, {theirs['loss']}")
        rows.append(row(case, "tokens/s", mine["tokens"] / mine["seconds"], "plain loop", mine["tokens"] / theirs["seconds"], None))
        if mine["peak_bytes"]:
            rows.append(row(f"{case}, peak memory", "bytes", mine["peak_bytes"], "plain loop", theirs["peak_bytes"], None))
    rows.append(row(case, "TFLOP/s", mine["flops"] / mine["seconds"] / 1e12, product, rate / 1e12, None))
    return rows


def measure(layers: int | None = None) -> list[dict[str, Any]]:
    """Every row; none, and one line on standard error, where there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu-learner: this machine has no GPU that torch can use; nothing was measured", file=sys.stderr)
        return []
    bench = Bench()
    memory_bytes = torch.cuda.get_device_properties(0).total_memory
    return compare(bench, layers or layers_that_fit(bench.size, works_of(bench), memory_bytes), in_a_process)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="of the language model; by default as many as fit")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(Bench(), Task(**json.loads(options.one)))))
        return
    rows = measure(options.layers)
    if not rows:
        return
    print(f"{torch.cuda.get_device_name(0)}\n\n{table(rows)}")
    if options.json:
        content = {"bench": "gpu-learner", "device": torch.cuda.get_device_name(0), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
