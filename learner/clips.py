"""The data set's audio as model input: each clip is read and turned into log-mel features once, while it stays in the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.adapter import Processing, Samples

CACHE_BYTES = 256 << 20

Features = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Log-mel features ``[clip, mel, frame]`` and frame mask ``[clip, frame]``."""


@dataclass(slots=True)
class _Clip:
    samples: Samples
    features: Features | None = None


class Clips:
    """Audio by content hash, the least recently used dropped beyond `cache_bytes`."""

    def __init__(self, load: Callable[[str], Samples], processing: Processing, cache_bytes: int = CACHE_BYTES) -> None:
        self._load, self._processing, self._cache_bytes = load, processing, cache_bytes
        self._cache: OrderedDict[str, _Clip] = OrderedDict()
        self._held_bytes = 0

    def samples(self, audio: str) -> Samples:
        """Float32 mono ``[sample]``. Raises `UserError` when the audio is missing, damaged or does not fit the window."""
        return self._clip(audio).samples

    def features(self, audios: Sequence[str]) -> Features:
        """Log-mel features and frame masks of the named clips, in that order."""
        found = [self._features(audio) for audio in audios]
        return np.concatenate([features for features, _ in found]), np.concatenate([frame_mask for _, frame_mask in found])

    def silence(self) -> Features:
        """One clip of silence, for a micro-batch without audio."""
        return self._processing.features([np.zeros(self._processing.sampling_rate_hz, np.float32)])

    def _features(self, audio: str) -> Features:
        clip = self._clip(audio)
        if clip.features is None:
            clip.features = self._processing.features([clip.samples])
            self._held_bytes += sum(part.nbytes for part in clip.features)
        return clip.features

    def _clip(self, audio: str) -> _Clip:
        clip = self._cache.get(audio)
        if clip is None:
            samples = self._load(audio)
            self._processing.audio_tokens(len(samples))
            clip = self._cache[audio] = _Clip(samples)
            self._held_bytes += samples.nbytes
            while self._held_bytes > self._cache_bytes and len(self._cache) > 1:
                self._drop_oldest()
        self._cache.move_to_end(audio)
        return clip

    def _drop_oldest(self) -> None:
        _, oldest = self._cache.popitem(last=False)
        self._held_bytes -= oldest.samples.nbytes + sum(part.nbytes for part in oldest.features or ())
