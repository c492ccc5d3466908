"""VoiceBench's rows (hlt-lab/voicebench): `audio` at 16 kHz, `prompt`, which is what is said, and `reference`, as parquet.

VoiceBench judges rows that have a reference by it, and others as open questions. Further columns stay in its result files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from actors.datasets.examples import Example
from actors.datasets.writers.parquet import AudioTable

BESIDE = ("group_id", "speaker")
"""Which answers are to the same instruction, so that their consistency can be measured."""


def write(examples: Iterable[Example], folder: Path, split: str, *, open_ended: bool = False) -> Counter[str]:
    """``data/SPLIT-00000-of-….parquet``; without references when `open_ended`. Instructions that nobody speaks are left out."""
    counts: Counter[str] = Counter(rows=0)
    columns = ("prompt", *(() if open_ended else ("reference",)), *BESIDE)
    with AudioTable(folder / "data", split, columns) as table:
        for example in examples:
            if example.clip is None:
                counts["utterances without audio left out"] += 1
                continue
            texts = {**example.texts(), "prompt": example.group.instruction}
            table.add({name: texts[name] for name in columns}, example.clip.content, f"{counts['rows']:08d}.flac")
            counts["rows"] += 1
    return counts
