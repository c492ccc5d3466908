from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from ops import rundir, watching
from ops import status as statuses
from ops.control import ControlServer
from ops.orders import Phase, Scale, State
from ops.problems import SILENT_S
from ops.rundir import RunDir
from ops.status import assemble
from ops.views import ProcessView
from protocol.errors import RbaError, UserError
from protocol.messages import PolicyVersion

LEDGER = {"received": 10, "unique": 8, "duplicate": 2, "rejected": 0, "trained": 6, "dropped": 1, "queued": 1}


def described(name: str, role: str, sockets: dict[str, str], port: int) -> ProcessView:
    return ProcessView(
        id=name,
        role=role,
        phase=Phase.RUNNING,
        pid=100 + port,
        host="127.0.0.1",
        description={
            "role": role,
            "id": name,
            "pid": 100 + port,
            "host": "h",
            "endpoints": sockets,
            "metrics_url": f"http://127.0.0.1:{port}/metrics",
        },
        last_heartbeat_s=0.5,
    )


def views() -> list[ProcessView]:
    learner = described("learner-0", "learner", {"pairs": "tcp://127.0.0.1:1"}, 9001)
    learner.status = {
        "step": 4,
        "state": "training",
        "policy_version": str(PolicyVersion(0, 4)),
        "ledger": LEDGER,
        "last": {"loss": {"total": 0.6}},
    }
    rollout = described("rollout-0", "rollout", {}, 9002)
    rollout.status = {"policy_version": "0.3"}
    store = described("weight_store-0", "weight_store", {"weights": "tcp://127.0.0.1:2"}, 9003)
    return [learner, rollout, store]


def scripted(state: State = State.RUNNING, reason: str = "", processes: list[ProcessView] | None = None, actors: int = 1) -> dict[str, Any]:
    seen = views() if processes is None else processes
    return assemble(
        run="demo",
        run_id="demo-1",
        state=state,
        reason=reason,
        elapsed_s=9.0,
        steps=100,
        control="http://127.0.0.1:9",
        processes=seen,
        pace={},
        wanted={"rollout": actors, "reward": 0, "spare": 0},
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "config.yaml").write_text("")
    return RunDir(tmp_path, "demo-1")


class Scripted:
    """A supervisor's answers."""

    def __init__(self, run: RunDir) -> None:
        self.state = State.RUNNING
        self.stops: list[str] = []
        self.scales: list[Scale] = []
        self.actors = 1
        self.run = run
        self.server = ControlServer(
            status=lambda: scripted(self.state, actors=self.actors),
            stop=self.stop,
            scale=self.scale,
            metrics=lambda: b"rba_build_info 1\n",
            ray=lambda: ["10.0.0.7:8085"],
        )
        rundir.write_private_json(run.control, {"url": self.server.url, "token": self.server.token, "pid": 1})

    def scale(self, wanted: Scale) -> None:
        if self.state is not State.RUNNING:
            raise UserError("the run is stopping", where="here", fix="nothing")
        self.scales.append(wanted)
        self.actors = wanted.actors or self.actors

    def stop(self, reason: str) -> None:
        self.stops.append(reason)
        self.state = State.STOPPED


@pytest.fixture
def supervisor(run: RunDir) -> Iterator[Scripted]:
    made = Scripted(run)
    yield made
    made.server.close()


def printed(console_width: int = 200) -> Console:
    return Console(file=__import__("io").StringIO(), width=console_width)


def test_status_says_where_every_process_and_socket_is() -> None:
    status = json.loads(json.dumps(scripted()))
    assert status["healthy"]
    assert (status["state"], status["step"], status["policy_version"]) == ("running", 4, {"lineage": 0, "step": 4})
    assert status["ledger"] == LEDGER
    assert status["endpoints"]["pairs"] == "tcp://127.0.0.1:1"
    assert status["endpoints"]["weights"] == "tcp://127.0.0.1:2"
    assert status["endpoints"]["control"] == "http://127.0.0.1:9"
    assert len(status["endpoints"]["metrics"]) == 3
    rollout = next(process for process in status["processes"] if process["role"] == "rollout")
    assert rollout == rollout | {"id": "rollout-0", "pid": 9102, "policy_version": {"lineage": 0, "step": 3}, "last_heartbeat_s": 0.5}


