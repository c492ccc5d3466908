"""The state of a run in one dictionary: put together by the supervisor, served by `ops.control`, shown by `rba status`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ops.orders import Phase, State
from ops.rundir import BEAT_S, RunDir
from protocol.errors import RbaError, UserError
from protocol.messages import PolicyVersion
from protocol.role import RoleDescription

MOST_OFF = 0.5
"""Share of completions that may be off before the run counts as unhealthy."""
SILENT_S = 30.0
"""A process that has not answered for this long is unhealthy."""
ENDED = {State.COMPLETED, State.STOPPED, State.FAILED}


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


def assemble(
    *,
    run: str,
    run_id: str,
    state: State,
    reason: str,
    elapsed_s: float,
    steps: int,
    control: str,
    processes: list[ProcessView],
    pace: Mapping[str, float],
    wanted: Mapping[str, int],
) -> dict[str, Any]:
    """Everything that `rba status --json` prints. `wanted`: how many there are to be of each role, "spare" being one of them.

    The learner's rank 0 says how far the run is, and `pace` (see `ops.pace`) how fast; figures that nobody has yet are left out or None.
    """
    learner: Mapping[str, Any] = next((each.status for each in processes if each.id == "learner-0"), {})
    problems = [*_problems(processes), *_ledger_problems(learner), *_sampler_problems(learner), *_journal_problems(learner)]
    if state is State.FAILED:
        problems.insert(0, reason)
    step = int(learner.get("step", 0))
    return {
        "run": run,
        "run_id": run_id,
        "state": str(state),
        "reason": reason,
        "healthy": not problems,
        "problems": problems,
        "phase": learner.get("state", str(state)) if state is State.RUNNING else str(state),
        "step": step,
        "steps": int(learner.get("steps", steps)),
        "policy_version": version_of(learner.get("policy_version")),
        "elapsed_s": round(elapsed_s, 1),
        "actors": _count(processes, "rollout", wanted["rollout"], spare=False),
        "spares": _count(processes, "rollout", wanted["spare"], spare=True),
        "rewards": _count(processes, "reward", wanted["reward"], spare=False),
        "ledger": dict(learner.get("ledger", {})),
        "figures": {**figures_of(learner), **pace},
        "evaluation": dict(learner.get("evaluations", {})),
        "processes": [_process(each) for each in processes],
        "endpoints": _endpoints(processes, control),
    }


def figures_of(learner: Mapping[str, Any]) -> dict[str, float]:
    """The figures that people watch, from the learner's status; the ones that are not known yet are left out."""
    last = learner.get("last", {})
    evaluations = list(learner.get("evaluations", {}).values())
    found = {
        "loss": last.get("loss", {}).get("total"),
        "reward": last.get("reward"),
        "preference_accuracy": last.get("preference_accuracy"),
        "policy_lag": last.get("policy_lag", {}).get("mean"),
        "accuracy": evaluations[-1].get("accuracy") if evaluations else None,
        "idle": learner.get("idle"),
        "nonfinite_steps": learner.get("nonfinite_steps") or None,  # none is the rule, and not worth a word
        "rollbacks": learner.get("rollbacks") or None,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


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


def read(run: RunDir) -> dict[str, Any]:
    """The status of a run: from its supervisor, from ``summary.json`` when it has ended, or what can be said when it vanished."""
    if run.summary.is_file():
        return from_summary(run.path, json.loads(run.summary.read_text()))
    if not run.control.is_file():
        return _vanished(run, "the supervisor has not opened its control server")
    try:
        return ask(run, "GET", "/v1/status")
    except RbaError as error:
        if run.summary.is_file():  # it ended between the two looks
            return from_summary(run.path, json.loads(run.summary.read_text()))
        return _vanished(run, str(error))


def is_alive(run: RunDir) -> bool:
    """True when the run's supervisor answers."""
    try:
        ask(run, "GET", "/v1/status")
    except RbaError:
        return False
    return True


def writer_elsewhere(run: RunDir) -> str:
    """The other machine whose supervisor keeps the run's folder alive; "" when none does. Watches for three beats where one may.

    The control server answers on its own machine alone, and two clocks need not agree, so what counts is that the file's time moves.
    """
    try:
        host = json.loads(run.control.read_text()).get("host", "")
    except (OSError, ValueError):
        return ""
    if host in {"", socket.gethostname()}:
        return ""
    first_ns, give_up_s = _written_ns(run.control), time.monotonic() + 3 * BEAT_S
    while time.monotonic() < give_up_s:
        if _written_ns(run.control) != first_ns:
            return str(host)
        time.sleep(0.1)
    return ""


def _written_ns(path: Path) -> int:
    try:
        with path.open() as file:  # opening it has a network file system look again
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def ask(run: RunDir, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One call to the run's control server. Raises `RbaError` when it does not answer, `UserError` when it refuses."""
    import httpx

    try:
        control = json.loads(run.control.read_text())
        if control.get("host", socket.gethostname()) != socket.gethostname():
            raise RbaError(f"the supervisor of {run.path} runs, or ran, on {control['host']}, and answers there alone")
        answer = httpx.request(
            method,
            control["url"] + path,
            headers={"Authorization": f"Bearer {control['token']}"},
            json=content,
            timeout=10,
            trust_env=False,
        )
        if answer.status_code == httpx.codes.CONFLICT:
            raise UserError(answer.json()["detail"], where=str(run.path), fix="see `rba status`")
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise RbaError(f"the supervisor of {run.path} does not answer: {error}") from error
    return told


def from_summary(path: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a run that has ended, from its ``summary.json``."""
    failed = summary["status"] == State.FAILED
    return {
        "run": path.name,
        "state": summary["status"],
        "reason": summary.get("reason", ""),
        "healthy": not failed,
        "problems": [summary.get("reason", "")] if failed else [],
        "phase": summary["status"],
        "step": summary["learner_steps"],
        "steps": summary.get("planned_steps", summary["learner_steps"]),
        "policy_version": summary["policy_version"],
        "elapsed_s": summary["wall_seconds"],
        "ledger": summary["ledger"],
        "figures": {},
        "evaluation": summary["evaluation"],
        "processes": [],
        "endpoints": {"pairs": None, "weights": None, "control": None, "metrics": []},
    }


def _vanished(run: RunDir, reason: str) -> dict[str, Any]:
    problem = f"{reason}; nothing is known of how the run ended, its logs are in {run.logs}"
    return {
        "run": run.path.name,
        "state": "vanished",
        "reason": reason,
        "healthy": False,
        "problems": [problem],
        "phase": "vanished",
        "step": 0,
        "steps": 0,
        "policy_version": None,
        "elapsed_s": 0.0,
        "ledger": {},
        "figures": {},
        "evaluation": {},
        "processes": [],
        "endpoints": {"pairs": None, "weights": None, "control": None, "metrics": []},
    }


def _count(processes: list[ProcessView], role: str, wanted: int, *, spare: bool) -> dict[str, int]:
    running = sum((each.role, each.phase, each.spare) == (role, Phase.RUNNING, spare) for each in processes)
    return {"wanted": wanted, "running": running}


def _process(view: ProcessView) -> dict[str, Any]:
    return {
        "role": view.role,
        "id": view.id,
        "pid": view.pid,
        "host": view.host,
        "phase": str(view.phase),
        "restarts": view.restarts,
        "spare": view.spare,
        "policy_version": version_of(view.status.get("policy_version")),
        "last_heartbeat_s": None if view.last_heartbeat_s is None else round(view.last_heartbeat_s, 2),
        "endpoints": dict(view.description["endpoints"]) if view.description else {},
        "metrics_url": view.description["metrics_url"] if view.description else None,
    }


def _endpoints(processes: list[ProcessView], control: str) -> dict[str, Any]:
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


def _problems(processes: list[ProcessView]) -> list[str]:
    told = {
        Phase.FAILED: "has failed",
        Phase.QUARANTINED: "failed too often and is quarantined",
        Phase.RESTARTING: "failed and is restarted",
    }
    failed = [f"{each.id} {told[each.phase]}" for each in processes if each.phase in told]
    silent = [
        f"{each.id} has not answered for {each.last_heartbeat_s:.0f} s"
        for each in processes
        if each.phase is Phase.RUNNING and each.last_heartbeat_s is not None and each.last_heartbeat_s > SILENT_S
    ]
    return failed + silent


def _sampler_problems(learner: Mapping[str, Any]) -> list[str]:
    off = learner.get("last", {}).get("completions_off")
    if off is None or off <= MOST_OFF:
        return []
    told = f"{off:.0%} of the last step's completions have other log-probabilities by the learner than by their sampler"
    return [f"{told}: the engine's weights, prompts or audio are not the learner's, or pairs are too old (learner.sampler_gap_alarm)"]


def _journal_problems(learner: Mapping[str, Any]) -> list[str]:
    stalled = learner.get("journal", {}).get("stalled")
    return [f"{stalled}; nothing is leased or acknowledged until it can be"] if stalled else []


def _ledger_problems(learner: Mapping[str, Any]) -> list[str]:
    ledger = learner.get("ledger", {})
    if not {"received", "unique", "duplicate", "rejected"} <= set(ledger):
        return []
    rejected = ledger["rejected"] if isinstance(ledger["rejected"], int) else sum(ledger["rejected"].values())
    if ledger["received"] != ledger["unique"] + ledger["duplicate"] + rejected:
        return [f"the ledger does not add up: {ledger}"]
    return []
