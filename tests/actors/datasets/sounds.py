"""Audio and data sets to convert."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from actors.datasets.examples import Example, examples
from actors.datasets.importer import MANIFEST, Imported, Options, take_in
from actors.datasets.records import Record
from protocol.dataset import DataSet, ManifestWriter
from protocol.messages import InstructionGroup, Utterance

Texts = tuple[str, str, str, str, str, str, tuple[str, ...]]


def noise(seed: int, frames: int = 800, channels: int = 1) -> NDArray[np.int16]:
    """``[frame]`` or ``[frame, channel]``: different for each seed."""
    drawn = np.random.default_rng(seed).integers(-9000, 9000, (frames, channels)).astype(np.int16)
    return drawn[:, 0] if channels == 1 else drawn


def encoded(samples: NDArray[Any], rate_hz: int = 16_000, form: str = "FLAC", subtype: str = "PCM_16") -> bytes:
    """A file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def decoded(content: bytes) -> NDArray[np.int16]:
    """Its samples."""
    samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate_hz == 16_000
    return samples


def native(folder: Path, groups: Iterable[tuple[InstructionGroup, list[bytes]]]) -> DataSet:
    """A data set of rba's: each group with the audio of its utterances that have some; the hashes are filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    with ManifestWriter(folder / MANIFEST) as writer:
        for group, contents in groups:
            rest = iter(contents)
            utterances = [
                Utterance(each.speaker, writer.add_audio(next(rest)), each.duration_s) if each.audio is not None else each
                for each in group.utterances
            ]
            fields = {name: getattr(group, name) for name in InstructionGroup.__struct_fields__}
            writer.add(InstructionGroup(**{**fields, "utterances": utterances}))
    return DataSet.open(folder / MANIFEST)


def small(folder: Path) -> DataSet:
    """Two groups: one with two voices and the text itself, one with a prompt and one voice."""
    first = InstructionGroup(
        "a/1", "name a colour", "blue, “deep”", [Utterance("anna", "x", 0.05), Utterance("bob", "x", 0.06), Utterance("text")],
        topic="Others", answers=["blue", "red"],
    )  # fmt: skip
    second = InstructionGroup("b 2", "good morning", "guten Morgen", [Utterance("ćira", "x", 0.05)], prompt="Auf Deutsch:", language="de")
    return native(folder, [(first, [encoded(noise(1)), encoded(noise(2, 960))]), (second, [encoded(noise(3))])])


def said(data: DataSet, *, written: bool = True) -> list[tuple[Texts, list[tuple[str, bytes | None]]]]:
    """All that a data set says: texts, speakers and samples; without the plain texts where those are not `written`."""
    whole: dict[str, tuple[Texts, list[tuple[str, bytes | None]]]] = {}
    for each in examples(data):
        group = each.group
        texts = (group.instruction, group.reference, group.prompt, group.topic, group.language, group.group_id, tuple(group.answers))
        heard = decoded(each.clip.content).tobytes() if each.clip is not None else None
        if heard is not None or written:
            whole.setdefault(group.group_id, (texts, []))[1].append((each.utterance.speaker, heard))
    return list(whole.values())


def imported(records: Iterable[Record], out: Path, **options: Any) -> tuple[DataSet, Imported]:
    """What the importer makes of records."""
    done = take_in(records, out, Options(**options))
    return DataSet.open(out / MANIFEST), done


def listed(data: DataSet) -> list[Example]:
    """Every utterance."""
    return list(examples(data))
