from __future__ import annotations

import subprocess
import sys

LIGHT = ["clips", "collate", "evaluation", "events", "figures", "frontier", "gauges", "intake", "journal.journal", "progress", "schedule"]


def test_what_is_no_edge_needs_no_heavy_library() -> None:
    script = "; ".join(
        [*(f"import learner.{name}" for name in LIGHT), "import policies.adapter, sys", "print([m for m in sys.modules if m in HEAVY])"]
    ).replace("HEAVY", "('torch', 'transformers', 'deepspeed', 'vllm', 'ray')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
