"""Takes a few optimiser steps on a Qwen2.5-Omni checkpoint in a process of its own.

``python -m tests.policies.omni_steps OUT CHECKPOINT``
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.training import LearnerSection
from learner.engine import prepare_environment
from learner.ranks import Ranks
from tests.learner.stepping import BASE, run

CASES = {
    "zero_3": {"zero_stage": 3, "gradient_checkpointing": True, "loss": {"reference_model": "frozen"}},
    "zero_0": {"zero_stage": 0, "loss": {"reference_model": "frozen"}},
}

if __name__ == "__main__":
    prepare_environment(LearnerSection(**BASE))
    ranks = Ranks(0, 1, "")
    run(Path(sys.argv[1]), Path(sys.argv[2]), ranks, CASES, "qwen2_5_omni")
    ranks.close()
