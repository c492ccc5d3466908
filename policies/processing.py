"""Text and audio to model input, for SpeechLMs that hear Whisper's log-mel features through a chat template. Edge: transformers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from policies.adapter import Samples
from protocol.errors import UserError

AUDIO_PLACEHOLDER = "<|AUDIO|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
MIN_SAMPLES = 400
"""One window of the spectrogram; anything shorter has no frame of its own."""
FRAME_STEP = 16
"""Frames are cut to a multiple of this: few different shapes, and whole embeddings (4 frames each)."""
PROMPTS = 1024
"""Prompts of tasks whose token ids are remembered."""


class WhisperProcessing:
    """A `Processing`: what transformers' processor and vLLM do, but with each step by itself. Families say what differs."""

    silent_frames: ClassVar[int] = 0
    """Frames after a clip that its last embedding still sees."""

    def __init__(self, directory: Path, vocabulary: int | None, longest_s: float = float("inf")) -> None:
        """`vocabulary` None: as many as the tokenizer has. `longest_s` narrows the feature extractor's window. Raises `UserError`."""
        from transformers import AutoTokenizer, WhisperFeatureExtractor

        self._directory = directory
        self._tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        self._extractor = WhisperFeatureExtractor.from_pretrained(str(directory), local_files_only=True)
        self._template = self.chat_template()
        self.window_s = min(float(self._extractor.chunk_length), longest_s)
        self.sampling_rate_hz = int(self._extractor.sampling_rate)
        self.vocabulary = vocabulary if vocabulary is not None else len(self._tokenizer)
        self._hop = int(self._extractor.hop_length)
        self._window = int(self.window_s * self.sampling_rate_hz)
        # in a narrowed window the last frames see silence behind it, as they do in the extractor's own
        self._padded = min(self._extractor.n_samples, self._window - (-self._extractor.n_fft // self._hop) * self._hop)
        self.audio_token_id = self._id(AUDIO_PLACEHOLDER)
        self.pad_token_id = self._id(END_OF_TEXT)
        self.stop_token_ids = [self._id(END_OF_TURN), self.pad_token_id]
        self._spoken_ids = functools.lru_cache(PROMPTS)(self._compact_ids)

    def chat_template(self) -> Any:
        """The checkpoint's chat template, a Jinja text."""
        return self._tokenizer.chat_template

    def _id(self, token: str) -> int:
        found = self._tokenizer.convert_tokens_to_ids(token)
        if not isinstance(found, int) or self._tokenizer.convert_ids_to_tokens(found) != token:
            raise UserError(
                f"the tokenizer has no token {token}", where=str(self._directory), fix="use the tokenizer that the model was released with"
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
        # Of all spoken instructions of a task the prompt is the same.
        return self._compact_ids(prompt, instruction) if instruction is not None else list(self._spoken_ids(prompt, None))

    def _compact_ids(self, prompt: str, instruction: str | None) -> list[int]:
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
        """Audio embeddings of a clip: a convolution's stride and one pooling, two frames each, over its frames."""
        if not MIN_SAMPLES <= sample_count <= self._window:
            raise UserError(
                f"a clip of {sample_count} samples does not fit the window ({MIN_SAMPLES} to {self._window} samples)",
                where="audio",
                fix=f"leave out clips beyond {self.window_s:g} s (data.max_audio_s) and empty ones",
            )
        frames = -(-sample_count // self._hop)
        return (((frames - 1) // 2 + 1) - 2) // 2 + 1

    def features(self, clips: Sequence[Samples]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Log-mel features ``[clip, mel, frame]`` and frame mask ``[clip, frame]``, padded to the window."""
        out = self._extractor(
            list(clips),
            sampling_rate=self.sampling_rate_hz,
            padding="max_length",
            max_length=self._padded,
            return_attention_mask=True,
            return_tensors="np",
        )
        frames = self._window // self._hop
        features, frame_mask = out["input_features"][:, :, :frames], out["attention_mask"][:, :frames]
        return features.astype(np.float32, copy=False), frame_mask.astype(np.int32, copy=False)

    def frames_needed(self, frame_mask: NDArray[np.int32]) -> int:
        """Frames of a batch that its embeddings depend on (see `policies.adapter.Processing.frames_needed`)."""
        longest = int(frame_mask.sum(axis=1).max())
        return min(int(frame_mask.shape[1]), -(-(longest + self.silent_frames) // FRAME_STEP) * FRAME_STEP)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer, closed by the end-of-turn token."""
        return [*self._tokenizer.encode(text, add_special_tokens=False), self.stop_token_ids[0]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        return cast(str, self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
