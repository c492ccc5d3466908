"""`rba dataset import` and `rba dataset export`, as users call them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from configs.loader import to_yaml
from configs.schema import RunConfig
from learner.journal import JOURNAL
from learner.journal.disk import PosixDisk
from learner.journal.journal import Journal
from learner.journal.records import Began, Received
from ops import cli
from protocol.dataset import DataSet
from protocol.messages import (
    REFERENCE,
    Completion,
    GroupResult,
    InstructionGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    Utterance,
    VersionSpan,
)
from tests.actors.datasets.sounds import decoded, encoded, listed, native, noise, said, small


def rba(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rba", "dataset", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", ["hf", "hf-disk", "swift", "shar", "voicebench"])
def test_out_and_in_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    before = small(tmp_path / "native")
    assert rba(monkeypatch, "export", tmp_path / "native", tmp_path / "out", "--format", kind) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert kind not in {"hf", "voicebench"} or (tmp_path / "out/data/train-00000-of-00001.parquet").is_file()
    source = tmp_path / "out" / ("data.jsonl" if kind == "swift" else "")
    assert rba(monkeypatch, "import", source, tmp_path / "back") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'back'}: 2 groups, {4 if kind in {'hf', 'hf-disk', 'swift'} else 3} utterances")
    assert rba(monkeypatch, "check", "--audio", tmp_path / "back") == 0
    after = said(DataSet.open(tmp_path / "back" / "manifest.jsonl"))
    if kind == "voicebench":  # has no prompts, topics and languages
        assert [texts[:2] for texts, _ in after] == [texts[:2] for texts, _ in said(before)]
    else:
        assert after == said(before, written=kind != "shar")


def test_columns_constants_and_what_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"audio_filepath": f"{n}.wav", "said": "hi", "meant": "hello" if n else ""} for n in range(3)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for option in ([], ["--drop", "empty"]):  # first the text is missing, then all of the audio
        code = rba(
            monkeypatch, "import", tmp_path / "list.jsonl", tmp_path / "out", "-c", "instruction=said", "-c", "reference=meant", *option
        )
        assert code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / 'list.jsonl'}, line {2 if option else 1}: ")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["import", "x.jsonl", "out", "--drop", "short"], "--drop short is no reason; use one of: long, empty, damaged"),
        (["import", "x.jsonl", "out", "--set", "x=y"], "--set 'x=y' names no role"),
        (["import", "gone.jsonl", "out"], "gone.jsonl: there is no such file or folder"),
        (["import", "x.jsonl", "out"], "x.jsonl: its format is not clear; name it with --format"),
        (["import", "x.jsonl", "native", "--format", "nemo"], "native: it is there already"),
        (["export", "native", "native", "--format", "hf"], "native: it is there already"),
        (["export", "gone", "out", "--format", "hf"], "no run gone"),
        (["export", "x.jsonl", "out", "--format", "hf"], "x.jsonl, line 1: "),
    ],
)
def test_mistakes_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "native")
    (tmp_path / "x.jsonl").write_text('{"text": "hi"}\n')
    before = sorted(tmp_path.rglob("*"))
    assert rba(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_each_manifest_of_a_folder_is_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "native")
    content = (tmp_path / "native" / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "native" / "manifest.jsonl").unlink()
    for name, line in zip(("test", "train"), content, strict=True):
        (tmp_path / "native" / f"{name}.jsonl").write_text(line)
    for kind in ("hf", "hf-disk", "voicebench"):
        assert rba(monkeypatch, "export", tmp_path / "native", tmp_path / kind, "--format", kind) == 0
        assert rba(monkeypatch, "import", tmp_path / kind, tmp_path / f"{kind} again", "--split", "train") == 0
        assert [group.reference for group in DataSet.open(tmp_path / f"{kind} again" / "manifest.jsonl").groups] == ["guten Morgen"]
    assert datasets.load_from_disk(tmp_path / "hf-disk").num_rows == {"test": 3, "train": 1}
    for more in (["--format", "shar"], ["--format", "hf", "--split", "train"]):
        assert rba(monkeypatch, "export", tmp_path / "native", tmp_path / "none", *more) == 2
        assert not (tmp_path / "none").exists()
    assert rba(monkeypatch, "export", tmp_path / "native" / "test.jsonl", tmp_path / "one", "--format", "shar") == 0


# --- preference pairs ---------------------------------------------------------------------------------------


def completion(utterance: int, text: str, reward: float | None) -> Completion:
    return Completion(utterance, b"", b"", text, "stop", [VersionSpan(PolicyVersion(0, 7), 0, 1)], reward)


def result(ordinal: int, group_id: str, completions: list[Completion], *pairs: tuple[int, int], **fields: Any) -> GroupResult:
    outcome = Outcome.PAIRS if pairs else Outcome.TIED
    found = [PreferencePair(*pair) for pair in pairs]
    return GroupResult(ordinal, 0, group_id, outcome, completions=completions, pairs=found, **fields)


RESULTS = [
    result(0, "a/1", [completion(0, "red", 0.9), completion(1, "left", 0.1), completion(2, "up", 0.2)], (0, 1), (0, 2)),
    result(1, "b 2", [completion(0, "morgen", None)], (REFERENCE, 0)),
    result(2, "b 2", [completion(0, "guten Morgen", 1.0)], (REFERENCE, 0)),  # equal answers to one utterance
    result(3, "b 2", [completion(0, "x", 1.0)]),
    result(4, "a/1", [completion(0, "never", 1.0), completion(1, "seen", 0.0)], (0, 1), purpose=Purpose.EVALUATE),
]


def journalled(folder: Path, results: Sequence[GroupResult]) -> None:
    """A run's journal that says that those were received."""
    disk = PosixDisk(folder / JOURNAL)
    journal, _ = Journal.open(disk)
    for record in (Began(0, 0), *(Received(each, position=each.ordinal) for each in results)):
        journal.append(record)
    journal.commit()
    disk.release()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = small(tmp_path / "native")
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    config = RunConfig.model_validate({"model": {"path": "nowhere"}, "data": {"train": str(data.path)}, "rewards": {"scorer": "bleu"}})
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "events.jsonl").touch()
    journalled(folder, RESULTS)
    return folder


