"""Which instructions have been there before, word for word or nearly. Pure, and the same however the texts are cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.synthesis.filters.buckets import EMPTY, Buckets
from actors.synthesis.filters.minhash import bands, overlap, runs
from actors.synthesis.filters.normal import normal


@dataclass(frozen=True)
class Earlier:
    """What a text repeats."""

    id: str
    same: bool
    """Word for word, to a listener."""


class Duplicates:
    """The texts that were let in so far.

    With `near`, a text also repeats another from that overlap on (Jaccard similarity of runs of five characters). Candidates are found by
    MinHash, in bands, and then compared in full, so none is taken for another by estimate. A band remembers the first text only: at most
    `minhash.BANDS` comparisons a text, however many begin alike. About 0.75 kB a text.
    """

    def __init__(self, near: float | None = None) -> None:
        self._near = near
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._known: dict[str, int] = {}
        self._buckets = Buckets()

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, ids: Sequence[str], texts: Sequence[str]) -> list[Earlier | None]:
        """What each text repeats, in order; those that repeat nothing are let in, and count for the ones after them already."""
        forms = [normal(text) for text in texts]
        if self._near is None:
            return [self._same_or_enter(each, form) for each, form in zip(ids, forms, strict=True)]
        keys = bands(forms)
        owners, rows = self._buckets.owners(keys).tolist(), keys.tolist()
        met: dict[int, int] = {}
        found: list[Earlier | None] = []
        entered: list[int] = []
        for number, form in enumerate(forms):
            candidates = {owner for owner in owners[number] if owner != EMPTY}
            candidates.update(met[key] for key in rows[number] if key in met)
            earlier = self._closest(form, candidates, self._near) or self._same_or_enter(ids[number], form)
            if earlier is None:
                entered.append(number)
                for key, owner in zip(rows[number], owners[number], strict=True):
                    if owner == EMPTY:  # else the first text with it is known already
                        met.setdefault(key, len(self._ids) - 1)
            found.append(earlier)
        first = len(self._ids) - len(entered)
        self._buckets.claim(keys[entered].ravel(), np.arange(first, len(self._ids), dtype=np.uint32).repeat(keys.shape[1]))
        return found

    def enter(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Let texts in that `find` has let in before, in that order."""
        forms = [normal(text) for text in texts]
        first = len(self._ids)
        for each, form in zip(ids, forms, strict=True):
            self._enter(each, form)
        if self._near is not None:
            keys = bands(forms)
            self._buckets.claim(keys.ravel(), np.arange(first, len(self._ids), dtype=np.uint32).repeat(keys.shape[1]))

    def _closest(self, form: str, candidates: set[int], near: float) -> Earlier | None:
        """The first of the candidates that is near enough; None also where one is the same."""
        if not candidates or form in self._known:
            return None
        mine = runs(form)
        for candidate in sorted(candidates):
            if overlap(mine, runs(self._texts[candidate])) >= near:
                return Earlier(self._ids[candidate], same=False)
        return None

    def _same_or_enter(self, name: str, form: str) -> Earlier | None:
        same = self._known.get(form)
        if same is not None:
            return Earlier(self._ids[same], same=True)
        self._enter(name, form)
        return None

    def _enter(self, name: str, form: str) -> None:
        self._known[form] = len(self._ids)
        self._ids.append(name)
        self._texts.append(form)
