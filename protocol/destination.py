"""A folder of any file system that fsspec knows, to write to. Edge: fsspec, and what it loads for a scheme."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import fsspec
import stamina

from protocol.errors import RbaError, UserError

Done = TypeVar("Done")

PARTIAL = ".partial"
"""The end of the names under which files are written where they are renamed."""
EXAMPLES = "s3://bucket/folder, gs://bucket/folder, hdfs://host/folder or file:///folder"
CHECK_LIMIT_S = 60.0
"""A library that gets no answer may go on asking for minutes."""
ATTEMPTS = 8
"""Tries for each file: two minutes of back-off in all."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


def patiently(action: Callable[[], Done], *, attempts: int | None = None, first_wait_s: float | None = None) -> Done:
    """Carry out `action`, again and again with back-off where it fails with anything but an `RbaError`. Raises what it raises at last."""
    first_wait_s = FIRST_WAIT_S if first_wait_s is None else first_wait_s
    for attempt in stamina.retry_context(
        on=lambda error: not isinstance(error, RbaError),
        attempts=ATTEMPTS if attempts is None else attempts,
        timeout=None,
        wait_initial=first_wait_s,
        wait_max=LONGEST_WAIT_S,
        wait_jitter=first_wait_s,
    ):
        with attempt:
            return action()
    raise AssertionError("retry_context ends by returning or raising")


