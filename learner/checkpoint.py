"""Checkpoints: the released layout, which transformers and vLLM load, and what the learner needs to go on. Committed by rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from learner.selection import superfluous
from policies.adapter import Adapter

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = "checkpoints"
DIGESTS = "digests.json"
STATE = "state"
"""Folder of what only the learner needs."""
LEARNER = "learner.json"
BEST = "best.json"
READ_BYTES = 1 << 24


def write_checkpoint(
    run_dir: Path,
    step: int,
    tensors: Iterable[tuple[str, Tensor]],
    family: Adapter,
    source: Path,
    dtype: str,
    more: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Write ``checkpoints/step-<step>`` and return it. It appears whole, on disk and with the digest of each file, or not at all.

    `more` writes what else belongs to it. Raises `ValueError` unless the tensors are exactly those of the checkpoint `source`.
    """
    final = run_dir / CHECKPOINTS / f"step-{step}"
    draft = final.with_name(f".step-{step}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    family.save(draft, tensors, source, dtype)
    more(draft)
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    digests = {str(file.relative_to(draft)): digest(file) for file in files}
    (draft / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for path in (*files, draft / DIGESTS, *(folder for folder in draft.rglob("*") if folder.is_dir()), draft):
        _flush(path)
    if final.exists():
        shutil.rmtree(final)
    draft.rename(final)
    _flush(final.parent)
    return final


def committed_s(run_dir: Path, step: int) -> float | None:
    """When the checkpoint of a step was committed, in seconds of the Unix epoch; None where there is none."""
    try:
        return (run_dir / CHECKPOINTS / f"step-{step}" / DIGESTS).stat().st_mtime
    except OSError:
        return None


def verify(directory: Path) -> list[str]:
    """Names of the files that are missing or whose content differs from ``digests.json``."""
    try:
        expected: dict[str, str] = json.loads((directory / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [DIGESTS]
    return [name for name, wanted in expected.items() if not (directory / name).is_file() or digest(directory / name) != wanted]


def newest(run_dir: Path, below: int | None = None) -> tuple[Path | None, dict[Path, list[str]]]:
    """The last checkpoint that is whole, and the later ones that are not, with the files that are wrong in each.

    `below` leaves out those of that step and of later ones.
    """
    torn: dict[Path, list[str]] = {}
    for step in reversed(steps_of(run_dir)):
        if below is not None and step >= below:
            continue
        path = run_dir / CHECKPOINTS / f"step-{step}"
        wrong = verify(path) or ([] if (path / STATE / LEARNER).is_file() else [f"{STATE}/{LEARNER}"])
        if not wrong:
            return path, torn
        torn[path] = wrong
    return None, torn


def mark_best(run_dir: Path, step: int, metric: str, value: float) -> None:
    """Say in ``checkpoints/best.json`` which checkpoint is the best so far."""
    temporary = run_dir / CHECKPOINTS / ".best.json"
    temporary.write_text(json.dumps({"step": step, "metric": metric, "value": value}) + "\n", encoding="utf-8")
    temporary.replace(run_dir / CHECKPOINTS / BEST)


def best_step(run_dir: Path) -> int | None:
    """The step of the best checkpoint; None where no validation has chosen one."""
    path = run_dir / CHECKPOINTS / BEST
    return int(json.loads(path.read_text(encoding="utf-8"))["step"]) if path.is_file() else None


def remove_superfluous(
    run_dir: Path,
    last: int,
    every: int,
    best: int | None,
    good_below: int,
    held: Callable[[list[int]], Collection[int]] = lambda _: (),
) -> None:
    """Delete the checkpoints that are not to be kept (see `learner.selection.superfluous`), but for those that are `held` for now."""
    folder = run_dir / CHECKPOINTS
    doomed_steps = superfluous(steps_of(run_dir), last, every, best, good_below)
    stay = held(doomed_steps)
    for step in doomed_steps:
        if step in stay:
            continue
        doomed = folder / f".step-{step}.removed"
        (folder / f"step-{step}").rename(doomed)  # at once: half of one must not look like a damaged checkpoint
        shutil.rmtree(doomed, ignore_errors=True)


def steps_of(run_dir: Path) -> list[int]:
    """Steps of the run's checkpoints, ascending."""
    return sorted(step_of(path) for path in (run_dir / CHECKPOINTS).glob("step-*"))


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def digest(file: Path) -> str:
    """``xxh128:<hex>`` of a file's bytes."""
    hasher = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(READ_BYTES):
            hasher.update(block)
    return f"xxh128:{hasher.hexdigest()}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
