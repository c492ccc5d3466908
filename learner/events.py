"""What a run leaves to read: ``events.jsonl``, one line for each thing that happened, and sample groups to look at and listen to."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from learner.collate import TrainingGroup
from protocol.logs import get_logger
from protocol.messages import REFERENCE

SAMPLE_GROUPS = 4
"""Groups in one sample file."""
SAMPLE_FILES = 20
"""About as many sample files a run."""
SET_ASIDE = "set-aside"
"""Folder of the batches of skipped steps."""


class Events:
    """Appends lines to ``events.jsonl``; each one is on its way to the disk when `write` returns. Any thread may write."""

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._run_dir, self._clock = run_dir, clock
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = (run_dir / "events.jsonl").open("ab", buffering=0)
        self._log = get_logger("events")

    def write(self, event: str, **values: Any) -> None:
        """One line: ``{"event": …, "time_s": …, …}``. Numbers that are not finite become null, for JSON has none.

        What the disk has no room for is left out: nothing depends on it.
        """
        line = json.dumps(_plain({"event": event, "time_s": round(self._clock(), 3), **values})) + "\n"
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            try:
                whole = self._file.write(line.encode()) == len(line.encode())
                why = "" if whole else "no room"
            except OSError as error:
                why = str(error)
            if why:
                self._log.error("event not written", event_name=event, why=why)
                self._file.truncate(start)

    def read(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind so far."""
        with (self._run_dir / "events.jsonl").open(encoding="utf-8") as lines:
            return [row for line in lines if (row := json.loads(line))["event"] == event]

    def samples(self, step: int, items: Sequence[TrainingGroup]) -> None:
        """``samples/step-N.jsonl``: what was asked, and each voice's answer with its reward and its part in a pair."""
        self._lines(f"samples/step-{step}.jsonl", (describe(item) for item in items[:SAMPLE_GROUPS]))

    def set_aside(self, step: int, items: Sequence[TrainingGroup]) -> None:
        """``set-aside/step-N.jsonl``: every group of a step that was skipped, as in a sample, and the voices that it was trained on."""
        rows = ({"ordinal": item.result.ordinal, **describe(item), "utterances": _utterances(item)} for item in items)
        self._lines(set_aside_file(step), rows)

    def evaluation(self, label: str, rows: Sequence[dict[str, Any]]) -> None:
        """``evaluation/LABEL.jsonl``: every held-out group with its measures and answers, so that runs can be compared item by item."""
        self._lines(f"evaluation/{label.replace(' ', '-')}.jsonl", sorted(rows, key=lambda row: str(row["group"])))

    def _lines(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        file = self._run_dir / name
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f"{json.dumps(_plain(row), ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        except OSError as error:
            self._log.error("file not written", file=name, why=str(error))

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def samples_due(step: int, steps: int) -> bool:
    """True for the first step and about `SAMPLE_FILES` further ones."""
    return step == 1 or step % max(1, steps // SAMPLE_FILES) == 0


def set_aside_file(step: int) -> str:
    """Where, in the run's folder, the batch of a skipped step lies."""
    return f"{SET_ASIDE}/step-{step}.jsonl"


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
                "tokens": len(completion.token_ids) // 4,
                "finish_reason": completion.finish_reason,
                "reward": completion.reward,
                "role": "chosen" if index in chosen else "rejected" if index in rejected else "",
                "policy_versions": [str(span.version) for span in completion.spans],
            }
            for index, completion in enumerate(result.completions)
        ],
    }


def _utterances(item: TrainingGroup) -> list[dict[str, Any]]:
    return [{"speaker": each.speaker, "audio": each.audio, "duration_s": each.duration_s} for each in item.group.utterances]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
