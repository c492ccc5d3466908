"""What simulated actors send: group results of a chosen size, and the instruction groups that they answer."""

from __future__ import annotations

import os
from dataclasses import dataclass

from protocol.messages import (
    Completion,
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Utterance,
    VersionSpan,
)

PAIR_BYTES = 4096
BYTES_A_TOKEN = 12
"""Token id and log-probability, and some text."""
FIELDS_BYTES = 128
"""Of a completion, beside what grows with its tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """Every group has `pairs` preference pairs, each of two completions that nobody else shares, `PAIR_BYTES` together."""

    pairs: int

    def groups(self, count: int) -> list[InstructionGroup]:
        """Instruction groups with as many voices as there are completions."""
        return [
            InstructionGroup(
                f"group-{number}",
                "what is the capital of peru",
                "the capital of peru is lima",
                [Utterance(f"voice-{voice}", f"xxh128:{number:016x}{voice:016x}", 1.5) for voice in range(2 * self.pairs)],
            )
            for number in range(count)
        ]

    def completions(self, version: PolicyVersion) -> list[Completion]:
        """Those of one group, sampled by `version`. Token ids are below 256."""
        tokens = (PAIR_BYTES // 2 - FIELDS_BYTES) // BYTES_A_TOKEN
        return [
            Completion(
                voice,
                b"".join(bytes([byte, 0, 0, 0]) for byte in os.urandom(tokens)),
                os.urandom(4 * tokens),
                "lima" * tokens,
                "stop",
                [VersionSpan(version, 0, tokens)],
                reward=0.5,
            )
            for voice in range(2 * self.pairs)
        ]

    def result(self, leased: LeasedGroup, completions: list[Completion]) -> GroupResult:
        """The outcome of a leased group."""
        pairs = [PreferencePair(2 * number, 2 * number + 1) for number in range(self.pairs)]
        return GroupResult(leased.ordinal, leased.lease_epoch, leased.group.group_id, Outcome.PAIRS, completions=completions, pairs=pairs)
