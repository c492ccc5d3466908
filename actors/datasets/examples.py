"""What every writer gets: one example an utterance, in the order of the data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.datasets.conversion import Converted, convert
from actors.datasets.records import Clip
from protocol.dataset import DataSet
from protocol.messages import InstructionGroup, Utterance


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance of a group."""

    group: InstructionGroup
    utterance: Utterance
    clip: Converted | None
    """FLAC, mono, 16 kHz; None where the instruction is plain text."""

    def texts(self) -> dict[str, Any]:
        """The group's words and the speaker, by the names that the importer looks for."""
        group = self.group
        return {
            "group_id": group.group_id,
            "instruction": group.instruction,
            "reference": group.reference,
            "prompt": group.prompt,
            "topic": group.topic,
            "language": group.language,
            "answers": list(group.answers),
            "speaker": self.utterance.speaker,
        }


def examples(data: DataSet) -> Iterator[Example]:
    """Every utterance of a data set. Raises `UserError` for audio that is missing or damaged."""
    for group, contents in data.spoken():
        audio = iter(contents)
        for utterance in group.utterances:
            yield Example(group, utterance, _clip(next(audio), utterance, data) if utterance.audio is not None else None)


def clip_of(data: DataSet, utterance: Utterance) -> Converted | None:
    """The audio of an utterance, as FLAC. Raises `UserError`."""
    return _clip(data.read_audio(utterance.audio), utterance, data) if utterance.audio is not None else None


def _clip(content: bytes, utterance: Utterance, data: DataSet) -> Converted:
    return convert(Clip(content), math.inf, f"{data.path}, audio {utterance.audio}")
