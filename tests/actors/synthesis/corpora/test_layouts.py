from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.synthesis.corpora.corpus import Corpus
from actors.synthesis.corpora.covost import Covost
from actors.synthesis.corpora.fleurs import Fleurs
from actors.synthesis.corpora.mustc import Mustc
from actors.synthesis.corpora.sound import DamagedSoundError
from actors.synthesis.corpora.spoken_alpaca import SpokenAlpaca
from protocol.errors import UserError
from tests.actors.synthesis.corpora import layouts
from tests.actors.synthesis.corpora.test_sound import loudest_hz


def pitches(corpus: Corpus, split: str = "train") -> list[float]:
    """Of the recordings in their order, as the number that the layouts give them."""
    return [round((loudest_hz(*corpus.sound(each)) - 300) / 100, 1) for each in corpus.recordings(split)]


def test_fleurs_in_the_order_of_its_archive(tmp_path: Path) -> None:
    corpus = Fleurs(layouts.german_english(tmp_path), "de", "en")
    found = corpus.recordings("train")
    assert [(each.id, each.sentence, each.transcript, each.translation) for each in found] == [
        ("train/d", "3", "Drei.", "Three."),
        ("train/c", "1", "Guten Tag.", "Good day."),
        ("train/b", "2", "Zwei Worte.", "Two words."),
        ("train/a", "1", "Guten Tag.", "Good day."),
    ]
    assert found[0].speaker == "de-female"
    assert found[0].row.endswith("train.tsv, line 4")
    assert pitches(corpus) == [3, 2, 1, 0]
    assert pitches(corpus, "validation") == [0]
    assert pitches(corpus) == [3, 2, 1, 0]


def test_fleurs_unpacked_and_below_a_folder_data(tmp_path: Path) -> None:
    import tarfile

    layouts.german_english(tmp_path / "data")
    audio = tmp_path / "data" / "de_de" / "audio"
    with tarfile.open(audio / "train.tar.gz") as archive:
        archive.extractall(audio, filter="data")
    (audio / "train.tar.gz").unlink()
    corpus = Fleurs(tmp_path, "de", "en")
    assert [each.id for each in corpus.recordings("train")] == ["train/a", "train/b", "train/c", "train/d"]
    assert pitches(corpus) == [0, 1, 2, 3]


def test_an_archive_is_read_once_for_recordings_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.synthesis.corpora.archive import Archive

    corpus = Fleurs(layouts.german_english(tmp_path), "de", "en")
    found = corpus.recordings("train")
    begun: list[Path] = []
    walk = Archive._walk

    def counted(archive: Archive) -> object:
        begun.append(archive.path)
        yield from walk(archive)

    monkeypatch.setattr(Archive, "_walk", counted)
    for each in found[1:]:
        corpus.sound(each)
    assert len(begun) == 1
    corpus.sound(found[0])
    assert len(begun) == 2


def test_covost_joins_its_tables_by_clip(tmp_path: Path) -> None:
    corpus = Covost(layouts.write_covost(tmp_path / "en"), "en", "de")
    assert [(each.id, each.transcript, each.translation) for each in corpus.recordings("train")] == [
        ("one", "Good morning.", "Guten Morgen."),
        ("two", 'He said "no".', "Er sagte nein."),
    ]
    assert [each.id for each in corpus.recordings("validation") + corpus.recordings("test")] == ["three", "four"]
    assert corpus.recordings("train")[1].speaker == "en-0123456789ab"
    assert corpus.recordings("train")[1].row.endswith("validated.tsv, line 3")
    assert pitches(corpus) == [0, 1]


