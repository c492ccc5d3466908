"""What a stage of a synthesis is: blocks of drafts in, blocks of drafts out, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import ClassVar, Self

from actors.synthesis.records import Draft


class Stage(ABC):
    """Used as a context manager around its blocks, which starts and ends what it needs (an engine, processes, connections).

    The runner hands it blocks in order, each once, and commits what it returns in that order. A block is whole or not there: a stage
    that is killed is handed its unfinished block again. What a stage writes beside its drafts has therefore to be named by the block's
    number, and to appear by rename.
    """

    name: ClassVar[str]
    """The command's, and the folder's."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """Why it may reject a draft, each a short phrase; they are counted one by one."""
    ahead: int = 1
    """Blocks that it may be handed at once, by as many threads; 1 where a block needs what the one before has left."""

    def survey(self, drafts: Iterable[Draft]) -> None:  # noqa: B027 -- most look at none
        """Look at every draft that will come, where a decision needs them all. Called once, before anything else.

        A stage that overrides it starts when the stage before is complete.
        """

    def recall(self, drafts: Sequence[Draft]) -> None:  # noqa: B027 -- most need none
        """One block that an earlier life of this stage has committed, as committed; called for each of them, in order."""

    @abstractmethod
    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """Work on block `number`: drafts that no stage has rejected. Returns each of them, changed or rejected, in their order.

        The result depends on the block, the configuration and what was surveyed and recalled, and on nothing else but a teacher's
        sampling. The first stage is handed drafts that have nothing but an `id`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None
