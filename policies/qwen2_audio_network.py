"""Qwen2-Audio's forward pass in the pieces that the learner needs. Edge: torch.

transformers' own forward encodes one clip per row. A learner's rows share clips and answers share prompts, so the tower,
the splice and the language model are called one by one. Every parameter is reached through a call of its submodule:
ZeRO-3 gathers parameters in the hooks of those calls.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def audio_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of the audio tower (the projector is not part of it)."""
    return list(cast(Any, module).model.audio_tower.parameters())


def audio_embeddings(module: nn.Module, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings ``[clip, position, hidden]`` of log-mel features ``[clip, mel, frame]``, and audio positions of each clip ``[clip]``.

    Positions beyond the clip's own count are padding. The tower attends to the clip's own frames alone, as in transformers and vLLM.
    Its layers are called one by one, since its own forward insists on the whole window, most of which is silence.
    """
    inner = cast(Any, module).model
    tower = inner.audio_tower
    frames, lengths = tower._get_feat_extract_output_lengths(frame_mask.sum(-1))  # noqa: SLF001 -- the family's one formula
    hidden = functional.gelu(tower.conv1(features.to(tower.conv1.weight.dtype)))
    hidden = functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    places = torch.arange(hidden.shape[1], device=features.device)
    hidden = hidden + tower.embed_positions(places)
    attend = (places[None, :] < frames[:, None])[:, None, None, :].expand(-1, 1, len(places), -1)
    for layer in tower.layers:
        hidden = layer(hidden, attend)
    pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    return inner.multi_modal_projector(tower.layer_norm(pooled)), lengths


def hidden_states(module: nn.Module, token_ids: Tensor, spliced: Tensor, is_audio: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states ``[row, position, hidden]`` (see `policies.adapter.Adapter.hidden_states`)."""
    language_model = cast(Any, module).model.language_model
    embeds = language_model.embed_tokens(token_ids)
    embeds = embeds.masked_scatter(is_audio[..., None], spliced.to(embeds.dtype))
    out = language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return cast(Tensor, out.last_hidden_state)


def logits(module: nn.Module, hidden: Tensor) -> Tensor:
    """Logits ``[token, vocabulary]`` of hidden states ``[token, hidden]``."""
    return cast(Tensor, cast(Any, module).lm_head(hidden))
