from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest

from configs.sampling import RewardsSection
from configs.training import LoraSection
from ops import assets, memory
from protocol.errors import UserError


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "train.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    assert assets.model_path("checkpoint", "model.path") == tmp_path / "checkpoint"
    assert assets.file_path("train.jsonl", "data.train") == tmp_path / "train.jsonl"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "no checkpoint nowhere"),
        ("./no/where", "no checkpoint"),
        ("magic:model", "no asset provider `magic`"),
        ("quickstart:nothing", "nothing"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_named_with_its_key(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        assets.model_path(name, "model.path")


def test_a_manifest_that_is_not_there_is_named_with_its_key() -> None:
    with pytest.raises(UserError, match=r"data\.train"):
        assets.file_path("nowhere.jsonl", "data.train")


def test_the_url_of_a_manifest_stays_what_it_is() -> None:
    url = f"memory://{uuid.uuid4().hex}/train.jsonl"
    with pytest.raises(UserError, match=r"data\.train"):
        assets.file_path(url, "data.train")
    fsspec.filesystem("memory").pipe_file(url, b"{}")
    assert assets.file_path(url, "data.train") == url
    with pytest.raises(UserError, match="nothing"):
        assets.file_path("nothing://bucket/train.jsonl", "data.train")


@pytest.mark.parametrize(
    ("name", "hub"),
    [("Qwen/Qwen2-Audio-7B-Instruct", True), ("checkpoint", False), ("a/b/c", False), ("/a/b", False), ("quickstart:x", False)],
)
def test_what_counts_as_a_hub_name(name: str, hub: bool) -> None:
    assert assets.is_hub_name(name) == hub


def test_a_hub_name_is_not_asked_for_where_a_folder_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert assets.model_path("owner/name", "model.path") == tmp_path / "owner" / "name"


def test_parameters_are_counted_from_the_files(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"audio_tower.w": np.zeros((3, 5), np.float32), "lm": np.zeros(7, np.float32)}, tmp_path / "model.safetensors")
    assert memory.model_size(str(tmp_path)) == memory.Size(total=22, audio_tower=15)
    assert memory.model_size("some/unknown-model") is None


def test_a_model_that_also_speaks_counts_as_its_thinker(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    shapes = {"thinker.audio_tower.w": (3, 5), "thinker.lm": (7,), "talker.w": (9,), "token2wav.w": (9,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    assert memory.model_size(str(tmp_path)) == memory.Size(total=22, audio_tower=15)


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [
        (0, "bfloat16", (200, 200, 1200)),
        (1, "bfloat16", (200, 200, 300)),
        (2, "bfloat16", (200, 50, 300)),
        (3, "bfloat16", (50, 50, 300)),
        (3, "float32", (100, 100, 200)),
    ],
)
def test_zero_divides_the_memory_over_the_ranks(stage: int, precision: str, expected: tuple[int, int, int]) -> None:
    from configs import loader

    config = loader.load("quickstart", [f"learner.zero_stage={stage}", f"learner.precision={precision}", "learner.ranks=4"])
    assert memory.learner_memory(memory.Size(100, 0), config)[:3] == expected
    frozen = config.model_copy(deep=True)
    frozen.learner.freeze_audio_tower = True
    frozen.loss.reference_model = "frozen"
    needed = memory.learner_memory(memory.Size(100, 50), frozen)
    assert needed.optimizer == expected[2] // 2
    assert needed.reference == needed.weights
    adapted = config.model_copy(deep=True)
    adapted.learner.lora = LoraSection(r=1024)
    assert memory.learner_memory(memory.Size(100, 0), adapted).optimizer == expected[2] // 2


def test_every_checkpoint_of_a_combination_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    parts = {"a": {"scorer": "seqcls", "model": "here"}, "b": {"scorer": "bleu", "model": "unused"}}
    section = RewardsSection.model_validate({"scorer": "combination", "combination": parts})
    resolved = assets.resolve_rewards(section)
    assert [part.model for part in resolved.parts.values()] == [str(tmp_path / "here"), "unused"]
    assert section.combination["a"].model == "here"
    section.combination["a"].model = "nowhere"
    with pytest.raises(UserError, match=r"rewards\.combination\.a\.model"):
        assets.resolve_rewards(section)
