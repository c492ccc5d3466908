"""What a run leaves to read: ``events.jsonl``, one line for each thing that happened, and sample groups to look at and listen to."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from learner.collate import TrainingGroup
from protocol.messages import REFERENCE

SAMPLE_GROUPS = 4
"""Groups in one sample file."""
SAMPLE_FILES = 20
"""About as many sample files a run."""


class Events:
    """Appends lines to ``events.jsonl``; each one is on its way to the disk when `write` returns. Any thread may write."""

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._run_dir, self._clock = run_dir, clock
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file: TextIO = (run_dir / "events.jsonl").open("a", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        """One line: ``{"event": …, "time_s": …, …}``. Numbers that are not finite become null, for JSON has none."""
        line = json.dumps(_plain({"event": event, "time_s": round(self._clock(), 3), **values})) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def samples(self, step: int, items: Sequence[TrainingGroup]) -> None:
        """``samples/step-N.jsonl``: what was asked, and each voice's answer with its reward and its part in a pair."""
        folder = self._run_dir / "samples"
        folder.mkdir(exist_ok=True)
        lines = (json.dumps(_plain(describe(item)), ensure_ascii=False) for item in items[:SAMPLE_GROUPS])
        (folder / f"step-{step}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def evaluation(self, label: str, rows: Sequence[dict[str, Any]]) -> None:
        """``evaluation/LABEL.jsonl``: every held-out group with its measures and answers, so that runs can be compared item by item."""
        folder = self._run_dir / "evaluation"
        folder.mkdir(exist_ok=True)
        lines = (json.dumps(_plain(row), ensure_ascii=False) for row in sorted(rows, key=lambda row: str(row["group"])))
        (folder / f"{label.replace(' ', '-')}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def samples_due(step: int, steps: int) -> bool:
    """True for the first step and about `SAMPLE_FILES` further ones."""
    return step == 1 or step % max(1, steps // SAMPLE_FILES) == 0


def describe(item: TrainingGroup) -> dict[str, Any]:
    """One group for people: JSON-able, without token ids."""
    group, result = item.group, item.result
    chosen = {pair.chosen for pair in result.pairs if pair.chosen != REFERENCE}
    rejected = {pair.rejected for pair in result.pairs}
    return {
        "group": group.group_id,
        "topic": group.topic,
        "instruction": group.instruction,
        "prompt": group.prompt,
        "reference": group.reference,
        "outcome": result.outcome.value,
        "answers": [
            {
                "speaker": group.utterances[completion.utterance].speaker,
                "audio": group.utterances[completion.utterance].audio,
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "reward": completion.reward,
                "role": "chosen" if index in chosen else "rejected" if index in rejected else "",
                "policy_versions": [str(span.version) for span in completion.spans],
            }
            for index, completion in enumerate(result.completions)
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
