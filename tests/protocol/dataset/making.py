"""Small data sets for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from protocol.audio import SAMPLE_RATE
from protocol.dataset import DataSetWriter, Location
from protocol.messages import InstructionGroup, Utterance

VOICES = ("anna", "bert")


def flac(pitch: int, seconds: float = 0.05, channels: int = 1, rate: int = SAMPLE_RATE, loudness: float = 0.5) -> bytes:
    """A tone; other pitches make other bytes."""
    time_s = np.arange(int(seconds * rate)) / rate
    samples = np.tile((loudness * np.sin(2 * np.pi * (200 + pitch) * time_s))[:, None], (1, channels))
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()


def write(folder: Path, name: str = "train.jsonl", groups: int = 3, clips: Sequence[bytes] | None = None, first: int = 0) -> Path:
    """A finished manifest of `groups`, two voices each; the shard holds two groups. Returns the manifest's path."""
    clips = clips if clips is not None else [flac(10 * first + number) for number in range(2 * groups)]
    with DataSetWriter(folder) as writer:
        manifest = writer.manifest(name)
        for start in range(0, groups, 2):
            append(writer, manifest, f"shards/{Path(name).stem}-{start}.tar", range(start, min(groups, start + 2)), clips, first)
        writer.finish()
    return folder / name


def append(writer, manifest, shard: str, numbers: range, clips: Sequence[bytes], first: int = 0) -> None:
    """One shard, and then the groups that it speaks."""
    locations, made = {}, []
    with writer.shard(shard) as shard_writer:
        for number in numbers:
            utterances = [Utterance("text")]
            for voice, clip in zip(VOICES, clips[2 * number : 2 * number + 2], strict=True):
                audio, offset, size_bytes = shard_writer.add(clip)
                locations[audio] = Location(shard, offset, size_bytes)
                utterances.append(Utterance(voice, audio, soundfile.info(io.BytesIO(clip)).duration if clip[:4] == b"fLaC" else 0.0))
            made.append(InstructionGroup(f"g{first + number}", f"say {first + number}", f"reference {number}", utterances))
    for group in made:
        manifest.append(group, locations)
    manifest.commit()
