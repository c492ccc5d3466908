"""The adapter against transformers' own processor and model, against the released checkpoint's layout, and against vLLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from learner.clips import Clips
from learner.collate import MicroBatch, Row, _pack
from learner.logprobs import AnswerLogProbs
from policies import qwen2_5_omni
from policies.adapter import adapter
from protocol.errors import UserError
from tests.actors.rollout.weights import Weights
from tests.policies.omni import INSTRUCTION, LENGTHS_S, PROMPT, SYSTEM, omni_checkpoint, omni_processor, torchvision_stand_in
from tests.tiny import SAMPLING_RATE_HZ, WINDOW_S, tone

PER_AUDIO_LAYER = [
    *(f"self_attn.{part}_proj.{kind}" for part in ("q", "v", "out") for kind in ("bias", "weight")),
    "self_attn.k_proj.weight",
    *(f"{part}.{kind}" for part in ("self_attn_layer_norm", "final_layer_norm", "fc1", "fc2") for kind in ("bias", "weight")),
]
PER_VISION_LAYER = [
    *(f"attn.{part}.{kind}" for part in ("q", "k", "v", "proj") for kind in ("bias", "weight")),
    *(f"mlp.{part}_proj.{kind}" for part in ("gate", "up", "down") for kind in ("bias", "weight")),
    "norm1.weight",
    "norm2.weight",
]
PER_TEXT_LAYER = [
    *(f"self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("bias", "weight")),
    "self_attn.o_proj.weight",
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]
CLIPS = {"short": tone(1.3, 3), "long": tone(2.9, 4)}


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return omni_checkpoint(tmp_path_factory.mktemp("omni") / "thinker")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return omni_checkpoint(tmp_path_factory.mktemp("tied") / "thinker", tied=True)


@pytest.fixture
def whole(omni: Path, tmp_path: Path) -> Path:
    """The layout of a whole release: the talker and its vocoder beside the thinker."""
    directory = shutil.copytree(omni, tmp_path / "whole")
    tensors = load_file(omni / "model.safetensors")
    save_file({**tensors, "talker.w": torch.ones(2), "token2wav.w": torch.ones(3)}, directory / "model.safetensors", {"format": "pt"})
    change(directory, lambda config: config.update(enable_audio_output=True))
    return directory


def change(directory: Path, what: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    what(config)
    (directory / "config.json").write_text(json.dumps(config))


def released_layout(audio_layers: int, vision_layers: int, text_layers: int) -> set[str]:
    """Names of the thinker's tensors in Qwen/Qwen2.5-Omni-7B's index, for any number of layers."""
    names = {f"audio_tower.layers.{layer}.{part}" for layer in range(audio_layers) for part in PER_AUDIO_LAYER}
    names |= {f"audio_tower.{part}.{kind}" for part in ("conv1", "conv2", "ln_post", "proj") for kind in ("bias", "weight")}
    names |= {f"visual.blocks.{layer}.{part}" for layer in range(vision_layers) for part in PER_VISION_LAYER}
    names |= {f"visual.merger.mlp.{part}.{kind}" for part in (0, 2) for kind in ("bias", "weight")}
    names |= {f"model.layers.{layer}.{part}" for layer in range(text_layers) for part in PER_TEXT_LAYER}
    names |= {"audio_tower.audio_bos_eos_token.weight", "visual.merger.ln_q.weight", "visual.patch_embed.proj.weight"}
    names |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    return {f"thinker.{name}" for name in names}


def test_names_of_the_released_size_are_the_released_ones() -> None:
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig())
    names = qwen2_5_omni.released_names(model)
    assert set(names.values()) == released_layout(32, 32, 28)
    assert len(names) == len(set(names.values()))


def test_a_foreign_parameter_has_no_released_name() -> None:
    with pytest.raises(ValueError, match="no released name"):
        qwen2_5_omni.released_names(torch.nn.Linear(2, 2))


def test_saved_checkpoint_has_the_released_layout_and_loads_everywhere(omni: Path) -> None:
    assert qwen2_5_omni.checkpoint_names(omni) == released_layout(2, 1, 2)
    ours = qwen2_5_omni.load_model(omni, "float32")
    theirs, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(omni, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = load_file(omni / "model.safetensors")
    for (name, released), (_, other) in zip(qwen2_5_omni.released_names(ours).items(), theirs.named_parameters(), strict=True):
        assert torch.equal(ours.get_parameter(name), stored[released])
        assert torch.equal(ours.get_parameter(name), other)


def test_tied_embeddings_are_one_tensor(tied: Path) -> None:
    names = qwen2_5_omni.checkpoint_names(tied)
    assert names == released_layout(2, 1, 2) - {"thinker.lm_head.weight"}
    model: Any = qwen2_5_omni.load_model(tied, "float32")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert set(qwen2_5_omni.released_names(model).values()) == names


@pytest.mark.parametrize("section", ["thinker_config", "text_config"])
def test_tied_embeddings_must_be_what_vllm_and_transformers_both_read(section: str, omni: Path, tmp_path: Path) -> None:
    other = shutil.copytree(omni, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (config | config["thinker_config"])[section]["tie_word_embeddings"] = True
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not agree on tied embeddings"):
        qwen2_5_omni.check(other)


def test_of_a_whole_release_the_thinker_is_loaded_and_saved(whole: Path, omni: Path, tmp_path: Path) -> None:
    model = qwen2_5_omni.load_model(whole, "float32")
    names = qwen2_5_omni.released_names(model)
    assert set(names.values()) == qwen2_5_omni.checkpoint_names(whole) == qwen2_5_omni.checkpoint_names(omni)
    qwen2_5_omni.save(tmp_path / "copy", ((names[name], value) for name, value in model.named_parameters()), whole, "float32")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["enable_audio_output"] is False
    again, before = load_file(tmp_path / "copy" / "model.safetensors"), load_file(omni / "model.safetensors")
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)
    qwen2_5_omni.load_model(tmp_path / "copy", "float32")


def test_save_copies_the_rest(omni: Path, tmp_path: Path) -> None:
    tensors = load_file(omni / "model.safetensors")
    qwen2_5_omni.save(tmp_path / "copy", iter(tensors.items()), omni, "bfloat16")
    model = qwen2_5_omni.load_model(tmp_path / "copy", "bfloat16")
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert qwen2_5_omni.open(tmp_path / "copy").render("hello") == qwen2_5_omni.open(omni).render("hello")


def test_save_refuses_other_names(omni: Path, tmp_path: Path) -> None:
    tensors = load_file(omni / "model.safetensors")
    tensors.pop("thinker.visual.merger.ln_q.weight")
    with pytest.raises(ValueError, match="ln_q"):
        qwen2_5_omni.save(tmp_path / "copy", iter(tensors.items()), omni, "float32")


def test_a_thinker_that_transformers_saved_is_rewritten(omni: Path, tmp_path: Path) -> None:
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(omni).save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="vLLM cannot load"):
        qwen2_5_omni.check(tmp_path / "plain")
    qwen2_5_omni.from_thinker(tmp_path / "plain", tmp_path / "rewritten")
    found, expected = load_file(tmp_path / "rewritten" / "model.safetensors"), load_file(omni / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    qwen2_5_omni.load_model(tmp_path / "rewritten", "float32")
    with pytest.raises(UserError, match="not qwen2_5_omni_thinker"):
        qwen2_5_omni.from_thinker(omni, tmp_path / "twice")


def test_check_names_the_problem(checkpoint: Path, omni: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        qwen2_5_omni.check(tmp_path)
    with pytest.raises(UserError, match="'qwen2_audio' checkpoint, not qwen2_5_omni"):
        qwen2_5_omni.check(checkpoint)
    with pytest.raises(UserError, match="'qwen2_5_omni' checkpoint, not qwen2_audio"):
        adapter("qwen2_audio").check(omni)
    other = shutil.copytree(omni, tmp_path / "other")
    save_file({"model.norm.weight": torch.ones(2)}, other / "model.safetensors")
    with pytest.raises(UserError, match="released layout"):
        qwen2_5_omni.check(other)


def test_load_refuses_a_checkpoint_with_a_tensor_missing_or_left_over(omni: Path, tmp_path: Path) -> None:
    for layers, said in {3: "missing_keys", 1: "unexpected_keys"}.items():
        broken = shutil.copytree(omni, tmp_path / str(layers))
        change(
            broken,
            lambda config, layers=layers: config["thinker_config"]["text_config"].update(  # type: ignore[misc]
                num_hidden_layers=layers, layer_types=["full_attention"] * layers
            ),
        )
        with pytest.raises(UserError, match=said):
            qwen2_5_omni.load_model(broken, "float32")


@pytest.mark.parametrize("sample_count", [400, 16_000, 16_001, 24_160, 63_999, 64_000])
@pytest.mark.parametrize("prompt", ["", "say it twice"])
def test_prompt_and_features_are_the_processors(omni: Path, sample_count: int, prompt: str) -> None:
    processing = qwen2_5_omni.open(omni)
    samples = tone(sample_count / SAMPLING_RATE_HZ)[:sample_count]
    processor = omni_processor(omni)
    said = [{"type": "audio", "audio": "clip.wav"}, *([{"type": "text", "text": prompt}] if prompt else [])]
    chat = processor.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True, tokenize=False)
    assert processing.render(prompt) == chat
    assert chat.startswith(SYSTEM)
    assert "<|audio_bos|><|AUDIO|><|audio_eos|>" in chat
    theirs = processor(text=chat, audio=[samples], return_tensors="np")
    features, frame_mask = processing.features([samples])
    assert processing.prompt_ids(prompt, samples=samples) == theirs["input_ids"][0].tolist()
    assert np.array_equal(features, theirs["input_features"])
    assert np.array_equal(frame_mask, theirs["feature_attention_mask"])
    assert processing.audio_tokens(sample_count) == theirs["input_ids"][0].tolist().count(processing.audio_token_id)


def test_a_longer_extractors_window_is_narrowed_and_the_features_stay(omni: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen's own extractor takes 300 s. A clip that fills the narrowed window still has the features of the long one."""
    monkeypatch.setattr(qwen2_5_omni, "LONGEST_S", 2.0)
    processing = qwen2_5_omni.open(omni)
    assert processing.window_s == 2.0
    clip = tone(2.0, 5)
    found, found_mask = processing.features([clip])
    theirs = omni_processor(omni).feature_extractor([clip], sampling_rate=SAMPLING_RATE_HZ, return_attention_mask=True, return_tensors="np")
    assert found.shape == (1, 16, 200)
    assert found_mask.sum() == theirs["attention_mask"].sum() == 200
    np.testing.assert_allclose(found, theirs["input_features"][:, :, :200], atol=1e-6)
    with pytest.raises(UserError, match="window"):
        processing.audio_tokens(32_001)


