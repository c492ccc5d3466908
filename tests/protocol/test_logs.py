from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from protocol import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_every_line_is_json_and_says_who_when_and_how_grave(tmp_path: Path) -> None:
    path = logs.configure(tmp_path, "rollout-3")
    assert path == tmp_path / "logs" / "rollout-3.jsonl"
    logger = logs.get_logger("link")
    logger.info("actor registered", policy_version="0.4", path=tmp_path)
    logger.debug("too much")
    try:
        int("seven")
    except ValueError:
        logger.exception("it failed")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["event"], first["level"], first["process"], first["part"]) == ("actor registered", "info", "rollout-3", "link")
    assert first["policy_version"] == "0.4"
    assert first["path"] == str(tmp_path)
    assert first["timestamp"].endswith("Z")
    assert "ValueError: invalid literal" in second["exception"]


def test_a_restarted_process_adds_to_its_file(tmp_path: Path) -> None:
    for _ in range(2):
        logs.configure(tmp_path, "learner-0")
        logs.get_logger("x").info("started")
    assert len((tmp_path / "logs" / "learner-0.jsonl").read_text().splitlines()) == 2


def test_a_logger_made_before_configure_writes_where_configure_says(tmp_path: Path) -> None:
    logger = logs.get_logger("early")
    path = logs.configure(tmp_path, "learner-0")
    logger.info("late")
    assert path is not None
    assert json.loads(path.read_text())["part"] == "early"


def test_lines_of_other_threads_say_who_as_well(tmp_path: Path) -> None:
    path = logs.configure(tmp_path, "learner-0")
    thread = threading.Thread(target=logs.get_logger("link").info, args=("hello",))
    thread.start()
    thread.join()
    assert path is not None
    assert json.loads(path.read_text())["process"] == "learner-0"


def test_without_a_run_directory_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.configure(None, "reward-0") is None
    logs.get_logger("x").warning("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["level"] == "warning"


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "learner-0.jsonl").symlink_to("/dev/full")
    logs.configure(tmp_path, "learner-0")
    for _ in range(3):
        logs.get_logger("journal").error("journal stalled", why="No space left on device")


def test_of_many_lines_of_one_event_a_few_are_written_and_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = logs.configure(tmp_path, "learner")
    assert path is not None
    now_s = 0.0
    monkeypatch.setattr("protocol.logs.time.monotonic", lambda: now_s)
    log = logs.Sparing(logs.get_logger("link"))
    for _ in range(100):
        log.warning("message refused", error="x" * 10_000)
    log.info("actor registered", actor="rollout-0")
    now_s = 61.0
    log.warning("message refused", error="again")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(line["event"] for line in lines) == {"message refused": 21, "actor registered": 1, "lines left out": 1}
    assert next(line for line in lines if line["event"] == "lines left out")["lines"] == 80
    assert max(len(line.get("error", "")) for line in lines) == 300
