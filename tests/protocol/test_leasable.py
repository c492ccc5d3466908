from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol.codec import DIALOGUE_CAP_BYTES, encode
from protocol.dataset import DataSet
from protocol.errors import UserError
from protocol.leasable import GROUP_BYTES, SURE_LINE_BYTES, too_large
from protocol.links.learner import split
from protocol.messages import InstructionGroup, Lease, LeasedGroup, PolicyVersion, Purpose, Utterance

LARGEST = (1 << 63) - 1


def of_size(size_bytes: int) -> InstructionGroup:
    """A group that takes so many bytes of a message."""
    empty = InstructionGroup("g", "say yes", "x" * 70_000, [Utterance("text")])
    rest = size_bytes - len(msgspec.msgpack.encode(empty))
    return msgspec.structs.replace(empty, reference="x" * (70_000 + rest))


def test_the_largest_group_goes_in_one_message() -> None:
    group = of_size(GROUP_BYTES)
    assert too_large(group) == ""
    leased = LeasedGroup(LARGEST, LARGEST, group, Purpose.EVALUATE, LARGEST)
    lease = Lease([leased, leased], PolicyVersion(LARGEST, LARGEST), 1e300)
    parts = split(lease)
    assert [part.groups for part in parts] == [[leased], [leased]]
    assert all(sum(map(len, encode(part))) <= DIALOGUE_CAP_BYTES for part in parts)


def test_a_larger_one_is_told_with_its_size() -> None:
    assert (
        too_large(of_size(GROUP_BYTES + 1))
        == f"the group 'g' takes {GROUP_BYTES + 1} bytes of a message, and {GROUP_BYTES} can be leased at most"
    )


def test_a_data_set_with_a_larger_one_is_refused_by_line(tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    whole, larger = of_size(GROUP_BYTES), msgspec.structs.replace(of_size(GROUP_BYTES + 1), group_id="h")
    lines = [msgspec.json.encode(group) for group in (whole, larger)]
    manifest.write_bytes(lines[0] + b"\n")
    assert len(DataSet.open(manifest).groups) == 1
    manifest.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as caught:
        DataSet.open(manifest)
    assert str(caught.value).startswith(f"{manifest}, line 2: the group 'h' takes {GROUP_BYTES + 1} bytes of a message, and")


def test_what_grows_most_on_its_way_into_a_message_is_seen(tmp_path: Path) -> None:
    """The defaults that a line leaves out stand in a message."""
    group = InstructionGroup("g", "i", "r", [Utterance("")] * 30_000)
    assert too_large(group)
    line = b'{"group_id":"g","instruction":"i","reference":"r","utterances":[' + b",".join([b'{"speaker":""}'] * 30_000) + b"]}\n"
    manifest = tmp_path / "train.jsonl"
    manifest.write_bytes(line)
    assert SURE_LINE_BYTES < len(line) < GROUP_BYTES / 2
    with pytest.raises(UserError, match="bytes of a message"):
        DataSet.open(manifest)
