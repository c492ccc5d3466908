"""How rollout actors ask reward servers, and what becomes of items that nobody scores."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import httpx
import msgspec
import stamina
from pydantic import ValidationError

from actors.rewards.items import RewardItem, RewardScore, ScoringAnswer, checked, unscored
from configs.sampling import RewardsSection
from protocol.errors import UserError
from protocol.metrics import Metrics

MAX_ANSWER_BYTES = 16 << 20
AVOID_S = 5.0
"""A server that failed within this time is asked only when no other is fit."""
RETRY_AFTER_MAX_S = 30.0
WAIT_MAX_S = 10.0
IDLE_CONNECTION_S = 60.0
CHECK_ATTEMPTS = 5


class RequestFailedError(Exception):
    """A request without scores. `kind` is a word for metrics, `retry` says whether another try may help."""

    def __init__(self, kind: str, detail: str, *, retry: bool) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry = retry


@dataclass(slots=True)
class Server:
    """One reward server, as the client sees it."""

    url: str
    failed_s: float = float("-inf")
    """When it last failed, on the caller's clock."""
    busy_until_s: float = float("-inf")
    """Until when it asked to be left alone."""

    def is_fit(self, now_s: float) -> bool:
        """Neither failed lately nor busy."""
        return now_s - self.failed_s >= AVOID_S and now_s >= self.busy_until_s


