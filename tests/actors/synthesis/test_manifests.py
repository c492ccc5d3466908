from __future__ import annotations

from pathlib import Path

from actors.synthesis.manifests import Manifests
from actors.synthesis.records import Draft, Spoken
from actors.synthesis.runner import carry_out
from actors.synthesis.shelf import Shelf
from protocol.dataset import DataSet, ShardWriter
from protocol.leasable import GROUP_BYTES
from tests.actors.synthesis.scripted_run import config


class Given:
    """Blocks that are there."""

    complete = True

    def __init__(self, *blocks: list[Draft]) -> None:
        self._given = blocks
        self.blocks = len(blocks)

    def kept(self, number: int) -> list[Draft]:
        return self._given[number]


def made(folder: Path, *blocks: list[Draft]) -> Shelf:
    described = config(folder)
    shelf = Shelf(folder / "scripted" / "stages" / "dataset")
    carry_out(Manifests(described, folder / "scripted", len(blocks)), Given(*blocks), shelf, lambda number, drafts: None)
    return shelf


def written(name: str, split: str, reference: str = "lima") -> Draft:
    return Draft(id=name, instruction="the capital of peru", reference=reference, split=split, utterances=[Spoken("text")])


def test_each_split_has_its_manifest_in_the_order_of_the_blocks(tmp_path: Path) -> None:
    made(tmp_path, [written("a", "train"), written("b", "test")], [written("c", "train"), written("d", "")])
    folder = tmp_path / "scripted"
    assert [group.group_id for group in DataSet.open(folder / "train.jsonl").groups] == ["scripted-a", "scripted-c", "scripted-d"]
    assert [group.group_id for group in DataSet.open(folder / "test.jsonl").groups] == ["scripted-b"]
    assert (folder / "validation.jsonl").read_bytes() == b""


def test_the_audio_is_found_where_the_draft_says(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "scripted" / "shards" / "000000.tar") as shard:
        stored = shard.add(b"fLaC and so on")
    spoken = Spoken("ann", stored.audio, 1.5, "shards/000000.tar", stored.offset, stored.size_bytes)
    made(tmp_path, [Draft(id="a", instruction="hello", reference="hi", utterances=[spoken, Spoken("text")])])
    data = DataSet.open(tmp_path / "scripted" / "train.jsonl")
    assert data.read_audio(stored.audio) == b"fLaC and so on"
    assert [(each.speaker, each.audio, each.duration_s) for each in data.groups[0].utterances] == [
        ("ann", stored.audio, 1.5),
        ("text", None, 0.0),
    ]


def test_what_no_message_holds_is_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    shelf = made(tmp_path, [written("a", "train", "x" * GROUP_BYTES), written("b", "train")])
    assert [(draft.id, draft.rejected) for draft in shelf.every()] == [("a", "dataset: larger than a message"), ("b", "")]
    assert [group.group_id for group in DataSet.open(tmp_path / "scripted" / "train.jsonl").groups] == ["scripted-b"]
