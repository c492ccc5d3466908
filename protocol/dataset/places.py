"""Where a data set lies: a folder of this machine, or of any file system that fsspec knows. Edge: the file system; fsspec, on first use.

Names are relative to the folder, with slashes. Whatever goes wrong is an `OSError`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

from protocol.errors import UserError

FILE = "file://"
READ_BYTES = 1 << 20
"""At once, of a file that is read in order; less costs a quarter of the time to open a large manifest."""


class Place(Protocol):
    """One folder that is read."""

    far: bool
    """True where each read takes a round trip."""

    def where(self, name: str = "") -> str:
        """A name in it, for people."""

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """A range of a file, or, without a size, all of it; fewer bytes where the file ends before."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def names(self) -> list[str]:
        """Of the files that lie in the folder itself."""

    def opened(self, name: str) -> BufferedReader:
        """The file, or a copy of it that is gone when it is closed, open for reading."""


def is_url(path: Path | str) -> bool:
    """True for what fsspec is asked for; ``file://`` too."""
    return isinstance(path, str) and "://" in path


def place_of(path: Path | str) -> tuple[Place, str]:
    """The folder that a file lies in, and its name there. Raises `UserError` for a URL that cannot be opened."""
    path = _without_scheme(path)
    if is_url(path):
        folder, _, name = str(path).rpartition("/")
        return _Remote(folder), name
    local = Path(path)
    return _Local(local.parent), local.name


def folder_of(path: Path | str) -> Place:
    """The folder itself. Raises `UserError` for a URL that cannot be opened."""
    path = _without_scheme(path)
    return _Remote(str(path).rstrip("/")) if is_url(path) else _Local(Path(path))


def _without_scheme(path: Path | str) -> Path | str:
    return path.removeprefix(FILE) if isinstance(path, str) else path


def exists(path: Path | str) -> bool:
    """True when a file is there. Raises `UserError` for a URL that cannot be opened or asked."""
    place, name = place_of(path)
    try:
        place.size(name)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"it cannot be read ({reason(error)})", where=place.where(name), fix=FIX_ACCESS) from None
    return True


FIX_ACCESS = "check the path, and the credentials, which come from where the scheme's library looks"


def reason(error: OSError) -> str:
    """What went wrong, in a few words."""
    return error.strerror or str(error) or type(error).__name__


class _Local:
    far = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str = "") -> str:
        return str(self._folder / name)

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        with (self._folder / name).open("rb", buffering=0) as file:
            if size_bytes is None:
                return file.readall()
            return _pread(file.fileno(), offset, size_bytes)

    def size(self, name: str) -> int:
        path = self._folder / name
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
        return path.stat().st_size

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def opened(self, name: str) -> BufferedReader:
        return _buffered(self._folder / name)


def _buffered(path: Path) -> BufferedReader:
    return BufferedReader(path.open("rb", buffering=0), READ_BYTES)


def _pread(handle: int, offset: int, size_bytes: int) -> bytes:
    size_bytes = min(size_bytes, max(0, os.fstat(handle).st_size - offset))  # a damaged size asks for no memory
    content = os.pread(handle, size_bytes, offset)
    while len(content) < size_bytes and (more := os.pread(handle, size_bytes - len(content), offset + len(content))):
        content += more
    return content


class _Remote:
    far = True

    def __init__(self, url: str) -> None:
        import fsspec

        self._url = url
        scheme = url.partition("://")[0]
        try:
            self._files, root = fsspec.url_to_fs(url)
        except ImportError as error:
            fix = f"install it in the version of fsspec, {fsspec.__version__}, on every machine that reads the data set"
            raise UserError(f"the library for {scheme}:// is missing: {error}", where=url, fix=fix) from None
        except ValueError as error:
            raise UserError(f"{scheme}:// cannot be used: {error}", where=url, fix="give a path, or a URL such as s3://…") from None
        except Exception as error:  # noqa: BLE001 - every library has its own
            raise UserError(f"it cannot be opened: {type(error).__name__}: {error}", where=url, fix=FIX_ACCESS) from None
        self._root = root.rstrip("/")

    def where(self, name: str = "") -> str:
        return f"{self._url}/{name}" if name else self._url

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        if size_bytes == 0:
            return b""
        with _os_errors():
            content: bytes = self._files.cat_file(self._at(name), *(() if size_bytes is None else (offset, offset + size_bytes)))
        return content

    def size(self, name: str) -> int:
        with _os_errors():
            self._files.invalidate_cache()
            found: dict[str, Any] = self._files.info(self._at(name))
        if found.get("type") == "directory":
            raise IsADirectoryError(21, "Is a directory", self.where(name))
        return int(found["size"])

    def names(self) -> list[str]:
        with _os_errors():
            self._files.invalidate_cache()
            listed: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
        return sorted(each["name"].rpartition("/")[2] for each in listed if each["type"] == "file")

    def opened(self, name: str) -> BufferedReader:
        """A copy in the folder for temporary files; reading single lines far away would take as many round trips."""
        with tempfile.NamedTemporaryFile(prefix="rba-manifest-") as copy, _os_errors():
            self._files.get_file(self._at(name), copy.name)
            return _buffered(Path(copy.name))  # it outlives its name

    def _at(self, name: str) -> str:
        parts: list[str] = []
        for part in f"{self._root}/{name}".split("/"):  # object stores know no ".."
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            elif part != ".":
                parts.append(part)
        return "/".join(parts)


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
