"""The first lessons of the SpeechLM: single words, then runs of words, each heard frame by frame. Edge: torch.

Answers alone teach the audio tower very slowly: nothing says which stretch of sound means which word. Here every word is
spoken by itself, so its place is known. Ten minutes of training become two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss

from policies.adapter import Processing
from quickstart.speech import finish
from quickstart.training.speechlm import HIDDEN, encode, lengthen, masked
from quickstart.training.steps import NO_LABEL, Schedule, optimise, pad
from quickstart.voices import TRAINING, Speaker
from quickstart.world import Difficulty, words

WORDS = Schedule(steps=600, peak=2e-3, warmup=40)
WORDS_BATCH, WORDS_KNOWN = 48, 0.88
RUNS = Schedule(steps=900, peak=1.5e-3, warmup=20)
RUNS_BATCH, RUNS_KNOWN = 24, 0.92
LONGEST_RUN = 5
FEWEST_STEPS = 100
FRAMES_PER_POSITION = 4
"""Frames of the spectrogram to one audio embedding: a stride of two and a pooling of two."""


class Listener(nn.Module):
    """Reads the spoken words off the audio embeddings: one linear layer, thrown away after training. Class 0 is silence."""

    def __init__(self) -> None:
        super().__init__()
        self.words = {word: number for number, word in enumerate(sorted(words()), 1)}
        self.head = nn.Linear(HIDDEN, len(self.words) + 1)

    def forward(self, encoded: Tensor) -> Tensor:
        """Logits ``[clip, position, word]`` of embeddings ``[clip, position, hidden]``."""
        out: Tensor = self.head(encoded)
        return out

    def ctc(self, encoded: Tensor, lengths: Tensor, said: Sequence[str]) -> Tensor:
        """Loss per word of the texts `said`, of which only the order of the words is known."""
        targets = [[self.words[word] for word in text.split()] for text in said]
        chances = self(encoded).log_softmax(-1).transpose(0, 1)
        return ctc_loss(chances, pad(targets, 0), lengths, torch.tensor(list(map(len, targets))), blank=0, zero_infinity=True)


@dataclass(frozen=True)
class Clip:
    """Log-mel features ``[mel, frame]`` of a sound, and the word in each of its frames (0: silence)."""

    features: Tensor
    labels: list[int]


def spoken_words(listener: Listener, processing: Processing, difficulty: Difficulty) -> list[list[Clip]]:
    """Every word of the world by itself ``[voice][word]``, in every training voice."""
    clips = []
    for voice in TRAINING[: difficulty.training_voices]:
        with Speaker() as speaker:
            said = [finish(speaker.say(word, voice), difficulty, f"{word}/{voice.name}") for word in listener.words]
        features, masks = processing.features([(samples / 32768).astype(np.float32) for samples in said])
        own = []
        for number, feature, mask in zip(listener.words.values(), features, masks, strict=True):
            frames = int(mask.sum())
            own.append(Clip(torch.from_numpy(feature[:, : frames + 2].copy()), [number] * frames))
        clips.append(own)
    return clips


def _silence(clip: Clip, frames: int) -> Clip:
    return Clip(clip.features[:, -1:].expand(-1, frames), [0] * frames)


def _joined(clips: Sequence[Clip]) -> Clip:
    return Clip(torch.cat([clip.features for clip in clips], dim=1), [label for clip in clips for label in clip.labels])


def _run(voices: list[list[Clip]], most_words: int, draw: np.random.Generator) -> Clip:
    """Some words of one voice after one another, the pauses between them cut short."""
    voice = voices[draw.integers(len(voices))]
    parts = [_silence(voice[0], int(draw.integers(1, 20)))]
    for _ in range(int(draw.integers(1, most_words + 1))):
        word = voice[draw.integers(len(voice))]
        frames = max(4, len(word.labels) - int(draw.integers(4, 9)))
        parts.append(Clip(word.features[:, :frames], word.labels[:frames]))
    return _joined([*parts, _silence(voice[0], 4)])


def _hear(model: nn.Module, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    longest = max(clip.features.shape[1] for clip in clips)
    longest += longest % 2
    features = torch.stack([masked(lengthen(clip.features, longest)) for clip in clips])
    return encode(model, features, torch.tensor([len(clip.labels) for clip in clips]))


Tick = Callable[[int, float], None]


def learn_words(model: nn.Module, listener: Listener, voices: list[list[Clip]], seed: int, tick: Tick) -> int:
    """Tell single words apart. Returns the steps taken."""
    draw = np.random.default_rng(seed)
    known = 0.0

    def loss(_step: int) -> Tensor:
        nonlocal known
        clips = []
        for _ in range(WORDS_BATCH):
            voice = voices[draw.integers(len(voices))]
            clips.append(_joined([_silence(voice[0], int(draw.integers(0, 60))), voice[draw.integers(len(voice))]]))
        encoded, lengths = _hear(model, clips)
        own = (torch.arange(encoded.shape[1])[None] < lengths[:, None])[..., None]
        logits = listener((encoded * own).sum(1) / lengths[:, None])
        labels = torch.tensor([clip.labels[-1] for clip in clips])
        known = float((logits.argmax(-1) == labels).float().mean())
        return cross_entropy(logits, labels)

    def after(step: int, value: float) -> bool:
        tick(step, value)
        return step >= FEWEST_STEPS and known > WORDS_KNOWN

    return optimise(nn.ModuleList([model, listener]), WORDS, loss, after)


def learn_runs(model: nn.Module, listener: Listener, voices: list[list[Clip]], seed: int, tick: Tick) -> int:
    """Tell at every position which word sounds there, in longer and longer runs. Returns the steps taken."""
    draw = np.random.default_rng(seed)
    known = 0.0

    def loss(step: int) -> Tensor:
        nonlocal known
        clips = [_run(voices, min(LONGEST_RUN, 1 + step // 15), draw) for _ in range(RUNS_BATCH)]
        encoded, lengths = _hear(model, clips)
        logits = listener(encoded)
        places = [clip.labels[2::FRAMES_PER_POSITION][: int(length)] for clip, length in zip(clips, lengths, strict=True)]
        labels = pad([*places, [NO_LABEL] * encoded.shape[1]], NO_LABEL)[:-1]
        known = float((logits.argmax(-1) == labels)[labels >= 0].float().mean())
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)

    def after(step: int, value: float) -> bool:
        tick(step, value)
        return step >= 2 * FEWEST_STEPS and known > RUNS_KNOWN

    return optimise(nn.ModuleList([model, listener]), RUNS, loss, after)