class Destination:
    """A folder by its URL; paths are relative to it, with slashes."""

    def __init__(self, url: str, key: str) -> None:
        """`key` is where the user wrote `url`. Raises `UserError` for a scheme that is unknown or has no library. Asks nobody yet."""
        scheme, separator, _ = url.partition("://")
        where = f"{key}: {url}"
        if not separator:
            raise UserError("this is no URL", where=where, fix=f"give one such as {EXAMPLES}")
        try:
            self._files, root = fsspec.url_to_fs(url)
        except ImportError as error:
            fix = f"install it with {fsspec.__name__} {fsspec.__version__} on every machine that may write there"
            raise UserError(f"the library for {scheme}:// is missing: {error}", where=where, fix=fix) from None
        except ValueError as error:
            raise UserError(f"{scheme}:// cannot be used: {error}", where=where, fix=f"give a URL such as {EXAMPLES}") from None
        except Exception as error:  # noqa: BLE001 - every library has its own
            fix = "check the URL, and what its library needs on this machine"
            raise UserError(f"it cannot be opened: {type(error).__name__}: {error}", where=where, fix=fix) from None
        self.where, self._root = where, root.rstrip("/")
        # An object store shows an object once it is whole. What renames by itself shows a file from its first byte on.
        self._renames = type(self._files).mv is not fsspec.AbstractFileSystem.mv

    def patiently(self, action: Callable[[], Done]) -> Done:
        """Carry out `action`, which uses this folder, again and again with back-off. Raises `UserError` where it fails for good."""
        try:
            return patiently(action)
        except RbaError:
            raise
        except Exception as error:
            fix = "see to the store and call it again: what is there stays"
            raise UserError(f"it does not do what it is asked for: {type(error).__name__}: {error}", where=self.where, fix=fix) from error

    def check(self, limit_s: float = CHECK_LIMIT_S) -> None:
        """Write a small file, read it and delete it again. Raises `UserError` where that fails or takes longer than `limit_s`."""
        failures: list[Exception] = []
        probing = threading.Thread(target=self._probe, args=(failures,), daemon=True)
        probing.start()
        probing.join(limit_s)
        fix = "check the URL, the right to write there and the credentials, which come from where the scheme's library looks"
        if probing.is_alive():
            raise UserError(f"it has not answered within {limit_s:g} s", where=self.where, fix=fix)
        for error in failures:
            raise UserError(f"it cannot be written to and read: {type(error).__name__}: {error}", where=self.where, fix=fix)

    def _probe(self, failures: list[Exception]) -> None:
        name = f".rba-probe-{secrets.token_hex(4)}"  # two runs may look at the same time
        try:
            self.put_content(name.encode(), name)
            found = self.content(name)
        except Exception as error:  # noqa: BLE001 - told as a `UserError`
            failures.append(error)
            return
        if found != name.encode():
            failures.append(OSError("what was written is not there"))
        with suppress(Exception):  # a store that forbids to delete will do
            self._files.rm(self._at(name))

    def refuse_occupied(self, path: str) -> None:
        """Raise `UserError` where something lies in the folder `path`: copies of another run of that name."""
        try:
            found = self._files.ls(self._at(path), detail=False)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001 - every library has its own
            fix = "check the right to list it"
            raise UserError(f"its folder {path} cannot be listed: {type(error).__name__}: {error}", where=self.where, fix=fix) from None
        if found:
            fix = "give the run another run.name or --run-dir, choose another URL, or go on with that run by --resume"
            raise UserError(f"copies of another run lie in its folder {path}", where=self.where, fix=fix)

    def content(self, path: str) -> bytes | None:
        """What the file holds; None where there is none."""
        self._files.invalidate_cache()
        try:
            content: bytes = self._files.cat_file(self._at(path))
        except FileNotFoundError:
            return None
        return content

    def put(self, source: Path, path: str) -> None:
        """Copy a file, which appears whole. Raises what the library raises, and `OSError` when the copy is not as long as the file."""
        with self._appearing(path) as draft:
            self._files.put_file(str(source), draft)
            self._files.invalidate_cache()
            size = self._files.size(draft)
            if size is not None and size != source.stat().st_size:
                raise OSError(f"{size} of {source.stat().st_size} bytes of {path} arrived")

    def put_content(self, content: bytes, path: str) -> None:
        """Write a small file that appears whole."""
        with self._appearing(path) as draft:
            self._files.pipe_file(draft, content)

    def create(self, content: bytes, path: str) -> bool:
        """Write a small file where there is none. False where there is one, as far as the store can tell."""
        if self.content(path) is not None:
            return False
        if self._renames:  # several may do so at once: each has a draft of its own
            with self._appearing(path, f".{secrets.token_hex(4)}") as draft:
                self._files.pipe_file(draft, content)
            return True
        self._make_parent(self._at(path))
        try:
            self._files.pipe_file(self._at(path), content, mode="create")
        except FileExistsError:
            return False
        except TypeError:  # the library cannot say so
            self._files.pipe_file(self._at(path), content)
        return True

    def sizes(self, path: str = "") -> dict[str, int]:
        """Bytes of every file below `path`, by paths relative to it."""
        self._files.invalidate_cache()
        root = self._at(path).rstrip("/")
        try:
            found = self._files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        begin = len(root) + 1
        return {name[begin:]: int(each["size"]) for name, each in found.items() if each["type"] == "file"}

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file to this machine. Raises what the library raises."""
        self._files.get_file(self._at(path), str(target))

    def remove(self, path: str) -> None:
        """Delete a file, or a folder with what is in it, if it is there."""
        self._files.invalidate_cache()
        if self._files.exists(self._at(path)):
            self._files.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _appearing(self, path: str, mark: str = "") -> Iterator[str]:
        """Where to write what then is called `path`."""
        target = self._at(path)
        self._make_parent(target)
        draft = f"{target}{mark}{PARTIAL}" if self._renames else target
        yield draft
        if self._renames:
            try:
                self._files.mv(draft, target)
            except OSError:
                if not self._files.exists(target):
                    raise
                self._replace(draft, target)

    def _replace(self, draft: str, target: str) -> None:
        """Where renaming replaces nothing, as with HDFS and SFTP: the old file goes only when the new one is there."""
        aside = f"{target}.old{PARTIAL}"
        if self._files.exists(aside):  # of one that was killed in between
            self._files.rm(aside)
        self._files.mv(target, aside)
        try:
            self._files.mv(draft, target)
        except BaseException:
            self._files.mv(aside, target)
            raise
        self._files.rm(aside)

    def _make_parent(self, target: str) -> None:
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
