"""What the supervisor knows of each process, and how `rba status --json` tells it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ops.orders import Phase
from protocol.messages import PolicyVersion
from protocol.role import RoleDescription

WORK = {
    "rollout": ("groups", "held_groups", "idle", "waits_for", "refused_versions"),
    "reward": ("scorer", "items", "errors", "queued_items", "busy"),
    "weight_store": ("served_bytes",),
    "fetcher": ("pulls",),
}
"""What a status of each role tells of its work."""
RATES = {"rollout": "tokens_per_s", "reward": "items_per_s"}


class ProcessView(msgspec.Struct, kw_only=True):
    """What the supervisor knows of one process."""

    id: str
    role: str
    phase: Phase
    pid: int | None = None
    host: str | None = None
    description: RoleDescription | None = None
    status: Mapping[str, Any] = {}
    last_heartbeat_s: float | None = None
    """Seconds since its last answer."""
    spare: bool = False
    """True for a rollout actor that waits to take over from another one."""
    restarts: int = 0
    """How often it was started again after a failure."""


def told(view: ProcessView, rate: float | None, problem: str) -> dict[str, Any]:
    """One process; `rate` is what it does a second, where that is known, and `problem` what is wrong with it."""
    work = {name: view.status[name] for name in WORK.get(view.role, ()) if view.status.get(name) is not None}
    if rate is not None:
        work[RATES[view.role]] = round(rate, 2)
    return {
        "role": view.role,
        "id": view.id,
        "pid": view.pid,
        "host": view.host,
        "phase": str(view.phase),
        "problem": problem,
        "state": view.status.get("state"),
        "work": work,
        "restarts": view.restarts,
        "spare": view.spare,
        "policy_version": version_of(view.status.get("policy_version")),
        "last_heartbeat_s": None if view.last_heartbeat_s is None else round(view.last_heartbeat_s, 2),
        "endpoints": dict(view.description["endpoints"]) if view.description else {},
        "metrics_url": view.description["metrics_url"] if view.description else None,
    }


def servers_elsewhere(processes: Sequence[ProcessView]) -> list[dict[str, Any]]:
    """The reward servers that actors ask and the run has not started: ``{"url", "well", "scored_s"}``, as any of the actors knows it."""
    own = {url for view in processes if view.role == "reward" and view.description for url in view.description["endpoints"].values()}
    found: dict[str, dict[str, Any]] = {}
    for view in processes:
        for said in view.status.get("reward_servers", ()) if view.role == "rollout" and view.phase is Phase.RUNNING else ():
            if said["url"] in own:
                continue
            seen = found.setdefault(said["url"], {"url": said["url"], "well": False, "scored_s": None})
            seen["well"] |= said["state"] == "closed"
            if said["scored_s"] is not None:
                age_s = round(said["scored_s"] + (view.last_heartbeat_s or 0.0), 2)
                seen["scored_s"] = age_s if seen["scored_s"] is None else min(age_s, seen["scored_s"])
    return list(found.values())


def count(processes: Sequence[ProcessView], role: str, wanted: int, *, spare: bool) -> dict[str, int]:
    """How many of a role are wanted, and run; spares apart."""
    running = sum((each.role, each.phase, each.spare) == (role, Phase.RUNNING, spare) for each in processes)
    return {"wanted": wanted, "running": running}


def of_actors(processes: Sequence[ProcessView]) -> dict[str, float]:
    """Means over the actors that say."""
    said = [value for each in processes if each.role == "rollout" and (value := each.status.get("consistency")) is not None]
    return {"consistency": sum(said) / len(said)} if said else {}


def endpoints(processes: Sequence[ProcessView], control: str) -> dict[str, Any]:
    """Where the run's sockets are, and everybody's metrics."""
    found: dict[str, Any] = {"pairs": None, "weights": None, "control": control, "rewards": [], "metrics": []}
    for view in processes:
        if view.description is None:
            continue
        listed = view.description["endpoints"]
        if view.id == "learner-0":
            found["pairs"] = listed.get("pairs")
        elif view.role == "weight_store":
            found["weights"] = listed.get("weights")
        elif view.role == "reward":
            found["rewards"].extend(listed.values())
        if view.description["metrics_url"]:
            found["metrics"].append(view.description["metrics_url"])
    return found


def version_of(value: Any) -> dict[str, int] | None:
    """A policy version as ``{"lineage", "step"}``, from any of the forms that statuses carry."""
    match value:
        case None:
            return None
        case PolicyVersion():
            return {"lineage": value.lineage, "step": value.step}
        case str():
            return version_of(PolicyVersion.parse(value))
        case {"lineage": lineage, "step": step}:
            return {"lineage": int(lineage), "step": int(step)}
        case [lineage, step]:
            return {"lineage": int(lineage), "step": int(step)}
    raise ValueError(f"no policy version: {value!r}")
