"""One instruction on its way through the stages of a synthesis."""

from __future__ import annotations

from typing import Any

import msgspec


class Spoken(msgspec.Struct, frozen=True, omit_defaults=True):
    """One voice's recording, or, with `audio` "", the instruction as plain text."""

    speaker: str
    audio: str = ""
    """Content hash of the FLAC file, ``xxh128:<32 hex digits>``."""
    duration_s: float = 0.0
    path: str = ""
    """The shard that holds it, relative to the synthesis' folder."""
    offset: int = 0
    """Where its bytes start in the shard."""
    size_bytes: int = 0


class Draft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one instruction so far. Stages return changed copies (`msgspec.structs.replace`)."""

    id: str
    """Names it in the whole synthesis; given once, by the first stage."""
    instruction: str = ""
    reference: str = ""
    prompt: str = ""
    """The task's prompt: text beside the audio ("" for plain spoken instructions)."""
    spoken_language: str = "en"
    language: str = "en"
    """Of the reference."""
    answers: list[str] = []
    """Further acceptable answers."""
    topic: str = ""
    difficulty: str = ""
    tags: dict[str, Any] = {}
    """What else the tagger said, such as its reasons."""
    split: str = ""
    """train | validation | test."""
    utterances: list[Spoken] = []
    origin: dict[str, Any] = {}
    """Where it comes from: model, seed, temperature, or corpus and item."""
    rejected: str = ""
    """Why it goes no further, as ``stage: reason`` with one of the stage's fixed reasons; it is kept for inspection."""
    detail: str = ""
    """What the reason is about, such as the word that is unspeakable."""

    @property
    def kept(self) -> bool:
        """True until a stage rejects it."""
        return not self.rejected
