"""Ray clusters of several machines, each a Ray node in processes of its own on this one.

As a script, a cluster of Ray's `cluster_utils` whose nodes have addresses of their own on the loopback network. It says the
cluster's address, then carries out the lines that it reads, ``add ADDRESS`` and ``kill ADDRESS``, and answers each with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ops import guard, ports

OBJECT_STORE_BYTES = 80 << 20
MARK = "RBA_TEST_CLUSTER"
HOME = "127.0.0.2"
"""For 127.0.0.1 Ray's drivers take another address of the machine."""
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""What Ray's fake provider takes for the id of the head node."""


class _Apart:
    """A cluster in processes that carry a mark, so that all of them can be ended."""

    def __init__(self) -> None:
        self.folder = Path(f"/tmp/rba-t-{secrets.token_hex(3)}")
        (self.folder / "ray").mkdir(parents=True)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(self.folder),  # it puts "ray" behind it
            "RBA_FAKE_LEARNER": "forever",  # workers have the environment of their machine, not that of the run
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._mark = secrets.token_hex(4)

    def spawn(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """A marked process."""
        marked = {**self.environment, **environment, MARK: self._mark}
        log = (self.folder / "errors").open("a")
        return subprocess.Popen(
            command, env=marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )

    def close(self) -> None:
        """Nothing of it is left."""
        give_up_s = time.monotonic() + 20
        while left := guard.processes(self._mark, MARK):
            assert time.monotonic() < give_up_s, f"left: {left}"
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


class Machines(_Apart):
    """Machines that a test adds and kills; the first one, `HOME`, is the head, and has room for what is no rollout actor."""

    def __init__(self) -> None:
        super().__init__()
        self._process = self.spawn(sys.executable, "-m", "tests.ops.machines", str(self.folder / "ray"))
        self.address = self._answer()

    def add(self, address: str) -> None:
        """One more machine, with room for one rollout actor."""
        self._order(f"add {address}")

    def kill(self, address: str) -> None:
        """Kill all processes of a machine's Ray node."""
        self._order(f"kill {address}")

    def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, (self.folder / "errors").read_text()
        return line


class Cloud(_Apart):
    """A cluster whose autoscaler, Ray's own, adds a machine when what is asked for has no room, up to one."""

    def __init__(self, head: dict[str, int], machine: dict[str, int]) -> None:
        super().__init__()
        port = ports.free()
        self.address = f"127.0.0.1:{port}"
        config = self.folder / "autoscaling.json"
        config.write_text(json.dumps(_autoscaling(head, machine, self.address)))
        options = {
            "port": port,
            "node-ip-address": "127.0.0.1",
            "ray-client-server-port": ports.free(),
            "temp-dir": self.folder / "ray",
            "object-store-memory": OBJECT_STORE_BYTES,
            "include-dashboard": "false",
            "autoscaling-config": config,
            **{f"num-{name.lower()}s": count for name, count in head.items()},
        }
        self._process = self.spawn(
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            *(f"--{name}={value}" for name, value in options.items()),
            AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1", RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD, RAY_CLOUD_INSTANCE_ID=HEAD,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ray runtime started" in line:
                return
        raise AssertionError((self.folder / "errors").read_text())


def _autoscaling(head: dict[str, int], machine: dict[str, int], address: str) -> dict[str, Any]:
    types = {
        "ray.head.default": {"resources": head, "node_config": {}, "max_workers": 0},
        "machine": {"resources": machine | {"object_store_memory": OBJECT_STORE_BYTES}, "node_config": {}, "max_workers": 1},
    }
    provider = {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "head_node_id": HEAD,
        "launch_multiple": True,
        "gcs_address": address,
    }
    none: list[str] = []
    return {
        "cluster_name": "test",
        "max_workers": 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": provider,
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "file_mounts": {},
        "cluster_synced_files": none,
        "file_mounts_sync_continuously": False,
        "rsync_exclude": none,
        "rsync_filter": none,
        **{f"{what}_commands": none for what in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{what}_start_ray_commands": none for what in ("head", "worker")},
    }


def main() -> None:
    """The cluster of `Machines`."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": sys.argv[1]}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "node_ip_address": HOME, "object_store_memory": OBJECT_STORE_BYTES})
    print(cluster.address, flush=True)
    nodes = {}
    for line in sys.stdin:
        order, address = line.split()
        if order == "add":
            nodes[address] = cluster.add_node(node_ip_address=address, num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        else:
            cluster.remove_node(nodes.pop(address), allow_graceful=False)
        print("done", flush=True)


if __name__ == "__main__":
    main()
