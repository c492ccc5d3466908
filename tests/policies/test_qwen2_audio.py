"""The adapter against transformers' own processor and model, and against the released checkpoint's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from policies import checkpoint as folders
from policies import qwen2_audio
from policies.adapter import adapter
from protocol.errors import UserError
from tests.tiny import SAMPLING_RATE_HZ, WINDOW_S, tone

PER_AUDIO_LAYER = [
    *(
        f"self_attn.{part}"
        for part in ("k_proj.weight", "q_proj.bias", "q_proj.weight", "v_proj.bias", "v_proj.weight", "out_proj.bias", "out_proj.weight")
    ),
    *(f"{part}.{kind}" for part in ("self_attn_layer_norm", "final_layer_norm", "fc1", "fc2") for kind in ("bias", "weight")),
]
PER_TEXT_LAYER = [
    *(f"self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("bias", "weight")),
    "self_attn.o_proj.weight",
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]


def released_layout(audio_layers: int, text_layers: int) -> set[str]:
    """Tensor names of Qwen/Qwen2-Audio-7B-Instruct's index, for any number of layers."""
    names = {f"audio_tower.layers.{layer}.{part}" for layer in range(audio_layers) for part in PER_AUDIO_LAYER}
    names |= {f"language_model.model.layers.{layer}.{part}" for layer in range(text_layers) for part in PER_TEXT_LAYER}
    names |= {f"audio_tower.{part}.{kind}" for part in ("conv1", "conv2", "layer_norm") for kind in ("bias", "weight")}
    names |= {"audio_tower.embed_positions.weight", "multi_modal_projector.linear.bias", "multi_modal_projector.linear.weight"}
    return names | {"language_model.model.embed_tokens.weight", "language_model.model.norm.weight", "language_model.lm_head.weight"}


def test_names_of_the_released_size_are_the_released_ones() -> None:
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig())
    names = qwen2_audio.released_names(model)
    assert set(names.values()) == released_layout(32, 32)
    assert len(names) == len(set(names.values()))


def test_a_foreign_parameter_has_no_released_name() -> None:
    with pytest.raises(ValueError, match="no released name"):
        qwen2_audio.released_names(torch.nn.Linear(2, 2))


def test_saved_checkpoint_has_the_released_layout_and_loads_everywhere(checkpoint: Path) -> None:
    assert qwen2_audio.checkpoint_names(checkpoint) == released_layout(1, 1)
    ours = qwen2_audio.load_model(checkpoint, "float32")
    theirs, info = Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = load_file(checkpoint / "model.safetensors")
    for (name, released), (_, other) in zip(qwen2_audio.released_names(ours).items(), theirs.named_parameters(), strict=True):
        assert torch.equal(ours.get_parameter(name), stored[released])
        assert torch.equal(ours.get_parameter(name), other)


def test_save_copies_the_rest_and_shards(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SHARD_BYTES", 40_000)
    tensors = load_file(checkpoint / "model.safetensors")
    qwen2_audio.save(tmp_path / "copy", iter(tensors.items()), checkpoint, "bfloat16")
    index = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    assert {path.name for path in (tmp_path / "copy").glob("*.safetensors")} == files
    assert qwen2_audio.checkpoint_names(tmp_path / "copy") == set(tensors)
    model = qwen2_audio.load_model(tmp_path / "copy", "bfloat16")
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert qwen2_audio.open(tmp_path / "copy").render("hello") == qwen2_audio.open(checkpoint).render("hello")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["dtype"] == "bfloat16"


def test_save_refuses_other_names(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors.pop("language_model.lm_head.weight")
    with pytest.raises(ValueError, match="lm_head"):
        qwen2_audio.save(tmp_path / "copy", iter(tensors.items()), checkpoint, "float32")


def test_check_names_the_problem(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        qwen2_audio.check(tmp_path)
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(UserError, match="not qwen2_audio"):
        qwen2_audio.check(other)
    (other / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        qwen2_audio.check(other)


def test_check_refuses_the_names_that_transformers_saves(checkpoint: Path, tmp_path: Path) -> None:
    built = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig.from_pretrained(checkpoint))
    built.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="released layout"):
        qwen2_audio.check(tmp_path)


def test_load_refuses_a_checkpoint_with_a_tensor_missing(checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    config["text_config"]["layer_types"] = ["full_attention"] * 2
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="missing_keys"):
        qwen2_audio.load_model(broken, "float32")


@pytest.mark.parametrize("sample_count", [400, 16_000, 16_001, 24_159, 24_160, 24_161, 63_999, 64_000])
@pytest.mark.parametrize("prompt", ["", "say it twice"])
def test_prompt_and_features_are_the_processors(checkpoint: Path, sample_count: int, prompt: str) -> None:
    processing = qwen2_audio.open(checkpoint)
    samples = tone(sample_count / SAMPLING_RATE_HZ)[:sample_count]
    assert len(samples) == sample_count
    theirs = AutoProcessor.from_pretrained(checkpoint)(
        text=processing.render(prompt), audio=[samples], sampling_rate=SAMPLING_RATE_HZ, return_tensors="np"
    )
    features, frame_mask = processing.features([samples])
    assert processing.prompt_ids(prompt, samples=samples) == theirs["input_ids"][0].tolist()
    assert np.array_equal(features, theirs["input_features"])
    assert np.array_equal(frame_mask, theirs["feature_attention_mask"])
    assert processing.audio_tokens(sample_count) == theirs["input_ids"][0].tolist().count(processing.audio_token_id)


def test_features_of_a_clip_do_not_depend_on_its_neighbours(checkpoint: Path) -> None:
    processing = qwen2_audio.open(checkpoint)
    one, other = tone(1.1, 1), 3 * tone(3.7, 2)
    together = processing.features([one, other])
    assert np.array_equal(together[0][0], processing.features([one])[0][0])
    assert np.array_equal(together[1][1], processing.features([other])[1][0])


def test_audio_beyond_the_window_is_refused(checkpoint: Path) -> None:
    processing = qwen2_audio.open(checkpoint)
    assert processing.window_s == WINDOW_S
    with pytest.raises(UserError, match="window"):
        processing.prompt_ids("", samples=np.zeros(WINDOW_S * SAMPLING_RATE_HZ + 1, np.float32))
    with pytest.raises(UserError, match="window"):
        processing.prompt_ids("", samples=np.zeros(399, np.float32))


def test_text_utterance_has_no_audio(checkpoint: Path) -> None:
    processing = qwen2_audio.open(checkpoint)
    assert "what is three" in processing.render("in words", instruction="what is three")
    assert processing.audio_token_id not in processing.prompt_ids("in words", instruction="what is three")
    assert processing.compact_ids("in words").count(processing.audio_token_id) == 1


def test_an_instruction_cannot_smuggle_in_a_placeholder(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="placeholders"):
        qwen2_audio.open(checkpoint).prompt_ids("listen to <|AUDIO|> again", samples=tone(1.0))


def test_answers_end_with_the_end_of_turn(checkpoint: Path) -> None:
    processing = qwen2_audio.open(checkpoint)
    ids = processing.answer_ids("the answer is seven")
    assert ids[-1] == processing.stop_token_ids[0]
    assert processing.decode(ids) == "the answer is seven"
    assert max(ids) < processing.vocabulary


def test_window_must_fit_the_tower(checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "chunk_length": 5, "n_samples": 80_000, "nb_max_frames": 500}))
    with pytest.raises(UserError, match="window"):
        qwen2_audio.open(other)


