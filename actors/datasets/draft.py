"""A folder that is made beside its place and appears there whole, or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import UserError


@contextmanager
def draft(out: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` at the end. Raises `UserError` where `out` exists or cannot be made."""
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise _occupied(out)
    folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}.draft")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"the folder cannot be made ({error.strerror})", where=str(folder.parent), fix="name another") from None
    try:
        yield folder
        try:
            folder.rename(out)
        except OSError:
            raise _occupied(out) from None
    except OSError as error:  # readers tell their own
        raise UserError(
            f"it cannot be written ({error.strerror or error})", where=str(out), fix="make room, or name another folder"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _occupied(out: Path) -> UserError:
    return UserError("it is there already", where=str(out), fix="name a new folder, or remove this one")
