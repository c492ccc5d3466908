"""WebDataset: tar files in which the members of one sample follow each other, ``key.flac``, ``key.json``, ``key.txt`` …

The keys of the JSON are the sample's values, and so is each further text, by its extension.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.datasets.fields import Fields
from actors.datasets.readers.jsonl import parsed
from actors.datasets.readers.tarball import members
from actors.datasets.records import Clip, Record
from protocol.errors import UserError

AUDIO_SUFFIXES = {"flac", "wav", "mp3", "ogg", "opus", "m4a"}
TEXT_SUFFIXES = {"txt", "text", "transcript"}
METADATA = "__"
"""Members so named are of the archive, not of a sample."""


def records(source: Path, fields: Fields) -> Iterator[Record]:
    """One record a sample, of one tar file or of all in a folder, by name. Raises `UserError`."""
    for path in sorted(source.rglob("*.tar*")) if source.is_dir() else [source]:
        for key, parts in _samples(path):
            yield _record(f"{path}, sample {key}", key, parts, fields)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, content by extension). The key is the path up to the first dot of the file's name."""
    current, parts = "", dict[str, bytes]()
    for name, content in members(path):
        folder, slash, base = name.removeprefix("./").rpartition("/")
        stem, dot, suffix = base.partition(".")
        key = f"{folder}{slash}{stem}"
        if not dot or base.startswith(METADATA):
            continue
        if key != current and parts:
            yield current, parts
            parts = {}
        current = key
        if suffix.lower() in parts:
            raise UserError(f"two members {name}", where=str(path), fix="give each sample a key of its own")
        parts[suffix.lower()] = content
    if parts:
        yield current, parts


def _record(where: str, key: str, parts: dict[str, bytes], fields: Fields) -> Record:
    audios = [fields.audio] if fields.audio else [suffix for suffix in parts if suffix.rpartition(".")[2] in AUDIO_SUFFIXES]
    if len(audios) > 1:
        raise UserError(f"several audio files: {', '.join(audios)}", where=where, fix="choose one with --column audio=EXTENSION")
    values: dict[str, Any] = {}
    for suffix, content in parts.items():
        kind = suffix.rpartition(".")[2]
        if kind == "json":
            values |= parsed(content, where)
        elif kind in TEXT_SUFFIXES:
            try:
                values[suffix] = content.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{suffix} is not text ({error})", where=where, fix="correct the sample or take it out") from None
    if "txt" in values:  # what a transcript is called in most archives
        values.setdefault("text", values["txt"])
    if audios and audios[0] not in parts:
        raise UserError(
            f"no member {audios[0]}; there are: {', '.join(parts)}", where=where, fix="name another with --column audio=EXTENSION"
        )
    return Record(where, values, Clip(content=parts[audios[0]]) if audios else None, key)
