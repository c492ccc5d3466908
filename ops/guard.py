"""Cleans up behind a supervisor that was killed: ends the run's processes, removes its shared memory and temporary folders.

A small process in a session of its own that waits until its standard input closes. The supervisor writes ``done`` when it
has cleaned up by itself; if the pipe closes without that, the supervisor is dead. The run's processes are known by an
environment variable that all of them inherit, so that no grandchild is forgotten and no number is mistaken.

Run as a script, without the rest of rba: only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MARKER = "RBA_RUN_ID"
"""Environment variable of every process of a run."""
PROCESS = "RBA_PROCESS"
"""The same of one process and all that it starts: ``<run id>/<process id>``."""
SETTLE_S = 3.0
"""Ray's processes end with their driver by themselves; what is left after this is killed."""
STUBBORN_S = 5.0
"""For so long those that are killed are waited for."""
LOOKS = 2
"""In a row that find nobody: a process that is just being replaced by the program that it starts (`execve`) shows no environment."""


class Guard:
    """The supervisor's end of the pipe. `paths` are removed, and every process marked with `run_id` ends, should it die."""

    def __init__(self, run_id: str, paths: Sequence[Path]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != MARKER}
        command = [sys.executable, "-P", "-S", __file__, run_id, *map(str, paths)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment)

    def dismiss(self) -> None:
        """Everything is cleaned up."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):  # whoever ended the guard did its work too
            self._process.communicate(b"done\n", timeout=5)


def processes(value: str, variable: str = MARKER) -> list[int]:
    """The processes on this machine that carry a run's mark, or another one, except the caller's own."""
    mark = f"{variable}={value}".encode()
    marked = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    marked.append(int(folder.name))
    return marked


def end(process: str) -> bool:
    """Kill what is left on this machine of one process, ``<run id>/<process id>``, and of what it started; True when nothing is."""
    left = processes(process, PROCESS) if process else []
    for pid in left:
        _kill(pid)
    return not left


def clean_up(run_id: str, paths: Sequence[Path], settle_s: float) -> list[int]:
    """Wait for the run's processes to end by themselves, kill what is left after `settle_s`, remove `paths`; the pids killed."""
    deadline_s = time.monotonic() + settle_s
    killed: dict[int, None] = {}
    found_none = 0
    while found_none < LOOKS and time.monotonic() < deadline_s + STUBBORN_S:
        left = processes(run_id)
        found_none = 0 if left else found_none + 1
        if time.monotonic() >= deadline_s:
            killed |= dict.fromkeys(left)
            for pid in left:
                _kill(pid)
        time.sleep(0.05)
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    return list(killed)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Wait for the pipe to close, then clean up unless told ``done``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it outlives whatever ends the supervisor
    if sys.stdin.readline().strip() != "done":
        clean_up(sys.argv[1], [Path(path) for path in sys.argv[2:]], SETTLE_S)


if __name__ == "__main__":
    main()
