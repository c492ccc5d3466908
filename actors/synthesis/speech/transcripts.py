"""Whether a clip says its text: an OpenAI-compatible POST /v1/audio/transcriptions hears it, and words are counted."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from actors.synthesis.speech.http import RequestRefusedError, Requests
from actors.synthesis.speech.samples import Clip, Fault
from configs.speech import TranscriptsSection

BY_CHARACTER = frozenset({"zh", "ja", "th"})
"""Languages whose words stand without spaces."""
REASONS = ("misheard", "not transcribed")


class Listener:
    """Asks a server what clips say, from any thread. Used as a context manager."""

    def __init__(self, section: TranscriptsSection, spoken_form: Callable[[str, str], str] | None = None) -> None:
        """`spoken_form`: writes numbers of a transcript out, as those of the text are. Raises `UserError` for a malformed URL or a key that
        is not set.
        """
        self._section, self._spoken_form = section, spoken_form
        self.requests = Requests(
            section.url,
            "/audio/transcriptions",
            key="speech.transcripts",
            api_key_env=section.api_key_env,
            timeout_s=section.timeout_s,
            attempts=section.attempts,
            concurrency=section.concurrency,
        )

    def fault(self, clip: Clip, text: str, language: str) -> Fault | None:
        """None where the clip says `text`. Raises `ServerGoneError`."""
        fields = {"model": self._section.model, "response_format": "json", "temperature": "0", "language": language.split("-")[0]}
        try:
            answer = self.requests.post(data=fields, files={"file": ("clip.flac", clip.content, "audio/flac")})
            heard = str(msgspec.json.decode(answer.content, type=dict)["text"])
        except (RequestRefusedError, msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
            return Fault("not transcribed", f"{type(error).__name__}: {error}")
        if self._spoken_form is not None:
            heard = self._spoken_form(heard, language)
        error_rate = word_error(text, heard, language)
        return Fault("misheard", f"{error_rate:.0%} wrong: {heard}") if error_rate > self._section.max_word_error else None

    def __enter__(self) -> Self:
        self.requests.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.requests.__exit__(kind, error, trace)


def word_error(said: str, heard: str, language: str) -> float:
    """Words (or characters) that were replaced, left out or added, as a share of those of `said`; punctuation and case do not count."""
    expected, found = (_units(text, language) for text in (said, heard))
    return distance(expected, found) / max(1, len(expected))


def _units(text: str, language: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    # an apostrophe belongs to its word, anything else that is no letter or digit ends one; marks are parts of letters in many scripts
    kept = "".join(each if each.isalnum() or unicodedata.category(each).startswith("M") else "" if each in "'’" else " " for each in folded)
    return [*kept.replace(" ", "")] if language.lower().split("-")[0] in BY_CHARACTER else kept.split()


def distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest replacements, omissions and additions that lead from one to the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for index, left in enumerate(one, 1):
        diagonal, row[0] = row[0], index
        for column, right in enumerate(other, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (left != right))
    return row[-1]
