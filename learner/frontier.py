"""Which instruction group comes next, and what each ordinal stands for. Pure: no clock, no sockets."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np

from protocol.errors import RbaError
from protocol.messages import InstructionGroup, LeasedGroup, Purpose

SEED_MASK = 0x7FFF_FFFF
Order = np.ndarray[tuple[int], np.dtype[np.int64]]
EPOCHS_A_LIFE = 1 << 16
"""Lease epochs of one life of a run: more than an ordinal is ever granted again in it."""


class Source(NamedTuple):
    """A training data set and its share of the stream."""

    groups: Sequence[InstructionGroup]
    weight: float = 1.0


class Turns:
    """Which source comes at each position: always the one that is furthest behind its weight, of equals the first."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._shares = [weight / sum(weights) for weight in weights]
        self._counts = [0] * len(weights)
        self._source, self._own = array("B"), array("L")

    def at(self, position: int) -> tuple[int, int]:
        """(source, how many of its groups came before)."""
        while len(self._source) <= position:
            number = len(self._source) + 1
            behind = [share * number - count for share, count in zip(self._shares, self._counts, strict=True)]
            chosen = behind.index(max(behind))
            self._source.append(chosen)
            self._own.append(self._counts[chosen])
            self._counts[chosen] += 1
        return self._source[position], self._own[position]


class FrontierState(msgspec.Struct):
    """Where the stream stands, for a checkpoint."""

    ordinal: int = 0
    """The next new one."""
    lease_epoch: int = 0
    """Epoch of the next life's first grants, above all of this one's."""
    held_out: list[tuple[int, int]] = []
    """(first ordinal, number) of the held-out groups of each evaluation: those ordinals are no positions of the training stream."""
    untrained: list[int] = []
    """Ordinals below `ordinal` that were taken and neither trained nor dropped."""
    set_aside: list[str] = []
    """Ids of the groups that do not come again."""
    reserved: int = 0
    """From here on nobody has been leased a training group; what lies between `ordinal` and this may have been leased."""


