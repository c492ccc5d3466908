"""Which instruction group comes next, and what each ordinal stands for. Pure: no clock, no sockets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.messages import InstructionGroup, LeasedGroup, Purpose

SEED_MASK = 0x7FFF_FFFF


class Frontier:
    """The run's stream of instruction groups.

    Training groups come epoch by epoch, each epoch in an order of its own that the run's seed decides. Ordinals number everything
    that is leased, training and evaluation alike, and are never used twice. A group stays open from `take` or `hold_out` to `close`.
    """

    def __init__(self, groups: Sequence[InstructionGroup], seed: int, *, shuffle: bool) -> None:
        if not groups:
            raise ValueError("a run needs at least one instruction group")
        self._groups, self._seed, self._shuffle = groups, seed, shuffle
        self._position = 0
        self._ordinal = 0
        self._order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = (-1, np.empty(0, np.int64))
        self._open: dict[int, LeasedGroup] = {}

    @property
    def epochs(self) -> float:
        """How often the training groups have been handed out."""
        return self._position / len(self._groups)

    @property
    def open_training(self) -> int:
        """Training groups that were taken and not closed yet."""
        return sum(leased.purpose is Purpose.TRAIN for leased in self._open.values())

    def take(self, count: int) -> list[LeasedGroup]:
        """The next `count` training groups."""
        return [self._lease(self._next_group(), Purpose.TRAIN) for _ in range(count)]

    def hold_out(self, groups: Sequence[InstructionGroup]) -> list[LeasedGroup]:
        """Ordinals for held-out groups, to be measured."""
        return [self._lease(group, Purpose.EVALUATE) for group in groups]

    def close(self, ordinal: int) -> LeasedGroup | None:
        """What `ordinal` stands for, which now has its outcome. None when it is not open."""
        return self._open.pop(ordinal, None)

    def group_at(self, position: int) -> InstructionGroup:
        """The training group at a position of the stream: a function of the seed alone."""
        epoch, offset = divmod(position, len(self._groups))
        if not self._shuffle:
            return self._groups[offset]
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._groups)))
        return self._groups[int(self._order[1][offset])]

    def _next_group(self) -> InstructionGroup:
        group = self.group_at(self._position)
        self._position += 1
        return group

    def _lease(self, group: InstructionGroup, purpose: Purpose) -> LeasedGroup:
        seed = int(np.random.SeedSequence([self._seed, self._ordinal]).generate_state(1)[0]) & SEED_MASK
        leased = LeasedGroup(self._ordinal, 0, group, purpose, seed)
        self._open[self._ordinal] = leased
        self._ordinal += 1
        return leased
