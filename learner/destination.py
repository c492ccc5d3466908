"""Where copies of checkpoints go: a folder of any file system that fsspec knows. Edge: fsspec, and what it loads for a scheme."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from pathlib import Path

import fsspec

from protocol.errors import UserError

KEY = "learner.checkpoint_copies"
EXAMPLES = "s3://bucket/folder, gs://bucket/folder, hdfs://host/folder or file:///folder"
CHECK_LIMIT_S = 60.0
"""A library that gets no answer may go on asking for minutes."""


class Destination:
    """A folder by its URL; paths are relative to it, with slashes."""

    def __init__(self, url: str) -> None:
        """Raises `UserError` for a scheme that is unknown or whose library is missing. Asks nobody yet."""
        scheme, separator, _ = url.partition("://")
        where = f"{KEY}: {url}"
        if not separator:
            raise UserError("this is no URL", where=where, fix=f"give one such as {EXAMPLES}")
        try:
            self._files, root = fsspec.url_to_fs(url)
        except ImportError as error:
            fix = f"install it with {fsspec.__name__} {fsspec.__version__} on every machine that the learner may run on"
            raise UserError(f"the library for {scheme}:// is missing: {error}", where=where, fix=fix) from None
        except ValueError as error:
            raise UserError(f"{scheme}:// cannot be used: {error}", where=where, fix=f"give a URL such as {EXAMPLES}") from None
        except Exception as error:  # noqa: BLE001 - every library has its own
            fix = "check the URL, and what its library needs on this machine"
            raise UserError(f"it cannot be opened: {type(error).__name__}: {error}", where=where, fix=fix) from None
        self._where, self._root = where, root.rstrip("/")

    def check(self, limit_s: float = CHECK_LIMIT_S) -> None:
        """Write a small file, read it and delete it again. Raises `UserError` where that fails or takes longer than `limit_s`."""
        failures: list[Exception] = []
        probing = threading.Thread(target=self._probe, args=(failures,), daemon=True)
        probing.start()
        probing.join(limit_s)
        fix = "check the URL, the right to write there and the credentials, which come from where the scheme's library looks"
        if probing.is_alive():
            raise UserError(f"it has not answered within {limit_s:g} s", where=self._where, fix=fix)
        for error in failures:
            raise UserError(f"it cannot be written to and read: {type(error).__name__}: {error}", where=self._where, fix=fix)

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
            raise UserError(f"its folder {path} cannot be listed: {type(error).__name__}: {error}", where=self._where, fix=fix) from None
        if found:
            fix = "give the run another run.name or --run-dir, choose another URL, or go on with that run by --resume"
            raise UserError(f"copies of another run lie in its folder {path}", where=self._where, fix=fix)

    def content(self, path: str) -> bytes | None:
        """What the file holds; None where there is none."""
        self._files.invalidate_cache()
        try:
            content: bytes = self._files.cat_file(self._at(path))
        except FileNotFoundError:
            return None
        return content

    def put(self, source: Path, path: str) -> None:
        """Copy a file. Raises what the library raises, and `OSError` when the copy is not as long as the file."""
        target = self._at(path)
        self._make_parent(target)
        self._files.put_file(str(source), target)
        size = self._files.size(target)
        if size is not None and size != source.stat().st_size:
            raise OSError(f"{size} of {source.stat().st_size} bytes of {path} arrived")

    def put_content(self, content: bytes, path: str) -> None:
        """Write a small file that appears whole."""
        target = self._at(path)
        self._make_parent(target)
        # An object store shows an object once it is whole. What renames by itself shows a file from its first byte on.
        renames = type(self._files).mv is not fsspec.AbstractFileSystem.mv
        draft = f"{target}.partial" if renames else target
        self._files.pipe_file(draft, content)
        if renames:
            self._files.mv(draft, target)

    def remove(self, path: str) -> None:
        """Delete a file, or a folder with what is in it, if it is there."""
        self._files.invalidate_cache()
        if self._files.exists(self._at(path)):
            self._files.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _make_parent(self, target: str) -> None:
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