class Rotation:
    """Whose turn it is: round robin, past servers that just failed or said that they are busy. No clock inside."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.servers = [Server(url) for url in urls]
        self._next = 0

    def use(self, urls: Sequence[str]) -> None:
        """From now on these servers; those that were known keep their standing."""
        known = {server.url: server for server in self.servers}
        self.servers = [known.get(url) or Server(url) for url in urls]

    def pick(self, now_s: float) -> Server:
        """The next server in good standing; when there is none, the one that has been left alone longest."""
        turn = [self.servers[(self._next + offset) % len(self.servers)] for offset in range(len(self.servers))]
        server = next((one for one in turn if one.is_fit(now_s)), None) or min(turn, key=lambda one: max(one.failed_s, one.busy_until_s))
        self._next = (self.servers.index(server) + 1) % len(self.servers)
        return server

    def pause_s(self, now_s: float) -> float | None:
        """How long to wait after a failed try: not at all while some server is fit, until one that is merely busy; None: back off."""
        if any(server.is_fit(now_s) for server in self.servers):
            return 0.0
        earliest_s = min(server.busy_until_s for server in self.servers)
        return earliest_s - now_s if earliest_s > now_s else None


class RewardClient:
    """Asks reward servers for scores. An item that gets none is an outcome with its reason, never an exception and never a zero."""

    def __init__(self, urls: Sequence[str], section: RewardsSection, metrics: Metrics | None = None, *, first_wait_s: float = 0.5) -> None:
        """Raises `UserError` for no or malformed `urls`.

        `first_wait_s`: the first back-off, which doubles with every try, so that five tries outlast the restart of a server.
        """
        self._rotation = Rotation(_addresses(urls))
        self._section = section
        self._metrics = metrics
        self._first_wait_s = first_wait_s
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=IDLE_CONNECTION_S)
        # reward servers are named outright, so a proxy from the environment would only stand in between
        self._http = httpx.AsyncClient(timeout=section.timeout_s, limits=limits, trust_env=False)

    def use(self, urls: Sequence[str]) -> None:
        """Ask these servers from the next try on. Raises `UserError` as the constructor does."""
        self._rotation.use(_addresses(urls))

    async def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order. Takes at most attempts × (timeout + back-off) per `section.batch_items` items."""
        size = self._section.batch_items
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        answers = await asyncio.gather(*(self._score_chunk(chunk) for chunk in chunks))
        return [score for answer in answers for score in answer]

    async def check(self) -> list[str]:
        """The signatures of all servers. Raises `UserError` for one that does not answer, or that scores by something else."""
        return list(await asyncio.gather(*(self._check(server.url) for server in self._rotation.servers)))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _score_chunk(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One request with its retries."""
        body, started_s = _body(items), time.monotonic()
        try:
            async for attempt in stamina.retry_context(
                on=self._backoff,
                attempts=self._section.attempts,
                timeout=None,
                wait_initial=self._first_wait_s,
                wait_max=WAIT_MAX_S,
                wait_jitter=self._first_wait_s,
            ):
                with attempt:
                    scores = await self._try(body, items)
                    return self._note(scores, time.monotonic() - started_s)
        except RequestFailedError as error:
            return self._note([unscored(item.id, str(error)) for item in items], time.monotonic() - started_s)
        raise AssertionError("retry_context ends by returning or raising")

    def _backoff(self, error: Exception) -> bool | float:
        """The question of stamina after a failed try: False gives up, True backs off, a number is a pause in seconds."""
        if not isinstance(error, RequestFailedError) or not error.retry:
            return False
        pause_s = self._rotation.pause_s(time.monotonic())
        return True if pause_s is None else pause_s + random.uniform(0, self._first_wait_s / 5)

    async def _try(self, body: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One try at one server. Raises `RequestFailedError`."""
        server = self._rotation.pick(time.monotonic())
        try:
            async with asyncio.timeout(self._section.timeout_s):
                status, headers, answer = await self._post(f"{server.url}/v1/rewards", body)
            if status == httpx.codes.TOO_MANY_REQUESTS:
                server.busy_until_s = time.monotonic() + _retry_after_s(headers)
            scores = read_answer(status, answer, items)
        except RequestFailedError as error:
            failure = error
        except TimeoutError:
            failure = RequestFailedError("timeout", f"no answer within {self._section.timeout_s} s", retry=True)
        except httpx.RequestError as error:
            failure = RequestFailedError("connect", f"{type(error).__name__}: {error}", retry=True)
        else:
            server.failed_s = float("-inf")
            return scores
        if failure.retry:
            server.failed_s = time.monotonic()
        if self._metrics:
            self._metrics.inc("rba_reward_errors_total", kind=f"try_{failure.kind}")
        raise RequestFailedError(failure.kind, f"{server.url}: {failure.detail}", retry=failure.retry)

    async def _post(self, url: str, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        async with self._http.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as response:
            answer = bytearray()
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise RequestFailedError("bad_answer", f"longer than {MAX_ANSWER_BYTES} bytes", retry=True)
            return response.status_code, response.headers, bytes(answer)

    def _note(self, scores: list[RewardScore], seconds: float) -> list[RewardScore]:
        """Exports what became of one request, retries included."""
        if self._metrics:
            self._metrics.observe("rba_reward_request_seconds", seconds)
            if any(score.kind is None for score in scores):
                self._metrics.succeeded("rba_reward_last_success_timestamp_seconds")
            for kind, count in Counter(score.kind for score in scores if score.kind).items():
                self._metrics.inc("rba_reward_errors_total", count, kind=kind)
        return scores

    async def _check(self, url: str) -> str:
        fix = "start the server, correct rewards.urls, or leave rewards.urls empty so that the run starts its own"
        try:
            async for attempt in stamina.retry_context(
                on=httpx.TransportError,
                attempts=CHECK_ATTEMPTS,
                timeout=None,
                wait_initial=self._first_wait_s,
                wait_jitter=self._first_wait_s,
            ):
                with attempt:
                    response = await self._http.get(f"{url}/health", timeout=min(10.0, self._section.timeout_s))
            health = response.raise_for_status().json()
            scorer, signature = str(health["scorer"]), str(health["signature"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the reward server {url} does not answer: {type(error).__name__}: {error}", where="rewards.urls", fix=fix
            ) from error
        if scorer != self._section.scorer:
            raise UserError(
                f"the reward server {url} scores by {scorer}, the run by {self._section.scorer}",
                where="rewards.urls",
                fix=f"set rewards.scorer={scorer}, or name another server",
            )
        return signature


def _body(items: Sequence[RewardItem]) -> bytes:
    """The request as JSON. Lone surrogates, which JSON in UTF-8 cannot carry, become question marks."""
    bodies = [{key: _utf8(value) for key, value in asdict(item).items()} for item in items]
    return msgspec.json.encode({"items": bodies})


def _utf8(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def read_answer(status: int, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
    """The scores in an answer to `items`. Raises `RequestFailedError` for any other answer; a bad number is its item's error."""
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise RequestFailedError("server", f"status {status}: {_start(answer)}", retry=True)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise RequestFailedError("busy", _start(answer), retry=True)
    if status != httpx.codes.OK:
        raise RequestFailedError("refused", f"status {status}: {_start(answer)}", retry=False)
    try:
        scores = ScoringAnswer.model_validate_json(answer).items
    except ValidationError as error:
        raise RequestFailedError("bad_answer", f"{error.errors()[0]['msg']}: {_start(answer)}", retry=True) from None
    if [score.id for score in scores] != [item.id for item in items]:
        raise RequestFailedError("bad_answer", "the ids are not those that were asked for", retry=True)
    return [checked(score) for score in scores]


def _addresses(urls: Sequence[str]) -> list[str]:
    if not urls:
        raise UserError("no reward server is known", where="rewards.urls", fix="name one, or let the run start its own")
    for url in urls:
        if not _is_http(url):
            raise UserError(f"{url} is no HTTP address", where="rewards.urls", fix="write it as http://host:port")
    return [url.rstrip("/") for url in urls]


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _retry_after_s(headers: httpx.Headers) -> float:
    """Seconds that the server asks for; a date, or nothing, counts as one second."""
    given = headers.get("Retry-After", "")
    return min(RETRY_AFTER_MAX_S, float(given)) if given.isdigit() else 1.0


def _start(answer: bytes) -> str:
    return answer[:200].decode("utf-8", "replace")
