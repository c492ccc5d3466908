"""The members of a .tar.gz, read forwards: one pass over the archive for all members that are asked for in its order."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from actors.synthesis.corpora.corpus import missing
from protocol.errors import UserError


class Archive:
    """Reads on from where it is; a member that lies before that place is reached by starting anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._walking: Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]] | None = None

    def names(self) -> list[str]:
        """Base names of all files, in the archive's order: a whole pass over it."""
        return [name for name, _, _ in self._walk()]

    def read(self, name: str) -> bytes:
        """The file with that base name. Raises `KeyError` when there is none, `UserError` when the archive is damaged."""
        for walking in (self._walking, self._walk()):
            if walking is None:
                continue
            self._walking = walking
            for found, archive, member in walking:
                if found == name:
                    with self._damage_told():
                        file = archive.extractfile(member)
                        return file.read() if file else b""
        raise KeyError(name)

    def _walk(self) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
        with self._damage_told(), tarfile.open(self.path, "r|gz") as archive:
            for member in archive:
                if member.isfile():
                    yield PurePosixPath(member.name).name, archive, member

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise missing(self.path, str(error.strerror)) from None
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise UserError(f"the archive is damaged ({error})", where=str(self.path), fix="fetch it again") from None
