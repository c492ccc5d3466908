"""NeMo manifests: JSON lines with `audio_filepath`, `duration` and `text`; `offset` names a part of a file.

`text` is the transcript: the instruction. Where a line has an `answer`, that is the reference. A line of Canary (`target_lang`) or SALM
(`context`) has its target in `text`: then it is the reference, and also the instruction where both languages are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.datasets.fields import AUDIO, Fields
from actors.datasets.readers.jsonl import lines
from actors.datasets.records import Clip, Record
from protocol.errors import UserError

AUDIO_KEY = "audio_filepath"


def records(source: Path, fields: Fields) -> Iterator[Record]:
    """One record a line. Paths are relative to the manifest. Raises `UserError`."""
    for where, line in lines(source):
        name = line.get(fields.columns.get(AUDIO, AUDIO_KEY))
        if not isinstance(name, str) or not name:
            raise UserError(f"no path in {AUDIO_KEY}", where=where, fix="give each line one audio file")
        start_s, duration_s = (_seconds(line, key, where) for key in ("offset", "duration"))
        path = source.parent / name
        clip = Clip(path=path) if start_s is None else Clip(path=path, start_s=start_s, duration_s=duration_s)
        yield Record(where, _values(line), clip)


def _seconds(line: dict[str, Any], key: str, where: str) -> float | None:
    value = line.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf")):
        raise UserError(f"{key} is {value!r} and no number of seconds", where=where, fix="correct the line or take it out")
    return value


def _values(line: dict[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in line.items() if key != AUDIO_KEY}
    if line.get("answer") is None and ("target_lang" in line or "context" in line):
        is_transcript = "context" not in line and line.get("source_lang", line.get("target_lang")) == line.get("target_lang")
        values = {"reference": line.get("text"), "instruction": line.get("text") if is_transcript else "", **values}
    return values
