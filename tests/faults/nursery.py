"""Starts a drill's processes by fork, each within milliseconds: ``python -m tests.faults.nursery FOLDER``.

Reads one JSON line an order, ``{"role": …, …}`` (see `tests.faults.roles.play`), and writes ``{"pid": …}`` for each in turn. Every process
leads a group of its own. When the drill's end of the pipe closes, all of them are killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn


class Nursery:
    """The drill's end."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets what all drills share (see `tests.faults.roles.warm`)."""
        self.folder = folder
        command = [sys.executable, "-m", "tests.faults.nursery", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def start(self, order: dict[str, Any]) -> int:
        """The pid of a new process that plays `order`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        pid: int = json.loads(self._process.stdout.readline())["pid"]
        return pid

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve() -> None:
    """Consumes orders. Produces processes. Waits for an order. Unblocked by the end of its input."""
    from tests.faults import roles

    roles.warm(Path(sys.argv[1]))
    gc.collect()
    gc.freeze()  # what is there is shared by all, and stays so
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: one that ends is gone at once
    pids = []
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if not pid:
            _play(json.loads(line))
        pids.append(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _play(order: dict[str, Any]) -> NoReturn:
    from tests.faults import roles

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        code = roles.play(order)
    except BaseException:  # noqa: BLE001 - the process ends here, and its output says why
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
