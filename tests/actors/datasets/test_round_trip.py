"""rba's own format → another → rba's own: texts, speakers and samples stay what they were."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.datasets import formats
from actors.datasets.draft import draft
from actors.datasets.examples import examples
from actors.datasets.fields import Fields
from actors.datasets.writers import huggingface, parquet, shar, swift
from protocol.dataset import DataSet
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance
from tests.actors.datasets.sounds import encoded, imported, native, noise, said, small

Write = Callable[[DataSet, Path, Path], object]
WRITERS: dict[str, Write] = {
    "hf": lambda data, folder, _: huggingface.write(examples(data), folder, "train"),
    "hf-disk": lambda data, folder, _: huggingface.save(examples(data), folder, "train"),
    "swift": lambda data, folder, out: swift.write(examples(data), folder, out),
    "shar": lambda data, folder, _: shar.write(examples(data), folder),
}


def exported(data: DataSet, out: Path, kind: str) -> Path:
    with draft(out) as folder:
        WRITERS[kind](data, folder, out)
    return out / swift.LINES if kind == "swift" else out


def there_and_back(data: DataSet, folder: Path, kind: str) -> DataSet:
    source = exported(data, folder / kind, kind)
    return imported(formats.read(str(source), formats.guess(str(source)), Fields()), folder / "back")[0]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
said_words = words.filter(str.strip)
voices = st.lists(st.tuples(words, st.integers(0, 50), st.integers(1, 300), st.sampled_from(["FLAC", "WAV"])), min_size=1, max_size=3)


@st.composite
def group_lists(draw: st.DrawFn, *, written: bool) -> list[tuple[InstructionGroup, list[bytes]]]:
    """Groups as a manifest may hold them."""
    groups = []
    for group_id in draw(st.lists(words, unique=True, min_size=1, max_size=3)):
        spoken = draw(voices)
        utterances = [Utterance(name, "filled in", frames / 16_000) for name, _, frames, _ in spoken]
        if written and draw(st.booleans()):
            utterances.append(Utterance(draw(words)))
        group = InstructionGroup(
            group_id,
            draw(said_words),
            draw(said_words),
            utterances,
            draw(st.just("") | words),
            draw(words),
            draw(words),
            draw(st.lists(words)),
        )
        groups.append((group, [encoded(noise(seed, frames), form=form) for _, seed, frames, form in spoken]))
    return groups


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_nothing_is_lost(kind: str, data: st.DataObject) -> None:
    groups = data.draw(group_lists(written=kind != "shar"))
    with TemporaryDirectory() as folder:
        before = native(Path(folder) / "native", groups)
        after = there_and_back(before, Path(folder), kind)
        # What stands twice in one group is kept once.
        expected = [(texts, list(dict.fromkeys(spoken))) for texts, spoken in said(before)]
        assert said(after) == expected


def test_shar_has_no_place_for_what_nobody_says(tmp_path: Path) -> None:
    before = small(tmp_path / "native")
    assert said(there_and_back(before, tmp_path, "shar")) == said(before, written=False)
    assert shar.write(examples(before), tmp_path) == {"cuts": 3, "utterances without audio left out": 1}


@pytest.mark.parametrize("kind", ["hf", "hf-disk", "shar"])
def test_shards_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(shar, "SHARD_CUTS", 2)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1)
    monkeypatch.setattr(parquet, "FILE_BYTES", 3000)
    groups = [(InstructionGroup(str(n), "hi", "a", [Utterance("x", "")]), [encoded(noise(n))]) for n in range(11)]
    before = native(tmp_path / "native", groups)
    after = there_and_back(before, tmp_path, kind)
    assert len([path for path in (tmp_path / kind).rglob("*") if "0000" in path.name]) > 3
    assert said(after) == said(before)


def test_swift_names_files_where_they_will_be(tmp_path: Path) -> None:
    source = exported(small(tmp_path / "native"), tmp_path / "out", "swift")
    files = {str(path) for path in (tmp_path / "out" / "audio").rglob("*.flac")}
    assert files
    assert all(path in source.read_text() for path in files)


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out: it cannot be written \(No space left on device\)"), draft(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
