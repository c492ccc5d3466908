"""The rollout actor of a drill: the real role, around an engine that answers by script."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from actors.rollout.generation import Generated, GenerationRequest
from actors.rollout.main import RolloutActor
from configs.schema import RunConfig
from protocol.dialogue import actor_events as dialogue
from protocol.dialogue.actor import ActorDialogue
from protocol.dialogue.actor_events import Granted, LearnerSaid, Registered, Results
from protocol.messages import Ack, Hello
from protocol.weights.messages import Fetched
from tests.actors.rollout.scripted import ScriptedEngine
from tests.faults.record import Recorder


class PacedEngine(ScriptedEngine):
    """Takes its time, and notes what it applies."""

    def __init__(self, recorder: Recorder, answer_s: float) -> None:
        super().__init__()
        self._recorder = recorder
        self.answer_s = answer_s

    async def generate(self, request: GenerationRequest) -> Generated:
        await asyncio.sleep(self.answer_s)
        return await super().generate(request)

    async def apply(self, fetched: Fetched) -> float:
        pause_s = await super().apply(fetched)  # which compares every byte with the digest
        self._recorder.write("applied", version=str(fetched.policy_version), digest=fetched.digest)
        return pause_s


def actor_role(order: dict[str, Any], folder: Path, recorder: Recorder) -> RolloutActor:
    """The role, with what it is told and what it says noted."""
    _note_dialogue(recorder)
    config = RunConfig.model_validate(order["config"])
    engine = PacedEngine(recorder, float(order["answer_s"]))
    places = (order["learner"], order["fetcher"], order["rewards"])
    return RolloutActor(config, order["index"], *places, folder / "run", engine, order["incarnation"])


def _note_dialogue(recorder: Recorder) -> None:
    """Leases as they come, results as they go, acknowledgements."""
    handle = ActorDialogue.handle

    def noted(self: ActorDialogue, event: dialogue.Event) -> list[dialogue.Action]:
        if isinstance(event, LearnerSaid) and isinstance(event.message, Ack):
            waiting = self.unacknowledged.get(event.message.sequence)
            if waiting is not None and event.message.incarnation == self.incarnation:
                ordinals = [result.ordinal for result in waiting.message.results]
                recorder.write("acked", sequence=event.message.sequence, ordinals=ordinals, incarnation=self.incarnation)
        actions = handle(self, event)
        if isinstance(event, Results):
            recorder.write("sent", ordinals=[result.ordinal for result in event.results], incarnation=self.incarnation)
        for action in actions:
            match action:
                case Granted():
                    groups = [[leased.ordinal, leased.lease_epoch, leased.group.group_id] for leased in action.lease.groups]
                    recorder.write("leased", groups=groups, version=str(action.lease.policy_version), incarnation=self.incarnation)
                case dialogue.Send(message=Hello()):
                    recorder.write("greeted", incarnation=self.incarnation)
                case Registered():
                    recorder.write("registered", boot_id=action.welcome.boot_id, incarnation=self.incarnation)
        return actions

    ActorDialogue.handle = noted  # type: ignore[method-assign]
