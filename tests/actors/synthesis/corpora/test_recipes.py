"""What the shipped recipes make of small corpora, through every stage but the teacher's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.synthesis.main import STAGES, Synthesis
from actors.synthesis.teacher import shared
from actors.synthesis.teacher.teacher import Generation, Request
from configs import loader
from configs.synthesis import SynthesisConfig
from protocol.dataset import DataSet
from tests.actors.synthesis.corpora import layouts
from tests.actors.synthesis.scripted_run import Silent
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Make, ScriptedTeacher]:
    """Carries a recipe out, and gives its folder; the teacher answers in capitals."""
    teacher = ScriptedTeacher(lambda request: Generation(str(request.messages[-1]["content"]).upper(), 5, "stop"))
    monkeypatch.setattr(shared, "open_teacher", lambda _section, _where: teacher)

    def carried_out(recipe: str, *overrides: str) -> Path:
        fixed = [f"directory={tmp_path / 'data'}", "instructions.count=20", "block_groups=4", "speech.processes=1"]
        synthesis = Synthesis(loader.load(recipe, [*fixed, *overrides], schema=SynthesisConfig))
        synthesis.run(STAGES, Silent())
        return synthesis.folder

    return carried_out, teacher


def asked(request: Request) -> str:
    return str(request.messages[-1]["content"])


def test_fleurs_into_english(make: tuple[Make, ScriptedTeacher], tmp_path: Path) -> None:
    carry_out, teacher = make
    folder = carry_out("s2tt-fleurs", f"corpus.path={layouts.german_english(tmp_path / 'fleurs')}", "corpus.source_language=de")
    assert folder.name == "s2tt-fleurs-de-en"
    train, validation, test = (DataSet.open(folder / f"{split}.jsonl") for split in ("train", "validation", "test"))
    assert [len(each.groups) for each in (train, validation, test)] == [4, 1, 2]
    for group in train.groups:
        assert [one.speaker for one in group.utterances] == ["de-female"] * 4
        assert len({one.audio for one in group.utterances}) == 1
        assert group.reference.startswith("TRANSLATE THE SPEECH FROM GERMAN INTO ENGLISH.")
        assert (group.prompt, group.language, group.topic) == ("Translate the speech from German into English.", "en", "FLEURS de-en")
    assert [(group.instruction, group.reference, len(group.utterances)) for group in test.groups] == [
        ("Sechs.", "Six.", 1),
        ("Fünf Äpfel!", "Five apples!", 1),
    ]
    assert len(test.samples(test.groups[0].utterances[0].audio or "", 30.0)) == 16_000
    assert len(teacher.requests) == 5
    assert asked(teacher.requests[0]) == (
        "Translate the speech from German into English.\nThis is what is said, word for word:\n\nDrei.\n\n"
        "Write the translation and nothing else."
    )


def test_covost_and_mustc_from_english(make: tuple[Make, ScriptedTeacher], tmp_path: Path) -> None:
    carry_out, _ = make
    fleurs = layouts.german_english(tmp_path / "fleurs")
    corpora = {
        "s2tt-covost2": (layouts.write_covost(tmp_path / "en"), "de", "CoVoST 2 en-de"),
        "s2tt-mustc": (layouts.write_mustc(tmp_path / "mustc"), "es", "MuST-C en-es"),
    }
    for recipe, (corpus, target, topic) in corpora.items():
        folder = carry_out(recipe, f"corpus.path={corpus}", f"corpus.target_language={target}", f"corpus.kept_out={fleurs}")
        assert folder.name == f"{recipe}-en-{target}"
        for split in ("train", "validation", "test"):
            groups = DataSet.open(folder / f"{split}.jsonl").groups
            assert {(group.language, group.topic) for group in groups} == {(target, topic)}
            assert {group.reference.isupper() for group in groups} == {split != "test"}


def test_voices_take_the_place_of_training_recordings(make: tuple[Make, ScriptedTeacher], tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    carry_out, _ = make
    corpus = layouts.write_covost(tmp_path / "en")
    folder = carry_out("s2tt-covost2", f"corpus.path={corpus}", "corpus.kept_out=null", "speech.revoice=true")
    [train, *held_out] = (DataSet.open(folder / f"{split}.jsonl").groups for split in ("train", "validation", "test"))
    assert {len({one.audio for one in group.utterances}) for group in train} == {4}
    assert {one.speaker for groups in held_out for group in groups for one in group.utterances} == {"en-0123456789ab"}


def test_spoken_alpaca_is_a_test(make: tuple[Make, ScriptedTeacher], tmp_path: Path) -> None:
    carry_out, _ = make
    folder = carry_out("spoken-alpaca", f"corpus.path={layouts.write_alpaca(tmp_path / 'alpaca')}", "corpus.test=3")
    test = DataSet.open(folder / "test.jsonl")
    assert [len(group.utterances) for group in test.groups] == [1, 1, 1]
    assert {(group.prompt, group.topic, group.reference.isupper()) for group in test.groups} == {("", "Spoken-Alpaca", True)}
