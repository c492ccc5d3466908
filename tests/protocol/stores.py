"""File systems for tests of what is written behind URLs: they fail when they are told to, on top of fsspec's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class StoreError(Exception):
    """What a library raises that derives from nothing known."""


class Faults:
    """Counts what changes a store, and decides what becomes of it. By default all goes well."""

    def __init__(self) -> None:
        self.changes = 0
        self.fails: Callable[[int], bool] = lambda _: False
        self.gate: threading.Event | None = None
        """Changes wait for it."""
        self.files: list[str] = []
        """What was put, in order."""

    def ill_fated(self) -> bool:
        if self.gate is not None and not self.gate.wait(20):
            raise StoreError("the test never let it go")
        self.changes += 1
        return self.fails(self.changes)


FAULTS = Faults()


class Bucket(MemoryFileSystem):
    """An object store: what fails leaves nothing."""

    protocol = "bucket"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("bucket://"))

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        if FAULTS.ill_fated():
            raise StoreError("no connection")
        FAULTS.files.append(rpath)
        super().put_file(lpath, rpath, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        if FAULTS.ill_fated():
            raise StoreError("no connection")
        FAULTS.files.append(path)
        super().pipe_file(path, value, *args, **kwargs)

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if FAULTS.ill_fated():
            raise StoreError("no connection")
        super().rm(path, *args, **kwargs)


class Disk(LocalFileSystem):
    """A network disk: what fails leaves a part."""

    protocol = "disk"

    def put_file(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        FAULTS.files.append(path2)
        content = Path(path1).read_bytes()
        if FAULTS.ill_fated():
            Path(path2).write_bytes(content[: len(content) // 2])
            raise StoreError("no connection")
        Path(path2).write_bytes(content)

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        FAULTS.files.append(path)
        if FAULTS.ill_fated():
            Path(path).write_bytes(value[: len(value) // 2])
            raise StoreError("no connection")
        Path(path).write_bytes(value)

    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        if FAULTS.ill_fated():
            raise StoreError("no connection")
        super().mv(path1, path2, *args, **kwargs)

    def rm(self, path: str, *args: Any, **kwargs: Any) -> None:
        if FAULTS.ill_fated():
            for file in Path(path).glob("**/model.safetensors"):  # part of a folder goes
                file.unlink()
            raise StoreError("no connection")
        super().rm(path, *args, **kwargs)


def fetch(url: str, to: Path) -> Path:
    """What a user does to have a copy back."""
    files, root = fsspec.url_to_fs(url)
    to.parent.mkdir(parents=True, exist_ok=True)
    files.get(root, str(to), recursive=True)
    return to


def register() -> None:
    """Under ``bucket://`` and ``disk://``."""
    for scheme, store in (("bucket", Bucket), ("disk", Disk)):
        fsspec.register_implementation(scheme, store, clobber=True)


def renew() -> None:
    """Empty, and without faults."""
    global FAULTS
    FAULTS = Faults()
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    fsspec.filesystem("memory").store.clear()
