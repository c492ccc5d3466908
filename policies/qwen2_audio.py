"""Qwen2-Audio (the paper's SpeechLM): prompt and audio layout, tensor names, checkpoints. Edge: transformers, torch.

Names of tensors. Three layouts of one model meet here; only the released one ever leaves a process:

    in memory (transformers 5)             released checkpoint, vLLM, policy versions
    model.language_model.*                 language_model.model.*
    lm_head.*                              language_model.lm_head.*
    model.audio_tower.*                    audio_tower.*
    model.multi_modal_projector.*          multi_modal_projector.*
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from policies.adapter import Processing, Samples
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
AUDIO_PLACEHOLDER = "<|AUDIO|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
MIN_SAMPLES = 400
"""One window of the spectrogram; anything shorter has no frame of its own."""
SILENT_FRAMES = 4
"""Frames after a clip that its last embedding still sees: one through each convolution, the second of which counts double."""
FRAME_STEP = 16
"""Frames are cut to a multiple of this: few different shapes, and whole embeddings (4 frames each)."""
SHARD_BYTES = 4 << 30
RELEASED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
COMPANION_SUFFIXES = {".json", ".jinja", ".txt", ".model"}
NOT_COMPANIONS = {"model.safetensors.index.json", "digests.json"}


def check(directory: Path) -> None:
    """Raise `UserError` unless `directory` holds a Qwen2-Audio checkpoint in the released layout."""
    where = str(directory)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise UserError("no checkpoint here: config.json is missing", where=where, fix="set model.path to a Hugging Face checkpoint folder")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"config.json is damaged: {error}", where=where, fix="copy the checkpoint again") from error
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


def checkpoint_names(directory: Path) -> set[str]:
    """Names of all tensors in the checkpoint. Raises `UserError` where there are no safetensors files."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = directory / "model.safetensors"
    if not single.is_file():
        raise UserError("no model.safetensors here", where=str(directory), fix="convert the checkpoint to safetensors, or copy it again")
    with safe_open(single, framework="np") as opened:
        return set(opened.keys())


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
    problems = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(kind)}
    if problems:
        raise UserError(f"the weights do not fit the model: {problems}", where=str(directory), fix="check the checkpoint's config.json")
    return cast(nn.Module, model)


def save_model(model: Any, directory: Path, dtype: str = "float32") -> None:
    """Write config.json and safetensors of a model in memory, in the released layout (the processor's files are the caller's)."""
    directory.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [ARCHITECTURE]
    model.config.save_pretrained(str(directory))
    _set_dtype(directory, dtype)
    names = released_names(model)
    save_weights(directory, ((names[name], parameter.detach()) for name, parameter in model.named_parameters()), dtype)


def save(directory: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, dtype: str) -> None:
    """Write a checkpoint: `tensors` by released name, and every other file copied from the checkpoint `source`.

    Raises `ValueError` unless the names are exactly those of `source`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix in COMPANION_SUFFIXES and file.name not in NOT_COMPANIONS:
            shutil.copyfile(file, directory / file.name)
    _set_dtype(directory, dtype)
    written = save_weights(directory, tensors, dtype)
    expected = checkpoint_names(source)
    if written != expected:
        raise ValueError(
            f"tensor names differ from the checkpoint's: missing {sorted(expected - written)}, extra {sorted(written - expected)}"
        )


def save_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], dtype: str) -> set[str]:
    """Write safetensors files, in shards of `SHARD_BYTES` with an index when there is more than one. Returns the names."""
    target = getattr(torch, dtype)
    shards: list[dict[str, int]] = []
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        save_file(pending, str(directory / f"shard-{len(shards)}.safetensors"), metadata={"format": "pt"})
        shards.append({name: tensor.nbytes for name, tensor in pending.items()})
        pending.clear()

    for name, tensor in tensors:
        if pending and sum(held.nbytes for held in pending.values()) + tensor.numel() * target.itemsize > SHARD_BYTES:
            flush()
        pending[name] = tensor.detach().to(device="cpu", dtype=target, copy=True).contiguous()
    flush()
    if len(shards) == 1:
        (directory / "shard-0.safetensors").rename(directory / "model.safetensors")
    else:
        weight_map = {}
        for number, shard in enumerate(shards):
            file_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            (directory / f"shard-{number}.safetensors").rename(directory / file_name)
            weight_map.update(dict.fromkeys(shard, file_name))
        index = {"metadata": {"total_size": sum(sum(shard.values()) for shard in shards)}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    return {name for shard in shards for name in shard}


def _set_dtype(directory: Path, dtype: str) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config", {}), config.get("audio_config", {})):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = dtype
    if "torch_dtype" not in config:
        config["dtype"] = dtype
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def open(directory: Path) -> Processing:  # noqa: A001 -- read as qwen2_audio.open
    """The checkpoint's tokenizer, chat template and feature extractor."""
    check(directory)
    return Qwen2AudioProcessing(directory)


