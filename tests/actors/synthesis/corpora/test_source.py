from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from actors.synthesis.corpora.source import CorpusInstructions
from actors.synthesis.records import Draft
from configs.corpus import CorpusSection
from configs.synthesis import SynthesisConfig
from protocol.audio import audio_hash
from protocol.errors import UserError
from tests.actors.synthesis.corpora import layouts


def config(corpus: Path, block_groups: int = 3, **section: Any) -> SynthesisConfig:
    return SynthesisConfig.model_validate(
        {
            "teacher": {"model": "none"},
            "block_groups": block_groups,
            "instructions": {"source": "corpus"},
            "corpus": {"path": str(corpus), **section},
        }
    )


def german(corpus: Path, **section: Any) -> SynthesisConfig:
    return config(corpus, **{"format": "fleurs", "source_language": "de", **section})


def block(number: int, size: int = 3) -> list[Draft]:
    return [Draft(id=f"{number * size + index:09d}") for index in range(size)]


def test_recordings_become_drafts_of_their_splits(tmp_path: Path) -> None:
    stage = CorpusInstructions(german(layouts.german_english(tmp_path / "fleurs")), tmp_path / "made")
    drafts = [draft for number in range(3) for draft in stage.run(number, block(number))]
    assert stage.available() == 7
    assert [(draft.id, draft.instruction, draft.reference, draft.split) for draft in drafts[:7]] == [
        ("000000000", "Drei.", "", "train"),
        ("000000001", "Guten Tag.", "", "train"),
        ("000000002", "Zwei Worte.", "", "train"),
        ("000000003", "Guten Tag.", "", "train"),
        ("000000004", "Vier gewinnt.", "", "validation"),
        ("000000005", "Sechs.", "Six.", "test"),
        ("000000006", "Fünf Äpfel!", "Five apples!", "test"),
    ]
    assert [draft.rejected for draft in drafts[7:]] == ["instructions: no further recording"] * 2
    first = drafts[0]
    assert (first.prompt, first.spoken_language, first.language) == ("Translate the speech from German into English.", "de", "en")
    assert first.topic == "FLEURS de-en"
    assert first.origin == {"corpus": "FLEURS", "direction": "de-en", "split": "train", "item": "train/d", "sentence": "3"}


def test_the_sound_lies_in_the_shard_of_the_block(tmp_path: Path) -> None:
    import io

    stage = CorpusInstructions(german(layouts.german_english(tmp_path / "fleurs")), tmp_path)
    for draft in stage.run(1, block(1)):
        [spoken] = draft.utterances
        assert spoken.path == "shards/corpus-000001.tar"
        content = (tmp_path / spoken.path).read_bytes()[spoken.offset : spoken.offset + spoken.size_bytes]
        assert audio_hash(content) == spoken.audio
        samples, rate = soundfile.read(io.BytesIO(content))
        assert (len(samples) / rate, rate) == (spoken.duration_s, 16_000)


def test_a_block_is_the_same_whatever_was_made_before_it(tmp_path: Path) -> None:
    made = german(layouts.german_english(tmp_path / "fleurs"))
    whole = CorpusInstructions(made, tmp_path / "whole")
    blocks = [whole.run(number, block(number)) for number in range(3)]
    resumed = CorpusInstructions(made, tmp_path / "resumed")
    assert [resumed.run(number, block(number)) for number in (2, 1)] == [blocks[2], blocks[1]]
    for number in (1, 2):
        name = f"shards/corpus-{number:06d}.tar"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    assert not list((tmp_path / "whole" / "shards").glob(".*"))


def test_a_block_that_fails_leaves_no_shard(tmp_path: Path) -> None:
    corpus = layouts.write_covost(tmp_path / "en")
    (corpus / "clips" / "two.mp3").write_bytes(b"broken")
    section = {"format": "covost2", "target_language": "de"}
    with pytest.raises(UserError, match=r"two\.mp3, .*validated\.tsv, line 3: no audio that can be decoded"):
        CorpusInstructions(config(corpus, **section), tmp_path).run(0, block(0))
    assert not list((tmp_path / "shards").iterdir())
    drafts = CorpusInstructions(config(corpus, **section, skip_damaged=True), tmp_path).run(0, block(0))
    assert [draft.rejected for draft in drafts] == ["", "instructions: damaged audio", ""]
    assert "validated.tsv, line 3" in drafts[1].detail


