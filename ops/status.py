"""The state of a run in one dictionary: put together by the supervisor, served by `ops.control`, shown by `rba status`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.orders import State
from ops.problems import broken, problem_of, problems
from ops.recent import Measured
from ops.rundir import BEAT_S, RunDir
from ops.views import ProcessView, count, endpoints, of_actors, servers_elsewhere, told, version_of
from protocol.errors import RbaError, UserError

NOTHING = Measured()
_NOBODY: Mapping[str, Any] = {
    "ledger_broken": [],
    "load": {},
    "bottleneck": None,
    "trends": {},
    "checkpoint": None,
    "journal": {},
    "disk_free_bytes": None,
    "processes": [],
    "reward_servers": [],
    "actors": count([], "rollout", 0, spare=False),
    "spares": count([], "rollout", 0, spare=True),
    "rewards": count([], "reward", 0, spare=False),
    "endpoints": {**endpoints([], ""), "control": None},
}
"""What a status has of a run without processes."""
ENDED = {State.COMPLETED, State.STOPPED, State.FAILED}


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
    measured: Measured = NOTHING,
    trends: Mapping[str, Any] = {},
    step: int = 0,
    unattended_s: float = 0.0,
) -> dict[str, Any]:
    """Everything that `rba status --json` prints. `wanted`: how many there are to be of each role, "spare" being one of them.

    The learner's rank 0 says how far the run is, `pace` (see `ops.pace`) how fast, `measured` (see `ops.recent`) what its processes do, and
    `trends` (see `ops.trends`) how that went; figures that nobody has yet are left out or None. `step` is where the learner was last, for
    one that starts again. For so long as `unattended_s` the supervisor has not looked after its processes.
    """
    learner: Mapping[str, Any] = next((each.status for each in processes if each.id == "learner-0"), {})
    wrong = [*([reason] if state is State.FAILED else []), *problems(processes, learner, unattended_s)]
    step = int(learner.get("step", step))
    return {
        "run": run,
        "run_id": run_id,
        "state": str(state),
        "reason": reason,
        "healthy": not wrong,
        "problems": wrong,
        "phase": learner.get("state", str(state)) if state is State.RUNNING else str(state),
        "step": step,
        "steps": int(learner.get("steps", steps)),
        "policy_version": version_of(learner.get("policy_version")),
        "elapsed_s": round(elapsed_s, 1),
        "actors": count(processes, "rollout", wanted["rollout"], spare=False),
        "spares": count(processes, "rollout", wanted["spare"], spare=True),
        "rewards": count(processes, "reward", wanted["reward"], spare=False),
        "ledger": dict(learner.get("ledger", {})),
        "ledger_broken": broken(learner.get("ledger", {})),
        "figures": {**figures_of(learner), **pace, **of_actors(processes)},
        "load": _load(measured),
        "bottleneck": measured.limit._asdict() if measured.limit is not None else None,
        "trends": dict(trends),
        "checkpoint": learner.get("checkpoint"),
        "journal": dict(learner.get("journal", {})),
        "disk_free_bytes": learner.get("disk_free_bytes"),
        "evaluation": dict(learner.get("evaluations", {})),
        "processes": [told(each, measured.rates.get(each.id), problem_of(each)) for each in processes],
        "reward_servers": servers_elsewhere(processes),
        "endpoints": endpoints(processes, control),
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


def read(run: RunDir) -> dict[str, Any]:
    """The status of a run: from its supervisor, from ``summary.json`` when it has ended, or what can be said when it vanished."""
    if run.summary.is_file():
        return from_summary(run, json.loads(run.summary.read_text()))
    if not run.control.is_file():
        return _vanished(run, "the supervisor has not opened its control server")
    try:
        return ask(run, "GET", "/v1/status")
    except RbaError as error:
        if run.summary.is_file():  # it ended between the two looks
            return from_summary(run, json.loads(run.summary.read_text()))
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


def from_summary(run: RunDir, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a run that has ended, from its ``summary.json``."""
    wrong = [summary.get("reason", "")] if summary["status"] == State.FAILED else []
    faults = broken(summary["ledger"])
    if faults:
        wrong.append(f"the ledger does not add up: {'; '.join(faults)}")
    return {
        "run": run.path.name,
        "run_id": run.run_id,
        "state": summary["status"],
        "reason": summary.get("reason", ""),
        "healthy": not wrong,
        "problems": wrong,
        "phase": summary["status"],
        "step": summary["learner_steps"],
        "steps": summary.get("planned_steps", summary["learner_steps"]),
        "policy_version": summary["policy_version"],
        "elapsed_s": summary["wall_seconds"],
        "ledger": summary["ledger"],
        "figures": {},
        "evaluation": summary["evaluation"],
        **_NOBODY,
        "ledger_broken": faults,
    }


def _vanished(run: RunDir, reason: str) -> dict[str, Any]:
    problem = f"{reason}; nothing is known of how the run ended, its logs are in {run.logs}"
    return {
        "run": run.path.name,
        "run_id": run.run_id,
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
        **_NOBODY,
    }


def _load(measured: Measured) -> dict[str, Any]:
    """Shares of the last while (see `ops.bottleneck.Load`), and how busy each stage was."""
    load = measured.load
    shares = {"learner_idle": load.learner_idle, "actors_idle": load.actors_idle, **load._asdict()}
    known = {name: round(value, 4) for name, value in shares.items() if value is not None}
    return {**known, "busy": {stage.value: round(share, 4) for stage, share in measured.busy.items()}}
