"""Strict names, whole versions, checkpoints that appear at once."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from learner.checkpoint import DIGESTS, verify, write_checkpoint
from learner.publish import NamesDifferError, checked
from policies.adapter import adapter
from policies.checkpoint import save_tensors
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, open_version, versions, write_version

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(2.5)}


def test_tensors_come_out_as_bytes_of_their_own_type(tmp_path: Path) -> None:
    write_version(tmp_path, PolicyVersion(0, 1), checked(TENSORS.items(), set(TENSORS)), 4096)
    with open_version(directory_of(tmp_path, PolicyVersion(0, 1))) as opened:
        for entry in opened.manifest.tensors:
            tensor = TENSORS[entry.name]
            assert (entry.dtype, entry.shape) == ("BF16" if tensor.dtype == torch.bfloat16 else "F32", list(tensor.shape))
            assert bytes(opened.tensor_bytes(entry)) == bytes(tensor.flatten().view(torch.uint8).tolist())


@pytest.mark.parametrize(
    ("names", "message"),
    [({"a.weight", "b.bias"}, "extra .'c'"), ({*TENSORS, "d"}, "missing .'d'"), (set(), "extra")],
)
def test_other_names_publish_nothing(tmp_path: Path, names: set[str], message: str) -> None:
    with pytest.raises(NamesDifferError, match=message):
        write_version(tmp_path, PolicyVersion(0, 1), checked(TENSORS.items(), names), 4096)
    assert versions(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_double_name_publishes_nothing() -> None:
    twice = [*TENSORS.items(), ("c", torch.tensor(1.0))]
    with pytest.raises(NamesDifferError):
        list(checked(twice, set(TENSORS)))


def write(checkpoint: Path, run_dir: Path, tensors: dict[str, Tensor]) -> Path:
    return write_checkpoint(run_dir, 3, tensors.items(), adapter("qwen2_audio"), checkpoint, "float32")


def test_a_checkpoint_is_whole_and_its_digests_tell_damage(checkpoint: Path, tmp_path: Path) -> None:
    tensors = {name: tensor + 1 for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    saved = write(checkpoint, tmp_path, tensors)
    assert saved == tmp_path / "checkpoints" / "step-3"
    assert verify(saved) == []
    assert {file.name for file in saved.iterdir()} == {file.name for file in checkpoint.iterdir()} | {DIGESTS}
    again = write(saved, tmp_path / "second", tensors)  # a checkpoint of ours can start the next run
    assert verify(again) == []
    (saved / "tokenizer.json").write_text("{}")
    (saved / "config.json").unlink()
    assert sorted(verify(saved)) == ["config.json", "tokenizer.json"]


def test_a_checkpoint_that_fails_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors.pop("language_model.lm_head.weight")
    with pytest.raises(ValueError, match="lm_head"):
        write(checkpoint, tmp_path, tensors)
    assert not (tmp_path / "checkpoints" / "step-3").exists()
    tensors = load_file(checkpoint / "model.safetensors")
    assert verify(write(checkpoint, tmp_path, tensors)) == []
    assert verify(write(checkpoint, tmp_path, tensors)) == []
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


def test_a_disk_without_room_is_an_error_of_the_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"full\.safetensors"):
            save_tensors({"weight": torch.zeros(10_000)}, tmp_path / "full.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
