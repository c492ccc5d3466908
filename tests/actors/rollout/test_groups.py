from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from actors.rewards.items import RewardItem, RewardScore, unscored
from actors.rollout.generation import EngineFailedError
from actors.rollout.groups import GroupRunner, Stage, sampling_seed
from configs.schema import RunConfig
from protocol.messages import (
    REFERENCE,
    GroupResult,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    Utterance,
    VersionSpan,
)
from tests.actors.rollout.scripted import END, Letters, ScriptedEngine, Tones, config, leased

VERSION = PolicyVersion(0, 3)


class Lengths:
    """Scores an answer by its first letter; answers that start with "x" get no score."""

    def __init__(self) -> None:
        self.requests: list[list[RewardItem]] = []

    async def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        self.requests.append(list(items))
        return [
            unscored(item.id, "timeout: too late")
            if item.answer.startswith("x")
            else RewardScore(item.id, ord(item.answer[0]) / 100, {"letter": float(ord(item.answer[0]))})
            for item in items
        ]


async def result_of(
    one: LeasedGroup,
    settings: RunConfig,
    engine: ScriptedEngine | None = None,
    scorer: Lengths | None = None,
    max_model_len: int | None = None,
) -> GroupResult:
    engine = engine or ScriptedEngine()
    await engine.start(VERSION)
    return await GroupRunner(settings, engine, Letters(), Tones(), scorer, max_model_len).run(one)  # type: ignore[arg-type]


async def test_every_voice_is_sampled_scored_at_once_and_paired() -> None:
    texts = iter(["c", "a", "b"])
    engine, scorer = ScriptedEngine(lambda _: next(texts)), Lengths()
    result = await result_of(leased(5, answers=["an answer"]), config(), engine, scorer)
    assert engine.most_running == 3
    assert len(scorer.requests) == 1
    assert (scorer.requests[0][0].instruction, scorer.requests[0][0].reference) == ("instruction 5", "the answer")
    assert [item.answers for item in scorer.requests[0]] == [("an answer",)] * 3
    assert (result.ordinal, result.group_id, result.outcome, result.reason) == (5, "g5", Outcome.PAIRS, "")
    assert [(each.utterance, each.text, each.reward) for each in result.completions] == [(0, "c", 0.99), (1, "a", 0.97), (2, "b", 0.98)]
    assert [(pair.chosen, pair.rejected) for pair in result.pairs] == [(0, 1)]
    assert result.completions[0].reward_parts == {"letter": 99.0}
    assert result.completions[0].spans == [VersionSpan(VERSION, 0, 2)]
    assert np.frombuffer(result.completions[0].token_ids, "<i4").tolist() == [10 + ord("c"), END]
    assert np.frombuffer(result.completions[0].logprobs, "<f4").tolist() == [-1.0, -1.0]


async def test_samples_of_the_same_audio_are_compared_like_voices() -> None:
    group = leased(5).group
    same = msgspec.structs.replace(group, utterances=[group.utterances[0]] * 4)
    one = msgspec.structs.replace(leased(5), group=same)
    engine = ScriptedEngine()
    result = await result_of(one, config(), engine, Lengths())
    assert len({request.samples.tobytes() for request in engine.requests if request.samples is not None}) == 1
    assert len({request.seed for request in engine.requests}) == len({each.text for each in result.completions}) == 4
    assert result.outcome is Outcome.PAIRS
    every = await result_of(one, config(pairing={"pairs": "all"}), ScriptedEngine(), Lengths())
    assert len(every.pairs) > len(result.pairs) == 1


async def test_training_asks_nothing_of_written_instructions_and_seeds_each_voice() -> None:
    engine = ScriptedEngine()
    await result_of(leased(5), config(), engine, Lengths())
    assert all(request.samples is not None and not request.greedy for request in engine.requests)
    assert [request.seed for request in engine.requests] == [sampling_seed(5, voice) for voice in range(3)]
    assert len({request.seed for request in engine.requests}) == 3
    again = ScriptedEngine()
    await result_of(leased(5), config(), again, Lengths())
    assert [request.seed for request in again.requests] == [request.seed for request in engine.requests]


async def test_evaluation_is_greedy_hears_everything_and_is_measured() -> None:
    engine, scorer = ScriptedEngine(lambda request: "the answer" if request.samples is not None else "no"), Lengths()
    settings = config(evaluation={"max_tokens": 12})
    result = await result_of(leased(1, Purpose.EVALUATE), settings, engine, scorer)
    assert (result.outcome, result.purpose, result.pairs) == (Outcome.EVALUATED, Purpose.EVALUATE, [])
    assert all(request.greedy and request.max_tokens == 12 for request in engine.requests)
    assert engine.requests[3].samples is None
    assert result.measures is not None
    assert (result.measures.answers, result.measures.exact, result.measures.agreement, result.measures.scored) == (4, 3, 1.0, 4)


