"""Files that are there whole or not at all, and locks that die with their holder. Edge: the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from protocol.errors import UserError

HOLDER_BYTES = 200


class Appearing:
    """A file that is written under a hidden name, and gets `path` when it is committed, in place of what is there.

    Every method raises `UserError` where the file cannot be written.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """`durable`: it outlives a loss of power once it is committed."""
        self._durable = durable
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb")

    def write(self, content: bytes) -> None:
        """Append."""
        with telling(self._path):
            self._file.write(content)

    def commit(self) -> None:
        """It is there, whole."""
        with telling(self._path):
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self._path)
            if self._durable:
                sync_folder(self._path.parent)

    def discard(self) -> None:
        """Nothing of it is left."""
        with suppress(OSError):  # it closes even where its last bytes find no room
            self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Commit after a block without an error; discard otherwise."""
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()


def sync_folder(folder: Path) -> None:
    """Names that came and went in it are durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Any `OSError` becomes a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        _tell(path, error)


def _tell(path: Path, error: OSError) -> NoReturn:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    what = "the disk is full" if full else f"it cannot be written ({error.strerror or error})"
    fix = "make room and start again: what is committed stays" if full else "check the folder and the right to write there"
    raise UserError(what, where=str(path), fix=fix) from error


class Lock:
    """Keeps other writers out of a folder until `release`, or the end of the process, however it ends."""

    NAME = ".writer.lock"

    def __init__(self, folder: Path) -> None:
        """Raises `UserError` that says who holds it."""
        path = folder / self.NAME
        with telling(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with telling(path):
                self._take(folder)
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(self._handle)
            raise

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, HOLDER_BYTES, 0).decode(errors="replace") or "another process"
            raise UserError(f"{holder} writes this data set", where=str(folder), fix="wait until it has ended, or end it") from None

    def release(self) -> None:
        """Others may write. The file stays: to take it away would let two of them in."""
        os.close(self._handle)
