"""A manifest's line: an instruction group, and where its audio lies. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec

from protocol.leasable import SURE_LINE_BYTES, too_large
from protocol.messages import InstructionGroup, Utterance

AUDIO_HASH = re.compile(r"xxh128:[0-9a-f]{32}")

Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Location(NamedTuple):
    """Where the bytes of one audio lie."""

    path: str
    """Of a shard or a file, relative to the manifest, with slashes."""
    offset: int | None = None
    """The first byte within a shard; None: the audio is the whole file."""
    size_bytes: int | None = None


class Recording(Utterance, frozen=True, gc=False):
    """An utterance and its location."""

    path: str | None = None
    offset: Bytes | None = None
    size_bytes: Bytes | None = None

    @property
    def location(self) -> Location:
        """Of an utterance that has audio."""
        return Location(self.path or "", self.offset, self.size_bytes)


class Line(InstructionGroup, frozen=True, kw_only=True, gc=False):
    """A manifest line: an instruction group whose utterances say where they lie."""

    utterances: list[Recording]  # type: ignore[assignment]


class LineDamage(ValueError):  # noqa: N818 -- what is wrong with a line, for people
    """Why a line is no instruction group."""


_is_hash = AUDIO_HASH.fullmatch
_LINES = msgspec.json.Decoder(Line)
_GROUPS = msgspec.json.Decoder(InstructionGroup)
_ENCODER = msgspec.json.Encoder()


def read_line(line: bytes) -> Line:
    """The line's content. Raises `LineDamage`."""
    try:
        read = _LINES.decode(line)
    except msgspec.ValidationError as error:
        raise LineDamage(f"not an instruction group: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LineDamage(f"not JSON: {error}") from None
    if not read.utterances:
        raise LineDamage("the group has no utterance")
    if not read.reference.strip():
        raise LineDamage("the reference is empty")
    for one in read.utterances:
        audio = one.audio
        if audio is None:
            if not read.instruction.strip():
                raise LineDamage("an utterance is plain text and the instruction is empty")
        elif not _is_hash(audio):
            raise LineDamage(f"{audio!r} is no audio hash, which reads xxh128:<32 hex digits>")
        elif not one.path:
            raise LineDamage(f"the utterance of {one.speaker!r} names audio but no path")
        elif (one.offset is None) is not (one.size_bytes is None):
            raise LineDamage(f"the utterance of {one.speaker!r} has only one of offset and size_bytes")
    if len(line) > SURE_LINE_BYTES and (why := too_large(read_group(line))):
        raise LineDamage(why)
    return read


def read_group(line: bytes) -> InstructionGroup:
    """The instruction group of a line that `read_line` has accepted."""
    return _GROUPS.decode(line)


def write_line(group: InstructionGroup, locations: Mapping[str, Location]) -> bytes:
    """The line of a group, by whose audio's hashes `locations` are found; the same bytes for the same group. Raises `KeyError`."""
    recordings = []
    for one in group.utterances:
        recording = {"speaker": one.speaker, "audio": one.audio, "duration_s": one.duration_s}
        if one.audio is not None:
            found = locations[one.audio]
            recording["path"] = found.path
            if found.offset is not None:
                recording |= {"offset": found.offset, "size_bytes": found.size_bytes}
        recordings.append(recording)
    fields = {name: getattr(group, name) for name in InstructionGroup.__struct_fields__}
    return _ENCODER.encode({**fields, "utterances": recordings}) + b"\n"
