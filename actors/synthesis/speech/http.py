"""Requests to a speech or transcription server, tried again while it is gone or busy."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import httpx
import stamina

from protocol.errors import RbaError, UserError

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
MAX_ANSWER_BYTES = 64 << 20
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
WRONG = frozenset({401, 403, 404, 405})
"""Statuses that every request would get: a wrong key, address or model."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Reached without the proxy that the environment names."""
CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})
"""Events of httpx that bring a new socket."""


class ServerGoneError(RbaError):
    """A server that did not come back in time. What was committed before stays."""


class RequestRefusedError(RbaError):
    """The server takes this one request for wrong (400, 413, 422, …)."""


class _TryAgainError(Exception):
    pass


class Requests:
    """POSTs to one address, from any thread. Used as a context manager."""

    def __init__(
        self, url: str, path: str, *, key: str, api_key_env: str | None, timeout_s: float, attempts: int, concurrency: int
    ) -> None:
        """`key`: the section of the configuration, for messages. Raises `UserError` for a malformed URL or a key that is not set."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise UserError(f"{url!r} is no address", where=f"{key}.url", fix="write http://HOST:PORT/v1")
        self._through_proxy = parsed.host not in LOOPBACK
        self._headers = {}
        if api_key_env is not None:
            if not os.environ.get(api_key_env):
                raise UserError(f"the environment has no {api_key_env}", where=f"{key}.api_key_env", fix=f"export {api_key_env}=…")
            self._headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
        self._key, self._url, self._attempts, self._timeout_s = key, f"{url.rstrip('/')}{path}", attempts, timeout_s
        self._limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._ended = threading.Event()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self.first_wait_s = FIRST_WAIT_S

    def __enter__(self) -> Self:
        self._http = httpx.Client(headers=self._headers, timeout=self._timeout_s, limits=self._limits, trust_env=self._through_proxy)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        self._http.close()

    def end(self) -> None:
        """Let go of what is under way: a thread that waits for an answer gets an error, and none asks again."""
        self._ended.set()
        with self._lock:
            for each in self._sockets:
                _hang_up(each)

    def _traced(self, event: str, told: dict[str, Any]) -> None:
        """Called by httpx at every step; keeps the sockets, for to close a client wakes nobody who waits."""
        if event in CONNECTED:
            connected = told["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(connected)
                if self._ended.is_set():
                    _hang_up(connected)

    def post(self, **request: Any) -> httpx.Response:
        """The answer, status 200, body read. `request`: as httpx takes it.

        Raises `ServerGoneError` after all attempts, and at once when another thread has made them; `RequestRefusedError` for this request
        alone; `UserError` where every other one would be refused too.
        """
        if self._ended.is_set():
            raise ServerGoneError(f"{self._url} did not answer")
        try:
            for attempt in stamina.retry_context(
                on=self._may_help,
                attempts=self._attempts,
                timeout=None,
                wait_initial=self.first_wait_s,
                wait_max=LONGEST_WAIT_S,
                wait_jitter=self.first_wait_s,
            ):
                with attempt:
                    return self._try(request)
        except (_TryAgainError, httpx.RequestError) as error:
            self._ended.set()  # threads that still wait for the same server need not
            raise ServerGoneError(
                f"{self._url} did not answer in {self._attempts} tries ({_said(error)}); "
                "what is committed stays: start the server and call rba synthesize again"
            ) from error
        raise AssertionError("retry_context ends by returning or raising")

    def _may_help(self, error: Exception) -> bool:
        return isinstance(error, (_TryAgainError, httpx.RequestError)) and not self._ended.is_set()

    def _try(self, request: dict[str, Any]) -> httpx.Response:
        with self._http.stream("POST", self._url, extensions={"trace": self._traced}, **request) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise RequestRefusedError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        told = f"{response.status_code}: {bytes(content[:300]).decode(errors='replace').strip()}"
        if response.status_code in BUSY:
            raise _TryAgainError(told)
        if response.status_code in WRONG:
            raise UserError(f"the server says {told}", where=self._url, fix=f"check {self._key}: url, model and api_key_env")
        if not response.is_success:
            raise RequestRefusedError(told)
        return httpx.Response(response.status_code, headers=response.headers, content=bytes(content))


def _hang_up(connected: socket.socket) -> None:
    with suppress(OSError):  # it may have ended by itself
        connected.shutdown(socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, _TryAgainError) else f"{type(error).__name__}: {error}"
