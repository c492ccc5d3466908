"""The groups of a manifest, and their audio. Edge: the file system, by way of `protocol.dataset.places`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, overload

import xxhash
from msgspec.structs import replace

from protocol.audio import Samples, check_content, decode
from protocol.dataset import sidecar
from protocol.dataset.index import Index, build
from protocol.dataset.lines import Line, Location, read_group, read_line
from protocol.dataset.places import Place, place_of, reason
from protocol.errors import UserError
from protocol.messages import InstructionGroup

READ_AHEAD_BYTES = 4 << 20
"""Of a shard, when its audio is read in the order of the manifest."""
FIX_LINE = "correct the line or take it out"
FIX_CHANGED = "keep data sets as they are while they are used; start again to read what is there now"


class Spoken(NamedTuple):
    """A group and the files of its utterances."""

    group: InstructionGroup
    audio: list[bytes]
    """Of each utterance that is not plain text, in their order."""


class Heard(NamedTuple):
    """A group and the samples of its utterances."""

    group: InstructionGroup
    samples: list[Samples]
    """Float32 ``[sample]`` of each utterance that is not plain text, in their order."""


@dataclass(frozen=True)
class DataSet:
    """One manifest's groups, in its order. They stay on disk: each is read again when it is asked for."""

    path: str
    """Of the manifest: a path or a URL."""
    groups: Groups
    digest: str
    """``xxh128:<hex>`` of the manifest."""
    growing: bool
    """True when a writer had not finished it."""
    _place: Place
    _index: Index

    @classmethod
    def open(cls, path: Path | str, prefix: str = "") -> DataSet:
        """Read every line of a manifest. What is damaged is a `UserError` that names file and line.

        `path` may be a URL that fsspec knows. Of a manifest that is being written the whole lines are there. Each group's id has `prefix`
        put before it.
        """
        place, name = place_of(path)
        described = sidecar.read(place)
        entry = described.manifests.get(name) if described is not None else None
        where = place.where(name)
        growing = entry is not None and not entry.finished

        def damaged(number: int, what: str) -> NoReturn:
            raise UserError(what, where=f"{where}, line {number}", fix=FIX_LINE)

        try:
            with place.opened(name) as file:
                index = build(file, damaged, growing=growing)
                handle = os.dup(file.fileno())
        except OSError as error:
            fix = "check data.train and data.test"
            raise UserError(f"the data set cannot be read ({reason(error)})", where=where, fix=fix) from error
        lines = _Lines(where, handle, index)
        if entry is not None and entry.finished and entry.digest != index.digest:
            fix = f"restore it, or take its entry out of {sidecar.NAME} to use it as it is"
            raise UserError("the manifest was changed since it was finished", where=where, fix=fix)
        if not len(index.starts):
            raise UserError("the data set holds no instruction group", where=where, fix="write at least one line")
        return cls(where, Groups(lines, range(len(index.starts)), prefix), index.digest, growing, place, index)

    def has(self, audio: str) -> bool:
        """True when an utterance has that content hash."""
        return self._index.group_of(audio) is not None

    def location(self, audio: str) -> Location:
        """Where the audio of that content hash lies, relative to the manifest. Raises `UserError` for an unknown one."""
        number = self._index.group_of(audio)
        if number is None:
            raise UserError(f"no audio {audio}", where=self.path, fix="actors and learner must read the same data set")
        return next(one.location for one in self.groups.line(number).utterances if one.audio == audio)

    def read_audio(self, audio: str) -> bytes:
        """The file of that content hash, as it was written. Raises `UserError` for one that is unknown, missing or changed."""
        location = self.location(audio)
        return check_audio(read_location(self._place, location), audio, location, where_of(self._place, location))

    def samples(self, audio: str, max_audio_s: float = 30.0) -> Samples:
        """Float32 ``[sample]`` of that content hash. Raises `UserError` for audio that is unknown, changed or not what rba works with."""
        location = self.location(audio)
        where = where_of(self._place, location)
        return decode(check_audio(read_location(self._place, location), audio, location, where), where, max_audio_s)

    def spoken(self, numbers: range | None = None) -> Iterator[Spoken]:
        """Groups with their audio, in order, with few reads and little memory; `numbers` picks some, such as one worker's share.

        Raises `UserError` for audio that is missing or changed.
        """
        ahead = _ReadAhead(self._place)
        for number in numbers if numbers is not None else range(len(self.groups)):
            line = self.groups.line(number)
            found = [(one.audio, one.location) for one in line.utterances if one.audio is not None]
            audio = [check_audio(ahead.read(location), name, location, where_of(self._place, location)) for name, location in found]
            yield Spoken(self.groups[number], audio)

    def heard(self, numbers: range | None = None, max_audio_s: float = 30.0) -> Iterator[Heard]:
        """As `spoken`, decoded. Raises `UserError` for audio that is not what rba works with, too."""
        for group, audio in self.spoken(numbers):
            names = [one.audio for one in group.utterances if one.audio is not None]
            yield Heard(group, [decode(content, f"{self.path}, {name}", max_audio_s) for name, content in zip(names, audio, strict=True)])