def test_audio_beyond_the_window_is_refused(omni: Path) -> None:
    processing = qwen2_5_omni.open(omni)
    assert processing.window_s == WINDOW_S
    for samples in (WINDOW_S * SAMPLING_RATE_HZ + 1, 399):
        with pytest.raises(UserError, match="window"):
            processing.prompt_ids("", samples=np.zeros(samples, np.float32))


def test_text_utterance_has_no_audio(omni: Path) -> None:
    processing = qwen2_5_omni.open(omni)
    assert processing.audio_token_id not in processing.prompt_ids("in words", instruction="what is three")
    assert processing.compact_ids("in words").count(processing.audio_token_id) == 1
    with pytest.raises(UserError, match="placeholders"):
        processing.prompt_ids("listen to <|AUDIO|> again", samples=tone(1.0))
    ids = processing.answer_ids("the answer is seven")
    assert ids[-1] == processing.stop_token_ids[0]
    assert processing.decode(ids) == "the answer is seven"


def test_a_checkpoint_without_a_chat_template_or_with_another_tokenizer_is_refused(omni: Path, tmp_path: Path) -> None:
    other = shutil.copytree(omni, tmp_path / "other")
    (other / "chat_template.json").unlink()
    with pytest.raises(UserError, match="no chat template"):
        qwen2_5_omni.open(other)
    change(other, lambda config: config["thinker_config"].update(audio_token_index=7))
    (other / "chat_template.jinja").write_text("hello")
    with pytest.raises(UserError, match="audio_token_index is 7"):
        qwen2_5_omni.open(other)