def test_pieces_give_the_models_own_forward(checkpoint: Path) -> None:
    """Tower, splice, decoder and head one by one equal transformers' forward on the processor's own input."""
    processing = qwen2_audio.open(checkpoint)
    model = qwen2_audio.load_model(checkpoint, "float32").eval()
    clips = [tone(1.3, 3), tone(2.9, 4)]
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.tokenizer.padding_side = "right"
    inputs = processor(
        text=[processing.render("say"), processing.render("do")],
        audio=clips,
        sampling_rate=SAMPLING_RATE_HZ,
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        expected = model(**inputs).logits
        embeddings, lengths = qwen2_audio.audio_embeddings(model, inputs["input_features"], inputs["feature_attention_mask"])
        spliced = torch.cat([clip[:length] for clip, length in zip(embeddings, lengths.tolist(), strict=True)])
        ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None] & valid[:, None, None, :]
        places = torch.arange(ids.shape[1])[None].expand_as(ids)
        hidden = qwen2_audio.hidden_states(model, ids, spliced, ids == processing.audio_token_id, causal, places)
        found = qwen2_audio.logits(model, hidden.flatten(0, 1)).view_as(expected)
    torch.testing.assert_close(found[valid], expected[valid], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("sample_count", [16_000, 16_159, 24_000, 25_440, 25_441, 40_123, 64_000])
def test_the_silence_after_the_longest_clip_changes_nothing(checkpoint: Path, sample_count: int) -> None:
    """Cut to the frames that are needed, the tower gives transformers' own embeddings of the whole window."""
    processing = qwen2_audio.open(checkpoint)
    model: Any = qwen2_audio.load_model(checkpoint, "float32").eval()
    features, frame_mask = map(torch.tensor, processing.features([tone(1.0, 1), tone(sample_count / SAMPLING_RATE_HZ, 2)]))
    frames = processing.frames_needed(frame_mask.numpy())
    assert frames == 400 or (frames < 400 and frames >= sample_count / 160 + 3)
    lengths = model.model.audio_tower._get_feat_extract_output_lengths(frame_mask.sum(-1))
    attend = (torch.arange(200)[None, :] < lengths[0][:, None])[:, None, None, :].expand(-1, 1, 200, -1)
    with torch.no_grad():
        whole = model.model.multi_modal_projector(model.model.audio_tower(features, attention_mask=attend).last_hidden_state)
        cut, counts = qwen2_audio.audio_embeddings(model, features[:, :, :frames], frame_mask[:, :frames])
    assert counts.tolist() == lengths[1].tolist()
    for clip, count in enumerate(counts.tolist()):
        torch.testing.assert_close(cut[clip, :count], whole[clip, :count], atol=1e-5, rtol=1e-5)


def test_unknown_family() -> None:
    with pytest.raises(UserError, match="qwen2_audio"):
        adapter("whisper")
