"""How a Ray of a run's own is started, without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from ops.cluster import Cluster
from ops.guard import Guard
from protocol.errors import RbaError, UserError

SLOW = Exception("The current node timed out during startup.")


class Starts:
    """What `ray.init` does, one outcome a call; each leaves a process behind, as a Ray that does not come up does."""

    def __init__(self, folder: Path, *outcomes: Exception | None) -> None:
        self.folder, self.outcomes, self.left = folder, list(outcomes), list[subprocess.Popen[bytes]]()
        self.shut_down = 0

    def init(self, **_options: Any) -> None:
        self.left.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", str(self.folder)], stdin=subprocess.PIPE))
        if (outcome := self.outcomes.pop(0)) is not None:
            raise outcome

    def shutdown(self, **_options: Any) -> None:
        self.shut_down += 1

    def close(self) -> None:
        for process in self.left:
            process.kill()
            process.wait(60)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made: list[Starts] = []

    def make(*outcomes: Exception | None) -> Starts:
        made.append(Starts(tmp_path, *outcomes))
        monkeypatch.setattr(ray, "init", made[-1].init)
        monkeypatch.setattr(ray, "shutdown", made[-1].shutdown)
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_ray_that_is_too_slow_to_start_has_a_second_try_and_leaves_nothing(starts: Any, tmp_path: Path) -> None:
    seen = starts(SLOW, None)
    Cluster(None, 1, tmp_path)
    assert (seen.outcomes, seen.shut_down) == ([], 1)
    assert seen.left[0].wait(60) < 0, "it was killed"
    assert seen.left[1].poll() is None


def test_a_second_try_spares_the_runs_guard(starts: Any, tmp_path: Path) -> None:
    seen, guard = starts(SLOW, None), Guard("no-such-run", [tmp_path / "ray"])
    try:
        Cluster(None, 1, tmp_path)
        assert seen.left[0].wait(60) < 0
        assert guard._process.poll() is None
    finally:
        guard.dismiss()
    assert guard._process.returncode == 0


def test_two_slow_starts_fail_the_run(starts: Any, tmp_path: Path) -> None:
    starts(SLOW, SLOW)
    with pytest.raises(RbaError, match="is the machine overloaded"):
        Cluster(None, 1, tmp_path)


def test_what_another_try_cannot_help_is_not_tried_again(starts: Any, tmp_path: Path) -> None:
    starts(ValueError("no such option"))
    with pytest.raises(RbaError, match="no such option"):
        Cluster(None, 1, tmp_path)
    starts(ConnectionError("nobody there"))
    with pytest.raises(UserError, match="no Ray cluster answers"):
        Cluster("10.0.0.1:6379", 1, tmp_path)
