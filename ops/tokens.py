"""Ray's token authentication, as its 2.60 reads it from the environment; decided without Ray."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from configs.schema import RunConfig

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def needs_token(config: RunConfig) -> bool:
    """True for a cluster that other machines reach, unless the user trusts the network."""
    return config.ray.address is not None and config.network.leaves_the_machine and not config.network.insecure


def token_found(environment: Mapping[str, str]) -> bool:
    """True when Ray will find a token: in the environment, in the file that it names, or in the home folder."""
    if environment.get(TOKEN):
        return True
    path = environment.get(TOKEN_PATH) or (Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token")
    try:
        return bool(Path(path).read_text(encoding="utf-8").strip())
    except OSError:
        return False


def environment_of(address: str | None, *, needed: bool) -> dict[str, str]:
    """What to add to the environment before Ray is imported: a cluster of one's own has a token of its own, which Ray would otherwise
    keep in the home folder; one that runs already has the user's.
    """
    if address is None:
        return {MODE: "token", TOKEN: secrets.token_hex(32)}
    return {MODE: "token"} if needed else {}