def test_a_run_s_pairs_for_ms_swift(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rba(monkeypatch, "export", run, tmp_path / "out", "--format", "swift") == 0
    assert "3 lines, 2 pairs across two voices, 1 pairs of one voice, 1 pairs of equal answers left out" in capsys.readouterr().out
    across, written, shared = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    spoken = [each.clip and decoded(each.clip.content).tolist() for each in listed(small(tmp_path / "again"))]

    def heard(audios: list[str]) -> list[Any]:
        return [decoded(Path(path).read_bytes()).tolist() for path in audios]

    assert [turn["content"] for turn in across["messages"] + across["rejected_messages"]] == ["<audio>", "red", "<audio>", "left"]
    assert (heard(across["audios"]), heard(across["rejected_audios"])) == ([spoken[0]], [spoken[1]])
    assert (across["margin"], across["policy_version"], across["speakers"]) == (pytest.approx(0.8), "0.7", ["anna", "bob"])
    assert [turn["content"] for turn in written["rejected_messages"]] == ["name a colour", "up"]
    assert written["rejected_audios"] == []
    assert [turn["content"] for turn in shared["messages"]] == ["<audio>Auf Deutsch:", "guten Morgen"]
    assert [turn["content"] for turn in shared["rejected_messages"]] == ["<audio>Auf Deutsch:", "morgen"]
    assert (shared["margin"], heard(shared["audios"]), shared["rejected_audios"]) == (None, [noise(3).tolist()], shared["audios"])
    assert len({frozenset(line) for line in (across, written, shared)}) == 1  # ms-swift reads a missing field as one without a value
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audio", "data.jsonl"]


def test_pairs_of_one_voice_each_need_the_audio_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run / JOURNAL)
    journalled(run, RESULTS[1:3])
    assert rba(monkeypatch, "export", run, tmp_path / "out", "--format", "swift") == 0
    (line,) = (tmp_path / "out" / "data.jsonl").read_text().splitlines()
    assert json.loads(line)["rejected_response"] == "morgen"
    assert not {"rejected_messages", "rejected_audios"} & json.loads(line).keys()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audio", "data.jsonl"]


def test_sft_of_a_run_s_lines_is_read_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rejected is left out."""
    assert rba(monkeypatch, "export", run, tmp_path / "out", "--format", "swift") == 0
    assert rba(monkeypatch, "import", tmp_path / "out" / "data.jsonl", tmp_path / "back", "--group-by", "text") == 0
    assert [group.reference for group in DataSet.open(tmp_path / "back" / "manifest.jsonl").groups] == ["red", "guten Morgen"]


def test_pairs_of_a_mixture_are_joined_with_the_set_that_they_come_from(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sets have a group of that id."""
    group = InstructionGroup("b 2", "good evening", "buenas noches", [Utterance("eva", "x", 0.05)])
    other = native(tmp_path / "other", [(group, [encoded(noise(7))])])
    config = RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    config.data.mix = {str(other.path): 1.0}
    (run / "config.yaml").write_text(to_yaml(config))
    shutil.rmtree(run / JOURNAL)
    journalled(run, [RESULTS[1], result(4, "mix-1/b 2", [completion(0, "tardes", None)], (REFERENCE, 0))])
    assert rba(monkeypatch, "export", run, tmp_path / "out", "--format", "swift") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert [line["messages"][1]["content"] for line in lines] == ["guten Morgen", "buenas noches"]
    assert [decoded(Path(line["audios"][0]).read_bytes()).tolist() for line in lines] == [noise(3).tolist(), noise(7).tolist()]


@pytest.mark.parametrize("fault", ["format", "journal", "data", "pairs"])
def test_a_run_that_cannot_be_exported_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    kind, said_then = "swift", ""
    match fault:
        case "format":
            kind, said_then = "hf", "hf has no place for preference pairs"
        case "journal":
            (run / JOURNAL).rename(tmp_path / "elsewhere")
            said_then = "the run has no journal"
        case "data":
            manifest = tmp_path / "native" / "manifest.jsonl"
            manifest.write_text(manifest.read_text().replace("a/1", "other"))
            said_then = "no group 'a/1', which the run has trained"
        case "pairs":
            (run / JOURNAL).rename(tmp_path / "elsewhere")
            journalled(run, [])
            said_then = "no preference pair"
    assert rba(monkeypatch, "export", run, tmp_path / "out", "--format", kind) == 2
    assert said_then in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
