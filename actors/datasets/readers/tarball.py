"""Members of tar files, in their order, one in memory at a time."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from protocol.errors import UserError


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file. Raises `UserError`."""
    name = "the start"
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield name, file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"the tar file is damaged ({error})", where=f"{path}, at {name}", fix="copy it anew") from None
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror or error})", where=str(path), fix="check the path") from None
