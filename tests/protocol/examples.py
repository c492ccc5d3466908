"""Messages for tests of the protocol."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.messages import (
    ActorMessage,
    Completion,
    GroupResult,
    GroupResults,
    Heartbeat,
    Hello,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    Purpose,
    Utterance,
    VersionSpan,
)

VERSION = PolicyVersion(0, 0)


def group(number: int = 0) -> InstructionGroup:
    """An instruction in two voices and as text."""
    voices = [Utterance(f"voice-{voice}", f"xxh128:{number:016x}{voice:016x}", 1.5) for voice in range(2)]
    return InstructionGroup(f"group-{number}", "what is two plus two", "four", [*voices, Utterance("text")])


def leased(ordinal: int, epoch: int = 0, purpose: Purpose = Purpose.TRAIN) -> LeasedGroup:
    """A leased group."""
    return LeasedGroup(ordinal, epoch, group(ordinal), purpose, seed=ordinal)


def result(ordinal: int, epoch: int = 0, *, text: str = "four") -> GroupResult:
    """Its outcome, with one completion."""
    completion = Completion(0, b"\x01\0\0\0", b"\0\0\x80?", text, "stop", [VersionSpan(VERSION, 0, 1)], reward=0.5)
    return GroupResult(ordinal, epoch, f"group-{ordinal}", Outcome.TIED, completions=[completion])


def hello(actor_id: str = "rollout-0", incarnation: int = 0, capacity: int = 2, held: Sequence[tuple[int, int]] = ()) -> Hello:
    """An actor introduces itself."""
    return Hello(actor_id, incarnation, capacity, (1, 0), held=list(held))


def results(ordinals: Sequence[int], sequence: int, actor_id: str = "rollout-0", incarnation: int = 0) -> GroupResults:
    """Outcomes of these ordinals in one message."""
    return GroupResults(actor_id, incarnation, sequence, [result(ordinal) for ordinal in ordinals])


ACTOR_MESSAGES: list[ActorMessage] = [hello(held=[(3, 1)]), results([0, 1], 7), Heartbeat(VERSION, 2, 99)]