class Qwen2AudioProcessing:
    """Text and audio to model input, as transformers' processor and vLLM do it, but with each step by itself."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer, Qwen2AudioProcessor, WhisperFeatureExtractor

        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self._tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        self._extractor = WhisperFeatureExtractor.from_pretrained(str(directory), local_files_only=True)
        self._template = self._tokenizer.chat_template
        if not self._template:  # checkpoints from before chat templates: the family's own one
            self._template = Qwen2AudioProcessor(self._extractor, self._tokenizer).chat_template
        self.window_s = float(self._extractor.chunk_length)
        self.sampling_rate_hz = int(self._extractor.sampling_rate)
        self.vocabulary = (
            int(config["text_config"]["vocab_size"]) if "vocab_size" in config.get("text_config", {}) else len(self._tokenizer)
        )
        self._hop = int(self._extractor.hop_length)
        positions = config.get("audio_config", {}).get("max_source_positions", 1500)
        if self._extractor.nb_max_frames != 2 * positions:
            raise UserError(
                f"the feature extractor's window of {self._extractor.nb_max_frames} frames does not fit the audio tower's "
                f"{positions} positions (2 frames each)",
                where=str(directory),
                fix="make preprocessor_config.json's chunk_length agree with audio_config.max_source_positions / 50",
            )
        self.audio_token_id = self._id(AUDIO_PLACEHOLDER, directory)
        self.pad_token_id = self._id(END_OF_TEXT, directory)
        self.stop_token_ids = [self._id(END_OF_TURN, directory), self.pad_token_id]

    def _id(self, token: str, directory: Path) -> int:
        found = self._tokenizer.convert_tokens_to_ids(token)
        if not isinstance(found, int) or self._tokenizer.convert_ids_to_tokens(found) != token:
            raise UserError(
                f"the tokenizer has no token {token}", where=str(directory), fix="use the tokenizer that the model was released with"
            )
        return found

    def render(self, prompt: str, instruction: str | None = None) -> str:
        """The chat as text, up to where the answer starts (see `policies.adapter.Processing.render`)."""
        content: list[dict[str, str]] = [{"type": "audio"}] if instruction is None else [{"type": "text", "text": instruction}]
        if prompt:
            content.append({"type": "text", "text": prompt if instruction is None else f"\n{prompt}"})
        messages = [{"role": "user", "content": content}]
        return cast(
            str, self._tokenizer.apply_chat_template(messages, chat_template=self._template, add_generation_prompt=True, tokenize=False)
        )

    def compact_ids(self, prompt: str, instruction: str | None = None) -> list[int]:
        """Token ids of `render` with the placeholder as one token."""
        ids = self._tokenizer.encode(self.render(prompt, instruction), add_special_tokens=False)
        wanted = 0 if instruction is not None else 1
        if ids.count(self.audio_token_id) != wanted:
            raise UserError(
                f"the rendered prompt holds {ids.count(self.audio_token_id)} audio placeholders instead of {wanted}",
                where=repr(instruction if instruction is not None else prompt),
                fix=f"keep {AUDIO_PLACEHOLDER} out of instructions and prompts, and check the checkpoint's chat template",
            )
        return list(ids)

    def prompt_ids(self, prompt: str, samples: Samples | None = None, instruction: str | None = None) -> list[int]:
        """Token ids with the placeholder repeated for each audio embedding (see `policies.adapter.Processing.prompt_ids`)."""
        if (samples is None) == (instruction is None):
            raise ValueError("give exactly one of samples and instruction")
        ids = self.compact_ids(prompt, instruction)
        if samples is None:
            return ids
        place = ids.index(self.audio_token_id)
        return [*ids[:place], *[self.audio_token_id] * self.audio_tokens(len(samples)), *ids[place + 1 :]]

    def audio_tokens(self, sample_count: int) -> int:
        """Audio embeddings of a clip: two convolution strides and one pooling over its frames."""
        if not MIN_SAMPLES <= sample_count <= self._extractor.n_samples:
            raise UserError(
                f"a clip of {sample_count} samples does not fit the window ({MIN_SAMPLES} to {self._extractor.n_samples} samples)",
                where="audio",
                fix=f"leave out clips beyond {self.window_s:g} s (data.max_audio_s) and empty ones",
            )
        frames = -(-sample_count // self._hop)
        return (((frames - 1) // 2 + 1) - 2) // 2 + 1

    def features(self, clips: Sequence[Samples]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Log-mel features ``[clip, mel, frame]`` and frame mask ``[clip, frame]``, padded to the window."""
        out = self._extractor(
            list(clips), sampling_rate=self.sampling_rate_hz, padding="max_length", return_attention_mask=True, return_tensors="np"
        )
        return out["input_features"].astype(np.float32, copy=False), out["attention_mask"].astype(np.int32, copy=False)

    def frames_needed(self, frame_mask: NDArray[np.int32]) -> int:
        """Frames of a batch that its embeddings depend on (see `policies.adapter.Processing.frames_needed`)."""
        longest = int(frame_mask.sum(axis=1).max())
        return min(int(frame_mask.shape[1]), -(-(longest + SILENT_FRAMES) // FRAME_STEP) * FRAME_STEP)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer, closed by the end-of-turn token."""
        return [*self._tokenizer.encode(text, add_special_tokens=False), self.stop_token_ids[0]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        return cast(str, self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