def test_counts_draw_by_the_seed_and_keep_the_order(tmp_path: Path) -> None:
    corpus = layouts.write_alpaca(tmp_path / "alpaca", rows=40)
    drawn = []
    for seed in (0, 0, 1):
        made = config(corpus, format="spoken_alpaca", test=10, prompt="", block_groups=64)
        made.seed = seed
        drafts = CorpusInstructions(made, tmp_path).run(0, block(0, 10))
        drawn.append([int(draft.instruction.removeprefix("Say number ").rstrip(".")) for draft in drafts])
        assert {(draft.prompt, draft.topic, draft.reference.split()[0], draft.split) for draft in drafts} == {
            ("", "Spoken-Alpaca", "Answer", "test")
        }
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(sorted(set(each)) == each and len(each) == 10 for each in drawn)


def test_splits_can_be_left_out_and_a_corpus_without_any_is_refused(tmp_path: Path) -> None:
    corpus = layouts.german_english(tmp_path / "fleurs")
    stage = CorpusInstructions(german(corpus, train=0, validation=0), tmp_path)
    assert [draft.split for draft in stage.run(0, block(0))][:2] == ["test", "test"]
    with pytest.raises(UserError, match="nothing is left"):
        CorpusInstructions(german(corpus, train=0, validation=0, test=0), tmp_path).available()


def test_a_count_that_would_cut_the_test_off_is_refused(tmp_path: Path) -> None:
    made = german(layouts.german_english(tmp_path / "fleurs"))
    made.instructions.count = 6
    with pytest.raises(UserError, match=r"gives 7 recordings, and instructions\.count=6 .*; set it to 7 or more"):
        CorpusInstructions(made, tmp_path).run(0, block(0))
    made.corpus.train = 3
    assert CorpusInstructions(made, tmp_path).available() == 6


def test_the_corpus_own_references_where_they_are_asked_for(tmp_path: Path) -> None:
    stage = CorpusInstructions(german(layouts.german_english(tmp_path / "fleurs"), own_references=["train", "test"]), tmp_path)
    assert [draft.reference for draft in stage.run(0, block(0))] == ["Three.", "Good day.", "Two words."]


def test_long_recordings_are_rejected(tmp_path: Path) -> None:
    stage = CorpusInstructions(
        config(layouts.write_mustc(tmp_path), format="mustc", target_language="es", max_audio_s=0.9), tmp_path / "made"
    )
    [draft, *_] = stage.run(0, block(0))
    assert (draft.rejected, draft.detail, draft.utterances) == ("instructions: longer than corpus.max_audio_s", "1.00 s", [])


def test_fleurs_test_stays_out_of_other_corpora(tmp_path: Path) -> None:
    fleurs = tmp_path / "fleurs"
    layouts.write_fleurs(fleurs, "en_us", "test", [(5, "l.wav", "good MORNING"), (6, "m.wav", "The fourth!")], audio=False)
    corpus = layouts.write_covost(tmp_path / "en")
    stage = CorpusInstructions(config(corpus, format="covost2", target_language="de", kept_out=str(fleurs)), tmp_path)
    assert stage.available() == 3
    assert [draft.instruction for draft in stage.run(0, block(0))] == ['He said "no".', "The third.", "The fourth."]
    assert stage.left_out["train"] == {"its transcript is in FLEURS' test": 1}
    told = json.loads((tmp_path / "corpus.json").read_text())
    assert told["train"] == {"taken": 1, "left_out": {"its transcript is in FLEURS' test": 1}}
    assert told["test"] == {"taken": 1, "left_out": {}}


def test_fleurs_test_of_any_language_stays_out_by_the_sentence(tmp_path: Path) -> None:
    fleurs = layouts.german_english(tmp_path / "fleurs")
    layouts.write_fleurs(fleurs, "fr_fr", "test", [(2, "n.wav", "Deux mots.")], audio=False)
    stage = CorpusInstructions(german(fleurs, kept_out=str(fleurs)), tmp_path)
    assert stage.available() == 6
    assert stage.left_out["train"] == {"its sentence is in FLEURS' test": 1}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"path": "/nowhere"}, "the corpus is not there"),
        ({"format": "spoken_alpaca", "target_language": "de"}, "Spoken-Alpaca is English"),
        ({"format": "covost2", "target_language": "es"}, "CoVoST 2 has no translations of en into es"),
    ],
)
def test_a_wrong_section_is_told_at_once(section: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        CorpusInstructions(config(tmp_path).model_copy(update={"corpus": CorpusSection(**{"path": str(tmp_path), **section})}), tmp_path)
