"""What runs inside a worker process: one role, built, run and answered for."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

from protocol.errors import RbaError, UserError
from protocol.role import Adjustable, Leaver, Role, RoleDescription


class RoleError(Exception):
    """A role's own error on its way to the supervisor: (what it says, whether the user can mend it)."""


class RoleWorker:
    """Runs inside the worker process: builds one role, runs it and answers for it while it runs."""

    def __init__(self, factory: str, output: str, cleans: tuple[Path, ...] = ()) -> None:
        os.environ.pop("RAY_AUTH_TOKEN", None)  # nothing that a role starts needs to reach the cluster
        self._factory = factory
        self._role: Role | None = None
        self._cleans = cleans
        self._role_ended = False
        self._terminations = 0
        self._ray_handler: Any = None
        if threading.current_thread() is threading.main_thread():
            self._ray_handler = signal.signal(signal.SIGTERM, self._terminate)
        _write_output_to(Path(output))

    def where(self) -> tuple[str, int]:
        """(IP address of the machine, pid)."""
        import ray

        return str(ray.util.get_node_ip_address()), os.getpid()

    def warm(self) -> None:
        """Import the role's module, which takes seconds for the heavy ones, before what it needs is there."""
        importlib.import_module(self._factory.partition(":")[0])

    def build(self, kwargs: dict[str, Any]) -> RoleDescription:
        """Construct the role. Raises `RoleError`."""
        module, _, name = self._factory.partition(":")
        with _told():
            role: Role = getattr(importlib.import_module(module), name)(**kwargs)
            self._role = role
            return role.describe()

    def run(self) -> dict[str, Any]:
        """The role's `run`, in the thread that built it. Raises `RoleError`."""
        if self._role is None:
            raise RuntimeError("build comes first")
        try:
            with _told():
                return self._role.run()
        finally:
            self._role_ended = True
            for folder in self._cleans:
                shutil.rmtree(folder, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """The role's `status`; nothing while it is being built."""
        return self._role.status() if self._role is not None else {}

    def adjust(self, settings: dict[str, Any]) -> None:
        """The role's `adjust`. Raises `RoleError`."""
        with _told():
            cast(Adjustable, self._role).adjust(**settings)

    def drain(self, reason: str) -> None:
        """The role's `drain`; its `stop` where it has none."""
        if isinstance(self._role, Leaver):
            self._role.drain(reason)
        else:
            self.stop(reason)

    def stop(self, reason: str) -> None:
        """The role's `stop`."""
        if self._role is not None:
            self._role.stop(reason)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM asks a role that can leave to do so, a second one to stop; for all others it stays what Ray makes of it."""
        self._terminations += 1
        if isinstance(self._role, Leaver) and not self._role_ended and self._terminations <= 2:
            ask = self._role.drain if self._terminations == 1 else self._role.stop
            threading.Thread(target=ask, args=("SIGTERM",), daemon=True).start()  # a handler must not wait for a lock
        elif callable(self._ray_handler):
            self._ray_handler(number, frame)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """The traceback goes to the process's output, and its gist to the supervisor, which may lack the error's class."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again as what the supervisor understands
        traceback.print_exc()
        sys.stderr.flush()
        gist = str(error) if isinstance(error, RbaError) else f"{type(error).__name__}: {error}"
        raise RoleError(gist, isinstance(error, UserError)) from None


def _write_output_to(path: Path) -> None:
    """Everything that this process and its children print goes to `path`; the supervisor quotes it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
