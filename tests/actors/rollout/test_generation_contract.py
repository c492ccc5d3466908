"""What every `GenerationEngine` promises; the scripted one of the tests and vLLM alike."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.rollout.generation import Generated, GenerationEngine, GenerationRequest, RefusedVersionError, UnusableInputError
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, write_version
from protocol.weights.messages import Fetched
from tests.actors.rollout.scripted import ScriptedEngine
from tests.tiny import tone

pytestmark = pytest.mark.asyncio(loop_scope="session")
_numbers = itertools.count()


@dataclass
class Subject:
    """An engine and what it is asked with."""

    engine: GenerationEngine
    stop_token_ids: list[int]
    heard: list[int]
    written: list[int]
    publish: Any

    async def ask(self, seed: int = 0, *, greedy: bool = False, max_tokens: int = 24, samples: np.ndarray | None = None) -> Generated:
        """An answer to a clip."""
        clip = tone(1.5) if samples is None else samples
        return await self.engine.generate(GenerationRequest(f"r{next(_numbers)}", self.heard, clip, seed, max_tokens, greedy))

    async def current(self) -> PolicyVersion:
        """The version that serves."""
        return (await self.ask(max_tokens=1)).spans[0].version


@pytest.fixture(params=["scripted", pytest.param("vllm", marks=pytest.mark.engine)])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "scripted":
        engine = ScriptedEngine()
        engine.begin(PolicyVersion(0, 0))
        steps = itertools.count(1)

        def publish() -> Fetched:
            version = PolicyVersion(0, next(steps))
            manifest = write_version(tmp_path, version, [("w", "F32", [1], b"abcd")], 4096)
            return Fetched(version, str(directory_of(tmp_path, version)), manifest.digest, manifest.size_bytes, 0.0)

        return Subject(engine, [2], [1, 5], [5, 6], publish)
    processing = request.getfixturevalue("processing")
    weights = request.getfixturevalue("weights")
    written = processing.compact_ids("", "what is three plus four")
    return Subject(request.getfixturevalue("vllm_engine"), processing.stop_token_ids, processing.compact_ids(""), written, weights.publish)


async def test_an_answer_is_whole(subject: Subject) -> None:
    asked = [subject.ask(seed, max_tokens=48, samples=tone(1.0 + 0.05 * seed, seed)) for seed in range(32)]
    reasons = set()
    for answer in await asyncio.gather(*asked):
        reasons.add(answer.finish_reason)
        assert 0 < len(answer.token_ids) == len(answer.logprobs) <= 48
        assert all(logprob <= 0 for logprob in answer.logprobs)
        assert [(span.start, span.end) for span in answer.spans] == [(0, len(answer.token_ids))]
        assert (answer.token_ids[-1] in subject.stop_token_ids) == (answer.finish_reason == "stop")
        assert not set(answer.token_ids[:-1]) & set(subject.stop_token_ids)
        assert answer.prompt_tokens > len(subject.heard)
    assert "stop" in reasons


async def test_a_seed_decides_and_greedy_ignores_it(subject: Subject) -> None:
    one, again, other = await asyncio.gather(subject.ask(1), subject.ask(1), subject.ask(2))
    assert one.token_ids == again.token_ids != other.token_ids
    one, other = await asyncio.gather(subject.ask(1, greedy=True), subject.ask(2, greedy=True))
    assert one.token_ids == other.token_ids


async def test_an_answer_is_cut_off_at_its_longest(subject: Subject) -> None:
    answer = await subject.ask(max_tokens=3)
    assert (len(answer.token_ids), answer.finish_reason) == (3, "length")


async def test_a_written_instruction_is_answered_as_well(subject: Subject) -> None:
    answer = await subject.engine.generate(GenerationRequest("written", subject.written, None, 0, 8))
    assert answer.token_ids
    assert answer.prompt_tokens == len(subject.written)


async def test_unusable_audio_harms_nobody_else(subject: Subject) -> None:
    good = asyncio.create_task(subject.ask())
    with pytest.raises(UnusableInputError):
        await subject.ask(samples=tone(0.01))
    assert (await good).token_ids
    subject.engine.raise_if_failed()


async def test_a_cancelled_request_harms_nobody_else(subject: Subject) -> None:
    task, good = asyncio.create_task(subject.ask(max_tokens=100)), asyncio.create_task(subject.ask(3))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await good).token_ids == (await subject.ask(3)).token_ids


async def test_a_new_version_is_stamped_on_what_it_writes(subject: Subject) -> None:
    for _ in range(2):
        fetched = subject.publish()
        assert await subject.engine.apply(fetched) >= 0
        assert await subject.current() == fetched.policy_version


async def test_answers_under_way_go_on_with_the_new_version(subject: Subject) -> None:
    before, fetched = await subject.current(), subject.publish()
    asked = [asyncio.create_task(subject.ask(seed, max_tokens=100, samples=tone(1.0, seed))) for seed in range(24)]
    await asyncio.sleep(0.05 if not isinstance(subject.engine, ScriptedEngine) else 0)
    await subject.engine.apply(fetched)
    answers = await asyncio.gather(*asked)
    for answer in answers:
        assert len(answer.logprobs) == len(answer.token_ids)
        assert [answer.spans[0].start, *(span.end for span in answer.spans)] == [
            *(span.start for span in answer.spans),
            len(answer.token_ids),
        ]
        versions = [span.version for span in answer.spans]
        assert versions in ([before], [before, fetched.policy_version], [fetched.policy_version])
    assert any(answer.spans[-1].version == fetched.policy_version for answer in answers)


@pytest.mark.parametrize("damage", ["digest", "bytes", "size", "manifest", "gone", "other version"])
async def test_a_wrong_version_is_refused_and_the_old_one_serves_on(subject: Subject, damage: str) -> None:
    before, expected = await subject.current(), await subject.ask(5)
    fetched = subject.publish()
    weights = Path(fetched.directory) / "weights.bin"
    match damage:
        case "digest":
            fetched.digest = "xxh128:" + 32 * "0"
        case "bytes":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        case "size":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "manifest":
            (Path(fetched.directory) / "manifest.msgpack").write_bytes(b"\x93")
        case "gone":
            shutil.rmtree(fetched.directory)
        case "other version":
            fetched.policy_version = PolicyVersion(0, 999)
    running = asyncio.create_task(subject.ask(5))
    with pytest.raises(RefusedVersionError):
        await subject.engine.apply(fetched)
    assert (await running).token_ids == expected.token_ids
    assert await subject.current() == before
    subject.engine.raise_if_failed()
    good = subject.publish()
    await subject.engine.apply(good)
    assert await subject.current() == good.policy_version