class Frontier:
    """The run's stream of instruction groups.

    Training groups come from one or several sources, in turns by weight; each source goes through epochs of its own, each of them in an
    order that the run's seed decides. Ordinals number everything that is leased, training and evaluation alike, and never stand for two
    groups. A group stays open from `take` or `hold_out` to `close`.

    A group that was set aside keeps its places in the stream, and each of them its ordinal, but nobody is leased it: so ordinals stand for
    the same groups whatever was set aside, and when.

    A later life takes every ordinal below the reserve for one that was leased. So it knows what a result stands for that an actor has
    sampled for an earlier life, and no held-out group comes to have the ordinal of a training group.
    """

    def __init__(self, sources: Sequence[Source], seed: int, *, shuffle: bool, state: FrontierState | None = None) -> None:
        """`state` is that of an earlier life of the run: it goes on behind it, and what had not been trained comes first."""
        if not sources or not all(source.groups for source in sources):
            raise ValueError("a run needs at least one instruction group of each source")
        self._sources, self._seed, self._shuffle = sources, seed, shuffle
        self._turns = Turns([source.weight for source in sources])
        state = state or FrontierState()
        self._ordinal, self._epoch, self._reserved = state.ordinal, state.lease_epoch, max(state.ordinal, state.reserved)
        self._held_out = list(state.held_out)
        self._again = deque(state.untrained)
        self._position = state.ordinal - sum(count for _, count in state.held_out)
        self._orders: dict[int, tuple[int, Order]] = {}
        self._open: dict[int, LeasedGroup] = {}
        self._open_training = 0
        self._passed: list[int] = []
        self._set_aside: set[str] = set()
        self.set_aside(state.set_aside)

    @property
    def epochs(self) -> float:
        """How often as many groups have been handed out as all sources have."""
        return (self._position - len(self.wanted())) / sum(len(source.groups) for source in self._sources)

    @property
    def open_training(self) -> int:
        """Training groups that were taken and not closed yet."""
        return self._open_training

    def take(self, count: int) -> list[LeasedGroup]:
        """The next `count` training groups."""
        return [self._next() for _ in range(count)]

    def reserve(self, ahead: int) -> int | None:
        """The first ordinal behind a new reserve of `ahead`, where what was taken has used the old one up; else None.

        It has to be durable before anybody hears of what was taken.
        """
        if self._ordinal <= self._reserved:
            return None
        self._reserved = self._ordinal + ahead
        return self._reserved

    def wanted(self) -> list[LeasedGroup]:
        """What an earlier life may have leased and nobody has answered: it comes first, but its results may be there before."""
        again = ((ordinal, self.group_at(self.position_of(ordinal))) for ordinal in self._again)
        return [self._leased(ordinal, group, Purpose.TRAIN) for ordinal, group in again if group.group_id not in self._set_aside]

    def passed(self) -> list[int]:
        """Ordinals that were passed over since the last call, for their groups are set aside."""
        passed, self._passed = self._passed, []
        return passed

    def hold_out(self, groups: Sequence[InstructionGroup]) -> list[LeasedGroup]:
        """Ordinals for held-out groups, to be measured."""
        self._held_out.append((self._ordinal, len(groups)))
        return [self._lease(self._new_ordinal(), group, Purpose.EVALUATE) for group in groups]

    def set_aside(self, groups: Iterable[str]) -> None:
        """Leave groups, by id, out of what is still to come. Raises `RbaError` when no group of any source remains."""
        self._set_aside.update(groups)
        if self._set_aside and all(group.group_id in self._set_aside for source in self._sources for group in source.groups):
            raise RbaError(
                f"all {len(self._set_aside)} training groups are set aside, for no step on any of them had a finite loss and gradient; "
                "set-aside/ in the run's folder has them, and a lower learner.learning_rate may help"
            )

    def state(self, queued: Iterable[int]) -> FrontierState:
        """What a later life of the run needs; `queued` are ordinals that are closed and not trained yet."""
        open_ones = (ordinal for ordinal, leased in self._open.items() if leased.purpose is Purpose.TRAIN)
        untrained = sorted({*open_ones, *queued, *self._again})
        epoch, set_aside = self._epoch + EPOCHS_A_LIFE, sorted(self._set_aside)
        return FrontierState(self._ordinal, epoch, list(self._held_out), untrained, set_aside, self._reserved)

    def answered(self, ordinal: int, purpose: Purpose) -> LeasedGroup | None:
        """What `ordinal` stands for, of which a result has come; a training group that an earlier life leased is open with it."""
        leased = self._open.get(ordinal)
        if leased is None and purpose is Purpose.TRAIN:
            with suppress(ValueError):  # it was passed over
                self._again.remove(ordinal)
            leased = self._lease(ordinal, self.group_at(self.position_of(ordinal)), purpose)
        return leased

    def position_of(self, ordinal: int) -> int:
        """Of the training group that `ordinal` stands for, in the training stream."""
        return ordinal - sum(count for start, count in self._held_out if start < ordinal)

    def close(self, ordinal: int) -> LeasedGroup | None:
        """What `ordinal` stands for, which now has its outcome. None when it is not open."""
        leased = self._open.pop(ordinal, None)
        self._open_training -= leased is not None and leased.purpose is Purpose.TRAIN
        return leased

    def group_at(self, position: int) -> InstructionGroup:
        """The training group at a position of the stream: a function of the seed alone."""
        number, own = self._turns.at(position)
        groups = self._sources[number].groups
        epoch, offset = divmod(own, len(groups))
        if not self._shuffle:
            return groups[offset]
        if self._orders.get(number, (-1,))[0] != epoch:
            self._orders[number] = (epoch, order_of_epoch(self._seed, epoch, number, len(groups)))
        return groups[int(self._orders[number][1][offset])]

    def _next(self) -> LeasedGroup:
        while True:
            ordinal, group = self._again_or_new()
            if group.group_id not in self._set_aside:
                return self._lease(ordinal, group, Purpose.TRAIN)
            self._passed.append(ordinal)

    def _again_or_new(self) -> tuple[int, InstructionGroup]:
        if self._again:
            ordinal = self._again.popleft()
            return ordinal, self.group_at(self.position_of(ordinal))
        self._position += 1
        return self._new_ordinal(), self.group_at(self._position - 1)

    def _new_ordinal(self) -> int:
        self._ordinal += 1
        return self._ordinal - 1

    def _lease(self, ordinal: int, group: InstructionGroup, purpose: Purpose) -> LeasedGroup:
        leased = self._open[ordinal] = self._leased(ordinal, group, purpose)
        self._open_training += purpose is Purpose.TRAIN
        return leased

    def _leased(self, ordinal: int, group: InstructionGroup, purpose: Purpose) -> LeasedGroup:
        return LeasedGroup(ordinal, self._epoch, group, purpose, sampling_seed(self._seed, ordinal))


def order_of_epoch(seed: int, epoch: int, source: int, groups: int) -> Order:
    """In which order a source's groups come in an epoch."""
    return np.random.default_rng([seed, epoch, source]).permutation(groups)


def sampling_seed(seed: int, ordinal: int) -> int:
    """That the lease of an ordinal names, of a run's seed."""
    return int(np.random.SeedSequence([seed, ordinal]).generate_state(1)[0]) & SEED_MASK
