"""What one process of a drill plays: the run's own roles, around a scripted optimiser and a scripted generation engine.

Learner, rollout actor, weight store and node fetcher are those of a real run, with their links, journal, checkpoints and policy versions;
only DeepSpeed and vLLM are left out. Time-outs are short. Each process writes its history (`tests.faults.record`) and takes orders on a
socket of its own beside it (`Control`), as Ray's calls would reach it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.record import Recorder

HEARTBEAT_S = 0.2
SHORT: dict[str, dict[str, float | int]] = {
    "protocol.dialogue.actor": {"GREET_EVERY_S": 0.1, "RESEND_AFTER_S": 0.5},
    "protocol.sockets": {
        "HEARTBEAT_MS": 200,
        "HEARTBEAT_TIMEOUT_MS": 800,
        "HANDSHAKE_MS": 800,
        "RECONNECT_MS": 20,
        "RECONNECT_MAX_MS": 200,
    },
    "protocol.weights.pull": {"ANSWER_S": 0.3},
    "learner.logbook": {"RETRY_S": 0.1},
    "actors.rollout.actor": {"REPORT_S": 0.1, "RETRY_S": 0.1, "ABORT_S": 1.0},
    "actors.rollout.main": {"FETCH_SLICE_S": 1.0, "FLUSH_S": 1.0},
}
"""Time-outs of a drill, by module."""


CHECKPOINT, DATASET = "speechlm", "train.jsonl"
"""What all drills share, in the nursery's folder."""
GROUPS = 16


def warm(folder: Path) -> None:
    """Import everything that a process needs, which takes seconds, and make what all drills share."""
    engine = types.ModuleType("actors.rollout.engine")  # vLLM takes many more, and has no part in a drill
    engine.VllmEngine = None  # type: ignore[attr-defined]
    sys.modules["actors.rollout.engine"] = engine
    import protocol.weights.store  # noqa: F401
    from policies.adapter import adapter
    from tests.faults import acting, training  # noqa: F401
    from tests.learner.scripted import write_dataset
    from tests.tiny import tiny_checkpoint

    checkpoint = tiny_checkpoint(folder / CHECKPOINT)
    write_dataset(folder / DATASET, GROUPS, voices=2, text=False)
    adapter("qwen2_audio").open(checkpoint).prompt_ids("", instruction="warm")  # transformers imports what it is asked for


def play(order: dict[str, Any]) -> int:
    """One process from start to end; its exit code."""
    folder, name = Path(order["folder"]), str(order["name"])
    for module, values in SHORT.items():
        for constant, value in values.items():
            if not hasattr(sys.modules[module], constant):
                raise AttributeError(f"{module} has no {constant} any more: drills cannot shorten it")
            setattr(sys.modules[module], constant, value)
    recorder = Recorder(folder, name)
    role = BUILDERS[order["role"]](order, folder, recorder)
    described = role.describe()
    stop = _stopper(role, recorder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop(signal.Signals(number).name))
    Control(folder, name, role).start()
    recorder.write("ready", endpoints=described["endpoints"], metrics_url=described["metrics_url"])
    closing = role.run()
    recorder.write("ended", closing=closing)
    return 0


def _stopper(role: Any, recorder: Recorder) -> Callable[[str], None]:
    """The first call asks for an orderly end, the second ends the process on the spot."""
    asked: list[str] = []

    def stop(reason: str) -> None:
        asked.append(reason)
        if len(asked) > 1:
            os._exit(1)
        threading.Thread(target=ask, args=(reason,), daemon=True).start()  # a handler must not wait for a lock

    def ask(reason: str) -> None:
        recorder.write("stopping", reason=reason)
        role.stop(reason)

    return stop


class Control:
    """Answers one line of JSON a connection, from a thread of its own."""

    def __init__(self, folder: Path, name: str, role: Any) -> None:
        self._role = role
        path = control_path(folder, name)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)

    def start(self) -> None:
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rw") as lines:
                order = json.loads(lines.readline() or "{}")
                lines.write(json.dumps(self._carry_out(order), default=str) + "\n")

    def _carry_out(self, order: dict[str, Any]) -> Any:
        match order.get("do"):
            case "status":
                return self._role.status()
            case "hang":  # holding Python's lock: nothing else of this process moves
                ctypes.PyDLL(None).usleep(int(1e6 * order["seconds"]))
            case "set clock":
                wall_s, by_s = time.time, float(order["by_s"])
                wall_ns = time.time_ns
                time.time = lambda: wall_s() + by_s
                time.time_ns = lambda: wall_ns() + int(1e9 * by_s)
            case "set step":
                from tests.faults.training import ScriptedOptimiser

                ScriptedOptimiser.step_s = float(order["seconds"])
        return {}


def control_path(folder: Path, name: str) -> Path:
    """Of a process's control socket."""
    return folder / f"{name}.socket"


def _learner(order: dict[str, Any], folder: Path, recorder: Recorder) -> Any:
    from tests.faults import training

    return training.learner_role(order, folder, recorder)


def _actor(order: dict[str, Any], folder: Path, recorder: Recorder) -> Any:
    from tests.faults import acting

    return acting.actor_role(order, folder, recorder)


def _store(order: dict[str, Any], folder: Path, recorder: Recorder) -> Any:
    from protocol.weights.store import WeightStore

    return WeightStore(folder / "published", port=order["port"], run_dir=folder / "run", keys=order["keys"])


def _fetcher(order: dict[str, Any], folder: Path, recorder: Recorder) -> Any:
    from protocol.weights.fetcher import NodeFetcher

    return NodeFetcher(order["store"], folder / "fetched", port=order["port"], run_dir=folder / "run", keys=order["keys"])


BUILDERS: dict[str, Callable[[dict[str, Any], Path, Recorder], Any]] = {
    "learner": _learner,
    "rollout": _actor,
    "weight_store": _store,
    "fetcher": _fetcher,
}
