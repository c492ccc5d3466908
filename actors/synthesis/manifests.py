"""The last stage: what was kept becomes a data set, a manifest a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from configs.synthesis import SynthesisConfig
from protocol.dataset import DataSetWriter, Location, ManifestAppender
from protocol.dataset.disk import Appearing
from protocol.errors import UserError
from protocol.leasable import too_large
from protocol.messages import InstructionGroup, Utterance

SPLITS = ("train", "validation", "test")
TOO_LARGE = "larger than a message"


class Manifests(Stage):
    """Appends each block's drafts to the manifests of their splits, which are read while they grow; the last block finishes them.

    The sizes that the manifests have after a block lie beside the block, so that a block that is made again goes where it was.
    """

    name = "dataset"
    reasons = (TOO_LARGE,)

    def __init__(self, config: SynthesisConfig, folder: Path, blocks: int) -> None:
        """`folder` is the synthesis' own, `blocks` how many there will be."""
        self._name, self._folder, self._blocks = config.name, folder, blocks
        self._about = {"synthesis": config.model_dump(mode="json", exclude={"directory", "work_directory"})}
        self._done = 0
        self._writer: DataSetWriter | None = None
        self._manifests: dict[str, ManifestAppender] = {}

    def recall(self, drafts: Sequence[Draft]) -> None:  # noqa: ARG002 -- their number is all
        """Counts the blocks that are there."""
        self._done += 1

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """Append the block. Returns what names its drafts alone: the rest is in the manifests."""
        done = []
        for draft in drafts:
            group, locations = as_group(draft, self._name)
            why = too_large(group)
            if not why:
                self._manifests[draft.split or "train"].append(group, locations)
            done.append(Draft(id=draft.id, split=draft.split, rejected=f"{self.name}: {TOO_LARGE}" if why else "", detail=why))
        sizes = {split: manifest.commit() for split, manifest in self._manifests.items()}
        with Appearing(self._sizes(number)) as file:
            file.write(msgspec.json.encode(sizes) + b"\n")
        if number == self._blocks - 1 and self._writer is not None:
            self._writer.finish()
        return done

    def _sizes(self, number: int) -> Path:
        return self._folder / "stages" / self.name / f"{number:06d}.sizes.json"

    def __enter__(self) -> Self:
        sizes = dict.fromkeys(SPLITS, 0)
        if self._done:
            path = self._sizes(self._done - 1)
            try:
                sizes = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
            except (OSError, msgspec.DecodeError) as error:
                fix = f"put it back, or take away {path.parent}: the manifests are then written anew"
                raise UserError("the sizes of the manifests cannot be read", where=str(path), fix=fix) from error
        self._writer = DataSetWriter(self._folder, self._about)
        try:
            self._manifests = {split: self._writer.manifest(f"{split}.jsonl", sizes[split]) for split in SPLITS}
        except BaseException:
            self._writer.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
            self._writer = None


def as_group(draft: Draft, data_set: str) -> tuple[InstructionGroup, dict[str, Location]]:
    """(the group that a kept draft becomes, where its audio lies by its hash)."""
    group = InstructionGroup(
        group_id=f"{data_set}-{draft.id}",
        instruction=draft.instruction,
        reference=draft.reference,
        utterances=[Utterance(each.speaker, each.audio or None, each.duration_s) for each in draft.utterances],
        prompt=draft.prompt,
        topic=draft.topic or "other",
        language=draft.language,
        answers=list(draft.answers),
    )
    return group, {each.audio: Location(each.path, each.offset, each.size_bytes) for each in draft.utterances if each.audio}