def micro_batch(processing: Any) -> tuple[MicroBatch, list[Row]]:
    """Two voices and a written instruction, in rows of different length; two answers to the first."""
    rows = [
        Row("short", processing.prompt_ids("say", samples=CLIPS["short"]), [[11, 12, 13, 2], [200, 2]], [None, None]),
        Row("long", processing.prompt_ids("", samples=CLIPS["long"]), [[40, 41, 42, 2]], [None]),
        Row(None, processing.prompt_ids("in words", instruction="what is three"), [[50, 2], [51, 52, 2], [2]], [None, None, None]),
    ]
    none: dict[str, list[int]] = {name: [] for name in ("ce_sequence", "ce_group", "chosen", "rejected", "pair_group")}
    return _pack(rows, processing, Clips(CLIPS.__getitem__, processing), groups=1, **none), rows


def heard(processing: Any, row: Row) -> dict[str, Any]:
    """What transformers' forward takes for the row's clip."""
    if row.audio is None:
        return {}
    features, frame_mask = processing.features([CLIPS[row.audio]])
    return {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}


@pytest.mark.parametrize("kind", ["omni", "tied"])
def test_log_probabilities_of_a_tree_of_answers_are_the_models_own(kind: str, request: pytest.FixtureRequest) -> None:
    """All answers of a micro-batch in one pass equal one plain forward of transformers for each."""
    directory: Path = request.getfixturevalue(kind)
    processing, model = qwen2_5_omni.open(directory), qwen2_5_omni.load_model(directory, "float32").eval()
    batch, rows = micro_batch(processing)
    assert batch.features.shape[2] < WINDOW_S * 100
    expected = []
    with torch.no_grad():
        found = AnswerLogProbs(model, adapter("qwen2_5_omni"))(batch)
        for row in rows:
            audio = heard(processing, row)
            for answer in row.answers:
                ids = torch.tensor([[*row.prompt_ids, *answer]])
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio).logits[0]
                scores = logits[len(row.prompt_ids) - 1 : -1].log_softmax(-1)
                expected.append(scores[torch.arange(len(answer)), torch.tensor(answer)])
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=1e-5)


