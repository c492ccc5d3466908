"""Qwen2-Audio (the paper's SpeechLM): prompt and audio layout, tensor names, checkpoints. Edge: transformers, torch.

Names of tensors. Three layouts of one model meet here; only the released one ever leaves a process:

    in memory (transformers 5)             released checkpoint, vLLM, policy versions
    model.language_model.*                 language_model.model.*
    lm_head.*                              language_model.lm_head.*
    model.audio_tower.*                    audio_tower.*
    model.multi_modal_projector.*          multi_modal_projector.*
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from policies.adapter import Processing
from policies.checkpoint import raise_unless_loaded, read_config, save_copy, save_weights, set_dtype
from policies.checkpoint import tensor_names as checkpoint_names
from policies.processing import WhisperProcessing
from policies.qwen2_audio_network import audio_embeddings, audio_parameters, hidden_states, logits
from protocol.errors import UserError

__all__ = [
    "Qwen2AudioProcessing",
    "audio_embeddings",
    "audio_parameters",
    "check",
    "checkpoint_names",
    "hidden_states",
    "load_model",
    "logits",
    "open",
    "released_names",
    "save",
    "save_model",
]

ARCHITECTURE = "Qwen2AudioForConditionalGeneration"
RELEASED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def check(directory: Path) -> None:
    """Raise `UserError` unless `directory` holds a Qwen2-Audio checkpoint in the released layout."""
    where = str(directory)
    config = read_config(directory)
    if config.get("model_type") != "qwen2_audio":
        raise UserError(
            f"this is a {config.get('model_type')!r} checkpoint, not qwen2_audio",
            where=where,
            fix="choose another model.path or model.adapter",
        )
    foreign = sorted(name for name in checkpoint_names(directory) if not name.startswith(tuple(RELEASED_PREFIXES.values())))
    doubled = sorted(name for name in checkpoint_names(directory) if name.startswith("language_model.model.model."))
    if foreign or doubled:
        raise UserError(
            f"tensor names are not in the released layout, for example {(foreign + doubled)[0]!r} (transformers 5 saves such names)",
            where=where,
            fix="write the checkpoint with policies.qwen2_audio.save_model",
        )


def released_names(module: nn.Module) -> dict[str, str]:
    """The released checkpoint's name of each parameter of `module`, by its name in memory. Raises `ValueError` for an unknown one."""
    return {name: _released(name) for name, _ in module.named_parameters()}


def _released(name: str) -> str:
    for ours, theirs in RELEASED_PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"no released name is known for the parameter {name!r}")


def load_model(directory: Path, dtype: str) -> nn.Module:
    """The model with its weights in `dtype`. Raises `UserError` when a tensor is missing, left over or of another shape."""
    from transformers import Qwen2AudioForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one bar a rank, in the middle of the logs
    check(directory)
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(
        str(directory), dtype=getattr(torch, dtype), attn_implementation="sdpa", output_loading_info=True, local_files_only=True
    )
    raise_unless_loaded(info, directory)
    return cast(nn.Module, model)


def save_model(model: Any, directory: Path, dtype: str = "float32") -> None:
    """Write config.json and safetensors of a model in memory, in the released layout (the processor's files are the caller's)."""
    directory.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [ARCHITECTURE]
    model.config.save_pretrained(str(directory))
    set_dtype(directory, dtype)
    names = released_names(model)
    save_weights(directory, ((names[name], parameter.detach()) for name, parameter in model.named_parameters()), dtype)


def save(directory: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, dtype: str) -> None:
    """Write a checkpoint: `tensors` by released name, and every other file copied from the checkpoint `source`.

    Raises `ValueError` unless the names are exactly those of `source`.
    """
    save_copy(directory, tensors, source, checkpoint_names(source), dtype)


def open(directory: Path) -> Processing:  # noqa: A001 -- read as qwen2_audio.open
    """The checkpoint's tokenizer, chat template and feature extractor."""
    check(directory)
    return Qwen2AudioProcessing(directory)


class Qwen2AudioProcessing(WhisperProcessing):
    """Text and audio to model input."""

    silent_frames: ClassVar[int] = 4  # one through each convolution, the second of which counts double

    def __init__(self, directory: Path) -> None:
        config = read_config(directory)
        super().__init__(directory, config.get("text_config", {}).get("vocab_size"))
        positions = config.get("audio_config", {}).get("max_source_positions", 1500)
        if self._extractor.nb_max_frames != 2 * positions:
            raise UserError(
                f"the feature extractor's window of {self._extractor.nb_max_frames} frames does not fit the audio tower's "
                f"{positions} positions (2 frames each)",
                where=str(directory),
                fix="make preprocessor_config.json's chunk_length agree with audio_config.max_source_positions / 50",
            )

    def chat_template(self) -> Any:
        """The tokenizer's; checkpoints from before chat templates get the family's own one."""
        from transformers import Qwen2AudioProcessor

        return self._tokenizer.chat_template or Qwen2AudioProcessor(self._extractor, self._tokenizer).chat_template
