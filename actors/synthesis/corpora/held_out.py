"""What stays out of training: sentences of a test or a validation, by their names and by what is said."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.synthesis.corpora.corpus import SPLITS, Recording

ASCII = re.compile(r"[^a-z0-9]+")
TRANSCRIPT = "no words in the transcript"
TRANSLATION = "no translation by the corpus"
NOISES = re.compile(r"\([^()]*\)")
"""MuST-C's "(Applause)"."""


def normalised(text: str) -> str:
    """Letters, marks and digits of all scripts, lower case, compatibility forms folded; what is equal in this is the same sentence."""
    if text.isascii():
        return ASCII.sub("", text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(each for each in folded if unicodedata.category(each)[0] in "LMN")


def has_words(transcript: str) -> bool:
    """False for silence, and for noises in brackets alone."""
    return bool(normalised(NOISES.sub("", transcript) if "(" in transcript else transcript))


@dataclass
class HeldOut:
    """Sentences by name and by transcript, and what each of them is in."""

    sentences: dict[str, str] = field(default_factory=dict)
    transcripts: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, sentences: Iterable[str], transcripts: Iterable[str]) -> None:
        """Hold out what is in `place`, such as "FLEURS' test"."""
        for sentence in filter(None, sentences):
            self.sentences.setdefault(sentence, place)
        for key in filter(None, map(normalised, transcripts)):
            self.transcripts.setdefault(key, place)

    def reason(self, recording: Recording) -> str | None:
        """Why a recording must not be trained on; None for one that may."""
        if place := self.sentences.get(recording.sentence):
            return f"its sentence is in {place}"
        if place := self.transcripts.get(normalised(recording.transcript)):
            return f"its transcript is in {place}"
        return None


def keep_apart(
    splits: Mapping[str, Sequence[Recording]], elsewhere: HeldOut, translated: Iterable[str] = ()
) -> tuple[dict[str, list[Recording]], dict[str, Counter[str]]]:
    """(what each split may have, how many recordings of each were left out by reason).

    `elsewhere` is held out from training and validation, the split's own test likewise, the validation from training. Recordings without
    words are left out everywhere, those without a translation in the splits of `translated`. The test itself is never thinned by others.
    """
    kept: dict[str, list[Recording]] = {}
    left_out: dict[str, Counter[str]] = {}
    held_out = HeldOut()
    for split in reversed(SPLITS):
        counts: Counter[str] = Counter()
        kept[split] = []
        for recording in splits.get(split, ()):
            reason = None if split == "test" else elsewhere.reason(recording) or held_out.reason(recording)
            if not has_words(recording.transcript):
                reason = TRANSCRIPT
            elif split in translated and not recording.translation:
                reason = TRANSLATION
            if reason is None:
                kept[split].append(recording)
            else:
                counts[reason] += 1
        left_out[split] = counts
        if split != "train":  # which comes last
            everything = splits.get(split, ())
            held_out.add(f"the {split}", (each.sentence for each in everything), (each.transcript for each in everything))
    return {split: kept[split] for split in SPLITS}, {split: left_out[split] for split in SPLITS}
