"""A `learner.journal.disk.Disk` in memory that loses power, fills up or fails at any call."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from learner.journal.segment import SECTOR_BYTES

Choose = Callable[[int], int]
"""Of `count` possibilities, the number of one."""


class Crash(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Fault:
    """What happens at a call: an errno, or 0 for the end of the process. A write gets so many of its bytes out before."""

    errno: int = 0
    written: int = 0


@dataclass(eq=False)
class Inode:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    forgotten: list[tuple[int, int]] = field(default_factory=list)
    """What a failed fdatasync made the kernel take for clean: later ones do not write it."""

    def sync(self) -> None:
        if not self.forgotten:
            self.synced = bytes(self.content)
            return
        kept = bytearray(self.content)
        for start, end in self.forgotten:
            kept[start:end] = bytes(len(kept[start:end]))
        self.synced = bytes(kept)

    def forget(self) -> None:
        self.forgotten.append((_common(self.synced, self.content), len(self.content)))

    def cut(self, size: int) -> None:
        del self.content[size:]
        self.forgotten = [(start, min(end, size)) for start, end in self.forgotten if start < size]

    def after_power_loss(self, choose: Choose) -> bytes:
        """What was synced, and any sectors of what was not, up to any length."""
        if choose(3) == 0:
            return self.synced
        start = _common(self.synced, self.content)
        found = self.content[: start + choose(len(self.content) - start + 1)]
        for lost_from, end in self.forgotten:
            found[lost_from:end] = bytes(len(found[lost_from:end]))
        keep_all = choose(2)
        while start < len(found):
            stop = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, len(found))
            if not keep_all and choose(2):
                found[start:stop] = bytes(stop - start)
            start = stop
        return bytes(found)


class FaultyDisk:
    where = "disk"

    def __init__(self) -> None:
        self.files: dict[str, Inode] = {}
        self.synced_files: dict[str, Inode] = {}
        self.faults: dict[int, Fault] = {}
        """By the number of the call, from 1 on."""
        self.calls: list[str] = []
        self.dead = False
        self._handles: dict[int, Inode] = {}

    # --- what happens to it ---

    def power_loss(self, choose: Choose) -> None:
        for inode in {id(inode): inode for inode in (*self.files.values(), *self.synced_files.values())}.values():
            inode.content = bytearray(inode.after_power_loss(choose))
            inode.synced, inode.forgotten = bytes(inode.content), []
        for name in sorted({*self.files, *self.synced_files}):
            kept = (self.files if choose(2) else self.synced_files).get(name)
            self.files.pop(name, None)
            if kept is not None:
                self.files[name] = kept
        self.synced_files = dict(self.files)
        self.kill()

    def kill(self) -> None:
        """The process ends; what it wrote stays in the kernel's memory."""
        self._handles, self.faults, self.calls, self.dead = {}, {}, [], False

    def contents(self) -> dict[str, bytes]:
        return {name: bytes(inode.content) for name, inode in self.files.items()}

    @classmethod
    def of(cls, contents: dict[str, bytes]) -> FaultyDisk:
        disk = cls()
        disk.files = {name: Inode(bytearray(content), content) for name, content in contents.items()}
        disk.synced_files = dict(disk.files)
        return disk

    def _call(self, what: str) -> Fault | None:
        if self.dead:
            raise Crash
        self.calls.append(what)
        return self.faults.get(len(self.calls))

    def _fail(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if not fault.errno:
            self.dead = True
            raise Crash
        raise OSError(fault.errno, os.strerror(fault.errno))

    # --- Disk ---

    def prepare(self) -> None:
        self._fail(self._call("prepare"))

    def release(self) -> None:
        pass

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name].content)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name].content)

    def create(self, name: str) -> int:
        self._fail(self._call("create"))
        self.files[name] = Inode()
        return self._handle(self.files[name])

    def open(self, name: str) -> int:
        self._fail(self._call("open"))
        return self._handle(self.files[name])

    def _handle(self, inode: Inode) -> int:
        handle = max(self._handles, default=0) + 1
        self._handles[handle] = inode
        return handle

    def write(self, handle: int, data: bytes) -> None:
        fault = self._call("write")
        self._handles[handle].content += data if fault is None else data[: fault.written]
        self._fail(fault)

    def fdatasync(self, handle: int) -> None:
        fault = self._call("fdatasync")
        if fault is None:
            self._handles[handle].sync()
        elif fault.errno:
            self._handles[handle].forget()
        self._fail(fault)

    def truncate(self, handle: int, size: int) -> None:
        self._fail(self._call("truncate"))
        self._handles[handle].cut(size)

    def close(self, handle: int) -> None:
        fault = self._call("close")
        del self._handles[handle]
        self._fail(fault)

    def rename(self, old: str, new: str) -> None:
        self._fail(self._call("rename"))
        self.files[new] = self.files.pop(old)

    def unlink(self, name: str) -> None:
        self._fail(self._call("unlink"))
        self.files.pop(name, None)

    def fsync_dir(self) -> None:
        self._fail(self._call("fsync_dir"))
        self.synced_files = dict(self.files)


FULL = Fault(errno.ENOSPC)


def _common(one: bytes, other: bytes | bytearray) -> int:
    if other.startswith(one):
        return len(one)
    return next((place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))
