"""Requests that bring no scores: what they are called, and whether another try may help."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from actors.rewards import bearer

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 0.5, 30.0
"""A server that asks for no pause gets one all the same: being busy counts for no try."""
TOKEN_FIX = f"set rewards.token_file or {bearer.VARIABLE} to the token of the server"


class RequestFailedError(Exception):
    """A request without scores. `kind` is a word for metrics, `retry` says whether another try may help, `decisive` that the server is gone
    or hangs.
    """

    def __init__(self, kind: str, detail: str, *, retry: bool, decisive: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry = retry
        self.decisive = decisive


def raise_for_status(status: int, answer: bytes) -> None:
    """Raises `RequestFailedError` for all but 200: what the server says of itself may pass, what it says of the request does not."""
    detail = f"status {status}: {start(answer)}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RequestFailedError("busy", detail, retry=True)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RequestFailedError("server", detail, retry=True)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise RequestFailedError("unauthorised", f"{detail}; {TOKEN_FIX}", retry=False)
    if status != HTTPStatus.OK:
        raise RequestFailedError("refused", detail, retry=False)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks for; a date, or nothing, counts as one second."""
    given = headers.get("Retry-After", "")
    return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, float(given))) if given.isdecimal() else 1.0


def start(answer: bytes) -> str:
    """Enough of an answer for a message."""
    return answer[:200].decode("utf-8", "replace")