def open_mixture(train: Path | str, mix: Iterable[Path | str]) -> list[DataSet]:
    """What a run trains on: `data.train`, then the sets of `data.mix`, whose groups are called ``mix-1/…``, ``mix-2/…``.

    So no two groups of a run share an id, whatever each data set calls them. Raises `UserError` as `DataSet.open` does.
    """
    return [DataSet.open(train), *(DataSet.open(path, f"mix-{number}/") for number, path in enumerate(mix, 1))]


class Groups(Sequence[InstructionGroup]):
    """Instruction groups that are read when they are asked for. A slice is a view."""

    def __init__(self, lines: _Lines, numbers: range, prefix: str = "") -> None:
        self._lines, self._numbers, self._prefix = lines, numbers, prefix

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> InstructionGroup: ...

    @overload
    def __getitem__(self, index: slice) -> Groups: ...

    def __getitem__(self, index: int | slice) -> InstructionGroup | Groups:
        if isinstance(index, slice):
            return Groups(self._lines, self._numbers[index], self._prefix)
        group = read_group(self._lines.content(self._numbers[index]))
        return replace(group, group_id=self._prefix + group.group_id) if self._prefix else group

    def line(self, index: int) -> Line:
        """The group with the locations of its audio."""
        return read_line(self._lines.content(self._numbers[index]))


class _Lines:
    """The bytes of a manifest's lines, as they were when it was opened."""

    def __init__(self, where: str, handle: int, index: Index) -> None:
        """Closes the open file `handle` when nobody reads from it any more."""
        self._where, self._handle, self._index = where, handle, index

    def __del__(self) -> None:
        os.close(self._handle)

    def content(self, number: int) -> bytes:
        """One line. Raises `UserError` where the file was changed under it."""
        index = self._index
        try:
            line = os.pread(self._handle, int(index.sizes[number]), int(index.starts[number]))
        except OSError as error:
            raise UserError(f"the data set cannot be read ({reason(error)})", where=self._where, fix=FIX_CHANGED) from error
        if xxhash.xxh3_64_intdigest(line) != index.checksums[number]:
            raise UserError("it was changed since it was opened", where=f"{self._where}, line {index.lines[number]}", fix=FIX_CHANGED)
        return line


def where_of(place: Place, location: Location) -> str:
    """A location, for people."""
    where = place.where(location.path)
    return where if location.offset is None else f"{where}, {location.size_bytes} bytes from {location.offset}"


def read_location(place: Place, location: Location) -> bytes:
    """The bytes there; fewer where the file ends before. Raises `UserError` where there is no such file."""
    try:
        return place.read(location.path, location.offset or 0, location.size_bytes)
    except OSError as error:
        fix = "check the path in the manifest"
        raise UserError(f"the audio cannot be read ({reason(error)})", where=where_of(place, location), fix=fix) from error


def check_audio(content: bytes, audio: str, location: Location, where: str) -> bytes:
    """`content`, once it is that of the hash. Raises `UserError`."""
    if location.size_bytes is not None and len(content) < location.size_bytes:
        fix = "it was cut off: restore it, or write the data set anew"
        raise UserError(f"the shard ends after {len(content)} of these bytes", where=where, fix=fix)
    check_content(content, audio, where)
    return content


class _ReadAhead:
    """Reads what follows of a shard in one go."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path, self._start, self._held = "", 0, b""

    def read(self, location: Location) -> bytes:
        """As `read_location`."""
        offset, size = location.offset, location.size_bytes
        if offset is None or size is None:
            return read_location(self._place, location)
        begin = offset - self._start
        if location.path != self._path or begin < 0 or begin + size > len(self._held):
            self._held = read_location(self._place, location._replace(size_bytes=max(size, READ_AHEAD_BYTES)))
            self._path, self._start, begin = location.path, offset, 0
        return self._held[begin : begin + size]
