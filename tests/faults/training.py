"""The learner of a drill: the real role, with an optimiser whose weights are a function of what it trained, in what order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

import learner.main
import learner.session
from configs.schema import RunConfig
from learner.checkpoint import newest
from learner.collate import TrainingGroup
from learner.figures import Figures, StepFigures
from learner.journal.disk import PosixDisk
from learner.ranks import Order
from protocol.dialogue import learner_events as dialogue
from protocol.dialogue.learner import LearnerDialogue
from protocol.messages import Lease, PolicyVersion
from protocol.weights.messages import Manifest
from tests.faults.history import FREED
from tests.faults.record import Recorder


class ScriptedOptimiser:
    """Stands in for `learner.engine.Engine`. One tensor is trained: each group of a step, in turn, changes it beyond recognition."""

    recorder: Recorder
    step_s = 0.02
    """What a step takes."""

    def __init__(
        self, _section: Any, _loss: Any, _family: Any, directory: Path, *_: Any, saved: Any = None, updates: int = 0, **__: Any
    ) -> None:
        with safe_open(directory / "model.safetensors", framework="pt") as file:
            self._tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        self._trained = max(self._tensors, key=lambda name: (self._tensors[name].numel(), name))
        self.trained_names = {self._trained}
        self.training_state = SimpleNamespace(updates=updates, gathered=self._gathered)
        if saved is not None:
            self._tensors[self._trained] = saved.read(f"weights/{self._trained}", self._tensors[self._trained].shape)

    def step(self, items: Sequence[TrainingGroup], number: int) -> StepFigures:
        """See `learner.engine.Engine`."""
        self.recorder.write("stepping", step=number)
        time.sleep(self.step_s)  # it computes
        seen = xxhash.xxh3_64(str(number).encode())
        for item in items:
            seen.update(item.group.group_id.encode())
            for completion in item.result.completions:
                seen.update(completion.token_ids)
        noise = torch.randn(self._tensors[self._trained].shape, generator=torch.Generator().manual_seed(seen.intdigest() >> 1))
        self._tensors[self._trained] = 0.5 * self._tensors[self._trained] + noise
        self.training_state.updates += 1
        versions = sorted({str(span.version) for item in items for each in item.result.completions for span in each.spans})
        groups = {item.result.ordinal: item.group.group_id for item in items}
        self.recorder.write("trained", step=number, groups=list(groups.items()), versions=versions)
        figures = Figures(loss=1.0, groups=float(len(items)), pairs=float(sum(len(item.result.pairs) for item in items)))
        return StepFigures(figures, grad_norm=1.0, applied=True, learning_rate=1e-3)

    def tensors(self, _dtype: str, *, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """See `learner.engine.Engine`."""
        return ((name, tensor) for name, tensor in self._tensors.items() if not trained or name in self.trained_names)

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        yield f"weights/{self._trained}", self._tensors[self._trained]


class Alone:
    """Stands in for `learner.ranks.Ranks`: a single rank, which needs no process group."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, *_: Any) -> None:
        self.close = lambda: None

    def order(self, order: Order) -> Order:
        """See `learner.ranks.Ranks`."""
        return order

    def share(self, batch: list[TrainingGroup]) -> list[TrainingGroup]:
        """See `learner.ranks.Ranks`."""
        return batch

    def sum(self, values: list[float]) -> list[float]:
        """See `learner.ranks.Ranks`."""
        return values


def learner_role(order: dict[str, Any], folder: Path, recorder: Recorder) -> learner.main.Learner:
    """The role, with what it does noted. It goes on from the last whole checkpoint and the journal, as a supervisor has it do."""
    learner.main.Engine = ScriptedOptimiser  # type: ignore[assignment,misc]
    learner.main.prepare_environment = lambda _: None  # DeepSpeed's
    learner.main.Ranks = Alone  # type: ignore[assignment,misc]
    ScriptedOptimiser.recorder = recorder
    PosixDisk.unlink = _kept(PosixDisk.unlink, folder / FREED)  # type: ignore[method-assign]
    _note_versions(recorder)
    _note_dialogue(recorder)
    config, lineage = RunConfig.model_validate(order["config"]), int(order["lineage"])
    checkpoint, _ = newest(folder / "run") if lineage else (None, {})
    role = learner.main.Learner(config, folder / "run", folder / "published", lineage=lineage, checkpoint=checkpoint)
    recorder.write("began", lineage=lineage, checkpoint=checkpoint.name if checkpoint else "")
    return role


def _kept(unlink: Callable[[PosixDisk, str], None], folder: Path) -> Callable[[PosixDisk, str], None]:
    """What the journal frees stays for the checker."""
    folder.mkdir(exist_ok=True)

    def unlinked(disk: PosixDisk, name: str) -> None:
        if name.endswith(".journal"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).hardlink_to(disk._folder / name)
        unlink(disk, name)

    return unlinked


def _note_versions(recorder: Recorder) -> None:
    """Each policy version, before any actor hears of it."""
    publish = learner.session.publish

    def noted(engine: Any, root: Path, version: PolicyVersion, *rest: Any) -> Manifest:
        recorder.write("publishing", version=str(version))
        manifest = publish(engine, root, version, *rest)
        recorder.write("published", version=str(version), digest=manifest.digest)
        return manifest

    learner.session.publish = noted


def _note_dialogue(recorder: Recorder) -> None:
    """What is leased, and what people would read in the log."""
    handle = LearnerDialogue.handle

    def noted(self: LearnerDialogue, event: dialogue.Event) -> list[dialogue.Action]:
        actions = handle(self, event)
        for action in actions:
            if isinstance(action, dialogue.Log):
                recorder.write("log", what=action.event, actor=action.actor_id, detail=action.detail)
            elif isinstance(action, dialogue.Send) and isinstance(action.message, Lease):
                groups = [[leased.ordinal, leased.lease_epoch, leased.group.group_id] for leased in action.message.groups]
                recorder.write("granted", peer=action.peer.decode(errors="replace"), groups=groups)
        return actions

    LearnerDialogue.handle = noted  # type: ignore[method-assign]
