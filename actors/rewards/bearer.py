"""The bearer token of reward servers: where it is kept, and who has shown it.

It comes from a file that only its owner may read, or from the environment; never from the configuration, which is written down.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from protocol.errors import UserError

VARIABLE = "RBA_REWARDS_TOKEN"
SHORTEST = 16
Refused = Literal["no_token", "wrong_token"]


def read(token_file: str | None, environment: Mapping[str, str]) -> str | None:
    """The token in the file, else that in the environment, else None. Raises `UserError` for a file that is missing or open to others,
    and for what is no token.
    """
    if token_file is not None:
        return _read(Path(token_file).expanduser())
    found = environment.get(VARIABLE)
    return _checked(found, VARIABLE) if found else None


def keep(path: Path) -> str:
    """The token in the file, which is made (mode 0600), whole or not at all, when it is not there. For a run's one supervisor."""
    if not path.exists():
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)  # and no hard link, which not every file system of a cluster has
        finally:
            draft.unlink(missing_ok=True)
    return _read(path)


def header(token: str | None) -> dict[str, str]:
    """What a client sends with each request."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def refused(token: str | None, authorization: str) -> Refused | None:
    """Why the sender of this header is not let in; None when he is. A server without a token lets everybody in."""
    if token is None:
        return None
    scheme, _, shown = authorization.partition(" ")
    if scheme.lower() != "bearer" or not shown:
        return "no_token"
    return None if secrets.compare_digest(shown.strip().encode(), token.encode()) else "wrong_token"


def _read(path: Path) -> str:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UserError("others may read the token", where=str(path), fix=f"chmod go= {path}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token cannot be read: {error}", where=str(path), fix="write a token into it, for its owner alone") from None
    return _checked(text.strip(), str(path))


def _checked(token: str, where: str) -> str:
    """A header carries printable ASCII without spaces; a short token can be guessed. The message never shows it."""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"this is no token: it has {SHORTEST} or more letters, digits and signs, and no space",
            where=where,
            fix="take what `openssl rand -hex 32` prints",
        )
    return token
