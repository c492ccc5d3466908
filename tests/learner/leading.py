"""One rank of a short run in a process of its own: ``python -m tests.learner.leading FOLDER RANK WORLD MASTER``.

``FOLDER/deaf.json``, where there is one, lists clips that no loss survives; then the actor answers as RBA-Single does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from configs.schema import RunConfig
from tests.learner.scripted import DeafLearner, ScriptedActor, answer, answer_single


def run(folder: Path, rank: int, world: int, master: str) -> None:
    """Rank 0 has the scripted actor, and writes what the run returned."""
    config = RunConfig.model_validate_json((folder / "config.json").read_text())
    learner = DeafLearner(config, folder / "run", folder / "weights", rank, world, master)
    script = answer
    if (folder / "deaf.json").is_file():
        learner.deaf_to, script = set(json.loads((folder / "deaf.json").read_text())), answer_single
    if rank:
        (folder / f"rank-{rank}.json").write_text(json.dumps(learner.run()))
        return
    with ScriptedActor(learner, script):
        closing = learner.run()
    (folder / "rank-0.json").write_text(json.dumps(closing))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
