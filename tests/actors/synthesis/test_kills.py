"""A synthesis that is killed at random moments, and called again each time."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from protocol.dataset import DataSet
from protocol.dataset.inspection import inspect
from tests.actors.synthesis.scripted_run import BLOCK, COUNT

KILLS = 10
POLL_S = 0.002


def start(folder: Path, *url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.actors.synthesis.scripted_run", str(folder), *url])


def made(folder: Path) -> dict[str, bytes]:
    """What is there for good: blocks, shards and manifests."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in {".jsonl", ".tar", ".json"} and not path.name.startswith(".")
    }


def run_until(watched: Path, files: int, folder: Path, *url: str) -> bool:
    """Let it run until there are so many files, then kill it; True when it ended by itself before."""
    process = start(folder, *url)
    while len(list(watched.rglob("*"))) < files:
        try:
            assert process.wait(POLL_S) == 0
        except subprocess.TimeoutExpired:
            continue
        return True
    process.kill()
    process.wait()
    return False


def test_ten_kills_leave_the_same_bytes_as_none(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    files = len(list(whole.rglob("*")))
    drawn = random.Random(5)
    for moment in sorted(drawn.sample(range(2, files * 9 // 10), KILLS)):
        assert not run_until(killed, moment, killed)
        before = made(killed)
        growing = {name for name in before if name.startswith("scripted/") and "/" not in name.removeprefix("scripted/")}
        assert {name: made(whole).get(name) for name in before.keys() - growing} == {name: before[name] for name in before.keys() - growing}
    assert start(killed).wait() == 0
    one, other = made(whole), made(killed)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    data = DataSet.open(killed / "scripted" / "train.jsonl")
    assert 0 < len(data.groups) < COUNT
    assert len([name for name in one if name.endswith(".tar")]) == -(-COUNT // BLOCK)


def test_any_machine_goes_on_with_one_behind_a_url_that_was_killed(tmp_path: Path) -> None:
    whole, far, machines = tmp_path / "whole", tmp_path / "far", [tmp_path / "one", tmp_path / "other"]
    url = f"file://{far}"
    assert start(whole).wait() == 0
    files = len(made(whole))
    for number, moment in enumerate((files // 4, files // 2, files * 3 // 4)):
        assert not run_until(far, moment, machines[number % 2], url)
        for split in ("train", "validation", "test"):
            if (far / "scripted" / f"{split}.jsonl").is_file():
                assert not inspect(far / "scripted" / f"{split}.jsonl", hear=True).findings
    assert start(machines[1], url).wait() == 0
    one, other = made(whole), made(far)
    assert one.keys() == other.keys() - {"scripted/stages/identity"}
    assert [name for name in one if one[name] != other[name]] == []
