"""One drill: a light job of real processes, the fault that is put into it, and what became of it.

learner ◀──(proxy)── rollout-0, rollout-1, … ──▶ fetcher ──(proxy)──▶ weight store
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from ops import ports
from tests.faults import roles
from tests.faults.history import check
from tests.faults.nursery import Nursery
from tests.faults.record import Reader
from tests.faults.roles import HEARTBEAT_S, control_path

LIMIT_S = 90.0
"""Nothing in a drill takes longer, on a machine that others use too."""
POLL_S = 0.02


class Drill:
    """Starts, hurts and watches the processes of one job, by name: learner-0, rollout-N, weight_store-0, fetcher-0."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self._nursery, self._reader = folder, nursery, Reader(folder)
        self.pids: dict[str, int] = {}
        self._orders: dict[str, dict[str, Any]] = {}
        self._lineage = 0
        self.learner_port, self.store_port = ports.free(), ports.free()  # where they come back
        self._fetcher_at = ""
        self.learner_at, self.store_at = f"tcp://127.0.0.1:{self.learner_port}", f"tcp://127.0.0.1:{self.store_port}"
        """Where actors look for the learner, and the fetcher for the store: a proxy, where there is one."""
        self.rewards: list[str] = []
        self.config: dict[str, Any] = {
            "strategy": "single",
            "model": {"path": str(nursery.folder / roles.CHECKPOINT), "dtype": "float32"},
            "data": {"train": str(nursery.folder / roles.DATASET), "max_audio_s": 4.0},
            "rollout": {"capacity_groups": 4, "sampling": {"max_tokens": 16}},
            "rewards": {"scorer": "bleu"},
            "learner": {"steps": 100_000, "batch_groups": 4, "heartbeat_s": HEARTBEAT_S, "checkpoint_every": 20, "max_policy_lag": 2},
            "evaluation": {"groups": 0},
            "network": {"pairs_port": self.learner_port, "chunk_bytes": 1 << 14},
        }
        self.answer_s = 0.01

    # --- processes ------------------------------------------------------------------------------------------

    def begin(self, actors: int = 2) -> None:
        """Start a job and wait until it trains."""
        self.start_learner()
        self.start("weight_store-0", role="weight_store", port=self.store_port, keys=self._keys)
        self.start("fetcher-0", role="fetcher", store=self.store_at, port=0, keys=self._keys)
        self.until(self.readiness("fetcher-0"), "the fetcher")
        self._fetcher_at = self.rows("ready", process="fetcher-0")[-1]["endpoints"]["fetcher"]
        for index in range(actors):
            self.start_actor(index)
        self.until(lambda: self.step() >= 3, "the first steps")

    def start_learner(self) -> None:
        """The first life, or the next one."""
        self.start("learner-0", role="learner", config=self.config, lineage=self._lineage)
        self._lineage += 1

    def start_actor(self, index: int) -> None:
        """A new one, or one that was there before, as its next incarnation."""
        name = f"rollout-{index}"
        order = {"role": "rollout", "config": self.config, "index": index, "answer_s": self.answer_s, "rewards": self.rewards}
        places = {"learner": self.learner_at, "fetcher": self._fetcher_at}
        incarnation = self._orders[name]["incarnation"] + 1 if name in self._orders else 0
        self.start(name, incarnation=incarnation, **order, **places)

    def start(self, name: str, **order: Any) -> None:
        output = self.folder / f"{name}.output"
        self._orders[name] = order
        self.pids[name] = self._nursery.start({"name": name, "folder": str(self.folder), "output": str(output), **order})

    def start_again(self, name: str) -> None:
        """As it was started before."""
        self.start(name, **self._orders[name])

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the process and all that it has started."""
        os.killpg(self.pids[name], number)

    def kill(self, name: str) -> None:
        """Kill it, and wait until nothing is left."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(name, signal.SIGKILL)
        self.until(lambda: not self.alive(name), f"the end of {name}")

    def alive(self, name: str) -> bool:
        return psutil.pid_exists(self.pids[name])

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.pids[name])

    def ask(self, name: str, timeout_s: float = 5.0, **order: Any) -> Any:
        """Have a process carry out an order (see `tests.faults.roles.Control`). Raises `OSError` when it does not answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(control_path(self.folder, name)))
            with connection.makefile("rw") as lines:
                lines.write(json.dumps(order) + "\n")
                lines.flush()
                return json.loads(lines.readline())

    def order(self, name: str, **order: Any) -> None:
        """The same, without waiting for an answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control_path(self.folder, name)))
            connection.sendall(json.dumps(order).encode() + b"\n")

    def status(self, name: str = "learner-0", timeout_s: float = 1.0) -> dict[str, Any]:
        """Empty while the process does not answer."""
        try:
            found: dict[str, Any] = self.ask(name, timeout_s, do="status")
        except (OSError, ValueError):
            return {}
        return found

    def metrics(self, name: str) -> dict[str, float]:
        """What a process exports, by name; sums over the labels."""
        (url,) = [row["metrics_url"] for row in self.rows("ready", process=name) if row["pid"] == self.pids[name]]
        found: dict[str, float] = {}
        for line in urllib.request.urlopen(url, timeout=5).read().decode().splitlines():  # noqa: S310
            if line and not line.startswith("#"):
                key, _, value = line.rpartition(" ")
                found[key.partition("{")[0]] = found.get(key.partition("{")[0], 0.0) + float(value)
        return found

    # --- what happens ---------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
        """The first true answer. Fails after `limit_s`."""
        give_up_s = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < give_up_s, f"not within {limit_s:g} s: {what}{self._last_words()}"
            time.sleep(POLL_S)
        return found

    def rows(self, *events: str, since_s: float = 0.0, process: str = "") -> list[dict[str, Any]]:
        """What the processes have noted: of some kinds, of one process, since a moment."""
        return [
            row
            for row in self._reader.rows()
            if (not events or row["event"] in events) and row["at_s"] >= since_s and process in ("", row["process"])
        ]

    def readiness(self, name: str) -> Callable[[], float]:
        """When the present process of that name was ready; 0 until it is."""
        pid = self.pids[name]
        return lambda: next((float(row["at_s"]) for row in self.rows("ready", process=name) if row["pid"] == pid), 0.0)

    def step(self) -> int:
        """The last step that was trained."""
        return max((row["step"] for row in self.rows("trained")), default=0)

    def logged(self, what: str, actor: str = "", since_s: float = 0.0) -> list[dict[str, Any]]:
        """What the learner's end of the dialogue told people."""
        return [row for row in self.rows("log", since_s=since_s) if row["what"] == what and actor in ("", row["actor"])]

    def in_hand(self, name: str) -> set[int]:
        """Ordinals that an actor's present process was leased and has sent no result of."""
        own = [row for row in self.rows("leased", "sent", process=name) if row["pid"] == self.pids[name]]
        leased = {ordinal for row in own if row["event"] == "leased" for ordinal, *_ in row["groups"]}
        return leased - {ordinal for row in own if row["event"] == "sent" for ordinal in row["ordinals"]}

    def recovery_s(self, ended_s: float, *, by: str = "acked", process: str = "") -> float:
        """From the end of a fault to the first result that is acknowledged after it, or whatever else `by` names."""
        row = self.until(lambda: next(iter(self.rows(by, since_s=ended_s, process=process)), None), f"recovery, by the next row of {by}")
        return float(row["at_s"]) - ended_s

    def goes_on(self, steps: int = 3) -> None:
        """Wait for further steps."""
        wanted = self.step() + steps
        self.until(lambda: self.step() >= wanted, f"step {wanted}")

    def ledger(self) -> dict[str, Any]:
        return dict(self.until(lambda: self.status().get("ledger"), "the learner's ledger"))

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End the job in order, and have its history checked."""
        self.signal("learner-0", signal.SIGTERM)
        self.until(lambda: not self.alive("learner-0"), "the learner's end")
        actors = [name for name in self.pids if name.startswith("rollout-")]
        self.until(lambda: not any(self.alive(name) for name in actors), "the actors' end")
        self.close()
        self.judge()

    def judge(self) -> None:
        """Fail with whatever the checker finds."""
        faults = check(self.folder, self.config["learner"]["max_policy_lag"], self.budget_groups)
        assert not faults, "\n".join(faults)

    @property
    def budget_groups(self) -> int:
        section = self.config["learner"]
        return int((section["max_policy_lag"] + 1) * section["batch_groups"])

    def close(self) -> None:
        """Nothing is left, whatever happened."""
        for name in self.pids:
            with contextlib.suppress(ProcessLookupError):
                self.signal(name, signal.SIGKILL)
        for name in self.pids:
            self.until(lambda name=name: not self.alive(name), f"the end of {name}")  # type: ignore[misc]

    @property
    def _keys(self) -> str | None:
        keys: str | None = self.config["network"].get("keys")
        return keys

    def _last_words(self) -> str:
        outputs = {path.stem: path.read_text()[-1500:] for path in self.folder.glob("*.output")}
        return "".join(f"\n--- {name}\n{text}" for name, text in outputs.items() if text)


@contextlib.contextmanager
def resource_limit(pid: int, kind: int, value: int) -> Iterator[None]:
    """Another process under a limit (`resource.RLIMIT_…`) for a while."""
    import resource

    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, before)
