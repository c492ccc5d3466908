"""A teacher behind an OpenAI-compatible server: raw prompts through ``/completions``, chats through ``/chat/completions``."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import msgspec
import stamina

from actors.loop import Loop, together
from actors.synthesis.teacher.teacher import Generation, Request, Teacher, TeacherFailedError
from configs.teaching import LanguageModelSection
from protocol.errors import UserError

WAIT_FIRST_S = 0.5
WAIT_MAX_S = 60.0
"""Eight tries with doubling pauses outlast a minute; a server that loads a large model again needs more `attempts`."""
DENIED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
ABOUT_THE_REQUEST = {httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY}
CANNOT = {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED}
"""From a server that has answered a request of this kind before, these mean that it is going, or not the one that it was."""
FINISH: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
GOING = {None, "abort", "error"}
"""How a server that ends finishes what it had begun."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
YES = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
Kind = Literal["completions", "chat", "schema"]


class TryFailedError(Exception):
    """One try without an answer, after which another may have one."""

    def __init__(self, detail: str, pause_s: float | None = None) -> None:
        super().__init__(detail)
        self.pause_s = pause_s
        """How long the server asks to be left alone."""


class RefusedError(Exception):
    """The server understood the request and will not answer it."""


@dataclass(frozen=True, slots=True)
class _Connection:
    loop: Loop
    http: httpx.AsyncClient
    room: asyncio.Semaphore
    """For as many requests as the server is asked at once."""


