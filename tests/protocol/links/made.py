"""Links for tests, and waiting for what they tell."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from protocol.dialogue.learner import LearnerDialogue
from protocol.dialogue.learner_events import Intake
from protocol.gate import Door, server_door
from protocol.keyring import Keyring
from protocol.links.actor import ActorLink
from protocol.links.learner import LearnerLink
from protocol.messages import PolicyVersion

VERSION = PolicyVersion(0, 0)


class Links:
    """Makes links and ends them after the test; with `keys`, guarded ones."""

    def __init__(self, keys: Keyring | None = None) -> None:
        self._open: list[LearnerLink | ActorLink] = []
        self.keys = keys
        self.refused: Counter[str] = Counter()
        self.acknowledged = 0
        """Times that an actor heard that its results have arrived."""

    def learner(self, port: int = 0, boot_id: str = "boot-1", heartbeat_s: float = 0.3, deadline_s: float = 60.0) -> LearnerLink:
        link = LearnerLink("127.0.0.1", port, LearnerDialogue("run", boot_id, VERSION, heartbeat_s, deadline_s), self._door())
        link.start()
        self._open.append(link)
        return link

    def actor(self, endpoint: str, actor_id: str = "rollout-0", incarnation: int = 0, capacity: int = 4) -> ActorLink:
        link = ActorLink(
            endpoint, actor_id, incarnation, capacity, keys=self.keys.client() if self.keys else None, acknowledged=self._heard
        )
        link.start()
        self._open.append(link)
        return link

    def _heard(self) -> None:
        self.acknowledged += 1

    def _door(self) -> Door | None:
        return server_door(self.keys, "pairs", lambda reason: self.refused.update([reason])) if self.keys else None

    def kill(self, link: LearnerLink | ActorLink) -> None:
        """It ends without a word."""
        link._stop.set()
        link._thread.join(60)

    def close(self) -> None:
        for link in reversed(self._open):
            link.close("test over")


both_ways = pytest.mark.parametrize("links", [False, True], ids=["plain", "keys"], indirect=True)
guarded = pytest.mark.parametrize("links", [True], ids=["keys"], indirect=True)


def port_of(link: LearnerLink) -> int:
    return int(link.endpoint.rpartition(":")[2])


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def notice(link: ActorLink, kind: type[Any], timeout_s: float = 60.0) -> Any:
    """The next notice of that kind."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = await link.next_event()
            if isinstance(found, kind):
                return found


async def intake(link: LearnerLink, timeout_s: float = 60.0) -> Intake:
    found = await asyncio.to_thread(link.intakes.get, True, timeout_s)
    assert found is not None
    return found