def test_positions_of_text_and_audio_are_plain(omni: Path) -> None:
    """Both ways through transformers' 3-D positions, `[axis, row, position]`, count tokens; the second is the one for images."""
    processing = qwen2_5_omni.open(omni)
    model: Any = qwen2_5_omni.load_model(omni, "float32")
    ids = torch.tensor([processing.prompt_ids("say", samples=CLIPS["short"])])
    frames = torch.tensor(processing.features([CLIPS["short"]])[1]).sum(-1)
    for images in (None, torch.empty(0, 3, dtype=torch.long)):
        places, delta = model.get_rope_index(ids, image_grid_thw=images, attention_mask=torch.ones_like(ids), audio_seqlens=frames)
        assert torch.equal(places, torch.arange(ids.shape[1]).expand(3, 1, -1))
        assert int(delta) == 0


@pytest.mark.parametrize("sample_count", [16_000, 16_159, 24_000, 25_441, 40_123, 64_000])
def test_the_silence_after_the_longest_clip_changes_nothing(omni: Path, sample_count: int) -> None:
    """Cut to the frames that are needed, the tower gives transformers' own embeddings of the whole window."""
    processing = qwen2_5_omni.open(omni)
    model: Any = qwen2_5_omni.load_model(omni, "float32").eval()
    features, frame_mask = map(torch.tensor, processing.features([tone(1.0, 1), tone(sample_count / SAMPLING_RATE_HZ, 2)]))
    frames = processing.frames_needed(frame_mask.numpy())
    assert frames == 400 or sample_count / 160 <= frames < 400
    with torch.no_grad():
        expected = model.get_audio_features(features, frame_mask).last_hidden_state
        cut, counts = qwen2_5_omni.audio_embeddings(model, features[:, :, :frames], frame_mask[:, :frames])
    assert counts.tolist() == [processing.audio_tokens(16_000), processing.audio_tokens(sample_count)]
    found = torch.cat([clip[:count] for clip, count in zip(cut, counts.tolist(), strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_what_is_trained_is_what_a_pass_uses(omni: Path) -> None:
    """No gradient for images and the talker, and a gradient for everything else: what ZeRO-3 partitions for the optimiser is all in use."""
    processing, model = qwen2_5_omni.open(omni), qwen2_5_omni.load_model(omni, "float32")
    (-AnswerLogProbs(model, adapter("qwen2_5_omni"))(micro_batch(processing)[0]).sum()).backward()
    for name, parameter in model.named_parameters():
        unused = name.startswith(("visual.", "audio_tower.audio_bos_eos_token."))
        assert (parameter.requires_grad, parameter.grad is None) == (not unused, unused), name
    tower = {id(parameter) for parameter in qwen2_5_omni.audio_parameters(model)}
    named = {name for name, parameter in model.named_parameters() if id(parameter) in tower}
    assert named == {name for name in dict(model.named_parameters()) if name.startswith("audio_tower.") and ".proj." not in name}


def run_module(name: str, *arguments: object, **environment: str) -> None:
    command = [sys.executable, "-m", name, *map(str, arguments)]
    ran = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]


def test_a_step_under_zero_3_trains_what_can_be_trained(omni: Path, tmp_path: Path) -> None:
    """DeepSpeed partitions what has no gradient as well, publishes it as it was, and updates the rest as it does unpartitioned.

    Three steps of 1e-3; where a gradient is next to nothing, AdamW makes more of its rounding.
    """
    run_module("tests.policies.omni_steps", tmp_path, omni)
    start = load_file(omni / "model.safetensors")
    partitioned, plain = (load_file(tmp_path / f"{case}.safetensors") for case in ("zero_3", "zero_0"))
    assert partitioned.keys() == plain.keys() == qwen2_5_omni.checkpoint_names(omni)
    for name, tensor in partitioned.items():
        assert torch.equal(tensor, start[name]) == name.startswith(("thinker.visual.", "thinker.audio_tower.audio_bos_eos_token.")), name
        torch.testing.assert_close(tensor, plain[name], atol=1e-5, rtol=0)


@pytest.mark.engine
def test_vllm_hears_and_answers_as_transformers_does(whole: Path, tmp_path: Path) -> None:
    """Of a whole release, by its own weights and by a version that was published: greedy answers and their log-probabilities."""
    paths = os.pathsep.join(filter(None, [torchvision_stand_in(tmp_path / "images"), os.environ.get("PYTHONPATH"), str(Path.cwd())]))
    run_module("tests.policies.omni_vllm", tmp_path / "answers.json", whole, tmp_path / "versions", PYTHONPATH=paths)
    found = json.loads((tmp_path / "answers.json").read_text())
    processing, weights = qwen2_5_omni.open(whole), Weights(whole, tmp_path / "expected", "qwen2_5_omni")
    for stage, told in found.items():
        if stage == "applied":
            weights.perturb("", scale=0.05)
        for answer, length_s, seed in zip(told, [*LENGTHS_S, None], [*range(len(LENGTHS_S)), 0], strict=True):
            clip = None if length_s is None else tone(length_s, seed)
            prompt = processing.prompt_ids(PROMPT, clip) if clip is not None else processing.prompt_ids("", instruction=INSTRUCTION)
            assert answer["prompt_tokens"] == len(prompt)
            expected = greedy(weights.model, processing, prompt, clip, len(answer["token_ids"]))
            assert answer["token_ids"] == expected, (stage, length_s)
            own = weights.logprobs(processing, prompt, clip, answer["token_ids"])
            np.testing.assert_allclose(answer["logprobs"], own, atol=1e-4)
    assert found["start"] != found["applied"]


def greedy(model: Any, processing: Any, prompt: list[int], clip: Any, tokens: int) -> list[int]:
    """transformers' answer, by `generate` itself."""
    ids, audio = torch.tensor([prompt]), {}
    if clip is not None:
        features, frame_mask = processing.features([clip])
        audio = {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=processing.stop_token_ids,
        pad_token_id=processing.pad_token_id,
        **audio,
    )
    return [int(token) for token in out[0, len(prompt) :]]
