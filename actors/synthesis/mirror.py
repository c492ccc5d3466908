"""A synthesis behind a URL: what is committed on this machine is copied there, each file whole, what names it after what it names.

    shard ──▶ block of the stage                                    after each block
    dataset.json (growing) ──▶ manifests ──▶ dataset.json ──▶ blocks of the stage `dataset`     every minute or so, and at the end

Blocks never change once they are there, so any machine goes on from them; of two different blocks of one number the one behind the URL
counts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from actors.synthesis.watch import Watch
from protocol.claim import Claim
from protocol.dataset import sidecar
from protocol.dataset.disk import Appearing, telling
from protocol.destination import PARTIAL, Destination
from protocol.errors import UserError

Item = TypeVar("Item")

IDENTITY = "stages/identity"
"""Made once for each synthesis, and anew when stages are made again: blocks of two are never mixed."""
SHARDS = {"instructions": "shards/corpus-{:06d}.tar", "speech": "shards/{:06d}.tar"}
"""What stages write beside their blocks."""
LAST = "dataset"
SHOW_S = 60.0
"""Between two times that growing manifests are copied, and no less than ten times as long as that took: stores cannot append."""


class Mirror:
    """As a context manager: the one that writes behind the URL. `bring_together` comes first."""

    def __init__(self, folder: Path, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `UserError` for a URL that cannot be used."""
        self._folder, self._there, self._clock = folder, Destination(url, "directory"), clock
        self._claim: Claim | None = None
        self._show_at_s = clock() + SHOW_S

    def __enter__(self) -> Self:
        """Raises `UserError` where the store cannot be written, or somebody else writes there."""
        self._there.check()
        self._claim = Claim(self._there)
        self._claim.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._claim is not None:
            self._claim.__exit__(kind, error, trace)

    def bring_together(self, watch: Watch) -> None:
        """Fetch what is only there, copy what is only here. Raises `UserError` where another synthesis lies there."""
        if self._lies_there():
            self.fetch(watch)
        else:
            self._begin()
        there = self._sizes()
        missing = [PurePosixPath(name) for name in self._blocks() if name not in there]
        for path in _watched(watch, "copying", [path for path in missing if path.parent.name != LAST]):
            self._put_block(path.parent.name, int(path.stem))
        self.show()

    def fetch(self, watch: Watch | None = None) -> None:
        """Copy what stages have committed, and the manifests, from there. Raises `UserError` where another synthesis lies there."""
        if not self._lies_there():
            return
        there, here = self._sizes(), set(self._blocks())
        wanted = [name for name in there if name.startswith("stages/") and self._size(name) != there[name]]
        newest = {PurePosixPath(name).parent: name for name in there if name in here}  # the one that may not have got there
        wanted += [name for name in newest.values() if self._content(name) != self._read(name)]
        if any(name.startswith(f"stages/{LAST}/") for name in wanted):
            wanted = [name for name in there if "/" not in name] + wanted  # blocks say how long the manifests are
        for name in _watched(watch, "fetching", sorted(wanted, key=_is_block)):  # what lies beside blocks comes first
            self._fetch(name)

    def block(self, stage: str, number: int) -> None:
        """A block has been committed here: copy it. Raises `UserError` where that fails; what is missing there is copied the next time."""
        if stage != LAST:
            self._put_block(stage, number)
        elif self._clock() >= self._show_at_s:
            self.show()

    def put(self, names: Iterable[str]) -> None:
        """Copy files by their paths within the folder."""
        self._check()
        for name in names:
            self._there.patiently(partial(self._there.put, self._folder / name, name))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files, or folders with what is in them, if they are there."""
        self._check()
        for name in names:
            self._there.patiently(partial(self._there.remove, name))

    def renew(self) -> None:
        """To folders of other machines it is another synthesis from now on: the blocks that they have are thrown away."""
        identity = secrets.token_hex(16).encode()
        self._check()
        self._there.patiently(partial(self._there.put_content, identity, IDENTITY))
        self._write(IDENTITY, identity)

    def show(self) -> None:
        """Copy the manifests as far as they have come, and then the blocks that say so."""
        if not (self._folder / sidecar.NAME).is_file():
            return
        began_s = self._clock()
        described = self._read(sidecar.NAME)
        if self._content(sidecar.NAME) != described or not self._finished(described):
            self._check()
            growing = msgspec.json.encode(_growing(sidecar.parse(described, str(self._folder / sidecar.NAME))))
            self._there.patiently(partial(self._there.put_content, growing, sidecar.NAME))
            self.put(name for name in self._files("") if "/" not in name and ".json" in name and name != sidecar.NAME)
            self.put([sidecar.NAME])
        there = self._sizes()
        self.put(sorted((name for name in self._files(f"stages/{LAST}") if name not in there), key=_is_block))
        self._show_at_s = self._clock() + max(SHOW_S, 10 * (self._clock() - began_s))

    # --- parts ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._claim is not None:
            self._claim.check()

    def _put_block(self, stage: str, number: int) -> None:
        shard = SHARDS.get(stage, "").format(number)
        beside = [shard] if shard and (self._folder / shard).is_file() else []
        self.put([*beside, f"stages/{stage}/{number:06d}.jsonl"])

    def _lies_there(self) -> bool:
        """True where this synthesis lies behind the URL. A folder without a block takes over what lies there."""
        theirs = self._content(IDENTITY)
        if theirs is None:
            return False
        own = self._read(IDENTITY) if (self._folder / IDENTITY).is_file() else None
        if own != theirs:
            if self._blocks():
                fix = "give one of them another name or directory; after --redo elsewhere, remove the folder here: it is fetched"
                raise UserError(f"the data set that lies there is not the one in {self._folder}", where=self._there.where, fix=fix)
            self._write(IDENTITY, theirs)
        return True

    def _begin(self) -> None:
        if self._sizes():
            raise UserError("something else lies there", where=self._there.where, fix="give the data set another name or directory")
        if not (self._folder / IDENTITY).is_file():
            self._write(IDENTITY, secrets.token_hex(16).encode())
        self.put([IDENTITY])

    def _sizes(self) -> dict[str, int]:
        """Of the files there, stage by stage and block by block, without what is hidden or has no name of its own yet."""
        found = self._there.patiently(self._there.sizes)
        return {name: found[name] for name in sorted(found) if name[name.rfind("/") + 1] != "." and not name.endswith(PARTIAL)}

    def _content(self, name: str) -> bytes | None:
        return self._there.patiently(partial(self._there.content, name))

    def _blocks(self) -> list[str]:
        """Those here."""
        return [name for name in self._files("stages") if _is_block(name)]

    def _files(self, below: str) -> list[str]:
        paths = sorted((self._folder / below).rglob("*"))
        return [path.relative_to(self._folder).as_posix() for path in paths if path.is_file() and not path.name.startswith(".")]

    def _size(self, name: str) -> int | None:
        path = self._folder / name
        return path.stat().st_size if path.is_file() else None

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        with Appearing(self._folder / name) as file:
            file.write(content)

    def _fetch(self, name: str) -> None:
        path = self._folder / name
        draft = path.with_name(f".{path.name}.partial")
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._there.patiently(partial(self._there.fetch, name, draft))
        with telling(path):
            draft.replace(path)

    def _finished(self, described: bytes) -> bool:
        return all(entry.finished for entry in sidecar.parse(described, str(self._folder / sidecar.NAME)).manifests.values())


def _watched(watch: Watch | None, what: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, and `watch` is told of each that is done."""
    if watch is None or not items:
        yield from items
        return
    watch.begins(what, 0, len(items))
    for item in items:
        yield item
        watch.block(what, [])
    watch.ends(what)


def _is_block(name: str) -> bool:
    path = PurePosixPath(name)
    return name.startswith("stages/") and path.suffix == ".jsonl"


def _growing(described: sidecar.Sidecar) -> sidecar.Sidecar:
    return msgspec.structs.replace(described, manifests=dict.fromkeys(described.manifests, sidecar.Entry()))
