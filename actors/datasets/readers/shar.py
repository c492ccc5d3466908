"""Lhotse Shar: ``cuts.000000.jsonl.gz`` beside ``recording.000000.tar``, one cut a line and one recording each, in the same order.

The text of a cut's supervision is the instruction; its other fields, and the custom ones of both, are the record's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.datasets.fields import Fields
from actors.datasets.readers.jsonl import lines
from actors.datasets.readers.tarball import members
from actors.datasets.records import Clip, Record
from protocol.errors import UserError

NO_DATA = ".nodata"
"""In the place of a recording where a cut has none."""
CUTS = "cuts"


def records(source: Path, fields: Fields) -> Iterator[Record]:
    """One record a cut, of the folder `source`. Raises `UserError`."""
    field = fields.audio or "recording"
    cuts = sorted(source.glob(f"{CUTS}.*jsonl*"))
    tars = sorted(source.glob(f"{field}.*tar*"))
    if not cuts or len(cuts) != len(tars):
        what = f"{len(cuts)} files {CUTS}.*.jsonl.gz and {len(tars)} files {field}.*.tar, expected as many of each"
        raise UserError(what, where=str(source), fix="name the folder that Lhotse's SharWriter wrote; with --column audio=… another field")
    for manifest, archive in zip(cuts, tars, strict=True):
        yield from _shard(manifest, archive)


def _shard(manifest: Path, archive: Path) -> Iterator[Record]:
    recordings = _recordings(archive)
    for where, cut in lines(manifest):
        name, content = next(recordings, ("", None))
        if name != cut.get("id"):
            what = f"the cut {cut.get('id')!r} stands where {archive.name} has {f'{name!r}' if name else 'nothing more'}"
            raise UserError(what, where=where, fix="both files have to be of the same shard")
        yield Record(where, _values(cut, where), Clip(content=content) if content is not None else None, name)
    if (left := next(recordings, None)) is not None:
        raise UserError(f"{left[0]!r} is in no line of {manifest.name}", where=str(archive), fix="both files have to be of the same shard")


def _recordings(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    """(cut, audio): every other member; the ones between describe them."""
    for number, (name, content) in enumerate(members(archive)):
        if number % 2 == 0:
            stem, dot, suffix = name.removeprefix("./").rpartition(".")
            yield stem, None if dot + suffix == NO_DATA else content


def _values(cut: dict[str, Any], where: str) -> dict[str, Any]:
    supervisions = cut.get("supervisions") or []
    if len(supervisions) > 1:
        fix = "trim the cuts to their supervisions (CutSet.trim_to_supervisions)"
        raise UserError(f"the cut has {len(supervisions)} supervisions", where=where, fix=fix)
    said: dict[str, Any] = supervisions[0] if supervisions else {}
    described = {key: said[key] for key in ("text", "language", "speaker") if said.get(key) is not None}
    return {**described, **(said.get("custom") or {}), **(cut.get("custom") or {})}
