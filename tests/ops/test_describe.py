"""`rba synthesize --describe`: what is there of a data set, as tables, JSON and a page."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from actors.synthesis.main import Synthesis
from actors.synthesis.teacher import shared
from ops import synthesize
from protocol.errors import UserError
from tests.actors.synthesis.scripted_run import COUNT, Silent, config, scripted


def shown(settings: object, html: Path | None = None, *, as_json: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120)
    synthesize.describe(settings, console, html, as_json=as_json)  # type: ignore[arg-type]
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_what_is_there_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_teacher", scripted)
    settings = config(tmp_path)
    with pytest.raises(UserError, match="there is nothing yet"):
        shown(settings)
    Synthesis(settings).run(("instructions", "responses", "filter", "tags", "splits"), Silent())
    found = json.loads(shown(settings, as_json=True))
    assert found["drafts"] == COUNT
    assert found["kept"] == sum(found["topic_counts"].values()) == sum(found["difficulty_counts"].values()) > 0
    assert [stage["stage"] for stage in found["stages"]] == ["instructions", "responses", "filter", "tags"]
    assert found["kept"] + sum(sum(stage["rejected"].values()) for stage in found["stages"]) == COUNT
    page = tmp_path / "page.html"
    assert "Topics of" in shown(settings, page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
