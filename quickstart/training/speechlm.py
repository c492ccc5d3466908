"""The tiny SpeechLM: Qwen2-Audio's classes, trained from nothing on spoken and written instructions. Edge: torch, transformers.

Training calls the tower on the length of the batch's longest clip instead of the whole window: the output is the same on
the clip's own positions, and a step costs half.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from policies.adapter import Processing
from protocol.audio import SAMPLE_RATE
from protocol.dataset import DataSet
from protocol.messages import InstructionGroup
from quickstart.training.steps import answer_loss, initialise, pad
from quickstart.training.tokenizer import SPECIAL, build_tokenizer

WINDOW_S = 4
MEL_BINS = 80
HIDDEN = 128
LAYERS = 3
HEADS = 4


def write_processor(folder: Path) -> None:
    """Write tokenizer and feature extractor, as transformers' and vLLM's processors read them."""
    from transformers import WhisperFeatureExtractor

    build_tokenizer().save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_S, sampling_rate=SAMPLE_RATE, return_attention_mask=True)
    extractor.save_pretrained(folder)
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "processor_class": "Qwen2AudioProcessor"}, indent=2) + "\n")


def new_model(folder: Path, seed: int) -> nn.Module:
    """A model with random weights for the processor in `folder`."""
    from transformers import AutoTokenizer, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": HIDDEN,
            "encoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "encoder_ffn_dim": 2 * HIDDEN,
            "num_mel_bins": MEL_BINS,
            "max_source_positions": 50 * WINDOW_S,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": HIDDEN,
            "intermediate_size": 3 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_turn,
            "pad_token_id": end_of_text,
        },
        audio_token_index=ids["<|AUDIO|>"],
        bos_token_id=end_of_text,
        eos_token_id=end_of_turn,
        pad_token_id=end_of_text,
    )
    generation = {"bos_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text], "pad_token_id": end_of_text}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config).float()
    initialise(model)
    tower = model.model.audio_tower
    for convolution in (tower.conv1, tower.conv2):  # else clips reach the tower fifty times fainter than their positions
        nn.init.normal_(convolution.weight, std=1.5 * (2 / (3 * convolution.in_channels)) ** 0.5)
    tower.embed_positions.weight.data = sinusoids(50 * WINDOW_S, HIDDEN)
    return cast(nn.Module, model)


def sinusoids(positions: int, channels: int) -> Tensor:
    """Whisper's position embeddings ``[position, channel]``. The tower never trains its own, and transformers leaves them random."""
    inverse = torch.exp(-math.log(10_000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(positions)[:, None] * inverse[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@dataclass(frozen=True)
class Heard:
    """One utterance, or the written instruction, ready for the model."""

    group: InstructionGroup
    speaker: str
    prompt_ids: list[int]
    answer_ids: list[int]
    features: Tensor | None
    """Log-mel ``[mel, frame]`` float16 of the clip itself and the first silent frame after it; None for written instructions."""
    frames: int = 0


def hear(manifest: Path, processing: Processing, *, written: bool = False) -> list[Heard]:
    """Every utterance of a manifest (and each instruction in writing) in its order."""
    data = DataSet.open(manifest)
    heard = []
    for group in data.groups:
        answer_ids = processing.answer_ids(group.reference)
        clips = [data.samples(cast(str, one.audio), processing.window_s) for one in group.utterances]
        features, masks = processing.features(clips)
        for one, samples, feature, mask in zip(group.utterances, clips, features, masks, strict=True):
            frames = int(mask.sum())
            kept = torch.from_numpy(feature[:, : frames + 2].astype(np.float16))
            heard.append(Heard(group, one.speaker, processing.prompt_ids(group.prompt, samples), answer_ids, kept, frames))
        if written:
            prompt_ids = processing.prompt_ids(group.prompt, instruction=group.instruction)
            heard.append(Heard(group, "text", prompt_ids, answer_ids, None))
    return heard


def masked(feature: Tensor) -> Tensor:
    """`feature` with one random band and one random moment silenced (SpecAugment)."""
    out = feature.clone()
    silence = feature.min()
    for axis, widest in ((0, 10), (1, 10)):
        width = int(torch.randint(1, widest, ()))
        start = int(torch.randint(0, max(1, feature.shape[axis] - width), ()))
        out.narrow(axis, start, min(width, feature.shape[axis] - start)).fill_(silence)
    return out


def _stack(clips: Sequence[Heard]) -> tuple[Tensor, Tensor]:
    """Features ``[clip, mel, frame]`` and frames of each clip ``[clip]``, padded to the longest by each clip's own silence."""
    longest = max(clip.frames for clip in clips) + 2
    longest += longest % 2
    stacked = torch.stack([lengthen(cast(Tensor, clip.features).float(), longest) for clip in clips])
    return stacked, torch.tensor([clip.frames for clip in clips])


def lengthen(feature: Tensor, frames: int) -> Tensor:
    """`feature` padded to `frames` with its own last, silent frame."""
    return torch.cat([feature, feature[:, -1:].expand(-1, frames - feature.shape[1])], dim=1)


def encode(model: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Audio embeddings ``[clip, position, hidden]`` and their number ``[clip]``: the tower and projector on a shorter window."""
    inner = cast(Any, model).model
    tower = inner.audio_tower
    hidden = gelu(tower.conv2(gelu(tower.conv1(features)))).permute(0, 2, 1)
    hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
    places = (frames - 1) // 2 + 1
    attend = (torch.arange(hidden.shape[1])[None] < places[:, None])[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
    for layer in tower.layers:
        hidden = layer(hidden, attend)
    hidden = tower.layer_norm(tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1))
    return inner.multi_modal_projector(hidden), (places - 2) // 2 + 1


def forward(model: nn.Module, ids: Tensor, audio: Tensor | None, audio_token_id: int) -> Tensor:
    """Logits ``[row, position, vocabulary]`` of right-padded token rows ``[row, position]`` with `audio` ``[place, hidden]`` spliced in."""
    inner = cast(Any, model)
    embeds = inner.model.language_model.embed_tokens(ids)
    if audio is not None:
        embeds = embeds.masked_scatter((ids == audio_token_id)[..., None], audio.to(embeds.dtype))
    hidden = inner.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    return cast(Tensor, inner.lm_head(hidden))


def valid(encoded: Tensor, lengths: Tensor) -> Tensor:
    """The embeddings ``[place, hidden]`` that are audio, one clip after another."""
    return encoded[torch.arange(encoded.shape[1])[None] < lengths[:, None]]


def answers_loss(model: nn.Module, rows: Sequence[Heard], processing: Processing, audio: Tensor | None = None) -> Tensor:
    """Cross-entropy per answer token, the closing token included."""
    ids = pad([row.prompt_ids + row.answer_ids for row in rows], processing.pad_token_id)
    logits = forward(model, ids, audio, processing.audio_token_id)
    return answer_loss(logits, [row.prompt_ids for row in rows], [row.answer_ids for row in rows])


def heard_embeddings(model: nn.Module, rows: Sequence[Heard]) -> tuple[Tensor, Tensor]:
    """Audio embeddings of spoken rows, each clip with a random band and moment silenced (see `encode`)."""
    return encode(model, *_stack([replace(row, features=masked(cast(Tensor, row.features))) for row in rows]))


@torch.no_grad()
def answers(model: nn.Module, rows: Sequence[Heard], processing: Processing, *, temperature: float = 0.0) -> list[str]:
    """The model's answers, greedy or sampled, in the order of `rows`: all of them spoken, or all written."""
    model.eval()
    batch, longest = 64, 24
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].prompt_ids))
    texts = [""] * len(rows)
    for start in range(0, len(rows), batch):
        places = order[start : start + batch]
        for place, ids in zip(places, _complete(model, [rows[place] for place in places], processing, longest, temperature), strict=True):
            texts[place] = processing.decode(ids)
    return texts


def _complete(model: nn.Module, rows: list[Heard], processing: Processing, longest: int, temperature: float) -> list[list[int]]:
    done: list[list[int]] = [[] for _ in rows]
    open_rows = list(range(len(rows)))
    heard: list[Tensor] = []
    if rows[0].features is not None:
        encoded, lengths = encode(model, *_stack(rows))
        heard = [row[:length] for row, length in zip(encoded, lengths.tolist(), strict=True)]
    for _ in range(longest):
        ids = pad([rows[row].prompt_ids + done[row] for row in open_rows], processing.pad_token_id)
        audio = torch.cat([heard[row] for row in open_rows]) if heard else None
        logits = forward(model, ids, audio, processing.audio_token_id)
        ends = torch.tensor([len(rows[row].prompt_ids) + len(done[row]) - 1 for row in open_rows])
        last = logits[torch.arange(len(open_rows)), ends]
        chosen = torch.multinomial((last / temperature).softmax(-1), 1)[:, 0] if temperature else last.argmax(-1)
        for row, token in zip(list(open_rows), chosen.tolist(), strict=True):
            if token in processing.stop_token_ids:
                open_rows.remove(row)
            else:
                done[row].append(token)
        if not open_rows:
            break
    return done


def accuracy(model: nn.Module, rows: Sequence[Heard], processing: Processing) -> tuple[float, dict[str, float]]:
    """Share of greedy answers that are right, over all rows and by speaker."""
    by_speaker: dict[str, list[bool]] = {}
    for row, text in zip(rows, answers(model, rows, processing), strict=True):
        by_speaker.setdefault(row.speaker, []).append(text in (row.group.answers or [row.group.reference]))
    right = [one for each in by_speaker.values() for one in each]
    return sum(right) / len(right), {speaker: round(sum(each) / len(each), 3) for speaker, each in sorted(by_speaker.items())}
