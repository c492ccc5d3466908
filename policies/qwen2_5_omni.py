"""Qwen2.5-Omni's thinker (3B, 7B; audio in, text out): prompt and audio layout, tensor names, forward pass. Edge: transformers, torch.

Layouts. vLLM 0.32 loads what Qwen released: a config.json of type qwen2_5_omni with a `thinker_config`, and tensors under `thinker.`.

    in memory (transformers 5)                released checkpoint, vLLM, policy versions
    model.*, lm_head.*                        thinker.model.*, thinker.lm_head.*
    audio_tower.*                             thinker.audio_tower.*
    visual.*                                  thinker.visual.*
    not loaded                                talker.*, token2wav.*

* A whole release (``Qwen/Qwen2.5-Omni-7B``): the thinker alone is loaded, trained and published. What is saved leaves talker and
  token2wav out, which speak from hidden states that have changed, and says `enable_audio_output: false`.
* A thinker in this layout, such as `save`, `save_model` and `from_thinker` write: the same without the talker. transformers loads both by
  ``Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained``.
* A thinker that transformers saved by itself (type qwen2_5_omni_thinker, no prefix) is refused, since vLLM knows neither that type nor
  those names; `from_thinker` rewrites it.

The vision tower is part of the checkpoint and of every policy version, but no image ever comes in: it is loaded without a gradient,
and so is the talker's `audio_bos_eos_token`. An optimiser never sees them, and ZeRO-3 partitions and gathers them like frozen weights.

The audio tower hears chunks of ``2 * n_window`` frames that do not attend to each other, and only the clip's own frames: of the padding
nothing is computed. Audio and text advance all three axes of the rotary embedding together, so that positions are plain numbers.
In this family vLLM imports torchvision, which `requirements/cpu.lock` leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from policies.adapter import Processing
from policies.checkpoint import (
    copy_companions,
    raise_unless_loaded,
    read_config,
    save_copy,
    save_weights,
    set_dtype,
    tensor_names,
    write_config,
)
from policies.processing import AUDIO_PLACEHOLDER, WhisperProcessing
from protocol.errors import UserError

ARCHITECTURE = "Qwen2_5OmniForConditionalGeneration"
PREFIX = "thinker."
PARTS = ("audio_tower.", "visual.", "model.", "lm_head.")
LEFT_OUT = ("talker.", "token2wav.")
HEAD = "thinker.lm_head.weight"
LONGEST_S = 30.0
"""The released feature extractor takes 300 s, but vLLM plans its memory for clips of 30 s."""


def check(directory: Path) -> None:
    """Raise `UserError` unless `directory` holds a Qwen2.5-Omni checkpoint in the released layout, with or without the talker."""
    where = str(directory)
    config = read_config(directory)
    kind = config.get("model_type")
    if kind == "qwen2_5_omni_thinker":
        raise UserError(
            "this is a thinker as transformers saves it by itself, which vLLM cannot load",
            where=where,
            fix="rewrite it with policies.qwen2_5_omni.from_thinker",
        )
    if kind != "qwen2_5_omni" or "text_config" not in config.get("thinker_config", {}):
        raise UserError(f"this is a {kind!r} checkpoint, not qwen2_5_omni", where=where, fix="choose another model.path or model.adapter")
    names = tensor_names(directory)
    foreign = sorted(name for name in names if not name.startswith((*(PREFIX + part for part in PARTS), *LEFT_OUT)))
    if foreign:
        raise UserError(
            f"tensor names are not in the released layout, for example {foreign[0]!r}",
            where=where,
            fix="write the checkpoint with policies.qwen2_5_omni.save_model",
        )
    _check_head(config["thinker_config"], HEAD in names, where)


def _check_head(thinker: dict[str, Any], has_head: bool, where: str) -> None:
    # transformers reads the thinker's key, vLLM the text model's; their defaults differ
    tied = {thinker.get("tie_word_embeddings", False), thinker["text_config"].get("tie_word_embeddings", True)}
    if tied != {not has_head}:
        raise UserError(
            f"config.json and the weights do not agree on tied embeddings: {HEAD} is {'there' if has_head else 'missing'}",
            where=where,
            fix=f"set tie_word_embeddings to {json.dumps(not has_head)} in thinker_config and in its text_config",
        )


def checkpoint_names(directory: Path) -> set[str]:
    """Names of the thinker's tensors. Raises `UserError` where there are no safetensors files."""
    return {name for name in tensor_names(directory) if name.startswith(PREFIX)}


def released_names(module: nn.Module) -> dict[str, str]:
    """The released checkpoint's name of each parameter of `module`, by its name in memory. Raises `ValueError` for an unknown one."""
    names = [name for name, _ in module.named_parameters()]
    for name in names:
        if not name.startswith(PARTS):
            raise ValueError(f"no released name is known for the parameter {name!r}")
    return {name: PREFIX + name for name in names}


def load_model(directory: Path, dtype: str) -> nn.Module:
    """The thinker with its weights in `dtype`. Raises `UserError` when a tensor is missing, left over or of another shape."""
    from transformers import Qwen2_5OmniThinkerConfig
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one bar a rank, in the middle of the logs
    check(directory)
    Thinker._keys_to_ignore_on_load_unexpected = [f"^{part}" for part in LEFT_OUT]  # noqa: SLF001 -- else each rank lists them all
    model, info = Thinker.from_pretrained(
        str(directory),
        config=Qwen2_5OmniThinkerConfig.from_dict(read_config(directory)["thinker_config"]),
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        output_loading_info=True,
        local_files_only=True,
    )
    raise_unless_loaded(info, directory)
    model.visual.requires_grad_(False)
    model.audio_tower.audio_bos_eos_token.requires_grad_(False)
    return cast(nn.Module, model)


