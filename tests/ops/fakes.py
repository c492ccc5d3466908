"""Light roles that stand in for the real ones, so that the supervision is tried on a real Ray in seconds.

What a role does is said by the environment variable ``RBA_FAKE_<ROLE>``: ``ok`` | ``fail`` | ``user_error`` | ``die`` |
``refuse`` (the constructor raises) | ``hang`` (it answers, and does nothing) | ``gil`` (it holds Python's lock) |
``deaf`` (it does not heed `stop`) | ``forever`` (a learner that ends only when told).
With ``_once`` behind it, only the first process of an id does so.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from protocol.errors import UserError
from protocol.role import RoleDescription
from tests.ops import synthetic

STEPS = 3


class FakeRole:
    """Runs until stopped, or as its script says."""

    role = ""
    socket = ""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.id = f"{self.role}-{kwargs.get('index', kwargs.get('rank', 0))}"
        self.script = self._script(os.environ.get(f"RBA_FAKE_{self.role.upper()}", "ok"))
        self.hangs_since_s: float | None = None
        self.told = threading.Event()
        self.child = subprocess.Popen(["sleep", "600"])  # what an engine's own process is to a rollout actor
        if self.script == "refuse":
            raise UserError("the checkpoint is of another family", where="model.path", fix="give one that fits")
        self.socket_port = kwargs.get("port") or 10000 + os.getpid() % 50000
        for name in ("root", "weights_root"):
            if name in kwargs:
                Path(kwargs[name]).mkdir(parents=True, exist_ok=True)
                (Path(kwargs[name]) / "weights.bin").write_bytes(b"0" * 64)

    def _script(self, script: str) -> str:
        if not script.endswith("_once"):
            return script
        done = Path(self.kwargs["run_dir"]) / "logs" / f"{self.id}.once"
        if done.exists():
            return "ok"
        done.touch()
        return script.removesuffix("_once")

    def describe(self) -> RoleDescription:
        return {
            "role": self.role,
            "id": self.id,
            "pid": os.getpid(),
            "host": "here",
            "endpoints": {self.socket: f"tcp://127.0.0.1:{self.socket_port}"},
            "metrics_url": f"http://127.0.0.1:{10000 + os.getpid() % 50000}/metrics",
        }

    def run(self) -> dict[str, Any]:
        match self.script:
            case "fail":
                raise RuntimeError("the engine broke")
            case "user_error":
                raise UserError("the data set has no audio", where="data.train", fix="make it again")
            case "die":
                print("about to die", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                self.hangs_since_s = time.monotonic()
            case "gil":
                ctypes.PyDLL(None).sleep(600)
            case "deaf":
                threading.Event().wait()
        return self.work()

    def work(self) -> dict[str, Any]:
        self.told.wait()
        return {"stopped": True}

    def status(self) -> dict[str, Any]:
        hangs_since_s = self.hangs_since_s
        return {"policy_version": "0.0", "quiet_s": 0.0 if hangs_since_s is None else time.monotonic() - hangs_since_s}

    def stop(self, reason: str) -> None:
        print(f"told to stop: {reason}", flush=True)
        if self.script != "deaf":
            self.told.set()


class FakeWeightStore(FakeRole):
    role, socket = "weight_store", "weights"


class FakeFetcher(FakeRole):
    role, socket = "fetcher", "fetcher"


class FakeReward(FakeRole):
    role, socket = "reward", "rewards"


class FakeRollout(FakeRole):
    """Prints what it is told."""

    role, socket = "rollout", "none"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if "spare" in kwargs:
            self.adjust(spare=kwargs["spare"], reward_urls=kwargs["reward_urls"])

    def adjust(self, **settings: Any) -> None:
        print("settings", json.dumps(settings), flush=True)

    def drain(self, reason: str) -> None:
        print(f"told to leave: {reason}", flush=True)
        if self.script != "busy":
            self.told.set()


class FakeLearner(FakeRole):
    """Takes its steps, or runs until stopped when its script says ``forever``; leaves what a learner leaves.

    Ranks above 0 have no script, and end with rank 0.
    """

    role, socket = "learner", "pairs"

    def _script(self, script: str) -> str:
        return super()._script(script) if self.kwargs.get("rank", 0) == 0 else "ok"

    def work(self) -> dict[str, Any]:
        checkpoint = Path(self.kwargs["run_dir"]) / "checkpoints" / f"step-{STEPS}"
        if self.kwargs.get("rank", 0):
            while not checkpoint.exists() and not self.told.wait(0.1):
                pass
            return {}
        self.told.wait(None if self.script == "forever" else 1.5)
        run_dir = Path(self.kwargs["run_dir"])
        checkpoint.mkdir(parents=True)
        lines = [synthetic.evaluation("before", "0.0", 0.6), *(synthetic.step(number) for number in range(1, STEPS + 1))]
        (run_dir / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return synthetic.closing(STEPS)

    def status(self) -> dict[str, Any]:
        return {
            "state": "training",
            "step": 2,
            "steps": STEPS,
            "policy_version": "0.2",
            "last": {"loss": {"total": 0.5}},
            "ledger": {"trained": 16},
        }
