"""`rba launch --resume`: which checkpoint a run goes on from, and whether it may go on with this configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from configs import loader
from configs.loader import PROVENANCE
from configs.schema import RunConfig
from learner.checkpoint import newest
from ops.rundir import RunDir
from ops.status import is_alive, writer_elsewhere
from protocol.errors import UserError


class Origin(NamedTuple):
    """Where a life of a run begins."""

    lineage: int = 0
    """0 for a run that starts afresh, one more with every life."""
    checkpoint: Path | None = None
    """None: at step 0."""
    torn: Mapping[Path, list[str]] = {}
    """Later checkpoints that are damaged, and their wrong files."""
    salvage: bool = False
    """Give up what is damaged in the journal."""


def find_origin(run: RunDir, config: RunConfig, found: Mapping[str, Any]) -> Origin:
    """What `run` goes on from. `config` is the resolved configuration, `found` its present provenance (see `ops.rundir.provenance`).

    The same data and checkpoints may lie at other paths, as on another machine. Raises `UserError` when the run is under way, or when
    a key, a data set or a checkpoint differs that has to stay.
    """
    if is_alive(run):
        fix = f"stop it first: `rba stop {run.path}`"
        raise UserError("the run is under way", where=str(run.path), fix=fix)
    if host := writer_elsewhere(run):
        raise UserError(
            "the run is under way on another machine", where=f"{run.path}, on {host}", fix=f"stop it there: `rba stop {run.path}`"
        )
    before = loader.load(run.config)
    known: dict[str, Any] = yaml.safe_load(run.config.read_text(encoding="utf-8")).get(PROVENANCE, {})
    for key, own, theirs in before.fixed_differences(config):
        if _moved(key, own, theirs, known, found):
            continue
        raise UserError(
            f"{key} was {own!r} when the run started and is {theirs!r} now",
            where=key,
            fix="leave it as it was, or start a new run from the checkpoint (model.path=<run>/checkpoints/step-N)",
        )
    digests = found.get("data_digests", {})
    changed = [key for key, digest in known.get("data_digests", {}).items() if digests.get(key, digest) != digest]
    if changed:
        names = ", ".join(f"data.{key}" for key in changed)
        raise UserError("the data set has changed since the run started", where=names, fix="restore it, or start a new run")
    checkpoint, torn = newest(run.path)
    return Origin(int(known.get("lineage", 0)) + 1, checkpoint, torn)


def _moved(key: str, own: Any, theirs: Any, known: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """True when two paths name the same content."""
    then, now = ({**each.get("data_digests", {}), **each.get("model_digests", {})} for each in (known, found))
    if key == "data.mix":
        names = [f"mix {number}" for number in range(1, len(own) + 1)]
        return list(own.values()) == list(theirs.values()) and all(name in then and then[name] == now.get(name) for name in names)
    name = key.removeprefix("data.")
    return name in then and then[name] == now.get(name)
