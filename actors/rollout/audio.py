"""The audio of leased groups, read from the run's data sets by content hash."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from protocol.audio import Samples
from protocol.dataset import DataSet
from protocol.errors import UserError


class AudioLibrary:
    """Finds and decodes audio. Holds nothing in memory: a run hears each file a few times, and decoding takes a millisecond or two."""

    def __init__(self, datasets: Sequence[DataSet], max_audio_s: float) -> None:
        self._datasets = datasets
        self._max_audio_s = max_audio_s

    async def samples(self, audio: str) -> Samples:
        """Float32 ``[sample]``. Raises `UserError` for audio that is unknown, missing, changed or not what rba works with."""
        return await asyncio.to_thread(self._load, audio)

    def _load(self, audio: str) -> Samples:
        for dataset in self._datasets:
            if dataset.has(audio):
                return dataset.samples(audio, self._max_audio_s)
        places = ", ".join(dataset.path for dataset in self._datasets)
        raise UserError(f"no audio {audio}", where=places, fix="actors and learner must read the same data set")
