"""Asks a language model behind any OpenAI-compatible server, one message at a time."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import httpx
import msgspec
import stamina

from configs.scorers import JudgeSection
from protocol.errors import UserError

FIRST_WAIT_S = 0.5
WAIT_MAX_S = 30.0
MAX_ANSWER_BYTES = 4 << 20
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Reached without the proxy that the environment names."""


class ChatError(Exception):
    """A question without an answer. `kind` is a word for metrics, `retry` says whether another try may help."""

    def __init__(self, kind: str, detail: str, *, retry: bool = False, pause_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.detail = detail
        self.retry = retry
        self.pause_s = pause_s
        """How long the server asks to be left alone."""


class Chat:
    """Asks at most `section.concurrency` questions at once. Lives on one event loop."""

    def __init__(self, section: JudgeSection, where: str, *, first_wait_s: float = FIRST_WAIT_S) -> None:
        """`where` is the section's key. Raises `UserError` for an address that is none, and a key that is not there."""
        self._section, self._where, self._first_wait_s = section, where, first_wait_s
        host = _host(str(section.url))
        if host is None:
            raise UserError(f"{section.url} is no HTTP address", where=f"{where}.url", fix="write it as http://host:port/v1")
        self._url = f"{str(section.url).rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json", **_authorization(section, where)}
        limits = httpx.Limits(max_connections=None)  # `_room` limits them; questions that wait for it are on no clock
        self._http = httpx.AsyncClient(timeout=section.timeout_s, limits=limits, headers=headers, trust_env=host not in LOOPBACK)
        self._room = asyncio.Semaphore(section.concurrency)

    async def ask(self, question: str) -> str:
        """The model's answer. Raises `ChatError` after the last try, or at once where another would end the same way."""
        body = self._body(question)
        async for attempt in stamina.retry_context(
            on=_backoff,
            attempts=self._section.attempts,
            timeout=None,
            wait_initial=self._first_wait_s,
            wait_max=WAIT_MAX_S,
            wait_jitter=self._first_wait_s,
        ):
            with attempt:
                async with self._room:
                    return await self._try(body)
        raise AssertionError("retry_context ends by returning or raising")

    async def check(self) -> None:
        """Raises `UserError` when the server does not answer a first question, which shows address, model and key."""
        try:
            await self.ask("Answer with one word: are you there?")
        except ChatError as error:
            raise UserError(
                f"the judge does not answer: {error.detail}",
                where=f"{self._where}.url: {self._section.url}",
                fix=f"start the server, or correct {self._where}: url, model, api_key_env and max_tokens",
            ) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def _body(self, question: str) -> bytes:
        """Lone surrogates, which JSON in UTF-8 cannot carry, become question marks."""
        section, question = self._section, question.encode("utf-8", "replace").decode("utf-8")
        body: dict[str, Any] = {
            "model": section.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": section.temperature,
            "max_tokens": section.max_tokens,
        }
        return msgspec.json.encode({key: value for key, value in {**body, **section.extra}.items() if value is not None})

    async def _try(self, body: bytes) -> str:
        try:
            async with asyncio.timeout(self._section.timeout_s):
                status, headers, answer = await self._post(body)
        except TimeoutError:
            raise ChatError("timeout", f"no answer within {self._section.timeout_s} s", retry=True) from None
        except httpx.RequestError as error:
            raise ChatError("connect", f"{type(error).__name__}: {error}".rstrip(": "), retry=True) from None
        said = f"status {status}: {answer[:200].decode('utf-8', 'replace')}"
        if status in BUSY:
            raise ChatError("busy", said, retry=True, pause_s=_retry_after_s(headers))
        if status != httpx.codes.OK:
            raise ChatError("refused", said)
        return read_answer(answer)

    async def _post(self, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        async with self._http.stream("POST", self._url, content=body) as response:
            answer = bytearray()
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise ChatError("bad_answer", f"longer than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, response.headers, bytes(answer)


def read_answer(answer: bytes) -> str:
    """The text of the first choice. Raises `ChatError` for anything else, and for a text that is cut off: its last number may be half."""
    try:
        choice = msgspec.json.decode(answer)["choices"][0]
        text, ended = choice["message"]["content"], choice.get("finish_reason")
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        text, ended = None, None
    if ended == "length":
        raise ChatError("truncated", "the judge's answer is cut off; raise judge.max_tokens")
    if not isinstance(text, str):
        raise ChatError("bad_answer", f"no chat completion: {answer[:200].decode('utf-8', 'replace')}", retry=True)
    return text


def _host(url: str) -> str | None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    return parsed.host or None if parsed.scheme in {"http", "https"} else None


def _authorization(section: JudgeSection, where: str) -> dict[str, str]:
    if section.api_key_env is None:
        return {}
    fix = f"set {section.api_key_env} to the server's key, where the reward server runs"
    if not (key := os.environ.get(section.api_key_env, "").strip()):
        raise UserError(f"the environment has no {section.api_key_env}", where=f"{where}.api_key_env", fix=fix)
    if not key.isascii() or not key.isprintable() or " " in key:  # the message never shows it, and HTTP's own errors would
        raise UserError(f"{section.api_key_env} is no key: it has signs that a header cannot carry", where=f"{where}.api_key_env", fix=fix)
    return {"Authorization": f"Bearer {key}"}


def _backoff(error: Exception) -> bool | float:
    """The question of stamina after a failed try: False gives up, True backs off, a number is a pause in seconds."""
    if not isinstance(error, ChatError) or not error.retry:
        return False
    return True if error.pause_s is None else error.pause_s * random.uniform(1, 1.2)


def _retry_after_s(headers: httpx.Headers) -> float | None:
    given = headers.get("Retry-After", "")
    return min(WAIT_MAX_S, float(given)) if given.isdigit() else None
