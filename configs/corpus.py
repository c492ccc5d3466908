"""Recordings with transcripts as the source of a synthesis: its section `corpus`."""

from __future__ import annotations

from typing import Literal

from configs.section import NonNegativeInt, PositiveFloat, Section


class CorpusSection(Section):
    """Recordings with transcripts: what the first stage hands on where `instructions.source` is `corpus`. One direction a data set."""

    changeable = frozenset({"path"})

    format: Literal["fleurs", "covost2", "mustc", "spoken_alpaca"] = "fleurs"
    """The corpus, in the layout that it is published in (docs/synthesis.md)."""
    path: str | None = None
    """Its folder."""
    source_language: str = "en"
    """ISO 639-1 code of what is spoken."""
    target_language: str = "en"
    """ISO 639-1 code of the references."""
    train: NonNegativeInt | None = None
    """Recordings of the corpus' training split, at most, drawn by the seed; null takes all."""
    validation: NonNegativeInt | None = None
    test: NonNegativeInt | None = None
    own_references: tuple[Literal["train", "validation", "test"], ...] = ("test",)
    """Splits whose references are the corpus' own; the teacher writes those of the others."""
    kept_out: str | None = None
    """A FLEURS folder whose test sentences stay out of training and validation, whatever the corpus."""
    prompt: str = "Translate the speech from {source} into {target}."
    """The task's prompt, text beside the audio; `{source}` and `{target}` stand for the languages' names."""
    max_audio_s: PositiveFloat = 30.0
    """Longer recordings are rejected."""
    skip_damaged: bool = False
    """Reject recordings that cannot be decoded, instead of stopping at the first."""
