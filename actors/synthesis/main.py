"""A synthesis from its configuration: which stages there are, in which order, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from actors.synthesis import settings
from actors.synthesis.mirror import Mirror
from actors.synthesis.records import Draft
from actors.synthesis.runner import Before, Nothing, Source, Told, carry_out
from actors.synthesis.shelf import Shelf
from actors.synthesis.splits import SIDES as SPLITS
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.shared import Teachers
from actors.synthesis.watch import Watch
from configs.synthesis import SynthesisConfig
from protocol.dataset import sidecar
from protocol.dataset.disk import Lock
from protocol.dataset.places import is_url
from protocol.errors import UserError

STAGES = ("instructions", "responses", "filter", "tags", "splits", "speech", "dataset")
"""In the order of the data."""
ASKING = ("instructions", "responses", "tags")
"""Those that use a language model."""


class Synthesis:
    """The stages of one data set, in its folder: ``stages/<stage>/``, ``shards/`` and the manifests."""

    def __init__(self, config: SynthesisConfig, written: SynthesisConfig | None = None) -> None:
        """`written`: the configuration as the user wrote it, where names in `config` have been replaced by this machine's paths. It is
        what blocks and data set are described by, so that another machine can go on with them.
        """
        self.config, self._written = config, written or config
        far = is_url(config.directory)
        self.folder = Path(config.work_directory if far else config.directory) / config.name
        self.place = f"{config.directory.rstrip('/')}/{config.name}" if far else str(self.folder)
        """Where the data set is to be found."""
        self._mirror = Mirror(self.folder, self.place) if far else None

    @property
    def _blocks(self) -> int:
        return self._first().blocks

    def shelf(self, stage: str) -> Shelf:
        """What that stage has committed."""
        return Shelf(self.folder / "stages" / stage)

    def progress(self) -> dict[str, tuple[int, int]]:
        """(blocks done, blocks in all) by stage."""
        return {stage: (self.shelf(stage).committed, self._blocks) for stage in STAGES}

    def look(self) -> None:
        """Bring what is behind the URL to a machine that has nothing of it."""
        if self._mirror is not None and not self.shelf(STAGES[0]).committed:
            self._mirror.fetch()

    def drafts(self) -> Iterator[Draft]:
        """Every draft as it is now, stage by stage: rejected ones where they were rejected, the others as the furthest stage left them."""
        begun = [shelf for shelf in map(self.shelf, STAGES[:-1]) if shelf.committed]
        for shelf in begun[:-1]:
            yield from (draft for draft in shelf.every() if not draft.kept)
        if begun:
            yield from begun[-1].every()

    def run(self, stages: Sequence[str], watch: Watch, redo: str | None = None) -> None:
        """Carry out these stages, each as far as the one before it has come; first throw away what `redo` and those behind it have made.

        Consumes blocks of the stage before. Produces blocks, shards and manifests. Waits for: teacher, speech, disk. Unblocked by: their
        results; what one of them raises ends the call, and the next one goes on there.
        """
        wanted = [stage for stage in STAGES if stage in stages]
        with _held(self.folder / "stages"), self._mirror or nullcontext(), Teachers() as teachers:
            if self._mirror is not None:
                self._mirror.bring_together(watch)
            if redo is not None:
                self._throw_away(STAGES[STAGES.index(redo) :])
            for name in STAGES[: STAGES.index(wanted[-1]) + 1]:  # a stage also hangs on what those before it were made with
                settings.check(name, self._written, self.shelf(name))
            self._refuse_fewer()
            for name in wanted:
                settings.note(self._written, self.shelf(name))
            if self._mirror is not None:
                self._mirror.put(f"stages/{name}/{settings.FILE}" for name in wanted)
            unfinished = [name for name in wanted if self.shelf(name).committed < self._blocks]
            # all of them now: a wrong bank of voices is told before a teacher works for days
            made = {name: self._stage(name, teachers) for name in unfinished}
            for place, name in enumerate(wanted):
                if not set(ASKING) & set(wanted[place:]):
                    teachers.close()  # its memory and its cores are for who speaks
                shelf, source = self.shelf(name), self._source(name)
                watch.begins(name, shelf.committed, self._blocks)
                if shelf.committed < source.blocks:
                    carry_out(made.pop(name), source, shelf, self._told(watch, name))  # what it remembers ends with it
                watch.ends(name)
            if self._mirror is not None:
                self._mirror.show()

    def _throw_away(self, stages: Sequence[str]) -> None:
        """What names others goes first, so that nothing is named that is not there."""
        names = [sidecar.NAME, *(f"{split}.jsonl" for split in SPLITS)]
        if self._mirror is not None:
            self._mirror.renew()
            self._mirror.remove([*names, *(f"stages/{stage}" for stage in reversed(stages))])
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        for stage in reversed(stages):
            self.shelf(stage).clear()

    def _told(self, watch: Watch, stage: str) -> Told:
        def told(number: int, drafts: Sequence[Draft]) -> None:
            if self._mirror is not None:
                self._mirror.block(stage, number)
            watch.block(stage, drafts)

        return told

    def _refuse_fewer(self) -> None:
        """Raises `UserError` where `instructions.count` leaves out instructions that are there: what is committed never changes."""
        there, wanted = self.shelf(STAGES[0]).drafts, self.config.instructions.count
        if there > wanted:
            raise UserError(
                f"{there} instructions are there already, and {wanted} would be fewer",
                where="instructions.count",
                fix=f"set it to {there} or more, or give the data set another name",
            )

    def _first(self) -> Source:
        shelf = self.shelf(STAGES[0])
        return Nothing(max(self.config.instructions.count, shelf.drafts), self.config.block_groups, shelf.committed, shelf.drafts)

    def _source(self, name: str) -> Source:
        place = STAGES.index(name)
        return Before(self.shelf(STAGES[place - 1]), self._blocks) if place else self._first()

    def _stage(self, name: str, teachers: Teachers) -> Stage:
        """What a stage needs is imported here: whoever only speaks waits for no engine."""
        config = self.config
        match name:
            case "instructions" if config.instructions.source == "corpus":
                from actors.synthesis.corpora.source import CorpusInstructions

                return CorpusInstructions(config, self.folder)
            case "instructions":
                from actors.synthesis.instructions import Instructions

                return Instructions(config, teachers.teacher(config.teacher, "teacher"))
            case "responses":
                from actors.synthesis.responses import Responses

                return Responses(config, teachers.teacher(config.teacher, "teacher"))
            case "filter":
                from actors.synthesis.filtering import Filtering

                return Filtering(config)
            case "tags":
                from actors.synthesis.tags import Tags

                own = config.tags.model
                return Tags(config, teachers.teacher(*((own, "tags.model") if own is not None else (config.teacher, "teacher"))))
            case "splits":
                from actors.synthesis.splits import Splits

                return Splits(config)
            case "speech":
                from actors.synthesis.speaking import Speaking

                return Speaking(config, self.folder)
            case "dataset":
                from actors.synthesis.manifests import Manifests

                return Manifests(self._written, self.folder, self._blocks)
        raise ValueError(name)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Nobody else makes this data set meanwhile. Raises `UserError` that says who does."""
    lock = Lock(folder)
    try:
        yield
    finally:
        lock.release()
