"""Checkpoints in the released layout: what transformers and vLLM load, committed by rename. Edge: torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash
from torch import Tensor

from policies.adapter import Adapter

DIGESTS = "digests.json"
READ_BYTES = 1 << 24


def write_checkpoint(run_dir: Path, step: int, tensors: Iterable[tuple[str, Tensor]], family: Adapter, source: Path, dtype: str) -> Path:
    """Write ``checkpoints/step-<step>`` and return it. It appears whole, on disk and with the digest of each file, or not at all.

    Raises `ValueError` unless the tensors are exactly those of the checkpoint `source`.
    """
    final = run_dir / "checkpoints" / f"step-{step}"
    draft = final.with_name(f".step-{step}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    family.save(draft, tensors, source, dtype)
    digests = {file.name: digest(file) for file in sorted(draft.iterdir())}
    (draft / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for file in draft.iterdir():
        _flush(file)
    _flush(draft)
    if final.exists():
        shutil.rmtree(final)
    draft.rename(final)
    _flush(final.parent)
    return final


def verify(directory: Path) -> list[str]:
    """Names of the files that are missing or whose content differs from ``digests.json``."""
    expected: dict[str, str] = json.loads((directory / DIGESTS).read_text(encoding="utf-8"))
    return [name for name, wanted in expected.items() if not (directory / name).is_file() or digest(directory / name) != wanted]


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
