"""One leased group becomes one group result: read its audio, sample an answer to each voice, score the answers, pair them.

LeasedGroup ─▶ audio ─▶ sampling ─▶ scoring ─▶ pairs or measures ─▶ GroupResult
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import msgspec
import numpy as np
import xxhash

from actors.evaluation.measures import measure
from actors.rewards.items import RewardItem, RewardScore
from actors.rollout.generation import Generated, GenerationEngine, GenerationRequest, UnusableInputError
from actors.rollout.pairing import compared_utterances, pair
from configs.schema import RunConfig
from policies.adapter import Processing
from protocol.audio import Samples
from protocol.errors import UserError
from protocol.messages import Completion, GroupResult, LeasedGroup, Outcome, Purpose, Utterance


class Stage(Enum):
    """What a group waits for."""

    AUDIO = "audio"
    SAMPLING = "sampling"
    SCORING = "scoring"


class Audio(Protocol):
    """Where samples come from (see `actors.rollout.audio.AudioLibrary`)."""

    async def samples(self, audio: str) -> Samples:
        """Float32 ``[sample]`` of a content hash. Raises `UserError`."""
        ...


class Scorer(Protocol):
    """Who scores answers (see `actors.rewards.client.RewardClient`)."""

    async def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order; never raises for an item that gets no score."""
        ...


class GroupRunner:
    """Works on many groups at once, each in a task of its own."""

    def __init__(
        self,
        config: RunConfig,
        engine: GenerationEngine,
        processing: Processing,
        audio: Audio,
        scorer: Scorer | None,
        max_model_len: int | None = None,
    ) -> None:
        """`scorer` may be None where the run needs no rewards. `max_model_len`: longest prompt and answer together."""
        self._config, self._engine, self._processing, self._audio, self._scorer = config, engine, processing, audio, scorer
        self._max_model_len = max_model_len
        self._numbers = itertools.count()

    async def run(self, leased: LeasedGroup, entered: Callable[[Stage], None] = lambda _: None) -> GroupResult:
        """The outcome of one group. `entered` hears of each stage that begins. Only a failed engine raises."""
        result = GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.FILTERED, purpose=leased.purpose)
        asked = self._asked(leased)
        if not asked:
            return msgspec.structs.replace(result, outcome=Outcome.REFERENCE_ONLY)
        unusable: BaseException | None = None
        try:
            entered(Stage.AUDIO)
            requests = await self._requests(leased, asked)
            entered(Stage.SAMPLING)
            result.completions = await self._sample(requests)
        except* (UserError, UnusableInputError) as errors:
            unusable = _first(errors)
        if unusable is not None:
            return msgspec.structs.replace(result, reason=str(unusable))
        if self._is_scored(leased.purpose):
            entered(Stage.SCORING)
            await self._score(leased, result)
        return self._concluded(leased, result)

    def _asked(self, leased: LeasedGroup) -> list[int]:
        """The utterances that want an answer: in training those that pairs are made of."""
        if leased.purpose is Purpose.EVALUATE:
            return list(range(len(leased.group.utterances)))
        return compared_utterances(self._config.strategy, leased.group)

    async def _requests(self, leased: LeasedGroup, asked: list[int]) -> list[tuple[int, GenerationRequest]]:
        """What is asked of the engine: (utterance, request). Raises for a group that cannot be used as a whole."""
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(self._request(leased, index, leased.group.utterances[index])) for index in asked]
        return [(index, task.result()) for index, task in zip(asked, reading, strict=True)]

    async def _request(self, leased: LeasedGroup, index: int, utterance: Utterance) -> GenerationRequest:
        group, processing = leased.group, self._processing
        samples = await self._audio.samples(utterance.audio) if utterance.audio is not None else None
        instruction = group.instruction if samples is None else None
        prompt_tokens = len(processing.prompt_ids(group.prompt, samples, instruction))
        greedy = leased.purpose is Purpose.EVALUATE
        max_tokens = (greedy and self._config.evaluation.max_tokens) or self._config.rollout.sampling.max_tokens
        if self._max_model_len is not None and prompt_tokens >= self._max_model_len:
            raise UnusableInputError(f"the prompt has {prompt_tokens} tokens, rollout.engine.max_model_len is {self._max_model_len}")
        return GenerationRequest(
            request_id=f"{leased.ordinal}.{leased.lease_epoch}.{index}.{next(self._numbers)}",
            prompt_ids=processing.compact_ids(group.prompt, instruction),
            samples=samples,
            seed=sampling_seed(leased.seed, index),
            max_tokens=max_tokens,
            greedy=greedy,
        )

    async def _sample(self, requests: list[tuple[int, GenerationRequest]]) -> list[Completion]:
        """All utterances at once; the first one that fails ends the others."""
        async with asyncio.TaskGroup() as tasks:
            sampling = [tasks.create_task(self._engine.generate(request)) for _, request in requests]
        return [completion(index, task.result()) for (index, _), task in zip(requests, sampling, strict=True)]

    async def _score(self, leased: LeasedGroup, result: GroupResult) -> None:
        """One request for the whole group. A completion without a score keeps the reason in its place."""
        assert self._scorer is not None  # noqa: S101 - by `_is_scored`
        group, completions = leased.group, result.completions
        texts = [each.text for each in completions]
        if leased.purpose is Purpose.TRAIN and self._config.strategy == "hybrid":
            texts.append(group.reference)
        items = [
            RewardItem(str(number), group.instruction, text, group.reference, group.language, tuple(group.answers))
            for number, text in enumerate(texts)
        ]
        scores = await self._scorer.score(items)
        for each, score in zip(completions, scores, strict=False):
            each.reward, each.reward_error, each.reward_parts = score.score, score.error, score.parts
        if len(scores) > len(completions):
            result.reference_reward = scores[-1].score

    def _is_scored(self, purpose: Purpose) -> bool:
        if self._scorer is None:
            return False
        if purpose is Purpose.TRAIN:
            return self._config.needs_rewards
        wanted = self._config.evaluation.score
        return self._config.needs_rewards if wanted is None else wanted

    def _concluded(self, leased: LeasedGroup, result: GroupResult) -> GroupResult:
        if leased.purpose is Purpose.EVALUATE:
            return msgspec.structs.replace(result, outcome=Outcome.EVALUATED, measures=measure(leased.group, result.completions))
        paired = pair(self._config.strategy, leased.group, result.completions, self._config.pairing, result.reference_reward)
        return msgspec.structs.replace(result, outcome=paired.outcome, pairs=paired.pairs, reason=paired.reason)


def completion(utterance: int, generated: Generated) -> Completion:
    """An answer of the engine as it travels."""
    return Completion(
        utterance=utterance,
        token_ids=np.asarray(generated.token_ids, "<i4").tobytes(),
        logprobs=np.asarray(generated.logprobs, "<f4").tobytes(),
        text=generated.text,
        finish_reason=generated.finish_reason,
        spans=generated.spans,
    )


def sampling_seed(lease_seed: int, utterance: int) -> int:
    """A seed of its own for each utterance of a lease, the same on every machine; 63 bits."""
    return xxhash.xxh3_64_intdigest(f"{lease_seed}/{utterance}".encode()) >> 1


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception of a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
