"""Instructions that are for measuring alone, and must not be trained on."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from actors.synthesis.filters.normal import normal
from protocol.dataset.places import place_of, reason
from protocol.errors import UserError


class _Row(msgspec.Struct):
    instruction: str


def kept_out(manifests: Iterable[str]) -> frozenset[str]:
    """The normal forms of the manifests' instructions. Raises `UserError` for a file that is none."""
    return frozenset(text for manifest in manifests for text in _instructions(manifest))


def _instructions(path: str) -> list[str]:
    place, name = place_of(path)
    try:
        with place.opened(name) as file:
            lines = file.readlines()
    except OSError as error:
        raise UserError(
            f"the manifest cannot be read ({reason(error)})", where=f"filter.kept_out: {path}", fix="name manifests of instruction groups"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            found.append(normal(msgspec.json.decode(line, type=_Row).instruction))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(
                f"no instruction group: {error}",
                where=f"filter.kept_out: {path}, line {number}",
                fix="name manifests of instruction groups",
            ) from error
    return found
