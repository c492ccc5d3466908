"""Runs whole jobs as a user would: the `rba` command in a process of its own, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ops import status as statuses
from ops.rundir import RunDir
from protocol.errors import RbaError

RECIPE = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")

SHORT = (
    "learner.steps=4",
    "learner.batch_groups=4",
    "learner.publish_every=2",
    "evaluation.groups=8",
)
"""Overrides that make the main job short; every part stays the real one."""


POLL_S = 0.3
"""Between two looks at a job."""


def rba(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """One `rba` command, waited for."""
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def launch_arguments(run_dir: Path, *overrides: str) -> list[str]:
    """Arguments of `rba launch` for a short quickstart job in `run_dir`."""
    options = [part for override in (*SHORT, *overrides) for part in ("-o", override)]
    return ["launch", RECIPE, "--run-dir", str(run_dir), *options]


def launch(run_dir: Path, *overrides: str, timeout_s: float = 280.0) -> subprocess.CompletedProcess[str]:
    """One short job from start to end."""
    return rba(*launch_arguments(run_dir, *overrides), timeout_s=timeout_s)


def start(run_dir: Path, *overrides: str, resume: bool = False, machine: str = "") -> subprocess.Popen[str]:
    """One short job that goes on while the test does something else; on a `machine` of that name, as far as it can tell."""
    named = ["unshare", "--uts", "sh", "-c", f'hostname {machine} && exec "$@"', "sh"] if machine else []
    return subprocess.Popen(
        [*named, sys.executable, "-m", "ops.cli", *launch_arguments(run_dir, *overrides), *(["--resume"] if resume else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def another_machine(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of another machine, on which this process is from now on; "" where machines cannot be named."""
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        return ""
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-b")
    return "machine-b"


def status(run_dir: Path) -> dict[str, Any]:
    """The run's status, read in this process: a command for each look would cost the job a core. Empty while there is none."""
    try:
        return statuses.read(RunDir(run_dir, ""))
    except RbaError:
        return {}


def process_of(run_dir: Path, name: str) -> dict[str, Any]:
    """One process of the run's status; empty while there is none."""
    return next((each for each in status(run_dir).get("processes", []) if each["id"] == name), {})


def wait_until(probe: Callable[[], Any], timeout_s: float, what: str, every_s: float = POLL_S) -> Any:
    """The first true answer of `probe`; fails the test after `timeout_s`."""
    give_up_at_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at_s:
        if found := probe():
            return found
        threading.Event().wait(every_s)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def summary(run_dir: Path) -> dict[str, Any]:
    """The run's summary.json."""
    loaded: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return loaded


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The run's events.jsonl."""
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def leftovers(mark: str) -> list[str]:
    """What a run with `mark` in its folder's name left behind: processes and shared memory."""
    found = [str(path) for path in Path("/dev/shm").glob("rba-*") if mark in path.name]
    for process in psutil.process_iter(["cmdline", "environ", "pid"]):
        environment = process.info["environ"] or {}
        if process.pid != os.getpid() and environment.get("RBA_RUN_ID", "").startswith(mark):
            found.append(f"process {process.pid}: {' '.join(process.info['cmdline'] or [])[:120]}")
    return found


def end(process: subprocess.Popen[str]) -> None:
    """Make sure that a started job is gone, whatever the test found."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
