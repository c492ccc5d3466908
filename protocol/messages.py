"""The words that cross a process boundary: one typed message a boundary, and who says it to whom.

    learner ──Lease──▶ rollout actor ──GroupResults──▶ learner ──Ack──▶ rollout actor

Everything here is plain data (`msgspec.Struct`), encoded as msgpack by `protocol.codec`. Arrays travel as
little-endian bytes: `token_ids` int32 ``[token]``, `logprobs` float32 ``[token]``. Unknown fields of a newer
minor protocol version are ignored by the decoder; new fields therefore always have a default.

What results are made of is left to reference counts alone (``gc=False``), for plain data holds no cycles: a collection that looks
through thousands of completions takes as long as to decode them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, get_args

import msgspec

from protocol.measures import GroupMeasures

Name = Annotated[str, msgspec.Meta(max_length=256)]
"""What a peer calls itself, or is called."""
Count = Annotated[int, msgspec.Meta(ge=0)]
REFERENCE = -1
"""Stands for the teacher's reference where a `PreferencePair` names a completion by its index."""


class PolicyVersion(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Names one set of weights: the learner step that made it, in one lineage of checkpoints.

    The lineage rises with every resume or roll-back, so that one number never means two models.
    """

    lineage: int
    step: int

    def __str__(self) -> str:
        return f"{self.lineage}.{self.step}"

    @classmethod
    def parse(cls, text: str) -> PolicyVersion:
        """The inverse of `str`. Raises `ValueError` for any other text."""
        lineage, _, step = text.partition(".")
        return cls(int(lineage), int(step))


class VersionSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens ``[start, end)`` of a completion were sampled by `version`."""

    version: PolicyVersion
    start: int
    end: int


# --- instruction groups -------------------------------------------------------------------------------------


class Utterance(msgspec.Struct, frozen=True):
    """One voice speaking the instruction, or, with `audio` None, the instruction as plain text."""

    speaker: str
    audio: str | None = None
    """Content hash of the audio file, ``xxh128:<32 hex digits>`` of its bytes."""
    duration_s: float = 0.0


class InstructionGroup(msgspec.Struct, frozen=True):
    """One instruction, the teacher's reference answer and one utterance per voice."""

    group_id: str
    instruction: str
    reference: str
    utterances: list[Utterance]
    prompt: str = ""
    """The task's prompt: text that stands beside the audio ("" for plain spoken instructions)."""
    topic: str = "other"
    language: str = "en"
    """Language of the answer; picks BLEU's tokenizer."""
    answers: list[str] = []
    """Further acceptable answers; the accuracy counts any of them, the losses use `reference` alone."""


# --- the lease dialogue -------------------------------------------------------------------------------------


class Purpose(StrEnum):
    """What a lease is for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class Outcome(StrEnum):
    """How a leased group ended; every leased group has exactly one."""

    PAIRS = "pairs"
    """At least one preference pair."""
    TIED = "tied"
    """Rewards too close, or equal answers: no pair, the cross-entropy still trains."""
    TRUNCATED = "truncated"
    """No pair, since no completion that may be chosen ended by itself."""
    UNSCORED = "unscored"
    """The strategy needs rewards, and fewer than two completions got one."""
    FILTERED = "filtered"
    """Unusable input, such as audio that is missing or too long."""
    REFERENCE_ONLY = "reference_only"
    """Plain SFT: nothing was sampled, the reference alone trains."""
    EVALUATED = "evaluated"
    """An evaluation lease was answered; trains nobody."""


class Hello(msgspec.Struct, tag="hello"):
    """Rollout actor → learner, first and after every reconnect."""

    actor_id: Name
    incarnation: Count
    """Rises with every start of the actor's process; a lower one is fenced off."""
    capacity_groups: Count
    """Groups that the actor can hold at once; a spare has none, and hears of policy versions all the same."""
    protocol: tuple[int, int]
    host: Name = ""
    pid: Count = 0
    engine: Name = ""
    held: list[tuple[int, int]] = []
    """(ordinal, lease epoch) of each group that the actor still works on, after a reconnect."""
    done_below: int = 0
    """Since 1.1: messages of results with a lower sequence are acknowledged, and never sent again."""


class Welcome(msgspec.Struct, tag="welcome"):
    """Learner → rollout actor: the actor is registered."""

    run_id: str
    boot_id: str
    """Changes with every start of the learner; the actor then sends its unacknowledged results again."""
    policy_version: PolicyVersion
    heartbeat_s: float
    protocol: tuple[int, int] = (1, 0)


class Refused(msgspec.Struct, tag="refused"):
    """Learner → rollout actor: not registered, and why. Final for this incarnation."""

    reason: str


class LeasedGroup(msgspec.Struct, frozen=True):
    """One group of a lease, named by (ordinal, lease epoch)."""

    ordinal: int
    """Position in the run's stream of instruction groups: never repeated, never skipped."""
    lease_epoch: int
    """Rises each time the same ordinal is granted again."""
    group: InstructionGroup
    purpose: Purpose = Purpose.TRAIN
    seed: int = 0
    """Seeds the sampling of this group."""


class Lease(msgspec.Struct, tag="lease"):
    """Learner → rollout actor: work and credit in one. The actor holds `policy_version` or a newer one before it samples."""

    groups: list[LeasedGroup]
    policy_version: PolicyVersion
    deadline_s: float
    """Seconds from receipt; later results lose against a lease granted again."""


FinishReason = Literal["stop", "length", "abort"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)


class Completion(msgspec.Struct, gc=False):
    """One sampled answer to one utterance."""

    utterance: int
    """Index into the group's utterances."""
    token_ids: bytes
    """int32 little-endian ``[token]``; includes the end-of-sequence token when `finish_reason` is "stop"."""
    logprobs: bytes
    """float32 little-endian ``[token]``, of the sampler; a health figure, never used in a loss."""
    text: str
    finish_reason: FinishReason
    spans: list[VersionSpan]
    reward: float | None = None
    reward_error: str | None = None
    """Why `reward` is None."""
    reward_parts: dict[str, float] = {}


class PreferencePair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Indices into the group's completions. `chosen` may be `REFERENCE`: then it is heard on `rejected`'s utterance."""

    chosen: int
    rejected: int


class GroupResult(msgspec.Struct, gc=False):
    """The one outcome of one leased group."""

    ordinal: int
    lease_epoch: int
    group_id: str
    outcome: Outcome
    purpose: Purpose = Purpose.TRAIN
    reason: str = ""
    """More about the outcome, for people."""
    completions: list[Completion] = []
    pairs: list[PreferencePair] = []
    measures: GroupMeasures | None = None
    """Only of evaluation leases."""
    reference_reward: float | None = None
    """Reward of the teacher's reference, where it competes with the completions."""


class GroupResults(msgspec.Struct, tag="results"):
    """Rollout actor → learner. Sent again, unchanged, until it is acknowledged."""

    actor_id: Name
    incarnation: Count
    sequence: Count
    """Rises by one with every new message of this incarnation."""
    results: list[GroupResult]


class Ack(msgspec.Struct, tag="ack"):
    """Learner → rollout actor: `sequence` of `incarnation` needs not be sent again."""

    incarnation: int
    sequence: int
    policy_version: PolicyVersion
    """The latest published version."""


class Heartbeat(msgspec.Struct, tag="heartbeat"):
    """Both ways. The actor tells which version it applied, the learner which one is the latest."""

    policy_version: PolicyVersion | None = None
    held_groups: int = 0
    generated_tokens: int = 0
    """Since the actor's start; shows that the working loop works."""
    capacity_groups: Count | None = None
    """Since 1.1: of the actor, from now on (see `Hello`)."""


class Bye(msgspec.Struct, tag="bye"):
    """Both ways: the sender leaves. From the actor: its open leases may be granted again at once."""

    reason: str = ""


ActorMessage = Hello | GroupResults | Heartbeat | Bye
"""What a rollout actor says to the learner."""
LearnerMessage = Welcome | Refused | Lease | Ack | Heartbeat | Bye
"""What the learner says to a rollout actor."""
