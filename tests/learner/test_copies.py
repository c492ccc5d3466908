"""Copies of checkpoints: whole or not at all, whatever the store does, and never in the way of the run."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import pytest

from learner import copies as under_test
from learner.checkpoint import BEST, CHECKPOINTS, DIGESTS, digest, mark_best, newest, remove_superfluous, verify
from learner.copies import Copies
from learner.events import Events
from learner.gauges import Gauges
from protocol.metrics import Metrics
from tests.learner.scripted import ScriptedActor
from tests.learner.test_resume import HALF, STEPS, carry_out, config_of, tensors
from tests.protocol import stores
from tests.protocol.stores import Faults, fetch

pytestmark = pytest.mark.usefixtures("known_stores")


def commit(run_dir: Path, step: int, content: str = "") -> None:
    """A checkpoint as `write_checkpoint` commits it, of a few bytes."""
    folder = run_dir / CHECKPOINTS / f"step-{step}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "state").mkdir(parents=True)
    for number, name in enumerate(("config.json", "model.safetensors", "state/learner.json", "state/optimizer-00000.safetensors")):
        (folder / name).write_text(f"{step} {number} {content}" * 20)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    (folder / DIGESTS).write_text(json.dumps({str(file.relative_to(folder)): digest(file) for file in files}))


def whole_copies(url: str, to: Path) -> dict[str, Path]:
    """Fetch every folder below `url` that has digests: local folder by name."""
    files, root = fsspec.url_to_fs(url)
    if not files.exists(root):
        return {}
    fetched = {}
    for folder in files.ls(root, detail=False):
        name = str(folder).rsplit("/", 1)[-1]
        if files.exists(f"{folder}/{DIGESTS}"):
            fetched[name] = fetch(f"{url}/{name}", to / name)
    return fetched


class Bench:
    """The copier with what it reports to."""

    def __init__(self, url: str, run_dir: Path, **options: Any) -> None:
        self.run_dir, self.metrics = run_dir, Metrics("learner")
        self.copies = Copies(url, run_dir, Events(run_dir), Gauges(self.metrics), first_wait_s=0.001, **options)

    def finish(self, limit_s: float = 60.0) -> None:
        self.copies.close(lambda: True, limit_s)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.run_dir / "events.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    @property
    def exported(self) -> str:
        return self.metrics.render().decode()


@pytest.mark.parametrize("url", ["file://{}/copies", "memory://copies/deep", "bucket://copies", "disk://{}/copies"])
def test_every_checkpoint_is_copied_and_its_digests_go_last(tmp_path: Path, url: str) -> None:
    url, run_dir = url.format(tmp_path), tmp_path / "run"
    bench = Bench(url, run_dir)
    for step in (2, 4):
        commit(run_dir, step)
        bench.copies.add(step)
    mark_best(run_dir, 4, "accuracy", 0.5)
    bench.copies.add_best()
    bench.finish()
    found = whole_copies(f"{url}/run", tmp_path / "back")
    assert found.keys() == {"step-2", "step-4"}
    assert all(verify(folder) == [] for folder in found.values())
    assert json.loads(fetch(f"{url}/run/{BEST}", tmp_path / "best").read_bytes())["step"] == 4
    assert [event["name"] for event in bench.events("copy")] == ["step-2", "step-4"]
    assert bench.copies.status() == {"waiting": [], "copied": 2, "failed": 0}
    assert 'rba_checkpoint_copies_total{outcome="copied"} 2.0' in bench.exported
    files, root = fsspec.url_to_fs(f"{url}/run")
    assert not [name for name in files.find(root) if "partial" in name]
    if url.startswith("bucket"):
        second = [file for file in stores.FAULTS.files if "/step-4/" in file]
        assert second[-1].endswith(DIGESTS)
        assert len(second) == 5


def test_a_store_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    bench = Bench(f"disk://{tmp_path}/copies", tmp_path / "run")
    stores.FAULTS.fails = lambda number: number % 5 in {1, 2}
    commit(tmp_path / "run", 1)
    bench.copies.add(1)
    bench.finish()
    assert verify(tmp_path / "copies" / "run" / "step-1") == []
    assert bench.events("copy_failed") == []


def test_a_store_that_stays_away_costs_copies_alone(tmp_path: Path) -> None:
    bench = Bench("bucket://copies", tmp_path / "run")
    stores.FAULTS.fails = lambda _: True
    for step in (1, 2):
        commit(tmp_path / "run", step)
        bench.copies.add(step)
    bench.finish()
    assert [event["name"] for event in bench.events("copy_failed")] == ["step-1", "step-2"]
    assert "StoreError: no connection" in bench.events("copy_failed")[0]["reason"]
    assert 'rba_checkpoint_copies_total{outcome="failed"} 2.0' in bench.exported
    # the next life makes up for it, and copies nothing twice
    stores.FAULTS = Faults()
    Bench("bucket://copies", tmp_path / "run", known=2).finish()
    copied = len(stores.FAULTS.files)
    assert whole_copies("bucket://copies/run", tmp_path / "back").keys() == {"step-1", "step-2"}
    Bench("bucket://copies", tmp_path / "run", known=2).finish()
    assert len(stores.FAULTS.files) == copied


@pytest.mark.parametrize("scheme", ["bucket", "disk"])
def test_whatever_moment_the_copier_dies_at_a_copy_with_digests_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Two checkpoints, then one of them written again with other content: every change of the store in turn is the last one."""
    monkeypatch.setattr(under_test, "ATTEMPTS", 2)
    for last_breath in count():
        stores.renew()
        folder = tmp_path / str(last_breath)
        url, run_dir = f"{scheme}://{folder}/copies", folder / "run"
        stores.FAULTS.fails = last_breath.__lt__
        for content, steps in (("first", (1, 2)), ("second", (2,))):
            bench = Bench(url, run_dir)
            for step in steps:
                commit(run_dir, step, content)
                bench.copies.add(step)
            mark_best(run_dir, 2, "accuracy", 0.5)
            bench.copies.add_best()
            bench.finish()
        found = whole_copies(f"{url}/run", folder / "back")
        assert [name for name, copy in found.items() if verify(copy)] == [], last_breath
        files, root = fsspec.url_to_fs(f"{url}/run")
        assert found or not files.exists(f"{root}/{BEST}")
        if stores.FAULTS.changes <= last_breath:
            break
        # and once the store answers again, all of it comes
        stores.FAULTS.fails = lambda _: False
        Bench(url, run_dir, known=2).finish()
        again = whole_copies(f"{url}/run", folder / "again")
        assert again.keys() == {"step-1", "step-2"}
        for name, copy in again.items():
            assert verify(copy) == []
            assert (copy / DIGESTS).read_bytes() == (run_dir / CHECKPOINTS / name / DIGESTS).read_bytes()
        assert files.exists(f"{root}/{BEST}")
    assert last_breath > 18


