"""``dataset.json`` beside the manifests: which format they are in, and which of them are finished. Edge: the file system.

    {"format": "rba-dataset", "version": [1, 0], "manifests": {"train.jsonl": {"finished": true, "groups": 9, …, "digest": "xxh128:…"}}}

A manifest that it does not name is one that somebody wrote by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import msgspec

from protocol.dataset import disk
from protocol.dataset.places import FIX_ACCESS, Place, reason
from protocol.errors import UserError

NAME = "dataset.json"
FORMAT = "rba-dataset"
VERSION = (1, 0)
"""A reader refuses another major version, and takes any minor one: what a later minor version adds may be ignored."""


class Entry(msgspec.Struct, frozen=True):
    """What is known of one manifest."""

    finished: bool = False
    """False while a writer appends to it: what lies behind the last whole line is none of it yet."""
    groups: int = 0
    utterances: int = 0
    size_bytes: int = 0
    digest: str = ""
    """``xxh128:<hex>`` of the finished manifest's bytes."""


class Sidecar(msgspec.Struct, frozen=True):
    """What ``dataset.json`` holds."""

    format: str
    version: tuple[int, int]
    manifests: dict[str, Entry] = {}
    about: dict[str, Any] = {}
    """Where the data set comes from; free form."""


def empty() -> Sidecar:
    """Of a new data set."""
    return Sidecar(FORMAT, VERSION)


class _Kind(msgspec.Struct):
    """The fields that stay what they are in every version."""

    format: str
    version: tuple[int, int]


def read(place: Place) -> Sidecar | None:
    """The folder's; None where there is none. Raises `UserError` for one that is damaged, or of a newer major version."""
    try:
        content = place.read(NAME)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"it cannot be read ({reason(error)})", where=place.where(NAME), fix=FIX_ACCESS) from None
    return parse(content, place.where(NAME))


def parse(content: bytes, where: str) -> Sidecar:
    """See `read`."""
    try:
        kind = msgspec.json.decode(content, type=_Kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(str(error), where)
    if kind.format != FORMAT:
        _refuse(f"its format is {kind.format!r}, not {FORMAT!r}", where)
    if kind.version[0] != VERSION[0]:
        written, known = (".".join(map(str, version)) for version in (kind.version, VERSION))
        raise UserError(
            f"the data set is of version {written}, and this rba knows {known}",
            where=where,
            fix="read it with the rba that wrote it, or newer",
        )
    try:
        return msgspec.json.decode(content, type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(str(error), where)


def _refuse(what: str, where: str) -> NoReturn:
    raise UserError(
        f"not a data set's description: {what}", where=where, fix="restore it, or take it away to read the manifests without it"
    )


def write(folder: Path, content: Sidecar) -> None:
    """Replace the folder's; it appears whole and is durable."""
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
    with disk.Appearing(folder / NAME) as file:
        file.write(encoded)
