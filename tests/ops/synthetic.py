"""A small run as the learner leaves it, made up: events, sample groups, a data set with audio."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from protocol.dataset import ManifestWriter
from protocol.messages import InstructionGroup, Utterance

VOICES = ("en-us", "en-gb", "en-sc")


def data_set(folder: Path, groups: int = 3) -> Path:
    """A manifest of spoken groups; every voice is a tone of its own."""
    manifest = folder / "train.jsonl"
    with ManifestWriter(manifest) as writer:
        for number in range(groups):
            utterances = []
            for voice, speaker in enumerate(VOICES):
                tone = np.sin(np.arange(8000) * 2 * np.pi * (200 + 60 * voice + 7 * number) / 16000).astype(np.float32) * 0.3
                buffer = io.BytesIO()
                soundfile.write(buffer, tone, 16000, format="FLAC", subtype="PCM_16")
                utterances.append(Utterance(speaker, writer.add_audio(buffer.getvalue()), 0.5))
            utterances.append(Utterance("text"))
            writer.add(InstructionGroup(f"g{number}", f"what is <{number}> & more", "the answer", utterances, topic="arithmetic"))
    return manifest


def step(number: int) -> dict[str, Any]:
    return {
        "event": "step",
        "time_s": 1000.0 + 2 * number,
        "step": number,
        "applied": True,
        "loss": {"total": 0.9 - number * 0.005, "preference": 0.7, "cross_entropy": 1.0 if number % 2 else None},
        "margin": 0.1 * number,
        "preference_accuracy": 0.5,
        "grad_norm": 1.5,
        "policy_lag": {"mean": 1.0, "max": 2},
        "reward": 0.2 + 0.01 * number,
        "groups": 8,
        "pairs": 8,
        "seconds": {"total": 1.5},
        "idle_s": 0.5,
        "queued": 3,
    }


def evaluation(label: str, version: str, accuracy: float) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "bleu": 70.0 + accuracy, "consistency": 0.8, "reward": accuracy, "groups": 10.0}
    return {
        "event": "evaluation",
        "time_s": 1000.0,
        "label": label,
        "policy_version": version,
        "figures": figures,
        "topics": {"arithmetic": figures},
    }


def sample(manifest: Path, number: int) -> dict[str, Any]:
    line = json.loads(manifest.read_text().splitlines()[number])
    roles = ["chosen", "rejected", "", ""]
    answers = [
        {
            "speaker": utterance["speaker"],
            "audio": utterance["audio"],
            "text": f"answer of <b>{utterance['speaker']}</b>",
            "finish_reason": "stop",
            "reward": 0.5,
            "role": role,
            "policy_versions": ["0.0"],
        }
        for utterance, role in zip(line["utterances"], roles, strict=True)
    ]
    return {
        **{key: line[key] for key in ("topic", "instruction", "reference")},
        "group": line["group_id"],
        "prompt": "",
        "outcome": "pairs",
        "answers": answers,
    }


def leave(run_dir: Path, manifest: Path, steps: int) -> None:
    """Events and samples of a whole run."""
    events = [evaluation("before", "0.0", 0.6), *(step(number) for number in range(1, steps + 1)), evaluation("after", f"0.{steps}", 0.75)]
    (run_dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (run_dir / "samples").mkdir()
    for number, at in ((0, 1), (1, steps)):
        (run_dir / "samples" / f"step-{at}.jsonl").write_text(json.dumps(sample(manifest, number)) + "\n")


def closing(steps: int) -> dict[str, Any]:
    """What the learner's `run` returns."""
    ledger = {
        "received": 30,
        "unique": 28,
        "duplicate": 2,
        "rejected": 0,
        "trained": 24,
        "dropped": 4,
        "queued": 0,
        "dropped_reasons": {"stale": 4},
    }
    return {
        "status": "completed",
        "policy_version": {"lineage": 0, "step": steps},
        "learner_steps": steps,
        "pushes": 4,
        "policy_lag": {"mean": 1.5, "p95": 3, "max": 4},
        "idle": {"learner": 0.125},
        "ledger": ledger,
    }
