"""Carries out one stage: blocks from the stage before, through the stage, onto its shelf."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from actors.synthesis.records import Draft
from actors.synthesis.shelf import Shelf
from actors.synthesis.stage import Stage
from protocol.errors import UserError

Told = Callable[[int, Sequence[Draft]], None]
"""Called with the number and the drafts of each block that has been committed."""


class Source(Protocol):
    """What a stage is handed."""

    @property
    def blocks(self) -> int:
        """Blocks that are there."""

    @property
    def complete(self) -> bool:
        """No more will come."""

    def kept(self, number: int) -> list[Draft]:
        """The drafts of a block that nobody has rejected."""


class Nothing:
    """The first stage's source: drafts that have only their names, ``000000000`` and on, without a gap."""

    def __init__(self, count: int, block_groups: int, committed: int = 0, named: int = 0) -> None:
        """The stage has `committed` blocks with `named` drafts: an earlier `count` may have left a short one."""
        self._count, self._block_groups, self._committed, self._named = count, block_groups, committed, named
        self.blocks = committed - (named - count) // block_groups
        self.complete = True

    def kept(self, number: int) -> list[Draft]:
        """Those of a block that is not committed yet."""
        first = self._named + (number - self._committed) * self._block_groups
        return [Draft(id=f"{ordinal:09d}") for ordinal in range(first, min(first + self._block_groups, self._count))]


class Before:
    """The shelf of the stage before."""

    def __init__(self, shelf: Shelf, total: int) -> None:
        self._shelf, self._total = shelf, total

    @property
    def blocks(self) -> int:
        """Those that the stage before has committed."""
        return self._shelf.committed

    @property
    def complete(self) -> bool:
        """It has committed all."""
        return self._shelf.committed >= self._total

    def kept(self, number: int) -> list[Draft]:
        """Read from the shelf."""
        return self._shelf.kept(number)


def carry_out(stage: Stage, source: Source, shelf: Shelf, told: Told) -> None:
    """Hand `stage` every block of `source` that `shelf` lacks.

    Consumes the source's drafts. Produces committed blocks, in order. Waits for: the stage. Unblocked by: its result, or what it raises,
    which ends this call; what has been committed stays.
    """
    if overrides(stage, "survey"):
        if not source.complete:
            raise UserError(f"stage {stage.name} looks at everything, and the stage before has not finished", fix="finish it first")
        stage.survey(draft for number in range(source.blocks) for draft in source.kept(number))
    if overrides(stage, "recall"):
        for number in range(shelf.committed):
            stage.recall(shelf.read(number))
    if shelf.committed == source.blocks:
        return
    with ThreadPoolExecutor(max(1, stage.ahead), thread_name_prefix=stage.name) as pool, stage:
        for number, drafts in _in_order(stage, source, range(shelf.committed, source.blocks), pool):
            shelf.commit(number, drafts)
            told(number, drafts)


def overrides(stage: Stage, method: str) -> bool:
    """True when the stage has a `method` of its own."""
    return getattr(type(stage), method) is not getattr(Stage, method)


def _in_order(stage: Stage, source: Source, numbers: Iterable[int], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Sequence[Draft]]]:
    """Each block's result in its order, with `stage.ahead` of them in work."""
    working: deque[tuple[int, list[Draft], Future[Sequence[Draft]]]] = deque()

    def finished() -> tuple[int, Sequence[Draft]]:
        number, given, future = working.popleft()
        return number, _checked(stage, given, future.result())

    try:
        for number in numbers:
            given = source.kept(number)
            working.append((number, given, pool.submit(stage.run, number, given)))
            if len(working) >= stage.ahead:
                yield finished()
        while working:
            yield finished()
    finally:
        for _, _, future in working:
            future.cancel()


def _checked(stage: Stage, given: Sequence[Draft], drafts: Sequence[Draft]) -> Sequence[Draft]:
    """Raises `RuntimeError` where a stage loses, adds or reorders drafts, or gives a reason that it has not named."""
    if [draft.id for draft in drafts] != [draft.id for draft in given]:
        raise RuntimeError(f"stage {stage.name} was handed {len(given)} drafts and returned others ({len(drafts)})")
    for draft in drafts:
        owner, _, reason = draft.rejected.partition(": ")
        if draft.rejected and (owner != stage.name or reason not in stage.reasons):
            raise RuntimeError(f"stage {stage.name} gives {draft.rejected!r}, which is none of its reasons ({', '.join(stage.reasons)})")
    return drafts
