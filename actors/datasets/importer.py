"""From records of any format to instruction groups in rba's own."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.datasets.conversion import Converted, convert
from actors.datasets.draft import draft
from actors.datasets.fields import Fields, Texts
from actors.datasets.gathering import Gathering
from actors.datasets.names import GroupBy, Reason
from actors.datasets.records import Record, RefusedError
from protocol.dataset import DataSetWriter, Location, ShardWriter, Stored
from protocol.errors import UserError
from protocol.messages import Utterance

MANIFEST = "manifest.jsonl"
SHARD_BYTES = 256 << 20
"""After which the next shard begins."""
AHEAD = 4
"""Records that are converted at once, for each core."""
WRITTEN = "text"
"""Speaker of an instruction that nobody speaks."""


@dataclass(frozen=True)
class Options:
    """What the user chooses."""

    fields: Fields = field(default_factory=Fields)
    group_by: GroupBy = "id"
    drop: Collection[Reason] = ()
    """Reasons for which a record is left out; any other ends the import."""
    max_audio_s: float = 30.0
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the data set comes from, for ``dataset.json``."""


@dataclass
class Imported:
    """What came of it."""

    groups: int = 0
    utterances: int = 0
    audio_s: float = 0.0
    converted: Counter[str] = field(default_factory=Counter)
    """Clips by what was done to them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Records by why they were left out."""

    def told(self) -> str:
        """For people."""
        parts = [f"{self.groups} groups, {self.utterances} utterances, {self.audio_s / 3600:.2f} h of audio"]
        parts += [f"{count} clips {what}" for what, count in sorted(self.converted.items())]
        parts += [f"{count} records left out ({why})" for why, count in sorted(self.dropped.items())]
        return "; ".join(parts)


def take_in(
    records: Iterable[Record], out: Path | str, options: Options, progress: Callable[[Imported], None] = lambda _: None
) -> Imported:
    """Write `records` as a new data set: the folder or URL `out` with its manifest. It appears when all of it is there.

    Memory holds a few records at a time. Raises `UserError`, with file and line, for what cannot be taken.
    """
    done = Imported()
    with draft(out) as folder, DataSetWriter(folder, options.about) as writer, Gathering(folder / "gathering.sqlite") as gathering:
        with _Shards(writer) as shards:
            for number, (record, accepted) in enumerate(_in_order(records, options), 1):
                try:
                    texts, clip = accepted.result()
                except RefusedError as error:
                    if error.reason not in options.drop:
                        raise
                    done.dropped[error.reason] += 1
                    continue
                utterance, location = _placed(texts, clip, shards)
                if _gather(gathering, record, texts, utterance, location, number, options.group_by):
                    _count(done, clip)
                else:
                    done.dropped["the same utterance twice"] += 1
                progress(done)
        manifest = writer.manifest(MANIFEST)
        for group, locations in gathering.groups():
            manifest.append(group, locations)
            done.groups += 1
        writer.finish()
        if not done.groups:
            left_out = f": {done.told()}" if done.dropped else ""
            raise UserError(f"there is nothing to import{left_out}", where="the source", fix="see whether it is the right one")
    return done


def _in_order(records: Iterable[Record], options: Options) -> Iterator[tuple[Record, Future[tuple[Texts, Converted | None]]]]:
    """Each record with what becomes of it, which as many threads as there are cores work out."""
    cores = len(os.sched_getaffinity(0))
    waiting: deque[tuple[Record, Future[tuple[Texts, Converted | None]]]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for record in records:
                waiting.append((record, pool.submit(_accepted, record, options)))
                if len(waiting) > AHEAD * cores:
                    yield waiting.popleft()
        except UserError:
            yield from waiting  # what is wrong before that is told first
            raise
        yield from waiting


def _accepted(record: Record, options: Options) -> tuple[Texts, Converted | None]:
    texts = options.fields.texts(record)
    return texts, convert(record.clip, options.max_audio_s, record.where) if record.clip is not None else None


def _gather(
    gathering: Gathering, record: Record, texts: Texts, utterance: Utterance, location: Location | None, number: int, group_by: GroupBy
) -> bool:
    said = replace(texts, speaker="", group="")
    name = texts.group or record.key or f"row-{number:08d}"
    key = repr(said) if group_by == "text" else f"group {texts.group}" if texts.group else f"row {name}"
    return gathering.add(key, name, said, utterance, location, record.where)


class _Shards:
    """Shards of one data set, one after the other; the last one gets its name when the block ends without an error."""

    def __init__(self, writer: DataSetWriter) -> None:
        self._writer, self._count, self._name = writer, 0, ""
        self._shard: ShardWriter | None = None
        self._stack = ExitStack()

    def add(self, content: bytes) -> tuple[str, Location]:
        """(content hash, where it lies)."""
        if self._shard is None or self._shard.size_bytes >= SHARD_BYTES:
            self._stack.close()
            self._name = f"shards/{self._count:05d}.tar"
            self._shard = self._stack.enter_context(self._writer.shard(self._name))
            self._count += 1
        stored: Stored = self._shard.add(content)
        return stored.audio, Location(self._name, stored.offset, stored.size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


def _placed(texts: Texts, clip: Converted | None, shards: _Shards) -> tuple[Utterance, Location | None]:
    if clip is None:
        return Utterance(texts.speaker or WRITTEN), None
    audio, location = shards.add(clip.content)
    return Utterance(texts.speaker, audio, clip.duration_s), location


def _count(done: Imported, clip: Converted | None) -> None:
    done.utterances += 1
    if clip is not None:
        done.audio_s += clip.duration_s
        done.converted.update(clip.changes or ("kept as they were",))
