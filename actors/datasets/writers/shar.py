"""Lhotse Shar: ``cuts.000000.jsonl.gz`` and ``recording.000000.tar``, one cut an utterance.

The supervision has the instruction and the speaker; what else the group says is custom data of the cut.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from actors.datasets.conversion import Converted
from actors.datasets.examples import Example
from protocol.audio import SAMPLE_RATE

SHARD_CUTS = 1000
CUSTOM = ("group_id", "reference", "prompt", "topic", "language", "answers")


def write(examples: Iterable[Example], folder: Path) -> Counter[str]:
    """Shards of `SHARD_CUTS`. Instructions that nobody speaks are left out: a cut has a duration. Returns counts for people."""
    counts: Counter[str] = Counter(cuts=0)
    with ExitStack() as shard:
        for example in examples:
            if example.clip is None:
                counts["utterances without audio left out"] += 1
                continue
            number = counts["cuts"]
            if number % SHARD_CUTS == 0:
                shard.close()
                cuts, archive = shard.enter_context(_shard(folder, number // SHARD_CUTS))
            name = f"{number:08d}"
            recording = _recording(name, example.clip)
            cuts.write(json.dumps(_cut(name, example, recording), ensure_ascii=False).encode() + b"\n")
            _add(archive, f"{name}.flac", example.clip.content)
            _add(archive, f"{name}.json", json.dumps(recording).encode())
            counts["cuts"] += 1
    return counts


@contextmanager
def _shard(folder: Path, number: int) -> Iterator[tuple[gzip.GzipFile, tarfile.TarFile]]:
    with (
        gzip.open(folder / f"cuts.{number:06d}.jsonl.gz", "wb") as cuts,
        tarfile.open(folder / f"recording.{number:06d}.tar", "w") as archive,
    ):
        yield cuts, archive


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _recording(name: str, clip: Converted) -> dict[str, Any]:
    return {
        "id": name,
        "sources": [{"type": "shar", "channels": [0], "source": ""}],
        "sampling_rate": SAMPLE_RATE,
        "num_samples": clip.frames,
        "duration": clip.frames / SAMPLE_RATE,
        "channel_ids": [0],
    }


def _cut(name: str, example: Example, recording: dict[str, Any]) -> dict[str, Any]:
    texts = example.texts()
    span = {"start": 0, "duration": recording["duration"], "channel": 0}
    said = {"id": name, "recording_id": name, **span, "text": texts["instruction"], "speaker": texts["speaker"]}
    custom = {key: texts[key] for key in CUSTOM}
    return {"id": name, **span, "supervisions": [said], "recording": recording, "custom": custom, "type": "MonoCut"}