def test_a_silent_process_makes_the_run_unhealthy() -> None:
    silent = views()
    silent[1].last_heartbeat_s = SILENT_S + 1
    status = scripted(processes=silent)
    assert not status["healthy"]
    assert "rollout-0" in status["problems"][0]


def test_a_ledger_that_does_not_add_up_makes_the_run_unhealthy() -> None:
    wrong = views()
    wrong[0].status = {**wrong[0].status, "ledger": LEDGER | {"duplicate": 3}}
    assert "ledger" in scripted(processes=wrong)["problems"][0]


def test_the_server_wants_its_token_for_status_and_stop(supervisor: Scripted) -> None:
    url = supervisor.server.url
    assert httpx.get(f"{url}/v1/status").status_code == 401
    assert httpx.post(f"{url}/v1/stop", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert supervisor.stops == []
    answer = httpx.get(f"{url}/v1/status", headers={"Authorization": f"Bearer {supervisor.server.token}"})
    assert answer.json()["step"] == 4


def test_prometheus_finds_every_process_and_the_supervisor(supervisor: Scripted) -> None:
    targets = httpx.get(f"{supervisor.server.url}/v1/targets").json()
    assert {target["labels"]["process"]: target["targets"] for target in targets} == {
        "learner-0": ["127.0.0.1:9001"],
        "rollout-0": ["127.0.0.1:9002"],
        "weight_store-0": ["127.0.0.1:9003"],
        "supervisor-0": ["127.0.0.1:9"],
        "ray-10.0.0.7:8085": ["10.0.0.7:8085"],
    }
    assert {target["labels"]["run"] for target in targets} == {"demo"}
    assert targets[-1]["labels"]["role"] == "ray"
    assert "rba_build_info" in httpx.get(f"{supervisor.server.url}/metrics").text


def test_only_the_owner_may_read_the_token(supervisor: Scripted) -> None:
    assert stat.S_IMODE(supervisor.run.control.stat().st_mode) == 0o600


def test_rba_status_reads_the_supervisor(supervisor: Scripted) -> None:
    console = printed()
    assert watching.show(supervisor.run, console, watch=False, as_json=True) == 0
    assert json.loads(console.file.getvalue())["state"] == "running"  # type: ignore[attr-defined]
    console = printed()
    watching.show(supervisor.run, console, watch=False, as_json=False)
    line = console.file.getvalue()  # type: ignore[attr-defined]
    assert "training step 4/100" in line
    assert "loss 0.600" in line


@pytest.mark.parametrize("terminal", [True, False])
def test_a_watch_goes_on_until_the_run_ends(supervisor: Scripted, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    monkeypatch.setattr(watching.live, "PLAIN_EVERY_S", 0.01)
    looks: list[str] = []

    def look(run: RunDir, prometheus: str | None) -> dict[str, Any]:
        found = seen(run, prometheus)
        looks.append(found["state"])
        if len(looks) == 3:
            supervisor.state = State.STOPPED
        return found

    seen = watching.look
    monkeypatch.setattr(watching, "look", look)
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=terminal, _environ={"TERM": "xterm"})
    assert watching.show(supervisor.run, console, watch=True, as_json=False) == 0
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert looks == ["running", "running", "running", "stopped"]
    assert text.count("step 4/100") >= 3
    assert ("\x1b[?1049h" in text) == terminal, "a screen of its own"
    assert "rollout-0" in text
    last = text.rpartition("\x1b[?1049l")[2]
    assert "stopped" in last, "the end stays to be read"


@pytest.mark.parametrize(("states", "watched"), [("v r s", "r v r s"), ("v v v v", "r v v v")])
def test_a_watch_gives_up_on_a_supervisor_that_does_not_answer_several_times(
    supervisor: Scripted, monkeypatch: pytest.MonkeyPatch, states: str, watched: str
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    names = {"r": "running", "v": "vanished", "s": "stopped"}
    first, coming = watching.look(supervisor.run), iter(states.split())
    told = [{**first, "state": names[each]} for each in ("r", *coming)]
    monkeypatch.setattr(watching, "look", lambda _run, _prometheus: told.pop(0))
    console = printed()
    watching.show(supervisor.run, console, watch=True, as_json=True)
    shown = [json.loads(line)["state"] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert shown == [names[each] for each in watched.split()]


def test_a_prometheus_that_does_not_answer_is_told_beside_the_status(supervisor: Scripted) -> None:
    console = printed()
    assert watching.show(supervisor.run, console, watch=False, as_json=False, prometheus="http://127.0.0.1:9") == 0
    assert "! Prometheus at http://127.0.0.1:9 does not tell its alerts" in console.file.getvalue()  # type: ignore[attr-defined]
    told = watching.look(supervisor.run, "http://127.0.0.1:9")
    assert (told["alerts"], told["state"]) == ([], "running")
    assert "alerts" not in watching.look(supervisor.run)


def test_rba_stop_asks_and_waits(supervisor: Scripted) -> None:
    assert watching.stop(supervisor.run, printed(), wait=True) == 0
    assert supervisor.stops == ["rba stop"]
    with pytest.raises(UserError, match="over"):
        watching.stop(supervisor.run, printed(), wait=True)


def test_rba_scale_asks_and_tells_what_runs(supervisor: Scripted) -> None:
    console = printed()
    assert watching.scale(supervisor.run, console, {"actors": 3}, wait=False) == 0
    assert supervisor.scales == [Scale(3)]
    assert "3 rollout actors wanted, 1 run" in console.file.getvalue()  # type: ignore[attr-defined]
    assert watching.scale(supervisor.run, printed(), {"actors": 1}, wait=True) == 0
    console = printed()
    assert watching.scale(supervisor.run, console, {"rewards": 2}, wait=False) == 0
    assert "2 reward servers wanted, 0 run" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="--actors N"):
        watching.scale(supervisor.run, printed(), {}, wait=True)
    url, body = f"{supervisor.server.url}/v1/scale", {"actors": 2}
    assert httpx.post(url, json=body).status_code == 401
    token = {"Authorization": f"Bearer {supervisor.server.token}"}
    assert httpx.post(url, json={"actors": 0}, headers=token).status_code == 422
    assert supervisor.scales == [Scale(3), Scale(1), Scale(rewards=2)]
    supervisor.state = State.STOPPING
    with pytest.raises(UserError, match="the run is stopping"):
        watching.scale(supervisor.run, printed(), {"actors": 2}, wait=False)


def test_a_supervisor_that_is_gone_is_told_as_such(supervisor: Scripted) -> None:
    running = statuses.read(supervisor.run)
    supervisor.server.close()
    console = printed()
    assert watching.show(supervisor.run, console, watch=False, as_json=True) == 1
    seen = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert seen["state"] == "vanished"
    assert seen.keys() == running.keys()
    with pytest.raises(RbaError, match="does not answer"):
        statuses.ask(supervisor.run, "GET", "/v1/status")


def test_an_ended_run_is_read_from_its_summary(run: RunDir) -> None:
    summary = {
        "run": "demo",
        "status": "completed",
        "learner_steps": 100,
        "policy_version": {"lineage": 0, "step": 100},
        "wall_seconds": 150.0,
        "ledger": LEDGER,
        "evaluation": {"before": {}, "after": {}},
    }
    run.summary.write_text(json.dumps(summary))
    console = printed()
    assert watching.show(run, console, watch=False, as_json=True) == 0
    seen = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert (seen["state"], seen["step"], seen["run_id"]) == ("completed", 100, run.run_id)
    assert (seen["actors"], seen["endpoints"]["rewards"]) == ({"wanted": 0, "running": 0}, [])
    run.summary.write_text(json.dumps(summary | {"status": "failed", "reason": "rollout-0: out of memory"}))
    assert watching.show(run, printed(), watch=False, as_json=True) == 1
    run.summary.write_text(json.dumps(summary | {"ledger": LEDGER | {"received": LEDGER["received"] + 1}}))
    console = printed()
    assert watching.show(run, console, watch=False, as_json=True) == 1
    seen = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert (seen["state"], seen["healthy"]) == ("completed", False)
    assert "the ledger does not add up" in seen["problems"][0]


def test_a_taken_control_port_is_the_users_mistake(supervisor: Scripted) -> None:
    port = int(supervisor.server.url.rpartition(":")[2])
    with pytest.raises(UserError, match="control_port=0"):
        ControlServer(status=dict, stop=print, scale=print, metrics=bytes, port=port)


def test_samplers_that_disagree_with_the_learner_make_a_run_unhealthy() -> None:
    processes = views()
    processes[0].status["last"]["completions_off"] = 0.4
    assert scripted(processes=processes)["healthy"]
    processes[0].status["last"]["completions_off"] = 0.75
    told = scripted(processes=processes)
    assert not told["healthy"]
    assert "75%" in told["problems"][0]