def test_what_is_damaged_is_not_copied(tmp_path: Path) -> None:
    commit(tmp_path / "run", 1)
    (tmp_path / "run" / CHECKPOINTS / "step-1" / "state" / "learner.json").write_text("other")
    bench = Bench("bucket://copies", tmp_path / "run", known=1)
    bench.finish()
    assert "learner.json is damaged" in bench.events("copy_failed")[0]["reason"]
    assert whole_copies("bucket://copies/run", tmp_path / "back") == {}


def test_retention_waits_for_copies_but_not_for_ever(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stores.FAULTS.gate = threading.Event()
    bench = Bench("bucket://copies", run_dir)
    under_way = 1
    for step in range(1, 8):
        commit(run_dir, step)
        bench.copies.add(step)
        if step == under_way:
            while (bench.copies.status() or {})["waiting"] != ["step-1"] or bench.copies._current != "step-1":
                threading.Event().wait(0.005)
        remove_superfluous(run_dir, 1, 0, None, 0, bench.copies.held)
    there = {int(path.name.removeprefix("step-")) for path in (run_dir / CHECKPOINTS).iterdir()}
    assert there == {1, 4, 5, 6, 7}  # under way; the newest three that wait; kept anyway
    assert [event["name"] for event in bench.events("copy_failed")] == ["step-2", "step-3"]
    stores.FAULTS.gate.set()
    bench.finish()
    remove_superfluous(run_dir, 1, 0, None, 0, bench.copies.held)
    assert [path.name for path in (run_dir / CHECKPOINTS).iterdir()] == ["step-7"]
    assert whole_copies("bucket://copies/run", tmp_path / "back").keys() == {"step-1", "step-4", "step-5", "step-6", "step-7"}


def test_the_end_of_a_run_waits_for_copies_for_a_while(tmp_path: Path) -> None:
    stores.FAULTS.gate = threading.Event()
    bench = Bench("bucket://copies", tmp_path / "run")
    commit(tmp_path / "run", 1)
    bench.copies.add(1)
    asked = []
    bench.copies.close(lambda: not asked.append(1) and len(asked) < 2)
    assert [event["name"] for event in bench.events("copy_failed")][:1] == ["step-1"]
    stores.FAULTS.gate.set()
    assert bench.copies._thread is not None
    bench.copies._thread.join(60)
    assert not bench.copies._thread.is_alive()
    assert whole_copies("bucket://copies/run", tmp_path / "back") == {}
    assert len(bench.events("copy_failed")) == 1


def test_a_run_goes_on_from_its_copy_to_the_same_bits(checkpoint: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/copies"
    config = config_of(checkpoint, tmp_path, checkpoint_copies=url)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.yaml").write_text("run: {}\n")  # what the supervisor leaves
    closing, _ = carry_out(config, tmp_path / "whole")
    assert closing["copies"] == {"waiting": [], "copied": 2, "failed": 0}

    again = tmp_path / "again"  # on another machine, where nothing is left of the run
    fetch(f"{url}/whole/config.yaml", again / "config.yaml")
    fetch(f"{url}/whole/step-{HALF}", again / CHECKPOINTS / f"step-{HALF}")
    origin, torn = newest(again)
    assert origin is not None
    assert (verify(origin), torn) == ([], {})
    carry_out(config, again, origin)
    one, other = tensors(tmp_path / "whole", STEPS), tensors(again, STEPS)
    assert [name for name in one if not one[name].equal(other[name])] == []
    assert {path.name for path in (tmp_path / "copies" / "again").iterdir()} == {"config.yaml", f"step-{HALF}", f"step-{STEPS}"}


def test_a_run_whose_store_never_answers_ends_as_any_other(checkpoint: Path, tmp_path: Path) -> None:
    stores.FAULTS.fails = lambda _: True
    config = config_of(checkpoint, tmp_path, checkpoint_copies="bucket://copies")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(under_test, "ATTEMPTS", 1)
        closing, actor = carry_out(config, tmp_path / "run")
    assert isinstance(actor, ScriptedActor)
    assert closing["status"] == "completed"
    assert closing["copies"]["copied"] == 0
    assert verify(tmp_path / "run" / CHECKPOINTS / f"step-{STEPS}") == []
