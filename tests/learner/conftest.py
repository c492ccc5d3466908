from __future__ import annotations

from pathlib import Path

import pytest

from learner.clips import Clips
from policies.adapter import Processing, Samples, adapter
from tests.tiny import tiny_checkpoint, tone


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "speechlm")


@pytest.fixture(scope="session")
def processing(checkpoint: Path) -> Processing:
    return adapter("qwen2_audio").open(checkpoint)


@pytest.fixture
def clips(processing: Processing) -> Clips:
    return Clips(spoken, processing)


def spoken(audio: str) -> Samples:
    """The clip of a test group: "<number>-<voice>" decides length and sound."""
    number, voice = map(int, audio.split("-"))
    return tone(1.0 + 0.25 * voice + 0.05 * (number % 5), seed=7 * number + voice)
