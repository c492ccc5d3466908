"""A run over several machines, with light roles: machines that join, that are lost, and that Ray's autoscaler adds."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops import guard
from tests.ops.machines import Cloud, Machines
from tests.ops.test_launch import QUICK, ScriptedRun, processes, rba

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
UNSCORED = ("-o", "strategy=single")
"""Options of `rba launch` for a run without reward servers."""


def end(run: ScriptedRun) -> None:
    if run.process.poll() is None:
        run.process.kill()
        run.process.wait()
    if run.run_id:
        guard.clean_up(run.run_id, [], settle_s=0.0)


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def launched(folder: Path, cluster: Machines | Cloud, monkeypatch: pytest.MonkeyPatch, *options: str) -> ScriptedRun:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR"):
        monkeypatch.setenv(name, cluster.environment[name])
    return ScriptedRun(folder, {}, *QUICK, *UNSCORED, "-o", f"ray.address={cluster.address}", *options)


def where(run: ScriptedRun, phase: str = "running") -> dict[str, str]:
    """The machine of each process that is in that phase."""
    status: dict[str, Any] = run.status() or {"processes": []}
    return {name: each["host"] for name, each in processes(status).items() if each["phase"] == phase}


def test_a_run_grows_onto_machines_that_join_and_outlives_one_that_is_lost(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines.add("127.0.0.3")
    run = launched(tmp_path, machines, monkeypatch)
    try:
        run.until_running()
        first = {"learner-0": "127.0.0.2", "weight_store-0": "127.0.0.2", "fetcher-0": "127.0.0.2"}
        assert where(run) == first | {"fetcher-1": "127.0.0.3", "rollout-0": "127.0.0.3"}, "the learner where the run's folder is"

        subprocess.run(rba("scale", str(run.path), "--actors", "2"), capture_output=True, check=True, timeout=60)
        run.until(lambda: "rollout-1" in where(run, "placing"))
        machines.add("127.0.0.4")
        run.until(lambda: where(run).get("rollout-1") == "127.0.0.4")
        assert where(run)["fetcher-2"] == "127.0.0.4"

        killed_s = time.monotonic()
        machines.kill("127.0.0.3")
        run.until(lambda: "rollout-0" not in where(run))
        with capsys.disabled():
            print(f"\nfrom the loss of a machine to the verdict: {time.monotonic() - killed_s:.1f} s")
        run.until(lambda: "rollout-0" in where(run, "placing") and "fetcher-1" in where(run, "ended"), 90)
        with capsys.disabled():
            print(f"until Ray is asked for room again: {time.monotonic() - killed_s:.1f} s")
        assert where(run)["rollout-1"] == "127.0.0.4"
        assert (run.status() or {})["state"] == "running"

        machines.add("127.0.0.3")
        run.until(lambda: where(run).get("rollout-0") == where(run).get("fetcher-1") == "127.0.0.3")
        run.process.send_signal(signal.SIGTERM)
        code, output, errors = run.end(30)
        assert code == 0, errors
        assert "fetcher-1 has left with its machine 127.0.0.3" in output
        assert run.summary()["quarantined"] == []
    finally:
        end(run)


def test_an_actor_that_the_rule_asks_for_makes_rays_autoscaler_add_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud(head={"CPU": 8, "GPU": 2}, machine={"CPU": 2, "GPU": 1})
    try:
        rule = {"autoscale": "true", "max_actors": 2, "autoscale_window_s": 2, "autoscale_pause_s": 0}
        options = [part for key, value in rule.items() for part in ("-o", f"fleet.{key}={value}")]
        run = launched(tmp_path, cloud, monkeypatch, *options, "-o", "rollout.gpus=1")
        try:
            assert run.until_running()["actors"] == {"wanted": 1, "running": 1}
            run.until(lambda: "rollout-1" in where(run, "placing"))
            run.until(lambda: "rollout-1" in where(run), 120)
            assert (run.status() or {})["actors"] == {"wanted": 2, "running": 2}
            run.process.send_signal(signal.SIGTERM)
            code, output, errors = run.end(30)
            assert code == 0, errors
            assert "rollout actors wanted: 2 (1 join, 0 leave)" in output
        finally:
            end(run)
    finally:
        cloud.close()