class ServedTeacher(Teacher):
    """Any server with OpenAI's interface. Raw prompts need ``/completions`` with prompts of token ids, as vLLM and SGLang have it."""

    def __init__(self, section: LanguageModelSection, where: str = "teacher", *, first_wait_s: float = WAIT_FIRST_S) -> None:
        """`where` is the section's key. Raises `UserError` for an address that is none, and a key that is not there."""
        super().__init__()
        self._section, self._where, self._first_wait_s = section, where, first_wait_s
        self._url = str(section.url).rstrip("/")
        if not _is_address(self._url):
            raise UserError(f"{section.url} is no HTTP address", where=f"{where}.url", fix="write it as http://host:port/v1")
        self._headers = {"Authorization": f"Bearer {_key(section, where)}"} if section.api_key_env else {}
        self._checked: set[Kind] = set()
        self._checking = threading.Lock()
        self._connection: _Connection | None = None

    @property
    def description(self) -> str:
        """The model and its server."""
        return f"{self._section.model} at {self._url}"

    def _start(self) -> None:
        limits = httpx.Limits(max_connections=None)  # `room` limits them; requests that wait for it are on no clock
        through_proxy = httpx.URL(self._url).host not in LOOPBACK
        http = httpx.AsyncClient(timeout=self._section.timeout_s, limits=limits, headers=self._headers, trust_env=through_proxy)
        self._connection = _Connection(Loop("teacher"), http, asyncio.Semaphore(self._section.concurrency))

    def _abandon(self) -> None:
        self._connected().loop.abandon()

    def _stop(self) -> None:
        connection, self._connection = self._connected(), None
        connection.loop.run(connection.http.aclose())
        connection.loop.close()

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise TeacherFailedError("the teacher is closed")
        return self._connection

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request (see `Teacher`)."""
        loop = self._connected().loop
        for kind in dict.fromkeys(_kind(request) for request in requests):
            self._check(loop, kind)
        return loop.run(together(self._one(request) for request in requests))

    def _check(self, loop: Loop, kind: Kind) -> None:
        """Ask for one token in the way of `kind`, once: what the server cannot do at all is then told at once, not of each request."""
        with self._checking:
            if kind in self._checked:
                return
            sampling: dict[str, Any] = {"max_tokens": 16, "temperature": 1.0, "top_p": 0.99, "seed": 1}
            if kind == "completions":
                request = Request(prompt_ids=[1], stop_token_ids=[1], **sampling)
            else:
                request = Request(messages=[{"role": "user", "content": "Hello"}], schema=YES if kind == "schema" else None, **sampling)
            try:
                answer = loop.run(self._answer(request))
            except RefusedError as error:
                raise self._cannot(kind, str(error)) from None
            if kind == "schema" and not answer.text.lstrip().startswith("{"):
                raise self._cannot(kind, answer.text[:100] or "nothing")
            self._checked.add(kind)

    def _cannot(self, kind: Kind, why: str) -> UserError:
        what = {
            "completions": "takes no raw prompts (/completions with token ids), which pre-query sampling needs",
            "chat": "answers no chats (/chat/completions)",
            "schema": "writes no JSON by a schema (response_format of /chat/completions)",
        }[kind]
        fix = {
            "completions": "serve the model with vLLM, or set instructions.source: seeded_chat",
            "chat": "correct the model's name and the url, or leave out what it refuses by a null in extra",
            "schema": "serve the model with vLLM, or set another tagger",
        }[kind]
        return UserError(f"the server {what}; it says {why}", where=f"{self._where}.url: {self._url}", fix=fix)

    async def _one(self, request: Request) -> Generation:
        try:
            return await self._answer(request)
        except RefusedError as error:
            return Generation("", 0, "refused", str(error))

    async def _answer(self, request: Request) -> Generation:
        """One request with its tries. Raises `RefusedError`, and `TeacherFailedError` after the last try."""
        path, body = ("/completions" if _kind(request) == "completions" else "/chat/completions"), self._body(request)
        try:
            async for attempt in stamina.retry_context(
                on=_backoff,
                attempts=self._section.attempts,
                timeout=None,
                wait_initial=self._first_wait_s,
                wait_max=WAIT_MAX_S,
                wait_jitter=self._first_wait_s,
            ):
                with attempt:
                    async with self._connected().room:
                        return await self._try(path, body, known=_kind(request) in self._checked)
        except TryFailedError as error:
            raise TeacherFailedError(
                f"the teacher at {self._url} gave no answer in {self._section.attempts} tries, the last: {error}; "
                "what is committed stays: start the server, and call the synthesis again"
            ) from None
        raise AssertionError("retry_context ends by returning or raising")

    def _body(self, request: Request) -> bytes:
        section = self._section
        body: dict[str, Any] = {
            "model": section.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "stop_token_ids": list(request.stop_token_ids) or None,
        }
        if request.prompt_ids is not None:
            body |= {"prompt": list(request.prompt_ids), "add_special_tokens": False, "skip_special_tokens": True}
        else:
            body |= {"messages": list(request.messages), "chat_template_kwargs": section.chat_template_options or None}
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return msgspec.json.encode({key: value for key, value in {**body, **section.extra}.items() if value is not None})

    async def _try(self, path: str, body: bytes, *, known: bool) -> Generation:
        try:
            response = await self._connected().http.post(self._url + path, content=body, headers={"Content-Type": "application/json"})
        except httpx.RequestError as error:
            raise TryFailedError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        status, said = response.status_code, f"status {response.status_code}: {response.text[:300]}"
        if status in DENIED:
            fix = "name the environment variable that holds the server's key"
            raise UserError(f"{self._url} lets nobody in ({said})", where=f"{self._where}.api_key_env", fix=fix)
        if status == httpx.codes.OK:
            return read_answer(response.content)
        if status in ABOUT_THE_REQUEST or (status in CANNOT and not known):
            raise RefusedError(said)
        raise TryFailedError(said, _retry_after_s(response.headers))


def read_answer(answer: bytes) -> Generation:
    """The first choice of either endpoint. Raises `TryFailedError` for anything else."""
    try:
        said = msgspec.json.decode(answer)
        choice = said["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        reason, tokens = choice["finish_reason"], int((said.get("usage") or {}).get("completion_tokens") or 0)
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError):
        raise TryFailedError(f"no answer of this interface: {answer[:200].decode('utf-8', 'replace')}") from None
    if reason in GOING:
        raise TryFailedError(f"ended with {reason!r}")
    if reason not in FINISH:  # such as a content filter, or a tool that the model calls
        return Generation("", tokens, "refused", f"ended with {reason!r}")
    return Generation(text or "", tokens, FINISH[reason])


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _kind(request: Request) -> Kind:
    if request.prompt_ids is not None:
        return "completions"
    return "chat" if request.schema is None else "schema"


def _key(section: LanguageModelSection, where: str) -> str:
    name = section.api_key_env or ""
    if not os.environ.get(name):
        raise UserError(f"the environment has no {name}", where=f"{where}.api_key_env", fix=f"set {name} to the server's key")
    return os.environ[name]


def _backoff(error: Exception) -> bool | float:
    """The question of stamina after a failed try: False gives up, True backs off, a number is a pause in seconds."""
    if not isinstance(error, TryFailedError):
        return False
    return True if error.pause_s is None else error.pause_s * random.uniform(1, 1.2)


def _retry_after_s(headers: httpx.Headers) -> float | None:
    given = headers.get("Retry-After", "")
    return min(WAIT_MAX_S, float(given)) if given.isdigit() else None
