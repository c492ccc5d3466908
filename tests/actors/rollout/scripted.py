"""An engine that answers by script, and what tests of the rollout actor are made of."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.rollout.generation import EngineFailedError, Generated, GenerationRequest, RefusedVersionError, UnusableInputError
from configs.schema import RunConfig
from policies.adapter import Samples
from protocol.errors import UserError
from protocol.messages import (
    Completion,
    InstructionGroup,
    LeasedGroup,
    PolicyVersion,
    Purpose,
    Utterance,
    VersionSpan,
)
from protocol.weights.files import DamagedVersionError, open_version
from protocol.weights.messages import Fetched

END = 2
LONG = 300
"""No script answers longer."""
Script = Callable[[GenerationRequest], str]


def by_seed(request: GenerationRequest) -> str:
    """A random answer of eight letters, or the likeliest one, which is the same for the same samples."""
    heard = zlib.crc32(request.samples.tobytes()) if request.samples is not None else 0
    rng = np.random.default_rng([0 if request.greedy else request.seed, heard, *request.prompt_ids])
    return "".join(rng.choice(list("abcdefgh"), 8))


class ScriptedEngine:
    """A `GenerationEngine` without a model: one token a letter and an end token, one token every turn of the event loop."""

    def __init__(self, script: Script = by_seed) -> None:
        self._script = script
        self._version: PolicyVersion | None = None
        self._open = asyncio.Event()
        self._failure: str | None = "the engine is not started"
        self.running = 0
        self.most_running = 0
        self.aborted = 0
        self.requests: list[GenerationRequest] = []
        self.gate: asyncio.Event | None = None
        """Answers wait for it after their first token."""
        self.starting: asyncio.Event | None = None
        """`start` waits for it."""

    description = "scripted"

    async def start(self, version: PolicyVersion) -> None:
        if self.starting is not None:
            await self.starting.wait()
        self.begin(version)

    def begin(self, version: PolicyVersion) -> None:
        """`start`, without waiting."""
        self._version, self._failure = version, None
        self._open.set()

    async def generate(self, request: GenerationRequest) -> Generated:
        self.raise_if_failed()
        if request.samples is not None and len(request.samples) < 400:
            raise UnusableInputError("the audio is too short")
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: GenerationRequest) -> Generated:
        text = self._script(request)
        token_ids = [*(10 + ord(letter) for letter in text), END][: request.max_tokens]
        spans: list[VersionSpan] = []
        for place in range(len(token_ids)):
            if place == 1 and self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            await self._open.wait()
            self.raise_if_failed()
            assert self._version is not None
            start = spans.pop().start if spans and spans[-1].version == self._version else place
            spans.append(VersionSpan(self._version, start, place + 1))
        ended = token_ids[-1] == END
        text = text[: len(token_ids) - ended]
        prompt_tokens = len(request.prompt_ids) + (len(request.samples) // 640 if request.samples is not None else 0)
        return Generated(token_ids, [-1.0] * len(token_ids), text, "stop" if ended else "length", spans, prompt_tokens)

    async def apply(self, fetched: Fetched) -> float:
        self.raise_if_failed()
        try:
            with open_version(Path(fetched.directory)) as version:
                if (version.manifest.policy_version, version.manifest.digest) != (fetched.policy_version, fetched.digest):
                    raise RefusedVersionError("another version lies there")
                version.verify()
        except DamagedVersionError as error:
            raise RefusedVersionError(str(error)) from error
        self._open.clear()
        await asyncio.sleep(0)
        self._version = fetched.policy_version
        self._open.set()
        return 0.001

    def raise_if_failed(self) -> None:
        if self._failure is not None:
            raise EngineFailedError(self._failure)

    def fail(self, reason: str) -> None:
        """Die."""
        self._failure = reason
        self._open.set()

    async def close(self) -> None:
        self.fail("the engine is closed")
        if self.starting is not None:
            self.starting.set()


class Letters:
    """A `Processing` of one token a letter."""

    window_s = 4.0
    sampling_rate_hz = 16_000
    stop_token_ids = [END]
    audio_token_id = 1

    def compact_ids(self, prompt: str, instruction: str | None = None) -> list[int]:
        if instruction is not None and "<|AUDIO|>" in instruction:
            raise UserError("the instruction holds an audio placeholder")
        return [*([self.audio_token_id] if instruction is None else map(ord, instruction)), *map(ord, prompt)]

    def prompt_ids(self, prompt: str, samples: Samples | None = None, instruction: str | None = None) -> list[int]:
        ids = self.compact_ids(prompt, instruction)
        return ids if samples is None else [*ids, *[self.audio_token_id] * (len(samples) // 640)]


class Tones:
    """Audio by name: "missing" is not there, "short" too short, anything else a second of noise of its own."""

    async def samples(self, audio: str) -> Samples:
        await asyncio.sleep(0)
        if audio == "missing":
            raise UserError("the audio cannot be read", where=audio)
        return np.random.default_rng(zlib.crc32(audio.encode())).normal(size=100 if audio == "short" else 16_000).astype(np.float32)


def group(number: int = 0, voices: int = 3, *, text: bool = True, **fields: Any) -> InstructionGroup:
    """An instruction in some voices and as text."""
    utterances = [Utterance(f"voice-{voice}", f"{number}-{voice}", 1.0) for voice in range(voices)]
    values: dict[str, Any] = {"reference": "the answer", "utterances": [*utterances, *([Utterance("text")] if text else [])], **fields}
    return InstructionGroup(f"g{number}", f"instruction {number}", **values)


def leased(number: int = 0, purpose: Purpose = Purpose.TRAIN, **fields: Any) -> LeasedGroup:
    """A leased group."""
    return LeasedGroup(number, 0, group(number, **fields), purpose, seed=number)


def answers(
    *answered: tuple[str, float | None] | tuple[str, float | None, str], utterances: Sequence[int] | None = None
) -> list[Completion]:
    """Completions: (text, reward[, finish reason]) of the utterances 0, 1, …"""
    made = []
    for place, (text, reward, *finish) in enumerate(answered):
        utterance = utterances[place] if utterances is not None else place
        reason: Any = finish[0] if finish else "stop"
        error = "connect: nobody there" if reward is None else None
        made.append(Completion(utterance, b"\1\0\0\0", b"\0\0\0\0", text, reason, [], reward, error))
    return made


def config(strategy: str = "group", **sections: dict[str, Any]) -> RunConfig:
    """A run's settings; no file of it exists."""
    values: dict[str, Any] = {
        "model": {"path": "/nowhere", "dtype": "float32"},
        "data": {"train": "/nowhere/train.jsonl", "max_audio_s": 4.0},
        "rollout": {"sampling": {"max_tokens": 16}, "capacity_groups": 4},
        "rewards": {"scorer": "bleu"},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes}
    return RunConfig.model_validate({**values, "strategy": strategy})
