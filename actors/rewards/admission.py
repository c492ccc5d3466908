"""Which requests a reward server lets in: what it answers the others, and how much it holds at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import JSONResponse

MAX_BODY_BYTES = 16 << 20
MAX_ROOM_BYTES = 8 * MAX_BODY_BYTES
"""Of all requests that are on their way in or wait for their scores."""


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with a status and a machine-readable reason."""

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.answer = JSONResponse({"error": {"reason": reason, "detail": detail}}, status_code=status, headers=headers)


class Room:
    """How much the requests hold that have no answer yet, by the bytes of their bodies: what is read from a body is no larger than it,
    but for the width of its characters. Lives in one event loop.
    """

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a body may take to arrive."""
        self.patience_s = patience_s
        self.taken_bytes = 0

    @contextmanager
    def stay(self) -> Iterator[Stay]:
        """Of one request; what it has taken is given back at the end."""
        stay = Stay(self)
        try:
            yield stay
        finally:
            self.taken_bytes -= stay.taken_bytes


class Stay:
    """One request's part of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.taken_bytes = 0

    async def body(self, request: Request) -> bytes:
        """The request's body. Raises `Refusal` for what is too large or too slow, and where there is no room for it now."""
        announced = request.headers.get("Content-Length", "")
        _check_size(int(announced) if announced.isdigit() else 0)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._room.patience_s):
                async for chunk in request.stream():
                    self._take(len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            detail = f"the body took longer than {self._room.patience_s} s"
            raise Refusal(408, "too_slow", detail, {"Connection": "close"}) from None
        return b"".join(chunks)

    def _take(self, size_bytes: int) -> None:
        self.taken_bytes += size_bytes
        self._room.taken_bytes += size_bytes
        _check_size(self.taken_bytes)
        if self._room.taken_bytes > MAX_ROOM_BYTES:
            raise Refusal(429, "queue_full", "the requests of others take all the room", {"Retry-After": "1", "Connection": "close"})


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise Refusal(413, "too_large", f"a body has at most {MAX_BODY_BYTES} bytes", {"Connection": "close"})
