"""Edge to Ray: the cluster that a run's workers live in."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import psutil

from ops.tokens import environment_of
from protocol.errors import RbaError, UserError

OBJECT_STORE_BYTES = 80 << 20
"""Only small dictionaries pass through Ray; the data goes over the run's own sockets."""


class Cluster:
    """The Ray cluster of a run: one of its own on this machine, or one that already runs at `address`."""

    def __init__(self, address: str | None, num_cpus: int, folder: Path, *, token_needed: bool = False) -> None:
        """`folder` is for what Ray writes when one is started here; a short path, since Ray's unix sockets lie deep below it."""
        # Set before Ray is imported. Workers run at nice 15 by default. What a worker started dies with it, also when it crashed.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - spelt like this
        os.environ["RAY_process_group_cleanup_enabled"] = "1"  # noqa: SIM112
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        os.environ["RAY_DEDUP_LOGS"] = "0"
        os.environ.update(environment_of(address, needed=token_needed))
        self.folder: Path | None = folder if address is None else None
        import ray

        started_s = time.monotonic()
        own = {"num_cpus": num_cpus, "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": str(self.folder)} if self.folder else {}
        try:
            _start(
                self.folder,
                address=address or "local",
                include_dashboard=False if self.folder else None,
                configure_logging=True,
                logging_level="ERROR",
                log_to_driver=False,
                namespace=f"rba-{secrets.token_hex(4)}",
                **own,
            )
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:  # to a wrong token Ray says that nobody answers
            fix = (
                "start the cluster with `ray start`, see that ~/.ray/auth_token (or RAY_AUTH_TOKEN_PATH) holds its token, "
                "or leave ray.address out to have one started on this machine"
            )
            raise UserError(f"no Ray cluster answers: {error}", where=f"ray.address: {address}", fix=fix) from error
        except Exception as error:
            ray.shutdown()
            raise RbaError(f"Ray could not be started; is the machine overloaded? {error}") from error
        self.start_seconds = time.monotonic() - started_s

    @property
    def node_ip(self) -> str:
        """Address of this machine in the cluster."""
        import ray

        return str(ray.util.get_node_ip_address())

    def nodes(self) -> list[str]:
        """IP addresses of the cluster's machines, this one first."""
        import ray

        alive = [str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
        return sorted(dict.fromkeys(alive), key=lambda address: (address != self.node_ip, address))

    def close(self, keep_logs_in: Path | None = None) -> None:
        """End it, or leave it. Ray's own logs go to `keep_logs_in` when something failed."""
        import ray

        ray.shutdown(**({"wait_for_processes": True} if self.folder else {}))
        if self.folder is None:
            return
        if keep_logs_in is not None:
            logs = self.folder / "session_latest" / "logs"
            with contextlib.suppress(OSError):
                shutil.copytree(logs, keep_logs_in, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        shutil.rmtree(self.folder, ignore_errors=True)


def _start(folder: Path | None, **options: Any) -> None:
    """`ray.init`; one that starts its processes in `folder` has a second try where the machine is too busy for the first."""
    import ray

    before = {child.pid for child in psutil.Process().children(recursive=True)}  # the run's guard names the folder, too
    try:
        ray.init(**options)
    except Exception as error:
        if folder is None or type(error) is not Exception:
            raise
        # Ray raises this very class when its processes take longer than half a minute, which it lets nobody set.
        ray.shutdown()
        _kill_what_names(folder, before)
        ray.init(**options)


def _kill_what_names(folder: Path, spared: set[int]) -> None:
    """End this process's children whose command lines name `folder`: of a Ray that did not come up."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.pid not in spared and any(str(folder) in word for word in child.cmdline()):
                child.kill()
