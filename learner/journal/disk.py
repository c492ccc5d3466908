"""The journal's folder, and the only place that touches it. Edge: the file system.

`Disk` is all that the journal asks of a file system; a test gives it one that loses power or room at any call.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from protocol.errors import UserError


class Disk(Protocol):
    """One folder. A handle is an open file that is only appended to. Every method may raise `OSError`."""

    @property
    def where(self) -> str:
        """The folder, for people."""

    def prepare(self) -> None:
        """Make the folder, durably, and keep other writers out."""

    def names(self) -> list[str]:
        """Of all files in it; none where there is no folder."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def read(self, name: str) -> bytes:
        """All of a file."""

    def create(self, name: str) -> int:
        """A new, empty file, in place of one of that name."""

    def open(self, name: str) -> int:
        """A file that is there."""

    def write(self, handle: int, data: bytes) -> None:
        """Append all of it, or raise; then some of it may be there."""

    def fdatasync(self, handle: int) -> None:
        """What was written is durable."""

    def truncate(self, handle: int, size: int) -> None:
        """Cut a file off."""

    def close(self, handle: int) -> None:
        """The handle is no longer used."""

    def rename(self, old: str, new: str) -> None:
        """In place of one of that name."""

    def unlink(self, name: str) -> None:
        """Delete a file, if it is there."""

    def fsync_dir(self) -> None:
        """Names that came and went are durable."""

    def release(self) -> None:
        """Other writers may come."""


class PosixDisk:
    """A folder of a real file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._directory = -1

    @property
    def where(self) -> str:
        """See `Disk`."""
        return str(self._folder)

    def prepare(self) -> None:
        """See `Disk`. Raises `UserError` while another process writes this journal, such as a learner that was left behind."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _fsync(self._folder.parent)
        self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            fix = "stop the learner that is still running"
            raise UserError("another process writes this journal", where=str(self._folder), fix=fix) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # some network file systems have no locks
                raise

    def names(self) -> list[str]:
        """See `Disk`."""
        return [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []

    def size(self, name: str) -> int:
        """See `Disk`."""
        return (self._folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        """See `Disk`."""
        return (self._folder / name).read_bytes()

    def create(self, name: str) -> int:
        """See `Disk`."""
        self.unlink(name)
        return os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o640)

    def open(self, name: str) -> int:
        """See `Disk`."""
        return os.open(self._folder / name, os.O_WRONLY | os.O_APPEND)

    def write(self, handle: int, data: bytes) -> None:
        """See `Disk`."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def fdatasync(self, handle: int) -> None:
        """See `Disk`."""
        os.fdatasync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(handle, size)

    def close(self, handle: int) -> None:
        """See `Disk`."""
        os.close(handle)

    def rename(self, old: str, new: str) -> None:
        """See `Disk`."""
        (self._folder / old).replace(self._folder / new)

    def unlink(self, name: str) -> None:
        """See `Disk`."""
        (self._folder / name).unlink(missing_ok=True)

    def fsync_dir(self) -> None:
        """See `Disk`."""
        os.fsync(self._directory)

    def release(self) -> None:
        """See `Disk`."""
        if self._directory >= 0:
            with suppress(OSError):
                os.close(self._directory)
            self._directory = -1


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
