"""`rba replay`: take a run's steps again from a checkpoint and its journal, without actors, and compare what was published."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs import loader
from configs.schema import RunConfig
from learner.checkpoint import CHECKPOINTS, steps_of, verify
from learner.journal import JOURNAL
from learner.life import lives
from ops.rundir import RunDir
from ops.status import is_alive
from protocol.errors import UserError


@dataclass(frozen=True)
class Replayed:
    """What came of it."""

    first: int
    """Step of the weights that it began with."""
    last: int
    compared: list[int]
    """Steps whose weights had been published."""
    differing: list[int]
    """Of these, the ones with another digest."""

    def told(self) -> str:
        """For people."""
        steps = f"{self.last - self.first} steps taken again, {self.first} to {self.last}"
        if not self.differing:
            return f"{steps}; {len(self.compared)} published versions compared: all have the same bytes"
        return f"{steps}; of {len(self.compared)} published versions {len(self.differing)} differ, the first at step {self.differing[0]}"


def replay(run: RunDir, step: int | None = None, *, salvage: bool = False) -> Replayed:
    """Take again what the journal has behind the checkpoint of `step` (0: the start), or of the first one that it reaches back to.

    One rank computes it in this process; the run's folder is left as it is. Raises `UserError` for a run that is under way, and
    where the checkpoint or the journal is missing or damaged.
    """
    if is_alive(run):
        raise UserError("the run is under way", where=str(run.path), fix=f"wait for its end, or stop it: `rba stop {run.path}`")
    checkpoint = _checkpoint(run, step)
    config = loader.load(run.config)
    config.learner.ranks = 1
    digests = _digests(config, run, checkpoint, salvage)
    published = _published(run)
    compared = sorted(digests.keys() & published.keys())
    return Replayed(min(digests), max(digests), compared, [each for each in compared if digests[each] != published[each]])


def _checkpoint(run: RunDir, step: int | None) -> Path | None:
    segments = sorted(int(file.stem) for file in (run.path / JOURNAL).glob("*.journal"))
    if not segments:
        raise UserError("the run has no journal", where=str(run.path / JOURNAL), fix="name a run that this version of rba has carried out")
    if step is None:
        step = 0 if segments[0] == 1 else next((step for step, life in lives(run.path).items() if life.journal_needs >= segments[0]), 0)
    if step == 0:
        return None
    path = run.path / CHECKPOINTS / f"step-{step}"
    if step not in steps_of(run.path):
        there = ", ".join(map(str, [0, *steps_of(run.path)]))
        raise UserError(f"the run has no checkpoint of step {step}", where=str(run.path), fix=f"use one of: {there}")
    if damaged := verify(path):
        raise UserError(f"the checkpoint is damaged: {', '.join(damaged)}", where=str(path), fix="name another with --from")
    return path


def _digests(config: RunConfig, run: RunDir, checkpoint: Path | None, salvage: bool) -> Mapping[int, str]:
    from learner.main import Learner

    with tempfile.TemporaryDirectory(prefix="rba-replay-") as scratch:
        folder = Path(scratch)
        learner = Learner(config, folder, folder / "weights", checkpoint=checkpoint, lineage=1 << 30, replay_of=run.path, salvage=salvage)
        digests: Mapping[int, str] = learner.run()["digests"]
    return digests


def _published(run: RunDir) -> dict[int, str]:
    """Digest of each step's published weights; where several lives published one, the last."""
    rows = (json.loads(line) for line in run.events.read_text(encoding="utf-8").splitlines())
    return {int(row["policy_version"].partition(".")[2]): row["digest"] for row in rows if row["event"] == "publish"}