def test_mustc_segments_of_a_talk(tmp_path: Path) -> None:
    corpus = Mustc(layouts.write_mustc(tmp_path), "en", "es")
    found = corpus.recordings("test")
    assert [(each.id, each.transcript, each.translation, each.start_s, each.duration_s) for each in found] == [
        ("tst-COMMON/ted_1_0", "The tst-COMMON begins.", "Empieza tst-COMMON.", 0.5, 1.0),
        ("tst-COMMON/ted_1_1", "(Applause)", "(Aplausos)", 2.25, 1.5),
    ]
    assert pitches(corpus, "test") == [1, 5]
    assert len(corpus.sound(found[1])[0]) == 24_000


def test_spoken_alpaca(tmp_path: Path) -> None:
    corpus = SpokenAlpaca(layouts.write_alpaca(tmp_path))
    assert not corpus.recordings("train")
    found = corpus.recordings("test")
    assert [(each.transcript, each.translation) for each in found][4] == ("Say number 4.", "Answer 4")
    assert pitches(corpus, "test") == [0, 1, 2, 3, 4, 5]
    samples, rate = corpus.sound(found[5])
    assert (rate, samples.dtype) == (22_050, np.float32)


def cut(path: str, line: int, text: str) -> Callable[[Path], None]:
    """Put `text` in the place of a line, counted from 1."""

    def do(root: Path) -> None:
        lines = (root / path).read_text(encoding="utf-8").splitlines()
        lines[line - 1 : line] = [text] if text else []
        (root / path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return do


def gone(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def filled(path: str, content: bytes) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        (root / path).write_bytes(content)

    return do


FLEURS, COVOST, MUSTC = "de_de/train.tsv", "en", "en-es/data/train/txt"


@pytest.mark.parametrize(
    ("corpus", "harm", "where", "said"),
    [
        ("fleurs", gone(FLEURS), "de_de/train.tsv", "cannot be read: No such file"),
        ("fleurs", gone("en_us/test.tsv"), "en_us/test.tsv", "cannot be read: No such file"),
        ("fleurs", gone("de_de/audio/train.tar.gz"), "audio/train.tar.gz", "cannot be read: No such file"),
        ("fleurs", filled("de_de/audio/train.tar.gz", b"\x1f\x8b\x08broken"), "audio/train.tar.gz", "the archive is damaged"),
        ("fleurs", cut(FLEURS, 2, "2\tb.wav\tZwei"), "train.tsv, line 2", "3 columns, expected 7"),
        ("fleurs", filled(FLEURS, b""), "train.tsv", "the table is empty"),
        ("fleurs", filled(FLEURS, b"\xff\xfe\n"), "train.tsv", "not UTF-8"),
        ("covost", gone(f"{COVOST}/validated.tsv"), "validated.tsv", "cannot be read"),
        ("covost", gone(f"{COVOST}/covost_v2.en_de.tsv"), "covost_v2.en_de.tsv", "cannot be read"),
        ("covost", cut(f"{COVOST}/covost_v2.en_de.tsv", 1, "path\ttext\tsplit"), "covost_v2.en_de.tsv, line 1", "no column translation"),
        ("covost", cut(f"{COVOST}/covost_v2.en_de.tsv", 3, "one.mp3\tGuten Morgen."), "covost_v2.en_de.tsv, line 3", "2 columns"),
        (
            "covost",
            cut(f"{COVOST}/covost_v2.en_de.tsv", 3, "one.mp3\tGuten\tdritte"),
            "covost_v2.en_de.tsv, line 3",
            "'dritte' is no split",
        ),
        ("covost", filled(f"{COVOST}/validated.tsv", b"path\tsentence\tclient_id\n"), "validated.tsv", "no clip of covost_v2.en_de.tsv"),
        ("mustc", gone(f"{MUSTC}/train.yaml"), "train.yaml", "cannot be read"),
        ("mustc", gone(f"{MUSTC}/train.es"), "train.es", "cannot be read"),
        ("mustc", cut(f"{MUSTC}/train.es", 2, ""), "train.es, line 2", "1 lines, and train.yaml has 2"),
        ("mustc", cut(f"{MUSTC}/train.yaml", 2, "- {duration: x, offset: 1, speaker_id: s, wav: w}"), "train.yaml, line 2", "no segment"),
        ("mustc", cut(f"{MUSTC}/train.yaml", 2, "- {duration: 1, offset: 1, speaker_id: s}"), "train.yaml, line 2", "no segment .*wav"),
        ("alpaca", filled("data/train-00000-of-00001.parquet", b"PAR1"), "train-00000-of-00001.parquet", "no Parquet file"),
        ("alpaca", gone("data/train-00000-of-00001.parquet"), "*.parquet", "cannot be read"),
    ],
)
def test_damage_is_one_line_that_says_where(corpus: str, harm: Callable[[Path], None], where: str, said: str, tmp_path: Path) -> None:
    opened: Corpus
    if corpus == "fleurs":
        opened = Fleurs(layouts.german_english(tmp_path), "de", "en")
    elif corpus == "covost":
        opened = Covost(layouts.write_covost(tmp_path / COVOST), "en", "de")
    elif corpus == "mustc":
        opened = Mustc(layouts.write_mustc(tmp_path), "en", "es")
    else:
        opened = SpokenAlpaca(layouts.write_alpaca(tmp_path))
    harm(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        opened.recordings("train" if corpus != "alpaca" else "test")
    assert caught.value.where.endswith(where)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_parquet_file_of_something_else(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="no column input_audio; it has text"):
        SpokenAlpaca(tmp_path).recordings("test")


def test_fleurs_of_two_rows_the_later_and_a_recording_that_the_archive_lacks(tmp_path: Path) -> None:
    layouts.german_english(tmp_path)
    cut(FLEURS, 3, layouts.fleurs_row(1, "z.wav", "Ohne Ton"))(tmp_path)
    cut(FLEURS, 2, layouts.fleurs_row(1, "a.wav", "Noch einmal"))(tmp_path)
    corpus = Fleurs(tmp_path, "de", "en")
    found = corpus.recordings("train")
    assert [(each.file, each.transcript) for each in found] == [("d.wav", "Drei."), ("a.wav", "Noch einmal"), ("z.wav", "Ohne Ton")]
    with pytest.raises(DamagedSoundError, match=r"train\.tsv, line 3: z\.wav is not in .*train\.tar\.gz"):
        corpus.sound(found[2])


def test_covost_rows_may_lack_empty_cells_at_the_end(tmp_path: Path) -> None:
    layouts.write_covost(tmp_path / "en")
    cut("en/validated.tsv", 2, "speaker\tone.mp3\tGood morning.\t2")(tmp_path)
    assert Covost(tmp_path / "en", "en", "de").recordings("train")[0].transcript == "Good morning."
    cut("en/validated.tsv", 2, "speaker\tone.mp3")(tmp_path)
    with pytest.raises(UserError, match="2 columns, and the header has 8"):
        Covost(tmp_path / "en", "en", "de").recordings("train")


def test_a_clip_that_is_missing_names_its_row(tmp_path: Path) -> None:
    corpus = Covost(layouts.write_covost(tmp_path / "en"), "en", "de")
    (tmp_path / "en" / "clips" / "two.mp3").unlink()
    with pytest.raises(DamagedSoundError) as caught:
        corpus.sound(corpus.recordings("train")[1])
    assert caught.value.where.startswith("two.mp3, ")
    assert caught.value.where.endswith("validated.tsv, line 3")


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [(Covost, "en", "es"), (Covost, "el", "en"), (Covost, "de", "fr"), (Mustc, "de", "en"), (Mustc, "en", "zh")],
)
def test_directions_that_a_corpus_does_not_have(kind: type[Corpus], source: str, target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no translations of {source} into {target}; it has"):
        kind(tmp_path, source, target)  # type: ignore[call-arg]


def test_a_language_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no language 'xx'; give one of ar, "):
        Fleurs(tmp_path, "xx", "en")


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    layouts.write_alpaca(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed; install rba\[formats\]"):
        SpokenAlpaca(tmp_path).recordings("test")
