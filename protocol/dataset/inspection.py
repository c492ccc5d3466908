"""Looks for damage of every kind in manifests and their audio. Edge: soundfile, on first use; the file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from protocol.dataset import sidecar
from protocol.dataset.index import build
from protocol.dataset.lines import Line
from protocol.dataset.places import Place, folder_of, is_url, place_of, reason
from protocol.dataset.recordings import Recordings
from protocol.dataset.splits import Instructions, shared
from protocol.errors import UserError

SUFFIX = ".jsonl"
BATCH_LINES = 256
"""Whose audio is looked at before more lines are read."""

Progress = Callable[[str, int, int], None]
"""Told of a manifest, its bytes that are done, and all of them."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is damaged."""

    file: str
    line: int
    """Of the manifest, from 1; 0: it concerns the whole file."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


class Inspected(msgspec.Struct):
    """One manifest that was looked through."""

    name: str
    growing: bool = False
    groups: int = 0
    utterances: int = 0
    audio: int = 0
    """Utterances that are spoken."""


class Inspection(msgspec.Struct):
    """What was looked at, and what was found."""

    path: str
    manifests: list[Inspected] = []
    findings: list[Finding] = []
    heard: bool = False
    """True when the audio was decoded too."""


def manifests_of(path: Path | str) -> tuple[Place, list[str]]:
    """The folder and the manifests in it that `path`, a manifest or a folder, stands for. Raises `UserError` where there is none."""
    folder = (is_url(path) and not str(path).endswith(SUFFIX)) or (not is_url(path) and Path(path).is_dir())
    if not folder:
        place, name = place_of(path)
        try:
            place.size(name)
        except OSError as error:
            raise UserError(f"it cannot be read ({reason(error)})", where=place.where(name), fix=_FIX) from None
        return place, [name]
    place = folder_of(path)
    try:
        names = {name for name in place.names() if name.endswith(SUFFIX) and not name.startswith(".")}
    except OSError as error:
        raise UserError(f"it cannot be read ({reason(error)})", where=place.where(), fix=_FIX) from None
    described = sidecar.read(place)
    names |= set(described.manifests) if described is not None else set()
    if not names:
        raise UserError("no data set lies here", where=place.where(), fix=_FIX)
    return place, sorted(names)


_FIX = f"give a manifest, or a folder with manifests ({SUFFIX}), or its URL"


def inspect(path: Path | str, *, hear: bool = False, max_audio_s: float = 30.0, progress: Progress | None = None) -> Inspection:
    """Look through a manifest, or all of a folder; with `hear` read and decode all audio. Raises `UserError` for what is no data set."""
    place, names = manifests_of(path)
    described = sidecar.read(place)
    found = Inspection(str(path), heard=hear)
    instructions = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hear or place.far else 1) as pool:
        for name in names:
            entry = described.manifests.get(name) if described is not None else None
            recordings = Recordings(place, max_audio_s, hear=hear)
            one = _Manifest(place, name, entry, recordings, pool, progress or (lambda *_: None))
            found.manifests.append(one.look())
            found.findings += one.findings
            instructions.append(one.instructions)
    for here, there in shared(instructions):
        what = f"the instruction stands in {there.name}, line {there.line}, too: no split may share one with another"
        found.findings.append(Finding(place.where(here.name), here.line, what))
    return found


class _Manifest:
    """One manifest that is looked through."""

    def __init__(
        self, place: Place, name: str, entry: sidecar.Entry | None, recordings: Recordings, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        self._place, self._name, self._entry, self._recordings = place, name, entry, recordings
        self._pool, self._progress = pool, progress
        self._where = place.where(name)
        self._waiting: list[tuple[int, Line]] = []
        self.findings: list[Finding] = []
        self.instructions = Instructions(name)
        self.inspected = Inspected(name, growing=entry is not None and not entry.finished)

    def look(self) -> Inspected:
        """All of it; afterwards `findings` are in the order of the lines."""
        try:
            with self._place.opened(self._name) as file:
                index = build(self._told(file), self._damaged, self._line, growing=self.inspected.growing)
        except OSError as error:
            self._damaged(0, f"it cannot be read ({reason(error)})")
            return self.inspected
        self._hear()
        entry = self._entry
        if entry is not None and entry.finished and entry.digest != index.digest:
            self._damaged(0, f"it was changed since it was finished: {index.size_bytes} bytes, and {entry.size_bytes} were written")
        if not self.inspected.groups and not self.findings and entry is None:  # a writer may have had nothing for a split
            self._damaged(0, "it holds no instruction group")
        self.findings += [Finding(self._place.where(shard), 0, what) for shard, what in self._recordings.shards()]
        self.findings.sort(key=lambda finding: (finding.line == 0, finding.line))
        return self.inspected

    def _told(self, file: Iterable[bytes]) -> Iterator[bytes]:
        done, total = 0, self._place.size(self._name)
        for number, line in enumerate(file):
            if not number % BATCH_LINES:
                self._progress(self._name, done, total)
            done += len(line)
            yield line
        self._progress(self._name, done, total)

    def _damaged(self, number: int, what: str) -> None:
        self.findings.append(Finding(self._where, number, what))

    def _line(self, number: int, line: Line) -> None:
        spoken = sum(one.audio is not None for one in line.utterances)
        self.inspected.groups += 1
        self.inspected.utterances += len(line.utterances)
        self.inspected.audio += spoken
        self.instructions.add(number, line.instruction)
        if spoken:
            self._waiting.append((number, line))
        if len(self._waiting) >= BATCH_LINES:
            self._hear()

    def _hear(self) -> None:
        waiting, self._waiting = self._waiting, []
        for (number, _), damages in zip(waiting, self._pool.map(self._recordings.damages, (line for _, line in waiting)), strict=True):
            for what in damages:
                self._damaged(number, what)


def as_json(found: Inspection) -> dict[str, Any]:
    """For ``--json``."""
    return {**msgspec.to_builtins(found), "damaged": bool(found.findings)}