async def test_evaluation_is_scored_only_where_that_is_wanted() -> None:
    for section, strategy, wanted in [(None, "group", True), (False, "group", False), (None, "single", False), (True, "single", True)]:
        scorer = Lengths()
        result = await result_of(leased(1, Purpose.EVALUATE), config(strategy, evaluation={"score": section}), None, scorer)
        assert bool(scorer.requests) is wanted
        assert result.measures is not None
        assert result.measures.scored == (4 if wanted else 0)


async def test_an_answer_without_a_score_is_recorded_with_the_reason() -> None:
    texts = iter(["x", "a", "b"])
    result = await result_of(leased(), config(), ScriptedEngine(lambda _: next(texts)), Lengths())
    assert (result.completions[0].reward, result.completions[0].reward_error) == (None, "timeout: too late")
    assert [(pair.chosen, pair.rejected) for pair in result.pairs] == [(2, 1)]
    assert (await result_of(leased(), config(), ScriptedEngine(lambda _: "x"), Lengths())).outcome is Outcome.UNSCORED


async def test_single_needs_no_scores_and_sft_no_samples() -> None:
    scorer = Lengths()
    result = await result_of(leased(), config("single"), None, scorer)
    assert not scorer.requests
    assert [(pair.chosen, pair.rejected) for pair in result.pairs] == [(REFERENCE, index) for index in range(3)]
    engine = ScriptedEngine()
    result = await result_of(leased(), config("sft"), engine, scorer)
    assert (result.outcome, result.completions, engine.requests) == (Outcome.REFERENCE_ONLY, [], [])


async def test_the_hybrid_has_the_reference_scored_with_the_answers() -> None:
    scorer = Lengths()
    result = await result_of(leased(), config("hybrid"), ScriptedEngine(lambda _: "b"), scorer)
    assert [item.answer for item in scorer.requests[0]] == ["b", "b", "b", "the answer"]
    assert result.reference_reward == ord("t") / 100
    assert result.pairs == [PreferencePair(REFERENCE, 0)]
    held_out = await result_of(leased(1, Purpose.EVALUATE), config("hybrid"), None, scorer)
    assert held_out.reference_reward is None


async def test_an_instruction_that_nobody_speaks_rolls_out_in_writing() -> None:
    engine = ScriptedEngine(lambda _: "b")
    result = await result_of(written(), config("single"), engine, Lengths())
    assert [request.samples for request in engine.requests] == [None]
    assert result.pairs == [PreferencePair(REFERENCE, 0)]
    engine = ScriptedEngine()
    result = await result_of(written(), config("group"), engine, Lengths())
    assert (result.outcome, engine.requests) == (Outcome.REFERENCE_ONLY, [])


def written() -> LeasedGroup:
    one = leased()
    return msgspec.structs.replace(one, group=msgspec.structs.replace(one.group, utterances=[Utterance("text")]))


@pytest.mark.parametrize("audio", ["missing", "short"])
@pytest.mark.parametrize("purpose", list(Purpose))
async def test_a_group_with_unusable_audio_is_filtered_as_a_whole(audio: str, purpose: Purpose) -> None:
    one = leased(0, purpose)
    one.group.utterances[1] = type(one.group.utterances[1])("voice", audio)
    engine = ScriptedEngine()
    result = await result_of(one, config(), engine, Lengths())
    assert (result.outcome, result.purpose, result.completions, result.measures) == (Outcome.FILTERED, purpose, [], None)
    assert audio in result.reason or "too short" in result.reason
    assert engine.running == 0


async def test_a_prompt_that_does_not_fit_is_filtered() -> None:
    result = await result_of(leased(), config(), None, Lengths(), max_model_len=20)
    assert result.outcome is Outcome.FILTERED
    assert "max_model_len" in result.reason


async def test_a_placeholder_in_the_instruction_is_filtered() -> None:
    one = leased(0, Purpose.EVALUATE)
    one = LeasedGroup(0, 0, type(one.group)("g", "say <|AUDIO|>", "ok", one.group.utterances), Purpose.EVALUATE)
    assert (await result_of(one, config(), None, Lengths())).outcome is Outcome.FILTERED


async def test_a_dead_engine_is_no_outcome_of_a_group() -> None:
    engine = ScriptedEngine()
    engine.gate = asyncio.Event()
    await engine.start(VERSION)
    runner = GroupRunner(config(), engine, Letters(), Tones(), Lengths())  # type: ignore[arg-type]
    stages: list[Stage] = []
    task = asyncio.create_task(runner.run(leased(), stages.append))
    while engine.running < 3:
        await asyncio.sleep(0)
    engine.fail("killed")
    engine.gate.set()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(EngineFailedError)
    assert stages == [Stage.AUDIO, Stage.SAMPLING]


async def test_cancelling_a_group_gives_its_places_free() -> None:
    engine = ScriptedEngine()
    engine.gate = asyncio.Event()
    await engine.start(VERSION)
    task = asyncio.create_task(GroupRunner(config(), engine, Letters(), Tones(), Lengths()).run(leased()))  # type: ignore[arg-type]
    while engine.running < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, engine.aborted) == (0, 3)
