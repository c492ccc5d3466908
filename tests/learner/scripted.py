"""A rollout actor without an engine: it speaks the real protocol from a thread and makes its answers up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import soundfile

from configs.schema import RunConfig
from learner.main import Learner
from protocol.audio import Samples
from protocol.dataset import ManifestWriter
from protocol.dialogue.actor_events import Ended, Granted, Registered, VersionKnown
from protocol.keyring import Keyring
from protocol.links.actor import ActorLink
from protocol.measures import GroupMeasures
from protocol.messages import (
    REFERENCE,
    Completion,
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    Utterance,
    VersionSpan,
)
from tests.tiny import SAMPLING_RATE_HZ, tone

END = 2
Script = Callable[[LeasedGroup, PolicyVersion], GroupResult]


def write_dataset(path: Path, groups: int, *, seed: int = 0, voices: int = 3, text: bool = True) -> Path:
    """A manifest of spoken groups (and written ones), with real audio files."""
    with ManifestWriter(path) as manifest:
        for number in range(groups):
            utterances = []
            for voice in range(voices):
                file = path.parent / "utterance.flac"
                soundfile.write(file, tone(1.0 + 0.2 * voice, seed=1000 * seed + 10 * number + voice), SAMPLING_RATE_HZ, subtype="PCM_16")
                utterances.append(Utterance(f"voice-{voice}", manifest.add_audio(file.read_bytes()), 1.0 + 0.2 * voice))
            if text:
                utterances.append(Utterance("text"))
            topic = ("sums", "capitals")[number % 2]
            manifest.add(InstructionGroup(f"g{seed}-{number}", f"what is {number}", f"the answer is {number}", utterances, topic=topic))
    return path


def run_config(checkpoint: Path, folder: Path, **sections: dict[str, Any]) -> RunConfig:
    """A short run on the tiny checkpoint."""
    values: dict[str, Any] = {
        "model": {"path": str(checkpoint), "dtype": "float32"},
        "data": {"train": str(write_dataset(folder / "train.jsonl", 7)), "test": str(write_dataset(folder / "test.jsonl", 4, seed=1))},
        "rewards": {"scorer": "bleu"},
        "learner": {"steps": 4, "batch_groups": 3, "precision": "float32", "learning_rate": 1e-3, "publish_every": 2, "heartbeat_s": 0.3},
        "evaluation": {"groups": 4},
    }
    strategy = sections.pop("strategy", "group")
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes}
    return RunConfig.model_validate({**values, "strategy": strategy})


def answer(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    """RBA-Group as a rollout actor does it: every third group ties, every fifth has audio that nobody can read."""
    if leased.purpose is Purpose.EVALUATE:
        return evaluated(leased, version)
    if leased.ordinal % 5 == 4:
        return GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.FILTERED, reason="audio too long")
    completions = sampled(leased, version)
    spoken = [index for index, completion in enumerate(completions) if leased.group.utterances[completion.utterance].audio is not None]
    tied = leased.ordinal % 3 == 2
    pairs = [] if tied else [PreferencePair(spoken[-1], spoken[0])]
    outcome = Outcome.TIED if tied else Outcome.PAIRS
    return GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, outcome, completions=completions, pairs=pairs)


def answer_single(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    """RBA-Single: the reference against each spoken answer."""
    if leased.purpose is Purpose.EVALUATE:
        return evaluated(leased, version)
    completions = sampled(leased, version)
    spoken = [index for index, completion in enumerate(completions) if leased.group.utterances[completion.utterance].audio is not None]
    pairs = [PreferencePair(REFERENCE, index) for index in spoken]
    return GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.PAIRS, completions=completions, pairs=pairs)


def answer_sft(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    """Nothing is sampled."""
    if leased.purpose is Purpose.EVALUATE:
        return evaluated(leased, version)
    return GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.REFERENCE_ONLY)


def sampled(leased: LeasedGroup, version: PolicyVersion) -> list[Completion]:
    rng = np.random.default_rng(leased.seed)
    out = []
    for utterance in range(len(leased.group.utterances)):
        ids = np.asarray([*rng.integers(10, 300, int(rng.integers(2, 6))), END], "<i4")
        logprobs = np.full(len(ids), -5.5, "<f4").tobytes()
        span = VersionSpan(version, 0, len(ids))
        out.append(Completion(utterance, ids.tobytes(), logprobs, f"answer {utterance}", "stop", [span], reward=float(utterance)))
    return out


def evaluated(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    exact = version.step  # so that a test sees which version was measured
    measures = GroupMeasures(10, exact, [8, 8, 8, 7, 6, 5, 8, 7, 6, 5], 0.5, 0.25, reward_sum=5.0, scored=10)
    return GroupResult(
        leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.EVALUATED, purpose=Purpose.EVALUATE, measures=measures
    )


class DeafLearner(Learner):
    """To which some clips are not finite."""

    deaf_to: Collection[str] = ()
    """Their content hashes."""

    def _samples(self, audio: str) -> Samples:
        samples = super()._samples(audio)
        return np.full_like(samples, np.nan) if audio in self.deaf_to else samples


class ScriptedActor:
    """Answers every lease by `script`, with the newest version it has heard of."""

    def __init__(
        self, learner: Learner, script: Script = answer, actor_id: str = "rollout-0", late: Sequence[tuple[LeasedGroup, PolicyVersion]] = ()
    ) -> None:
        """`late` are leases of an earlier life of the learner, which it answers first."""
        self._learner, self._endpoint = learner, learner.describe()["endpoints"]["pairs"]
        folder = learner._config.network.keys
        self._keys = Keyring(folder).client() if folder is not None else None
        self._script, self._actor_id, self._late = script, actor_id, late
        self._thread = threading.Thread(target=lambda: asyncio.run(self._guarded()), name=actor_id, daemon=True)
        self.versions: list[PolicyVersion] = []
        self.leases: list[LeasedGroup] = []
        self.ended: str | None = None
        self.unacknowledged = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.join(30 if kind is None else 1)
        if kind is not None:
            return
        assert not self._thread.is_alive(), "the actor was never told that the run ended"
        if self.failure is not None:
            raise self.failure

    async def _guarded(self) -> None:
        try:
            async with asyncio.timeout(200):
                await self._work()
        except BaseException as error:  # noqa: BLE001 -- raised again in __exit__
            self.failure = error
            self._learner.stop("the scripted actor failed")

    async def _work(self) -> None:
        link = ActorLink(self._endpoint, self._actor_id, 1, 4, engine="scripted", keys=self._keys)
        for leased, sampled_by in self._late:
            link.send_results([self._script(leased, sampled_by)])
        link.start()
        version: PolicyVersion | None = None
        try:
            while self.ended is None:
                match notice := await link.next_event():
                    case Granted():
                        assert version is not None
                        assert version >= notice.lease.policy_version
                        for leased in notice.lease.groups:
                            self.leases.append(leased)
                            link.send_results([self._script(leased, version)])
                    case VersionKnown():
                        version = notice.version
                        self.versions.append(version)
                        link.report(version, 1)
                    case Registered():
                        version = max(notice.welcome.policy_version, version or notice.welcome.policy_version)
                    case Ended():
                        self.ended = notice.reason
                        self.unacknowledged = link.unacknowledged
        finally:
            link.close()
