"""Disks without room, and checkpoints that are cut short at any call."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner import checkpoint as checkpoints
from learner.journal import JOURNAL
from ops.orders import Phase, State
from ops.status import assemble
from ops.views import ProcessView
from tests.faults.conftest import Told
from tests.faults.drill import Drill, resource_limit
from tests.faults.record import monotonic_s

ENOUGH_BYTES = 100_000


@pytest.mark.parametrize("killed", [False, True], ids=["room again", "killed meanwhile"])
def test_a_disk_without_room_stops_the_learner_and_nothing_is_lost(drill: Drill, told: Told, killed: bool) -> None:
    """The journal may not grow, and no line of the log finds room either."""
    logs = drill.folder / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "learner-0.jsonl").symlink_to("/dev/full")
    drill.begin()
    journal = drill.folder / "run" / JOURNAL

    def size() -> int:
        return max(path.stat().st_size for path in journal.glob("*.journal"))

    drill.until(lambda: size() > ENOUGH_BYTES, "a journal that is larger than all other files")
    with resource_limit(drill.pids["learner-0"], resource.RLIMIT_FSIZE, size()):
        status = drill.until(lambda: (found := drill.status()).get("journal", {}).get("stalled") and found, "the journal stalls")
        assert not healthy(status)
        drill.until(lambda: not any(drill.in_hand(name) for name in ("rollout-0", "rollout-1")), "all that was leased is answered")
        refused = drill.metrics("learner-0")["rba_journal_failed_commits_total"]
        stalled_s = monotonic_s()  # what was acknowledged before the stall has arrived by now
        drill.until(lambda: drill.metrics("learner-0")["rba_journal_failed_commits_total"] > refused + 5, "it is tried again and again")
        assert not drill.rows("acked", since_s=stalled_s)
        if killed:
            drill.kill("learner-0")
            (logs / "learner-0.jsonl").unlink()
    if killed:
        drill.start_learner()
        drill.until(drill.readiness("learner-0"), "its return")
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on()
    assert healthy(drill.status())
    drill.finish()
    what = (
        "killed meanwhile: nothing acknowledged is lost"
        if killed
        else "nothing is acknowledged, `rba status` is unhealthy; it goes on by itself"
    )
    told(14, what, recovery_s)


def healthy(status: dict[str, Any]) -> bool:
    """What `rba status` would say."""
    view = ProcessView(id="learner-0", role="learner", phase=Phase.RUNNING, status=status, last_heartbeat_s=0.1)
    seen = assemble(
        run="drill", run_id="drill", state=State.RUNNING, reason="", elapsed_s=1.0, steps=1, control="", processes=[view], pace={},
        wanted={"rollout": 0, "reward": 0, "spare": 0},
    )  # fmt: skip
    return bool(seen["healthy"])


class PowerCut(BaseException):
    """Nothing runs any more."""


CALLS: list[tuple[Any, str]] = [(os, "fsync"), (Path, "rename"), (Path, "write_text"), (Path, "mkdir"), (shutil, "rmtree")]


def cut_at(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """From the `number`-th call on that changes the disk, none does. Returns the calls that were made."""
    made: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(made) >= number:
                raise PowerCut
            made.append(name)
            return function(*arguments, **options)

        return call

    for owner, name in CALLS:
        patch.setattr(owner, name, counted(name, getattr(owner, name)))
    return made


def save(run_dir: Path, step: int, content: bytes) -> None:
    """One checkpoint."""

    def write(folder: Path, *_: Any) -> None:
        (folder / "model.safetensors").write_bytes(content)

    def state(folder: Path) -> None:
        (folder / checkpoints.STATE).mkdir()
        (folder / checkpoints.STATE / checkpoints.LEARNER).write_text("{}")

    checkpoints.write_checkpoint(run_dir, step, [], SimpleNamespace(save=write), run_dir, "float32", state)  # type: ignore[arg-type]


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step that is there"])
def test_a_checkpoint_that_is_cut_short_anywhere_is_the_old_one_or_the_new_one(tmp_path: Path, again: bool, told: Told) -> None:
    cuts = 0
    while True:
        run_dir = tmp_path / str(cuts)
        run_dir.mkdir()
        save(run_dir, 1, b"old")
        if again:
            save(run_dir, 2, b"before")
        with pytest.MonkeyPatch.context() as patch:
            made = cut_at(patch, cuts)
            try:
                save(run_dir, 2, b"new")
                whole = True
            except PowerCut:
                whole = False
        found, _ = checkpoints.newest(run_dir)
        assert found is not None
        content = (found / "model.safetensors").read_bytes()
        assert (found.name, content) in {("step-1", b"old"), ("step-2", b"before"), ("step-2", b"new")}
        assert (found.name, content) == ("step-2", b"new") or not whole
        save(run_dir, 3, b"next")
        assert checkpoints.newest(run_dir)[0] == run_dir / "checkpoints" / "step-3"
        if whole:
            break
        cuts += 1
    assert len(made) == cuts > 5
    told(15, f"cut at each of {cuts} calls: the checkpoint before it or the new one is found, whole")
