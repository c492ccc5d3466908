"""A folder that is made elsewhere and appears in its place whole, or not at all: on this machine, or behind a URL."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from protocol.claim import NAME as CLAIM
from protocol.claim import Claim
from protocol.dataset.disk import Lock
from protocol.dataset.places import FILE, is_url
from protocol.dataset.sidecar import NAME
from protocol.destination import Destination
from protocol.errors import UserError


def place_for(out: str) -> Path | str:
    """What the user names: a folder of this machine, or a URL."""
    return out if is_url(out) and not out.startswith(FILE) else Path(out.removeprefix(FILE))


@contextmanager
def draft(out: Path | str) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` at the end. Raises `UserError` where `out` exists or cannot be made.

    Behind a URL the files come one by one, each whole, and those that name others last: ``dataset.json``, and before it manifests.
    """
    if isinstance(out, str):
        with _draft_for(out) as folder:
            yield folder
        return
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise _occupied(str(out))
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
            raise _occupied(str(out)) from None
    except OSError as error:  # readers tell their own
        raise UserError(
            f"it cannot be written ({error.strerror or error})", where=str(out), fix="make room, or name another folder"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _draft_for(url: str) -> Iterator[Path]:
    there = Destination(url, "OUT")
    there.check()
    with Claim(there, purpose="draft") as claim, tempfile.TemporaryDirectory(prefix="rba-draft-", ignore_cleanup_errors=True) as made:
        found = [name for name in there.patiently(there.sizes) if name != CLAIM]
        if found and (not claim.left_behind or NAME in found):  # which is written last: then it is a whole one
            raise _occupied(url)
        _remove(there, found)
        folder, done = Path(made), list[str]()
        try:
            yield folder
            for name in _in_order(folder):
                claim.check()
                done.append(name)
                there.patiently(partial(there.put, folder / name, name))
        except OSError as error:
            where, fix = str(folder.parent), "make room, or set TMPDIR to a folder that has some"
            raise UserError(f"it cannot be written ({error.strerror or error})", where=where, fix=fix) from None
        except BaseException:
            with suppress(UserError):
                _remove(there, done)
            raise


def _in_order(folder: Path) -> list[str]:
    """What names others behind what it names."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != Lock.NAME]
    return sorted(names, key=lambda name: ("/" not in name, name.endswith(".json"), name == NAME, name))


def _remove(there: Destination, names: list[str]) -> None:
    for name in reversed(names):
        there.patiently(partial(there.remove, name))


def _occupied(where: str) -> UserError:
    return UserError("it is there already", where=where, fix="name a new folder, or remove this one")
