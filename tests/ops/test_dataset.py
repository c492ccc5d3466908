from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ops.dataset import app
from protocol.dataset import DataSet, DataSetWriter
from protocol.errors import UserError
from tests.protocol.dataset.making import flac, write


def rba_dataset(*arguments: str) -> tuple[int, str]:
    """The exit code of `rba dataset …`, and what it prints."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, groups=5)
    write(tmp_path, "test.jsonl", groups=2, first=10)
    return tmp_path


def test_a_whole_data_set_passes(folder: Path) -> None:
    for arguments in ((), ("--audio",)):
        code, told = rba_dataset("check", str(folder), *arguments)
        assert code == 0
        assert "train.jsonl: 5 groups, 15 utterances, 10 of them spoken" in told
        assert "no damage" in told


def test_all_damage_is_printed_and_the_exit_code_is_1(folder: Path) -> None:
    (folder / "shards" / "train-0.tar").unlink()
    (folder / "test.jsonl").write_text("hello\n")
    code, told = rba_dataset("check", str(folder))
    assert code == 1
    for each in ("train.jsonl, line 1: utterance 2", "train.jsonl, line 2: utterance 3", "test.jsonl, line 1: not JSON"):
        assert each in told
    code, told = rba_dataset("check", str(folder), "--json")
    found = json.loads(told)
    assert code == 1
    assert found["damaged"]
    assert {"file": str(folder / "test.jsonl"), "line": 1} in [{k: each[k] for k in ("file", "line")} for each in found["findings"]]


def test_a_split_may_have_been_given_nothing(folder: Path) -> None:
    with DataSetWriter(folder) as writer:
        writer.manifest("validation.jsonl")
        writer.finish()
    code, told = rba_dataset("check", str(folder))
    assert code == 0
    assert "validation.jsonl: 0 groups" in told
    assert "validation" not in rba_dataset("show", str(folder))[1]
    (folder / "validation.jsonl").unlink()
    assert rba_dataset("check", str(folder))[0] == 1
    with pytest.raises(UserError, match="cannot be read"):
        rba_dataset("show", str(folder))


def test_a_manifest_by_hand_that_holds_nothing_is_damage(tmp_path: Path) -> None:
    (tmp_path / "hand.jsonl").write_text("\n")
    code, told = rba_dataset("check", str(tmp_path))
    assert code == 1
    assert "holds no instruction group" in told


def test_what_is_no_data_set_is_the_users_mistake(tmp_path: Path) -> None:
    for command in ("check", "show"):
        with pytest.raises(UserError):
            rba_dataset(command, str(tmp_path / "none"))


def test_a_data_set_is_shown(folder: Path) -> None:
    code, told = rba_dataset("show", str(folder), "--json")
    assert code == 0
    test, train = json.loads(told)["manifests"]
    assert (train["name"], train["groups"], train["utterances"], train["spoken"], train["written"]) == ("train.jsonl", 5, 15, 10, 5)
    assert (train["shards"], train["files"], train["voices"]) == (3, 0, {"anna": 5, "bert": 5})
    assert train["hours"] == pytest.approx(10 * 0.05 / 3600)
    assert train["instruction_words"]["0.5"] == 2
    assert (test["groups"], test["digest"]) == (2, DataSet.open(folder / "test.jsonl").digest)
    assert re.search(r"utterances +6 +15", rba_dataset("show", str(folder))[1])


def test_the_page_needs_nothing_from_outside_and_holds_audio(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert rba_dataset("show", str(folder), "--html", str(page))[0] == 0
    html = page.read_text()
    assert html.count("<audio controls") == html.count('class="wave"') == 2 * (4 + 2)
    assert "http" not in html.replace("http-equiv", "")
    assert "<b>" not in html
    assert not list(tmp_path.glob(".*.partial"))


def test_a_page_has_room_for_some_audio_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ops import showing

    path = write(tmp_path, groups=2)
    monkeypatch.setattr(showing, "MOST_AUDIO_BYTES", 2 * len(flac(0)) * 2)
    html = showing.Shown(str(path), lambda *_: None).render()
    assert 0 < html.count("<audio controls") < 4
    assert "not embedded" in html


def test_what_a_manifest_says_is_text_on_the_page(tmp_path: Path) -> None:
    from ops.showing import Shown

    path = tmp_path / "hand.jsonl"
    line = {"group_id": "g", "instruction": "<script>alert(1)</script>", "reference": "r", "utterances": [{"speaker": "text"}]}
    path.write_text(json.dumps(line) + "\n")
    assert "<script>" not in Shown(str(path), lambda *_: None).render()


def test_the_commands_are_found_and_help_loads_nothing_heavy() -> None:
    code = "import sys, ops.cli; sys.exit(any(name in sys.modules for name in ('numpy', 'rich.table', 'fsspec', 'soundfile', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
