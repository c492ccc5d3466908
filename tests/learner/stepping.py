"""Takes a few optimiser steps in a process of its own and writes what came out.

``python -m tests.learner.stepping OUT CHECKPOINT RANK WORLD MASTER TURN``

Each case trains the same four groups: a pair, three pairs, a tie, and one that is written text alone. Some take the last step in
another turn than the others, from what was saved.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from configs.training import LearnerSection, LossSection
from learner.clips import Clips
from learner.collate import TrainingGroup
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from learner.training_state import SavedTensors, write
from policies.adapter import adapter
from tests.learner.conftest import spoken
from tests.learner.groups import completion, group, item_group, item_single, result

STEPS = 3
LOSS = LossSection(beta=0.3, lambda_ce=0.2)
BASE: dict[str, Any] = {"precision": "float32", "batch_groups": 4, "micro_batch_groups": 4, "learning_rate": 1e-3, "steps": STEPS}
LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"]}
TURNS: list[tuple[int, dict[str, dict[str, Any]]]] = [
    (
        1,
        {
            "whole": {"save": "alone"},
            "split": {"micro_batch_groups": 1},
            "stage0": {"zero_stage": 0},
            "stage2": {"zero_stage": 2, "micro_batch_groups": 2},
            "window": {"window_s": 30},
            "idle": {"loss": {"reference_model": "frozen", "lambda_ce": 0.0}},
            "frozen_tower": {"freeze_audio_tower": True},
            "checkpointing": {"gradient_checkpointing": True},
            "reference": {"loss": {"reference_model": "frozen"}},
            "bfloat16": {"precision": "bfloat16"},
            "lora": {"lora": LORA, "loss": {"reference_model": "adapter_off"}, "save": "adapters"},
            "poisoned": {"poison": True},
            "poisoned_stage0": {"poison": True, "zero_stage": 0},
        },
    ),
    (
        2,
        {
            "two_ranks": {"micro_batch_groups": 2, "save": "together"},
            "two_ranks_from_one": {"load": "alone"},
            "two_ranks_split": {"micro_batch_groups": 1},
            "two_ranks_idle": {"loss": {"reference_model": "frozen", "lambda_ce": 0.0}, "micro_batch_groups": 1},
            "two_ranks_reference": {"loss": {"reference_model": "frozen"}},
            "two_ranks_lora": {"lora": LORA, "loss": {"reference_model": "adapter_off"}, "micro_batch_groups": 1},
            "two_ranks_from_lora": {"lora": LORA, "loss": {"reference_model": "adapter_off"}, "load": "adapters"},
            "two_ranks_poisoned": {"poison": True},
        },
    ),
    (
        1,
        {
            "one_from_two_ranks": {"load": "together"},
            "stage2_from_stage3": {"load": "alone", "zero_stage": 2},
            "stage0_from_two_ranks": {"load": "together", "zero_stage": 0},
        },
    ),
]
"""(number of ranks, cases by name), in the order in which they run."""


def batch() -> list[TrainingGroup]:
    """Four groups; the second and the last go to rank 1, of which the last has no audio at all."""
    tied = TrainingGroup(group(2), result([completion(0), completion(1)]))
    return [item_group(0, text=True), item_single(1), tied, TrainingGroup(group(3, 0, text=True), result())]


def deaf(audio: str) -> Any:
    """One clip, of rank 1's share, that no loss survives."""
    return np.full(20_000, np.nan, np.float32) if audio == "1-1" else spoken(audio)


def with_window(checkpoint: Path, target: Path, window_s: int) -> Path:
    """The same model for longer clips. Positions that no clip reaches get numbers that would be noticed."""
    shutil.copytree(checkpoint, target)
    for name, section, key, value in (
        ("config.json", "audio_config", "max_source_positions", 50 * window_s),
        ("preprocessor_config.json", None, "chunk_length", window_s),
        ("preprocessor_config.json", None, "n_samples", 16_000 * window_s),
        ("preprocessor_config.json", None, "nb_max_frames", 100 * window_s),
    ):
        settings = json.loads((target / name).read_text())
        (settings[section] if section else settings)[key] = value
        (target / name).write_text(json.dumps(settings))
    tensors = load_file(target / "model.safetensors")
    positions = tensors["audio_tower.embed_positions.weight"]
    more = torch.full((50 * window_s - len(positions), positions.shape[1]), 1e3)
    save_file({**tensors, "audio_tower.embed_positions.weight": torch.cat([positions, more])}, target / "model.safetensors")
    return target


def run(out: Path, checkpoint: Path, ranks: Ranks, cases: dict[str, dict[str, Any]], family_name: str = "qwen2_audio") -> None:
    """Every case, one after the other."""
    family = adapter(family_name)
    processing = family.open(checkpoint)
    for name, case in cases.items():
        settings = dict(case)
        loss = LOSS.model_copy(update=settings.pop("loss", {}))
        clips = Clips(deaf if settings.pop("poison", False) else spoken, processing)
        save, load = settings.pop("save", ""), settings.pop("load", "")
        saved = SavedTensors(out / load, ranks) if load else None
        window_s = settings.pop("window_s", None)
        directory = with_window(checkpoint, out / f"window-{window_s}", window_s) if window_s else checkpoint
        section = LearnerSection(**{**BASE, **settings})
        engine = Engine(section, loss, family, directory, processing, clips, ranks, saved=saved, updates=STEPS - 1 if load else 0)
        steps = []
        for step in range(STEPS if load else 1, STEPS + 1):
            if save and step == STEPS:
                keep(engine, out / save, ranks)
            steps.append(engine.step(ranks.share(batch()), step))
        tensors = dict(engine.tensors("float32"))
        if ranks.rank == 0:
            save_file(tensors, str(out / f"{name}.safetensors"))
            figures = [
                {
                    "grad_norm": step.grad_norm,
                    "applied": step.applied,
                    **dict(zip(step.figures.__slots__, step.figures.as_list(), strict=True)),
                }
                for step in steps
            ]
            (out / f"{name}.json").write_text(json.dumps(figures))


def keep(engine: Engine, folder: Path, ranks: Ranks) -> None:
    """Write what the optimiser knows; every rank takes part."""
    tensors = engine.training_state.gathered()
    if ranks.rank == 0:
        write(folder, tensors)
    else:
        deque(tensors, maxlen=0)


if __name__ == "__main__":
    prepare_environment(LearnerSection(**BASE))
    group_of_ranks = Ranks(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    run(Path(sys.argv[1]), Path(sys.argv[2]), group_of_ranks, TURNS[int(sys.argv[6])][1])
    group_of_ranks.close()