def save_model(model: Any, directory: Path, dtype: str = "float32") -> None:
    """Write config.json and safetensors of a thinker in memory, in the released layout (the processor's files are the caller's)."""
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, _released_config(json.loads(model.config.to_json_string(use_diff=False))))
    set_dtype(directory, dtype)
    names = released_names(model)
    save_weights(directory, ((names[name], parameter) for name, parameter in model.named_parameters()), dtype)


def from_thinker(source: Path, directory: Path) -> None:
    """Rewrite a thinker that transformers saved by itself in the released layout, with all its files and in its own dtype.

    Raises `UserError` unless `source` is one.
    """
    config = read_config(source)
    if config.get("model_type") != "qwen2_5_omni_thinker":
        raise UserError(
            f"this is a {config.get('model_type')!r} checkpoint, not qwen2_5_omni_thinker", where=str(source), fix="name another folder"
        )
    copy_companions(source, directory)
    write_config(directory, _released_config(config))
    save_weights(directory, _prefixed(source), config.get("dtype") or config.get("torch_dtype") or "float32")
    check(directory)


def _released_config(thinker: dict[str, Any]) -> dict[str, Any]:
    tied = thinker.get("tie_word_embeddings", False)
    thinker = {**thinker, "tie_word_embeddings": tied, "text_config": {**thinker["text_config"], "tie_word_embeddings": tied}}
    return {"architectures": [ARCHITECTURE], "model_type": "qwen2_5_omni", "enable_audio_output": False, "thinker_config": thinker}


def _prefixed(source: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(source.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping, it has no iterator
                yield PREFIX + name, opened.get_tensor(name)


def save(directory: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, dtype: str) -> None:
    """Write a thinker: `tensors` by released name, every other file copied from the checkpoint `source`, the talker left out.

    Raises `ValueError` unless the names are exactly the thinker's in `source`.
    """
    save_copy(directory, tensors, source, checkpoint_names(source), dtype)
    write_config(directory, {**read_config(directory), "enable_audio_output": False})


def open(directory: Path) -> Processing:  # noqa: A001 -- read as qwen2_5_omni.open
    """The checkpoint's tokenizer, chat template and feature extractor."""
    check(directory)
    return Qwen2_5OmniProcessing(directory)


class Qwen2_5OmniProcessing(WhisperProcessing):  # noqa: N801 -- the family's own spelling
    """Text and audio to model input. The chat template speaks the system prompt itself."""

    def __init__(self, directory: Path) -> None:
        thinker = read_config(directory)["thinker_config"]
        super().__init__(directory, thinker["text_config"].get("vocab_size"), longest_s=LONGEST_S)
        expected = thinker.get("audio_token_index", self.audio_token_id)
        if expected != self.audio_token_id:
            raise UserError(
                f"{AUDIO_PLACEHOLDER} is token {self.audio_token_id}, but config.json's audio_token_index is {expected}",
                where=str(directory),
                fix="use the tokenizer that the model was released with",
            )

    def chat_template(self) -> Any:
        """The processor's own (chat_template.json), else the tokenizer's. Raises `UserError` where there is none."""
        file = self._directory / "chat_template.json"
        template = json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else self._tokenizer.chat_template
        if not template:
            raise UserError(
                "the checkpoint has no chat template",
                where=str(self._directory),
                fix="copy chat_template.json or chat_template.jinja from the release",
            )
        return template


# --- the forward pass, every parameter reached through a call of its submodule, as ZeRO-3 needs ------------------------------------


def audio_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of the audio tower (its projection into the text model is not among them)."""
    return [parameter for name, parameter in cast(Any, module).audio_tower.named_parameters() if not name.startswith("proj.")]


def audio_embeddings(module: nn.Module, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings ``[clip, position, hidden]`` of log-mel features ``[clip, mel, frame]``, and audio positions of each clip ``[clip]``.

    The tower takes the clips' own frames, packed ``[mel, frame of all clips]``. Positions beyond a clip's own count are zero.
    """
    tower = cast(Any, module).audio_tower
    frames = frame_mask.sum(-1)
    _, lengths = tower._get_feat_extract_output_lengths(frames)  # noqa: SLF001 -- the family's one formula
    packed = features.transpose(1, 2)[frame_mask.bool()].T
    embeddings = tower(packed, feature_lens=frames).last_hidden_state
    return pad_sequence(embeddings.split(lengths.tolist()), batch_first=True), lengths


def hidden_states(module: nn.Module, token_ids: Tensor, spliced: Tensor, is_audio: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states ``[row, position, hidden]`` (see `policies.adapter.Adapter.hidden_states`).

    The text model spreads positions ``[row, position]`` over the rotary embedding's three axes by itself.
    """
    text = cast(Any, module).model
    embeds = text.embed_tokens(token_ids)
    embeds = embeds.masked_scatter(is_audio[..., None], spliced.to(embeds.dtype))
    return cast(Tensor, text(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state)


def logits(module: nn.Module, hidden: Tensor) -> Tensor:
    """Logits ``[token, vocabulary]`` of hidden states ``[token, hidden]``."""
    return cast(Tensor, cast(Any, module).lm_head(hidden))
