from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash

from protocol.messages import PolicyVersion
from protocol.weights.files import (
    ALIGNMENT_BYTES,
    DamagedVersionError,
    directory_of,
    newest,
    open_version,
    prune,
    versions,
    write_version,
)
from protocol.weights.messages import Manifest
from tests.protocol.weights.tensors import TENSORS, write

VERSION = PolicyVersion(0, 3)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    manifest = write(tmp_path, VERSION)
    with open_version(directory_of(tmp_path, VERSION)) as found:
        assert found.manifest == manifest
        assert [(entry.name, entry.dtype, entry.shape) for entry in manifest.tensors] == [(t[0], t[1], t[2]) for t in TENSORS]
        for entry, (_, _, _, content) in zip(manifest.tensors, TENSORS, strict=True):
            with found.tensor_bytes(entry) as view:
                assert bytes(view) == bytes(content)
                assert view.readonly
            assert entry.offset_bytes % ALIGNMENT_BYTES == 0
        found.verify()


def test_chunks_cover_every_byte_and_have_their_checksums(tmp_path: Path) -> None:
    manifest = write(tmp_path, VERSION)
    with open_version(directory_of(tmp_path, VERSION)) as found:
        chunks = [found.chunk(index) for index in range(len(manifest.chunk_checksums))]
    whole = (directory_of(tmp_path, VERSION) / "weights.bin").read_bytes()
    assert b"".join(chunks) == whole
    assert len(whole) == manifest.size_bytes
    assert {len(chunk) for chunk in chunks[:-1]} == {manifest.chunk_bytes}
    assert [xxhash.xxh3_64_intdigest(chunk) for chunk in chunks] == manifest.chunk_checksums
    assert manifest.digest == f"xxh128:{xxhash.xxh128_hexdigest(whole)}"


def test_equal_weights_have_an_equal_digest_and_others_another(tmp_path: Path) -> None:
    first, second = write(tmp_path, PolicyVersion(0, 1)), write(tmp_path, PolicyVersion(0, 2))
    third = write(tmp_path, PolicyVersion(0, 3), seed=1)
    assert first.digest == second.digest != third.digest


def test_the_manifest_file_is_plain_msgpack(tmp_path: Path) -> None:
    manifest = write(tmp_path, VERSION)
    raw = (directory_of(tmp_path, VERSION) / "manifest.msgpack").read_bytes()
    assert msgspec.msgpack.decode(raw, type=Manifest) == manifest


def test_an_array_is_written_without_a_copy_of_its_own(tmp_path: Path) -> None:
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    manifest = write_version(tmp_path, VERSION, [("w", "F32", [3, 4], values.data)], 4096)
    with open_version(directory_of(tmp_path, VERSION)) as found:
        assert np.array_equal(np.frombuffer(bytes(found.tensor_bytes(manifest.tensors[0])), "<f4").reshape(3, 4), values)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half() -> Iterator[tuple[str, str, list[int], bytes]]:
        yield TENSORS[0]  # type: ignore[misc]
        raise RuntimeError("the learner died")

    with pytest.raises(RuntimeError, match="the learner died"):
        write_version(tmp_path, VERSION, half(), 4096)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    def watching() -> Iterator[tuple[str, str, list[int], bytes]]:
        for tensor in TENSORS:
            assert newest(tmp_path) is None
            yield tensor  # type: ignore[misc]

    write_version(tmp_path, VERSION, watching(), 4096)
    assert newest(tmp_path) == VERSION


def test_writing_a_version_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, VERSION)
    again = write(tmp_path, VERSION, seed=1)
    with open_version(directory_of(tmp_path, VERSION)) as found:
        assert found.manifest == again
        found.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["0-3"]


def test_versions_are_ordered_by_number_and_prune_keeps_the_newest(tmp_path: Path) -> None:
    for version in (PolicyVersion(0, 10), PolicyVersion(1, 2), PolicyVersion(0, 9)):
        write(tmp_path, version)
    (tmp_path / "notes-x").mkdir()
    (tmp_path / "7-7").mkdir()
    assert versions(tmp_path) == [PolicyVersion(0, 9), PolicyVersion(0, 10), PolicyVersion(1, 2)]
    assert newest(tmp_path) == PolicyVersion(1, 2)
    assert prune(tmp_path, 2) == [PolicyVersion(0, 9)]
    assert versions(tmp_path) == [PolicyVersion(0, 10), PolicyVersion(1, 2)]
    assert prune(tmp_path, 0) == [PolicyVersion(0, 10), PolicyVersion(1, 2)]
    assert newest(tmp_path / "nowhere") is None


def test_prune_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    write(tmp_path, VERSION)
    (tmp_path / ".partial-abc").mkdir()
    (tmp_path / ".partial-abc" / "weights.bin").write_bytes(b"half")
    prune(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["0-3"]


def test_a_mapped_version_survives_its_folder(tmp_path: Path) -> None:
    write(tmp_path, VERSION)
    with open_version(directory_of(tmp_path, VERSION)) as found:
        prune(tmp_path, 0)
        found.verify()


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    write(tmp_path, VERSION)
    path = directory_of(tmp_path, VERSION) / "weights.bin"
    content = bytearray(path.read_bytes())
    content[777] ^= 1
    path.write_bytes(content)
    with open_version(path.parent) as found, pytest.raises(DamagedVersionError, match="digest"):
        found.verify()


@pytest.mark.parametrize("damage", ["cut", "no manifest", "no weights", "other manifest"])
def test_a_damaged_folder_does_not_open(tmp_path: Path, damage: str) -> None:
    write(tmp_path, VERSION)
    folder = directory_of(tmp_path, VERSION)
    match damage:
        case "cut":
            (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1])
        case "no manifest":
            (folder / "manifest.msgpack").unlink()
        case "no weights":
            (folder / "weights.bin").unlink()
        case "other manifest":
            (folder / "manifest.msgpack").write_bytes(b"\x81\xa1a")
    with pytest.raises(DamagedVersionError):
        open_version(folder)
