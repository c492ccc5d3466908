"""What both sides of a run must know about a family of SpeechLMs: one adapter a family.

Rollout actors need the prompt and its token ids; the learner needs the same, the audio features and the tensor names.
Everything that touches torch or transformers lives in the family's own (edge) module and is imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from protocol.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = {"qwen2_5_omni": "policies.qwen2_5_omni", "qwen2_audio": "policies.qwen2_audio"}

Samples = NDArray[np.float32]
"""Mono audio at the processing's sampling rate, float32 ``[sample]``."""


class Processing(Protocol):
    """How one checkpoint turns text and audio into model input. Needs no weights."""

    window_s: float
    """Length that every clip is padded to; longer audio does not fit. A property of the checkpoint."""
    sampling_rate_hz: int
    stop_token_ids: list[int]
    """Tokens that end an answer; the first one closes a reference."""
    pad_token_id: int
    audio_token_id: int
    vocabulary: int
    """Token ids that the model has embeddings for."""

    def render(self, prompt: str, instruction: str | None = None) -> str:
        """The chat as text, up to where the answer starts.

        Without `instruction` the user speaks: the text holds one audio placeholder, followed by the task's `prompt`.
        With it the user writes: the instruction stands where the audio would.
        """
        ...

    def compact_ids(self, prompt: str, instruction: str | None = None) -> list[int]:
        """Token ids of `render` with the placeholder as one token, the way vLLM takes them."""
        ...

    def prompt_ids(self, prompt: str, samples: Samples | None = None, instruction: str | None = None) -> list[int]:
        """Token ids of `render` with the placeholder repeated once for each audio embedding, the way the model sees them.

        Give exactly one of `samples` and `instruction`. Raises `UserError` for audio that is too short or does not fit the window.
        """
        ...

    def audio_tokens(self, sample_count: int) -> int:
        """Audio embeddings, and so placeholder tokens, of a clip of that many samples."""
        ...

    def features(self, clips: Sequence[Samples]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Log-mel features ``[clip, mel, frame]`` and frame mask ``[clip, frame]``, padded to the window."""
        ...

    def frames_needed(self, frame_mask: NDArray[np.int32]) -> int:
        """Frames of a batch that its embeddings depend on. The rest of the window is silence after the longest clip and may be cut off."""
        ...

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer, closed by the end-of-turn token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        ...


class Adapter(Protocol):
    """One family of SpeechLMs."""

    def check(self, directory: Path) -> None:
        """Raise `UserError` unless `directory` holds a checkpoint of this family in the released layout."""
        ...

    def open(self, directory: Path) -> Processing:
        """The checkpoint's tokenizer, chat template and feature extractor."""
        ...

    def load_model(self, directory: Path, dtype: str) -> nn.Module:
        """The model with its weights in `dtype` (float32 | bfloat16). Raises `UserError` when a tensor is missing or left over."""
        ...

    def checkpoint_names(self, directory: Path) -> set[str]:
        """Names of all tensors in the checkpoint."""
        ...

    def released_names(self, module: nn.Module) -> dict[str, str]:
        """The released checkpoint's name of each parameter, by its name in memory."""
        ...

    def audio_parameters(self, module: nn.Module) -> list[Any]:
        """Parameters of the audio tower, which a run may freeze."""
        ...

    def audio_embeddings(self, module: nn.Module, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``[clip, position, hidden]`` of log-mel features, and how many positions of each clip are audio ``[clip]``.

        Takes the whole window or any part of it that `Processing.frames_needed` allows.
        """
        ...

    def hidden_states(
        self, module: nn.Module, token_ids: Tensor, spliced: Tensor, is_audio: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """Last hidden states ``[row, position, hidden]`` of token rows with audio embeddings in place of their placeholders.

        `spliced` ``[audio position, hidden]`` fills the places where `is_audio` ``[row, position]`` holds, in row-major order;
        `mask` ``[row, 1, position, position]`` is True where a position may attend.
        """
        ...

    def logits(self, module: nn.Module, hidden: Tensor) -> Tensor:
        """Logits ``[token, vocabulary]`` of hidden states ``[token, hidden]``."""
        ...

    def save(self, directory: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, dtype: str) -> None:
        """Write a checkpoint in the released layout: `tensors` by released name, everything else copied from `source`."""
        ...


def adapter(name: str) -> Adapter:
    """The adapter of a family. Raises `UserError` for a family that is unknown."""
    if name not in FAMILIES:
        raise UserError(f"unknown SpeechLM family {name!r}", where="model.adapter", fix=f"use one of: {', '.join(sorted(FAMILIES))}")
    return cast(Adapter, importlib.import_module(FAMILIES[name]))
