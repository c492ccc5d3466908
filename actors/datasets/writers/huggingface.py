"""Hugging Face: one row an utterance, as parquet for `datasets.load_dataset`, or saved as `datasets.load_from_disk` reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.datasets.examples import Example
from actors.datasets.writers.parquet import AudioTable

TEXTS = ("group_id", "instruction", "reference", "prompt", "topic", "language", "speaker")
LISTS = ("answers",)


def write(examples: Iterable[Example], folder: Path, split: str, *, saved: bool = False) -> Counter[str]:
    """``data/SPLIT-00000-of-….parquet``, or, `saved`, arrow files with their ``state.json``. Returns counts for people."""
    count = 0
    place, suffix = (folder, "arrow") if saved else (folder / "data", "parquet")
    with AudioTable(place, "data" if saved else split, TEXTS, LISTS, suffix=suffix) as table:
        for example in examples:
            count += 1
            table.add(example.texts(), example.clip.content if example.clip is not None else None, f"{count:08d}.flac")
    if saved:
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
    return Counter(rows=count)
