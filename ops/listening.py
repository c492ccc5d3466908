"""Sample groups for the report, with each voice's audio inside the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ops.rundir import RunDir
from protocol.errors import RbaError

GROUPS_PER_FILE = 2
MOST_AUDIO_BYTES = 4 << 20
"""Of all clips together, as they lie in the page."""


def groups(run: RunDir, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A few groups of the first and of the last sample file, the ones with pairs before others; `source` of each answer is its audio."""
    files = sorted((run.path / "samples").glob("step-*.jsonl"), key=_step)
    clips = _Clips(config)
    listed = []
    for file in dict.fromkeys([*files[:1], *files[-1:]]):
        sampled = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        sampled.sort(key=lambda group: not any(answer["role"] for answer in group["answers"]))
        for group in sampled[:GROUPS_PER_FILE]:
            answers = [
                {**answer, "source": clips.source(answer["audio"]), "reward": "" if answer["reward"] is None else f"{answer['reward']:.3f}"}
                for answer in group["answers"]
            ]
            listed.append({**group, "step": _step(file), "answers": answers})
    return listed


class _Clips:
    """The audio of the run's training set as ``data:`` URIs."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._left_bytes = MOST_AUDIO_BYTES
        self._limit_s = float(config.get("data", {}).get("max_audio_s", 30.0))
        self._known: dict[str, str] = {}
        self._data: Any = None
        manifest = config.get("data", {}).get("train")
        if manifest:
            from protocol.dataset import DataSet

            with suppress(RbaError):  # the data set is gone; the page says so where a clip would be
                self._data = DataSet.open(manifest)

    def source(self, audio: str | None) -> str:
        """The clip as FLAC in base64; "" for text, for a file that is gone, and when the page is full."""
        if audio is None or self._data is None:
            return ""
        if audio not in self._known:
            self._known[audio] = self._load(audio)
        return self._known[audio]

    def _load(self, audio: str) -> str:
        import soundfile

        from protocol.audio import SAMPLE_RATE

        try:
            samples = self._data.samples(audio, self._limit_s)
        except RbaError:
            return ""  # the data set has changed since; the page says so where the clip would be
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        if len(encoded) > self._left_bytes:
            return ""
        self._left_bytes -= len(encoded)
        return f"data:audio/flac;base64,{encoded}"


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))
