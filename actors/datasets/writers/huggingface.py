"""Hugging Face: one row an utterance, as parquet for `datasets.load_dataset`, or saved as `datasets.load_from_disk` reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actors.datasets.examples import Example
from actors.datasets.writers.parquet import AudioTable

TEXTS = ("group_id", "instruction", "reference", "prompt", "topic", "language", "speaker")
LISTS = ("answers",)


def write(examples: Iterable[Example], folder: Path, split: str) -> Counter[str]:
    """``data/SPLIT-00000-of-….parquet``. Returns counts for people."""
    with AudioTable(folder / "data", split, TEXTS, LISTS) as table:
        return _fill(table, examples)


def save(examples: Iterable[Example], folder: Path, split: str) -> Counter[str]:
    """Arrow files with their ``state.json``, as `save_to_disk` leaves them. Returns counts for people."""
    with AudioTable(folder, "data", TEXTS, LISTS, suffix="arrow") as table:
        counts = _fill(table, examples)
    state: dict[str, Any] = {
        "_data_files": [{"filename": file.name} for file in table.files],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    info = {"citation": "", "description": "", "features": table.features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return counts


def describe_splits(folder: Path, splits: Sequence[str]) -> None:
    """Saved data sets in folders of `folder`, by their names, are the splits of one."""
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def _fill(table: AudioTable, examples: Iterable[Example]) -> Counter[str]:
    count = 0
    for example in examples:
        count += 1
        table.add(example.texts(), example.clip.content if example.clip is not None else None, f"{count:08d}.flac")
    return Counter(rows=count)
