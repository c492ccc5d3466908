"""The supervisor from end to end on a real Ray, with light roles: how runs end, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops import guard
from ops import status as statuses
from ops.rundir import RunDir
from tests.ops import synthetic

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


QUICK = ("-o", "fleet.restart_wait_s=0.1")
"""Options of `rba launch` for restarts without a pause."""


class ScriptedRun:
    """One `rba launch` with fake roles, as a process."""

    def __init__(self, folder: Path, roles: dict[str, str], *arguments: str) -> None:
        self.path = folder / "runs" / "demo"
        environment = {f"RBA_FAKE_{role.upper()}": script for role, script in roles.items()}
        manifest = synthetic.data_set(folder / "data")
        overrides = [f"run.directory={folder / 'runs'}", "run.name=demo", "learner.steps=3", f"data.train={manifest}", "data.test=null"]
        command = [sys.executable, "-m", "tests.ops.scripted_run", "launch", "quickstart", *arguments]
        for override in overrides:
            command += ["-o", override]
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.run_id = ""

    def until(self, holds: Callable[[], Any], limit_s: float = 180.0) -> Any:
        deadline_s = time.monotonic() + limit_s
        while not (found := holds()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline_s, "it did not happen in time"
            time.sleep(0.05)
        return found

    def until_running(self) -> dict[str, Any]:
        status: dict[str, Any] = self.until(lambda: (seen := self.status()) and seen["state"] == "running" and seen)
        self.run_id = status["run_id"]
        return status

    def status(self) -> dict[str, Any] | None:
        """None before the supervisor listens."""
        if not (self.path / "control.json").is_file():
            return None
        return statuses.read(RunDir(self.path, ""))

    def end(self, limit_s: float = 60.0) -> tuple[int, str, str]:
        """(exit code, output, errors)."""
        output, errors = self.process.communicate(timeout=limit_s)
        return self.process.returncode, output, errors

    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return content


def rba(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


def marked(value: str, variable: str = guard.MARKER) -> list[int]:
    return guard.processes(value, variable)


def leftovers(run_id: str) -> list[str]:
    """What is left of a run on this machine."""
    shared = [str(path) for path in Path("/dev/shm").glob(f"rba-{run_id}-*")]
    temporary = [str(path) for path in Path("/tmp").glob(f"rba-{run_id[-6:]}-*")]
    return [*shared, *temporary, *map(str, marked(run_id))]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., ScriptedRun]]:
    runs: list[ScriptedRun] = []

    def launch(roles: dict[str, str] | None = None, *arguments: str) -> ScriptedRun:
        runs.append(ScriptedRun(tmp_path, roles or {}, *arguments))
        return runs[-1]

    yield launch
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        if run.run_id:
            guard.clean_up(run.run_id, [], settle_s=0.0)


def test_a_run_completes_and_leaves_its_folder_and_nothing_else(launched: Callable[..., ScriptedRun]) -> None:
    run = launched()
    status = run.until_running()
    assert {process["role"] for process in status["processes"]} == {"weight_store", "fetcher", "reward", "learner", "rollout"}
    assert all(process["pid"] for process in status["processes"])
    assert status["endpoints"]["pairs"].startswith("tcp://")
    code, output, errors = run.end()
    assert code == 0, errors
    assert "report:" in output
    assert run.summary()["status"] == "completed"
    assert run.summary()["learner_steps"] == 3
    assert {"config.yaml", "summary.json", "report.html", "events.jsonl", "logs", "checkpoints"} == {
        path.name for path in run.path.iterdir()
    }
    assert leftovers(run.run_id) == []


@pytest.mark.parametrize(
    ("roles", "code", "told"),
    [
        ({"rollout": "fail"}, 1, "rollout-0 failed too often: RuntimeError: the engine broke"),
        ({"rollout": "refuse"}, 2, "the checkpoint is of another family"),
    ],
)
def test_a_role_that_fails_fails_the_run_loudly(launched: Callable[..., ScriptedRun], roles: dict[str, str], code: int, told: str) -> None:
    run = launched({"learner": "forever", **roles}, *QUICK, "-o", "fleet.restarts=1")
    ended, _, errors = run.end()
    assert ended == code
    assert told in errors
    assert str(run.path / "logs") in errors
    assert "Traceback" not in errors
    assert run.summary()["status"] == "failed"
    assert subprocess.run(rba("status", str(run.path)), capture_output=True, check=False).returncode == 1


def processes(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {process["id"]: process for process in status["processes"]}


def told(run: ScriptedRun, name: str, setting: str) -> Any:
    """What an actor was built with, or told last; None before."""
    output = run.path / "logs" / f"{name}.out"
    lines = [line for line in output.read_text().splitlines() if line.startswith("settings ")] if output.exists() else []
    return json.loads(lines[-1].removeprefix("settings "))[setting] if lines else None


def test_whoever_dies_comes_back_where_the_others_look_for_it(launched: Callable[..., ScriptedRun]) -> None:
    dying = {"rollout": "die_once", "reward": "die_once", "fetcher": "fail_once", "weight_store": "die_once"}
    run = launched({"learner": "forever", **dying}, *QUICK)
    seen: dict[str, set[str]] = {}
    names = [f"{role}-0" for role in dying]

    def all_back() -> bool:
        found = processes(run.status() or {"processes": []})
        for name, process in found.items():
            seen.setdefault(name, set()).update(process["endpoints"].values())
        return bool(found) and all(found[name]["restarts"] == 1 and found[name]["phase"] == "running" for name in names)

    run.until(all_back)
    status = run.until_running()
    assert status["healthy"], status["problems"]
    assert all(len(seen[name]) == 1 for name in ("reward-0", "fetcher-0", "weight_store-0")), "it was given its old port"
    text = urllib.request.urlopen(status["endpoints"]["control"] + "/metrics", timeout=5).read().decode()  # noqa: S310
    assert 'rba_restarts_total{role="rollout"} 1.0' in text
    assert len(marked(f"{run.run_id}/rollout-0", guard.PROCESS)) == 2, "its process and its child, and none of those before"
    run.process.send_signal(signal.SIGTERM)
    code, output, _ = run.end(20)
    assert code == 0
    assert "rollout-0 failed and is restarted" in output
    assert run.summary()["restarts"] == dict.fromkeys(names, 1)
    assert leftovers(run.run_id) == []


def test_whoever_hangs_is_ended_and_comes_back(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "forever", "rollout": "gil_once", "reward": "hang_once"}, *QUICK, "-o", "fleet.hang_timeout_s=8")
    run.until(lambda: (seen := run.status()) and seen["state"] == "running")
    before = {name: each["pid"] for name, each in processes(run.status() or {}).items()}

    def back() -> bool:
        found = processes(run.status() or {})
        return all(found[name]["restarts"] == 1 and found[name]["phase"] == "running" for name in ("rollout-0", "reward-0"))

    run.until(back)
    after = {name: each["pid"] for name, each in processes(run.until_running()).items()}
    assert {name for name in before if before[name] != after[name]} == {"rollout-0", "reward-0"}
    run.process.send_signal(signal.SIGTERM)
    code, output, _ = run.end(20)
    assert code == 0
    assert "rollout-0 failed and is restarted" in output
    assert "it has not answered for" in output
    assert "it answers, but its work has not moved for" in output
    assert leftovers(run.run_id) == []


def test_actors_and_servers_join_and_leave_and_a_spare_takes_over_while_the_run_goes_on(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "forever"}, *QUICK, "-o", "fleet.spare_actors=1")
    status = run.until_running()
    run.until(lambda: (run.status() or {})["spares"] == {"wanted": 1, "running": 1})
    assert (run.status() or {})["actors"] == {"wanted": 1, "running": 1}
    assert (told(run, "rollout-0", "spare"), told(run, "rollout-1", "spare")) == (False, True)
    command = rba("scale", str(run.path), "--actors", "2", "--rewards", "2", "--wait")
    grown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert grown.returncode == 0, grown.stderr
    assert "2 rollout actors wanted, 2 run\n2 reward servers wanted, 2 run" in grown.stdout

    def targets() -> set[str]:
        with urllib.request.urlopen(status["endpoints"]["control"] + "/v1/targets", timeout=5) as answer:  # noqa: S310
            return {each["labels"]["process"] for each in json.load(answer)}

    assert {"rollout-0", "rollout-1", "reward-1"} <= targets()
    both = sorted(processes(run.status() or {})[name]["endpoints"]["rewards"] for name in ("reward-0", "reward-1"))
    run.until(lambda: told(run, "rollout-0", "reward_urls") == told(run, "rollout-1", "reward_urls") == both)
    subprocess.run(rba("scale", str(run.path), "--actors", "1", "--rewards", "1"), capture_output=True, check=True, timeout=60)
    run.until(lambda: not marked(f"{run.run_id}/rollout-1", guard.PROCESS) and not marked(f"{run.run_id}/reward-1", guard.PROCESS))
    run.until(lambda: len(told(run, "rollout-0", "reward_urls")) == 1)
    assert not {"rollout-1", "reward-1"} & targets()
    assert "told to leave: the fleet is made smaller" in (run.path / "logs" / "rollout-1.out").read_text()
    assert processes(run.status() or {})["rollout-1"]["phase"] == "ended"

    run.until(lambda: told(run, "rollout-2", "spare"))
    os.kill(processes(run.status() or {})["rollout-0"]["pid"], signal.SIGKILL)
    run.until(lambda: told(run, "rollout-2", "spare") is False)
    assert (run.status() or {})["actors"]["running"] == 1
    run.until(lambda: told(run, "rollout-0", "spare") is True)
    text = urllib.request.urlopen(status["endpoints"]["control"] + "/metrics", timeout=5).read().decode()  # noqa: S310
    assert "rba_actors_wanted 1.0" in text
    subprocess.run(rba("scale", str(run.path), "--actors", "2", "--wait"), capture_output=True, check=True, timeout=60)
    run.process.send_signal(signal.SIGTERM)
    code, output, _ = run.end(20)
    assert code == 0
    assert "rollout-2, a spare, takes the place of rollout-0" in output
    assert subprocess.run(rba("scale", str(run.path), "--actors", "2"), capture_output=True, check=False).returncode == 2
    assert leftovers(run.run_id) == []


def test_a_learner_that_dies_goes_on_in_a_new_lineage(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "die_once"}, *QUICK, "-o", "learner.ranks=2")
    code, output, errors = run.end()
    assert code == 0, errors
    assert "from the start: there is no whole checkpoint, in lineage 1" in output
    assert run.summary()["restarts"] == {"learner-0": 1, "learner-1": 1}, "one takes the other with it"
    assert "lineage: 1" in (run.path / "config.yaml").read_text()


def test_a_signal_stops_in_order_and_keeps_the_checkpoint(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "forever"})
    run.until_running()
    sent_s = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    code, _, errors = run.end(20)
    assert code == 0, errors
    assert time.monotonic() - sent_s < 20
    assert run.summary()["status"] == "stopped"
    assert (run.path / "checkpoints" / "step-3").is_dir()
    assert leftovers(run.run_id) == []


def test_roles_that_do_not_listen_are_killed(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "deaf", "rollout": "deaf", "reward": "deaf"})
    run.until_running()
    run.process.send_signal(signal.SIGTERM)
    code, output, errors = run.end(60)
    assert code == 0, errors
    assert "learner-0 did not stop in time" in output
    assert leftovers(run.run_id) == []


def test_a_second_signal_ends_at_once(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "deaf"})
    run.until_running()
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: (seen := run.status()) and seen["state"] == "stopping")
    sent_s = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end(20)[0] == 0
    assert time.monotonic() - sent_s < 15, "it was not waited for"
    assert leftovers(run.run_id) == []


def test_rba_stop_ends_a_run_that_nobody_reads_any_more(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "forever"})
    run.until_running()
    assert run.process.stdout is not None
    run.process.stdout.close()
    stopped = subprocess.run(rba("stop", str(run.path)), capture_output=True, text=True, check=False)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped at step 3" in stopped.stdout
    assert run.process.wait(60) in {0, 120}, "120 is Python's own word for an output that it could not flush"
    assert run.summary()["status"] == "stopped"
    assert subprocess.run(rba("stop", str(run.path)), capture_output=True, check=False).returncode == 2


def test_when_the_supervisor_is_killed_everything_ends(launched: Callable[..., ScriptedRun]) -> None:
    run = launched({"learner": "forever"})
    run.until_running()
    assert marked(run.run_id)
    run.process.kill()
    run.process.wait()
    deadline_s = time.monotonic() + 20
    while leftovers(run.run_id):
        assert time.monotonic() < deadline_s, leftovers(run.run_id)
        time.sleep(0.1)
    told = subprocess.run(rba("status", str(run.path)), capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "vanished" in told.stdout


def test_a_detached_run_goes_on_by_itself(tmp_path: Path) -> None:
    overrides = ["-o", f"run.directory={tmp_path}", "-o", "run.name=apart"]
    launched = subprocess.run(
        rba("launch", "quickstart", "--detach", "-o", "model.path=nowhere", *overrides), capture_output=True, text=True, check=False
    )
    assert launched.returncode == 2, "the supervisor's own exit code"
    assert "model.path" in launched.stdout
