"""`rba launch --detach`: the supervisor as a process of its own session, which outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from configs import loader
from ops import rundir
from protocol.errors import RbaError

START_LIMIT_S = 1800.0
"""Assets may have to be made, and checkpoints downloaded, before the supervisor answers."""
TAIL_LINES = 15


def launch_detached(
    source: str, overrides: Sequence[str], run_dir: Path | None, console: Console, *, resume: bool = False, salvage: bool = False
) -> int:
    """Start the supervisor and return once it answers; 0, or its exit code when it ended before that."""
    config = loader.load(source, overrides)
    run = rundir.reopen(config, run_dir) if resume else rundir.create(config, run_dir)
    output = run.logs / "supervisor.out"
    command = [sys.executable, "-P", "-m", "ops.cli", "launch", source, "--run-dir", str(run.path)]
    command += [option for option, given in (("--resume", resume), ("--salvage", salvage)) if given]
    for override in overrides:
        command += ["-o", override]
    with output.open("w") as file:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env={**os.environ, "PYTHONSAFEPATH": "1"}
        )
    deadline_s = time.monotonic() + START_LIMIT_S
    with console.status("starting", spinner="dots"):
        while not run.control.is_file():
            if supervisor.poll() is not None:
                tail = "\n".join(output.read_text(errors="replace").splitlines()[-TAIL_LINES:])
                console.print(tail, highlight=False, markup=False)
                return supervisor.returncode
            if time.monotonic() > deadline_s:
                raise RbaError(
                    f"the supervisor (process {supervisor.pid}) has not answered for {START_LIMIT_S:.0f} s; its output is in {output}"
                )
            time.sleep(0.1)
    console.print(f"run {run.path}, supervisor {supervisor.pid}\nwatch it with `rba status {run.path} --watch`", highlight=False)
    return 0
