from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import guard


def wait_until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


def marked(run_id: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env={**os.environ, guard.MARKER: run_id}, start_new_session=True)


def test_only_processes_of_the_run_are_found_and_ended() -> None:
    run_id, other_id = secrets.token_hex(6), secrets.token_hex(6)
    mine, other = marked(run_id), marked(other_id)
    try:
        wait_until(lambda: guard.processes(run_id) == [mine.pid])
        assert guard.clean_up(run_id, [], settle_s=0.0) == [mine.pid]
        assert mine.wait(timeout=60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_when_the_supervisor_is_killed_the_guard_ends_its_processes_and_removes_its_folders(tmp_path: Path) -> None:
    run_id = secrets.token_hex(6)
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"0")
    script = (
        "import os, sys, time; from pathlib import Path; from ops import guard\n"
        f"watchdog = guard.Guard({run_id!r}, [Path({str(folder)!r})])\n"
        f"os.environ[guard.MARKER] = {run_id!r}\n"
        "import subprocess; child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    child = int(supervisor.stdout.readline())
    wait_until(lambda: guard.processes(run_id) == [child])
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not folder.exists())
    assert guard.processes(run_id) == []


def test_one_that_is_not_seen_at_the_first_look_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([[], [7, 8], [8], [], []])
    monkeypatch.setattr(guard, "processes", lambda _run_id: next(seen))
    ended: list[int] = []
    monkeypatch.setattr(guard, "_kill", ended.append)
    assert guard.clean_up("run", [], settle_s=0.0) == [7, 8]
    assert ended == [7, 8, 8]


def test_a_dismissed_guard_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    watchdog = guard.Guard(secrets.token_hex(6), [folder])
    watchdog.dismiss()
    assert watchdog._process.returncode == 0
    assert folder.exists()
