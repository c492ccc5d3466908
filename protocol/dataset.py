"""Instruction groups on disk: one JSON object a line, audio files beside it.

    {"group_id": "…", "instruction": "…", "reference": "…",
     "utterances": [{"speaker": "…", "audio": "xxh128:…", "path": "audio/ab/….flac", "duration_s": 1.8}, {"speaker": "text"}]}

Paths are relative to the manifest. A line holds the fields of `protocol.messages.InstructionGroup`, and a `path` for each audio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import xxhash

from protocol.audio import audio_hash
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance

AUDIO_HASH = re.compile(r"xxh128:[0-9a-f]{32}")

__all__ = ["DataSet", "ManifestWriter", "audio_hash"]


class _Line(InstructionGroup, frozen=True, kw_only=True):
    """A manifest line: an instruction group whose utterances name their files."""

    utterances: list[_Recording]  # type: ignore[assignment]


class _Recording(Utterance, frozen=True):
    path: str | None = None


@dataclass(frozen=True)
class DataSet:
    """The groups of one manifest, in its order, and where their audio lies."""

    path: Path
    groups: Sequence[InstructionGroup]
    digest: str
    """``xxh128:<hex>`` of the manifest."""
    _audio: Mapping[str, Path]

    @classmethod
    def open(cls, path: Path | str) -> DataSet:
        """Read a manifest. Every damaged line is a `UserError` that names file and line."""
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"the data set cannot be read ({error.strerror})", where=str(path), fix="check data.train and data.test"
            ) from error
        groups: list[InstructionGroup] = []
        audio: dict[str, Path] = {}
        seen: dict[str, int] = {}
        decoder = msgspec.json.Decoder(_Line)
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                group = _read_line(decoder, line, path, number, audio)
                if group.group_id in seen:
                    raise _damage(path, number, f"group_id {group.group_id!r} stands in line {seen[group.group_id]} already")
                seen[group.group_id] = number
                groups.append(group)
        if not groups:
            raise UserError("the data set holds no instruction group", where=str(path), fix="write at least one line")
        return cls(path, groups, f"xxh128:{xxhash.xxh3_128_hexdigest(content)}", audio)

    def has(self, audio: str) -> bool:
        """True when an utterance has that content hash."""
        return audio in self._audio

    def audio_path(self, audio: str) -> Path:
        """Where the audio of that content hash lies. Raises `UserError` for an unknown one."""
        try:
            return self._audio[audio]
        except KeyError:
            raise UserError(f"no audio {audio}", where=str(self.path), fix="actors and learner must read the same data set") from None


def _damage(path: Path, number: int, what: str) -> UserError:
    return UserError(what, where=f"{path}, line {number}", fix="correct the line or take it out")


def _read_line(decoder: msgspec.json.Decoder[_Line], line: bytes, path: Path, number: int, audio: dict[str, Path]) -> InstructionGroup:
    try:
        read = decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _damage(path, number, f"not an instruction group: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damage(path, number, f"not JSON: {error}") from None
    if not read.utterances:
        raise _damage(path, number, "the group has no utterance")
    if not read.reference.strip():
        raise _damage(path, number, "the reference is empty")
    for recording in read.utterances:
        if recording.audio is None:
            if not read.instruction.strip():
                raise _damage(path, number, "an utterance is plain text and the instruction is empty")
            continue
        if not AUDIO_HASH.fullmatch(recording.audio):
            raise _damage(path, number, f"{recording.audio!r} is no audio hash, which reads xxh128:<32 hex digits>")
        if not recording.path:
            raise _damage(path, number, f"the utterance of {recording.speaker!r} names audio but no path")
        audio[recording.audio] = path.parent / recording.path
    utterances = [Utterance(one.speaker, one.audio, one.duration_s) for one in read.utterances]
    fields = {name: getattr(read, name) for name in InstructionGroup.__struct_fields__}
    return InstructionGroup(**{**fields, "utterances": utterances})


class ManifestWriter:
    """Writes a manifest and the audio files beside it, named by content; `path` appears when it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("w", encoding="utf-8")
        self._paths: dict[str, str] = {}

    def add_audio(self, content: bytes, suffix: str = ".flac") -> str:
        """Store one audio file and return its content hash."""
        name = audio_hash(content)
        if name not in self._paths:
            digest = name.removeprefix("xxh128:")
            relative = f"audio/{digest[:2]}/{digest}{suffix}"
            target = self.path.parent / relative
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_suffix(".partial")
                partial.write_bytes(content)
                partial.rename(target)
            self._paths[name] = relative
        return name

    def add(self, group: InstructionGroup) -> None:
        """Write one group. Its audio must have been added."""
        line = msgspec.to_builtins(group)
        for utterance in line["utterances"]:
            if utterance["audio"] is not None:
                utterance["path"] = self._paths[utterance["audio"]]
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            self._partial.rename(self.path)
        else:
            self._partial.unlink()
