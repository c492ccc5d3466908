"""Which instructions stand on two sides of the splits. Pure."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """One line of one manifest."""

    name: str
    line: int


class Instructions:
    """The instructions of one manifest, as 12 bytes each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts, self.lines = array("q"), array("i")

    @property
    def side(self) -> str:
        """Of the splits: the first word of the manifest's name, such as ``test`` of ``test-fr.jsonl``."""
        return re.split(r"[^a-z]", self.name.lower(), maxsplit=1)[0]

    def add(self, line: int, instruction: str) -> None:
        """The instruction of a line; upper and lower case and spaces make no difference."""
        self.texts.append(hash(" ".join(instruction.casefold().split())))
        self.lines.append(line)


def shared(manifests: Sequence[Instructions]) -> Iterator[tuple[Place, Place]]:
    """Each line whose instruction stands in a manifest of another side, and the first line that has it there."""
    for one, other in combinations(manifests, 2):
        if one.side == other.side or not one.lines or not other.lines:
            continue
        ours, theirs = np.frombuffer(one.texts, np.int64), np.frombuffer(other.texts, np.int64)
        order = np.argsort(theirs, kind="stable")
        found = np.flatnonzero(np.isin(ours, theirs))
        for at, there in zip(found, order[np.searchsorted(theirs[order], ours[found])], strict=True):
            yield Place(one.name, one.lines[at]), Place(other.name, other.lines[there])
