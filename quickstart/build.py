"""Rebuild the tiny checkpoints from nothing: ``python -m quickstart.build [teacher|speechlm|reward_model|all]``.

Order: the teacher learns the world, to write, answer, translate and tag it, and writes the references; the SpeechLM learns half of it
by ear; the reward model learns to tell right from wrong, the SpeechLM's own mistakes among the wrong. Seeds are fixed; figures go to
``checkpoints/figures.json``. Takes about 40 minutes on two CPU cores.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.errors import UserError
from quickstart.assets import CHECKPOINTS, MODELS

SEED = 0
BUILD_ORDER = ("teacher", "speechlm", "reward_model")
Tick = Callable[[int, float], None]


def build(name: str) -> dict[str, Any]:
    """Train one checkpoint into a draft folder, put it in place of the old one, and return its figures."""
    import torch

    from quickstart.training.progress import ticking

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    draft, target = CHECKPOINTS / f".{name}.draft", CHECKPOINTS / name
    shutil.rmtree(draft, ignore_errors=True)
    started_s = time.monotonic()
    with ticking(name) as tick:
        figures = _trainers()[name](draft, tick)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    if name == "teacher":
        from quickstart.speech import REFERENCES
        from quickstart.training.teacher import write_references

        write_references(target, REFERENCES)
    return figures | {"minutes": round((time.monotonic() - started_s) / 60, 1)}


def _trainers() -> dict[str, Callable[[Path, Tick], dict[str, Any]]]:
    from quickstart.training import reward_model, sft, teacher

    def judge(folder: Path, tick: Tick) -> dict[str, Any]:
        sampled = sft.sampled_answers(CHECKPOINTS / "speechlm", SEED)
        return reward_model.train_reward_model(folder, CHECKPOINTS / "teacher", sampled, SEED, tick)

    return {
        "teacher": lambda folder, tick: teacher.train_teacher(folder, SEED, tick),
        "speechlm": lambda folder, tick: sft.train_speechlm(folder, SEED, tick),
        "reward_model": judge,
    }


def main(arguments: list[str]) -> int:
    """Build what `arguments` name. Returns the exit code."""
    wanted = arguments or ["all"]
    unknown = sorted(set(wanted) - {*MODELS, "all"})
    if unknown:
        raise UserError(f"cannot build {', '.join(unknown)}", where="quickstart.build", fix=f"use {', '.join(MODELS)} or all")
    figures_file = CHECKPOINTS / "figures.json"
    for name in BUILD_ORDER:
        if "all" in wanted or name in wanted:
            figures = json.loads(figures_file.read_text()) if figures_file.is_file() else {}
            figures[name] = build(name)
            figures_file.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as mistake:
        sys.exit(f"error: {mistake}")
