"""What a corpus is: the recordings of its splits in the order in which they are read best, and the sound of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from actors.synthesis.corpora.sound import Sound
from protocol.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded sentence. Its sound stays in the corpus until `Corpus.sound` reads it."""

    id: str
    """Unique in its corpus."""
    transcript: str
    translation: str = ""
    """The corpus' own, or answer to an instruction; "" where it has none."""
    speaker: str = ""
    sentence: str = ""
    """Names the sentence in every language and of every speaker, where the corpus has such names (FLoRes)."""
    file: str = ""
    """File, or member of an archive, that holds the sound."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None for the whole file."""
    row: str = ""
    """``file, line n`` of its text."""


class Corpus(ABC):
    """One direction of one corpus."""

    name: ClassVar[str]
    source: str
    """ISO 639-1 code of what is spoken."""
    target: str
    """ISO 639-1 code of the translations."""

    @abstractmethod
    def recordings(self, split: str) -> Sequence[Recording]:
        """All recordings of `train`, `validation` or `test`, in an order that `sound` can follow cheaply; the same at every call.

        Raises `UserError` with file and line for what is missing or damaged.
        """

    @abstractmethod
    def sound(self, recording: Recording) -> Sound:
        """Mono samples at the corpus' rate. Raises `DamagedSoundError` where they cannot be had."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its line end) of each line. Raises `UserError`."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except OSError as error:
        raise missing(path, error.strerror or "unreadable") from None
    except UnicodeDecodeError:
        raise UserError("it is not UTF-8 text", where=str(path), fix="fetch the file again") from None


def missing(path: Path, reason: str = "No such file or directory") -> UserError:
    """What is said of a part of a corpus that is not there."""
    return UserError(
        f"a part of the corpus cannot be read: {reason}", where=str(path), fix="see docs/synthesis.md for the layout, and corpus.path"
    )


def damaged(path: Path | str, number: int, what: str) -> UserError:
    """What is said of a line."""
    return UserError(what, where=f"{path}, line {number}", fix="fetch the file again, or correct the line")
