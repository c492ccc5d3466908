"""What benchmarks of the learner measure on: Qwen2-Audio models of random weights and any size, and batches of made-up groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from learner.collate import TrainingGroup
from policies.adapter import Samples
from policies.qwen2_audio import released_names, save_model
from protocol.messages import (
    Completion,
    GroupResult,
    InstructionGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Utterance,
    VersionSpan,
)

VOICES = 4
SAMPLING_RATE_HZ = 16_000
REFERENCE = "the capital of peru is lima"
POSITIONS_PER_S = 50
"""Of the audio tower."""


@dataclass(frozen=True)
class Tower:
    """Dimensions of an audio tower."""

    width: int
    layers: int
    heads: int
    intermediate: int
    mel: int = 80


@dataclass(frozen=True)
class Size:
    """Dimensions of a model. Left out: a tower like the language model, of 4 times its width within; 3 times in the language model."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    intermediate: int = 0
    tower: Tower | None = None

    @property
    def inner(self) -> int:
        """Width within a layer of the language model."""
        return self.intermediate or 3 * self.hidden

    @property
    def audio(self) -> Tower:
        """The audio tower's dimensions."""
        return self.tower or Tower(self.hidden, self.layers, self.heads, 4 * self.hidden)


def model_config(size: Size, window_s: int, audio_token: int) -> Any:
    """The configuration of a Qwen2-Audio of that size."""
    from transformers import Qwen2AudioConfig

    audio = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": size.audio.mel,
        "max_source_positions": POSITIONS_PER_S * window_s,
        "d_model": size.audio.width,
        "encoder_layers": size.audio.layers,
        "encoder_attention_heads": size.audio.heads,
        "encoder_ffn_dim": size.audio.intermediate,
    }
    text = {
        "model_type": "qwen2",
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "vocab_size": size.vocabulary,
    }
    return Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=audio_token)


def write_processing(folder: Path, size: Size, window_s: int) -> Any:
    """Write tokenizer and feature extractor; returns the model's configuration."""
    from transformers import WhisperFeatureExtractor

    from quickstart.training.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=size.audio.mel, chunk_length=window_s, return_attention_mask=True).save_pretrained(folder)
    return model_config(size, window_s, tokenizer.convert_tokens_to_ids("<|AUDIO|>"))


def write_checkpoint(folder: Path, size: Size, window_s: int) -> Path:
    """Random weights, the same ones for every window: only the audio tower's positions differ, which are sinusoids."""
    from transformers import Qwen2AudioForConditionalGeneration

    config = write_processing(folder, size, window_s)
    with torch.device("meta"):
        model: Any = Qwen2AudioForConditionalGeneration(config)
    model.to_empty(device="cpu")
    fill(model)
    save_model(model, folder)
    return folder


def write_shell(folder: Path, size: Size, window_s: int) -> Any:
    """A checkpoint that names its tensors and has none, for a model that is made in memory. Returns the model's configuration."""
    from transformers import Qwen2AudioForConditionalGeneration

    config = write_processing(folder, size, window_s)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    config.save_pretrained(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(released_names(model).values(), "nowhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return config


def random_model(config: Any, dtype: str, device: torch.device) -> nn.Module:
    """A model that is made where it is to be; the same weights in every dtype, but for their rounding."""
    from transformers import Qwen2AudioForConditionalGeneration

    with device:  # not on "meta" first: buffers have to be computed
        model = Qwen2AudioForConditionalGeneration._from_config(  # noqa: SLF001 - the way to an attention and a dtype without a file
            config, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
    fill(model)
    made: nn.Module = model
    return made


def fill(model: Any) -> None:
    """Random weights; the audio tower's positions are sinusoids."""
    from quickstart.training.speechlm import sinusoids

    positions = model.model.audio_tower.embed_positions.weight
    generator = torch.Generator(positions.device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                drawn = torch.empty(parameter.shape, dtype=torch.float32, device=parameter.device)
                parameter.copy_(drawn.normal_(std=0.02, generator=generator))
        positions.copy_(sinusoids(*positions.shape))


def batch(groups: int, answer_tokens: tuple[int, int] = (6, 14), reference: str = REFERENCE) -> list[TrainingGroup]:
    """Groups of four voices: a pair each, sampled answers of so many tokens."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(groups):
        utterances = [Utterance(f"voice-{voice}", f"{number}-{voice}", 0.0) for voice in range(VOICES)]
        group = InstructionGroup(f"g{number}", "", reference, utterances)
        sampled = []
        for voice in range(VOICES):
            ids = rng.integers(300, 570, int(rng.integers(*answer_tokens))).astype("<i4")
            span = VersionSpan(PolicyVersion(0, 0), 0, len(ids))
            sampled.append(
                Completion(voice, ids.tobytes(), np.zeros(len(ids), "<f4").tobytes(), f"answer {voice}", "stop", [span], float(voice))
            )
        result = GroupResult(number, 0, group.group_id, Outcome.PAIRS, completions=sampled, pairs=[PreferencePair(VOICES - 1, 0)])
        items.append(TrainingGroup(group, result))
    return items


def noise(shortest_s: float, longest_s: float) -> Callable[[str], Samples]:
    """Clips of noise by their name, "<number>-<voice>", between those lengths."""

    def spoken(audio: str) -> Samples:
        number, voice = map(int, audio.split("-"))
        rng = np.random.default_rng([number, voice])
        return rng.normal(scale=0.1, size=int(SAMPLING_RATE_HZ * rng.uniform(shortest_s, longest_s))).astype(np.float32)

    return spoken
