"""How rollout actors ask reward servers, and what becomes of items that nobody scores."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import stamina

from actors.rewards import bearer
from actors.rewards.balancer import Balancer, Server, addresses
from actors.rewards.failures import TOKEN_FIX, RequestFailedError, raise_for_status, retry_after_s, start
from actors.rewards.items import RewardItem, RewardScore, checked, readable, unscored
from actors.rewards.protocols.protocol import BadAnswerError, open_protocol
from configs.sampling import RewardsSection
from protocol.errors import UserError
from protocol.metrics import Metrics

MAX_ANSWER_BYTES = 16 << 20
WAIT_MAX_S = 10.0
IDLE_CONNECTION_S = 60.0
MAX_CONNECTIONS = 256
CHECK_ATTEMPTS = 5
HEALTH_S = 10.0
MARGIN = 0.8
"""Of the time that the client waits, what it tells the server: that goes by its pace, which is a guess, and the way takes time, too."""
PROBE = RewardItem("probe", "Say yes.", "yes", "yes")
"""Asked for when a server is looked at; its score, or its error, does not matter."""


@dataclass(slots=True)
class Errand:
    """One request on its way to a score, over all its tries."""

    body: bytes
    items: Sequence[RewardItem]
    deadline_s: float
    """On the loop's clock."""
    obstacle: str = "it waited for its turn"
    """Why there is no score so far: the last failure, where there was one."""
    has_failed: bool = False

    def reached(self, place: str) -> None:
        """It waits there now."""
        if not self.has_failed:
            self.obstacle = place

    def failed(self, failure: RequestFailedError) -> None:
        """A try brought no scores."""
        self.obstacle, self.has_failed = str(failure), True


class RewardClient:
    """Asks reward servers for scores. An item that gets none is an outcome with its reason, never an exception and never a zero."""

    def __init__(
        self,
        urls: Sequence[str],
        section: RewardsSection,
        metrics: Metrics | None = None,
        *,
        token: str | None = None,
        first_wait_s: float = 0.5,
    ) -> None:
        """Within a running loop. Raises `UserError` for no or malformed `urls`, and for a protocol whose tokenizer cannot be had.

        `first_wait_s`: the first back-off, which doubles with every try, so that five tries outlast the restart of a server.
        """
        self._balancer = Balancer(addresses(urls), 2 * first_wait_s)
        self._section = section
        self._protocol = open_protocol(section)
        self._metrics = metrics
        self._first_wait_s = first_wait_s
        self._news = asyncio.Event()
        headers = {"Content-Type": "application/json", **bearer.header(token)}
        # of many connections httpx looks at each one at every request; proxies of the environment would only stand in between
        pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        unlimited = aiohttp.ClientTimeout(total=None)
        self._http = aiohttp.ClientSession(connector=pool, headers=headers, timeout=unlimited, cookie_jar=aiohttp.DummyCookieJar())
        self._tell()

    def use(self, urls: Sequence[str]) -> None:
        """Ask these servers from the next try on. Raises `UserError` as the constructor does."""
        self._balancer.use(addresses(urls))
        self._tell()

    async def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order. Takes at most `section.request_limit_s`, and a request per `section.batch_items` items."""
        items = [readable(item) for item in items]
        reasons = [self._protocol.unfit(item) for item in items]
        fit = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
        size = self._section.batch_items
        chunks = [fit[start : start + size] for start in range(0, len(fit), size)]
        answers = await asyncio.gather(*(self._score_chunk(chunk) for chunk in chunks))
        scores = iter([score for answer in answers for score in answer])
        outcomes = [next(scores) if reason is None else unscored(item.id, reason) for item, reason in zip(items, reasons, strict=True)]
        self._count(score.kind for score in outcomes if score.kind)
        return outcomes

    def servers(self) -> list[dict[str, Any]]:
        """What this client knows of each: ``{"url", "state" (its breaker's), "scored_s" (seconds since its last scores, or None)}``."""
        now_s = time.monotonic()
        return [
            {
                "url": server.url,
                "state": str(server.breaker.state(now_s)),
                "scored_s": None if server.scored_s is None else round(now_s - server.scored_s, 2),
            }
            for server in self._balancer.servers
        ]

    async def check(self) -> list[str]:
        """The signatures of all servers. Raises `UserError` for one that does not answer, lets nobody in, or scores by something else, also
        than the others: their rewards would be compared with each other.
        """
        servers = self._balancer.servers
        signatures = list(await asyncio.gather(*(self._check(server.url) for server in servers)))
        for server, signature in zip(servers, signatures, strict=True):
            if signature != signatures[0]:
                raise UserError(
                    f"{server.url} scores by {signature}, {servers[0].url} by {signatures[0]}",
                    where="rewards.urls",
                    fix="name servers of the same scorer, model and versions",
                )
        return signatures

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def _score_chunk(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One request with its retries, until the deadline."""
        started_s, limit_s = time.monotonic(), self._section.request_limit_s
        errand = Errand(self._protocol.request(items), items, asyncio.get_running_loop().time() + limit_s)
        try:
            async with asyncio.timeout_at(errand.deadline_s):
                async for attempt in stamina.retry_context(
                    on=self._backoff,
                    attempts=self._section.attempts,
                    timeout=None,
                    wait_initial=self._first_wait_s,
                    wait_max=WAIT_MAX_S,
                    wait_jitter=self._first_wait_s,
                ):
                    with attempt:
                        return await self._try(errand)
        except RequestFailedError as error:
            return [unscored(item.id, str(error)) for item in items]
        except TimeoutError:
            return [unscored(item.id, f"deadline: no score within {limit_s} s; {errand.obstacle}") for item in items]
        finally:
            if self._metrics:
                self._metrics.observe("rba_reward_request_seconds", time.monotonic() - started_s)
        raise AssertionError("retry_context ends by returning or raising")

    def _backoff(self, error: Exception) -> bool | float:
        """The question of stamina after a failed try: False gives up, True backs off, a number is a pause in seconds.

        No pause where another server is well, nor where all are set aside, since that is waited for in `_admitted`.
        """
        if not isinstance(error, RequestFailedError) or not error.retry:
            return False
        now_s = time.monotonic()
        well = any(server.admits(now_s) and not server.breaker.failures for server in self._balancer.servers)
        return 0.0 if well or self._balancer.pause_s(now_s) != 0 else True

    async def _try(self, errand: Errand) -> list[RewardScore]:
        """One try at one server; a busy one is left alone for as long as it asks, which counts for no try. Raises `RequestFailedError`."""
        while True:
            try:
                async with self._places:  # here, so that a request that waits for its turn is not held against a server
                    errand.reached("every server was busy or set aside")
                    server = await self._admitted()
                    errand.reached(f"{server.url} had been asked")
                    patience_s = min(self._section.timeout_s, errand.deadline_s - asyncio.get_running_loop().time())
                    return await self._ask_in_turn(server, errand.body, errand.items, patience_s)
            except RequestFailedError as error:
                self._count([f"try_{error.kind}"])
                if error.kind != "busy":
                    failure = RequestFailedError(error.kind, f"{server.url}: {error.detail}", retry=error.retry)
                    errand.failed(failure)
                    raise failure from None
                errand.reached("every server was busy or set aside")

    async def _ask_in_turn(self, server: Server, body: bytes, items: Sequence[RewardItem], patience_s: float) -> list[RewardScore]:
        """`_ask`, and what it says about the server."""
        begun = server.breaker.begin(time.monotonic())
        server.outstanding_items += len(items)
        try:
            scores = await self._ask(server, body, items, patience_s)
        except RequestFailedError as error:
            if error.retry and error.kind != "busy":
                server.breaker.fail(begun, time.monotonic(), random.random(), decisive=error.decisive)
            else:
                server.breaker.succeed(begun)
            raise
        except BaseException:
            server.breaker.abandon(begun)
            raise
        else:
            server.breaker.succeed(begun)
            server.scored_s = time.monotonic()
            if self._metrics and any(score.kind is None for score in scores):
                self._metrics.succeeded("rba_reward_last_success_timestamp_seconds")
            return scores
        finally:
            server.outstanding_items -= len(items)
            self._tell()

    async def _admitted(self) -> Server:
        """A server that may be asked; waits while all of them are busy or set aside."""
        while (server := self._balancer.pick(now_s := time.monotonic())) is None:
            pause_s = self._balancer.pause_s(now_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if pause_s is None else pause_s + random.uniform(0, self._first_wait_s / 5)):
                    await self._news.wait()
        return server

    async def _ask(self, server: Server, body: bytes, items: Sequence[RewardItem], patience_s: float) -> list[RewardScore]:
        """One request. Raises `RequestFailedError`."""
        try:
            async with asyncio.timeout(self._section.timeout_s):
                status, headers, answer = await self._post(f"{server.url}{self._protocol.path}", body, patience_s)
        except TimeoutError:
            raise RequestFailedError("timeout", f"no answer within {self._section.timeout_s} s", retry=True, decisive=True) from None
        except aiohttp.ClientError as error:
            gone = isinstance(error, aiohttp.ClientConnectorError)
            raise RequestFailedError("connect", f"{type(error).__name__}: {error}", retry=True, decisive=gone) from None
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            server.busy_until_s = time.monotonic() + retry_after_s(headers)
        raise_for_status(status, answer)
        try:
            return [checked(score) for score in self._protocol.scores(answer, items)]
        except BadAnswerError as error:
            raise RequestFailedError("bad_answer", f"{error}: {start(answer)}", retry=True) from None

    async def _post(self, url: str, body: bytes, patience_s: float) -> tuple[int, Mapping[str, str], bytes]:
        """`patience_s` goes along, so that a server scores nothing for which nobody waits."""
        headers = {"Prefer": f"wait={max(1, math.floor(MARGIN * patience_s))}"}
        async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise RequestFailedError("bad_answer", f"longer than {MAX_ANSWER_BYTES} bytes", retry=True)
            return response.status, response.headers, bytes(answer)

    def _tell(self) -> None:
        """Something has changed that those who wait for a server want to know."""
        self._news.set()
        self._news = asyncio.Event()
        if self._metrics:
            for state, count in self._balancer.states(time.monotonic()).items():
                self._metrics.set("rba_reward_servers", count, state=state)

    def _count(self, kinds: Iterable[str]) -> None:
        if self._metrics:
            for kind, count in Counter(kinds).items():
                self._metrics.inc("rba_reward_errors_total", count, kind=kind)

    async def _check(self, url: str) -> str:
        """Who answers, and whether one item can be asked for."""
        fix = "start the server, correct rewards.urls, or leave rewards.urls empty so that the run starts its own"
        try:
            health = await self._health(url)
            signature = self._protocol.signature(health)
            await self._ask(Server(url), self._protocol.request([PROBE]), [PROBE], self._section.timeout_s)
        except UserError as error:
            raise UserError(f"the reward server {url} is not the right one: {error.what}", where=error.where, fix=error.fix) from None
        except RequestFailedError as error:
            if error.kind == "busy":
                return signature  # it scores, for others
            fix = TOKEN_FIX if error.kind == "unauthorised" else fix
            raise UserError(f"the reward server {url} does not score: {error}", where="rewards.urls", fix=fix) from None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UserError(
                f"the reward server {url} does not answer: {type(error).__name__}: {error}", where="rewards.urls", fix=fix
            ) from None
        return signature

    async def _health(self, url: str) -> Any:
        if self._protocol.health_path is None:
            return None
        async for attempt in stamina.retry_context(
            on=(aiohttp.ClientConnectionError, TimeoutError),
            attempts=CHECK_ATTEMPTS,
            timeout=None,
            wait_initial=self._first_wait_s,
            wait_jitter=self._first_wait_s,
        ):
            with attempt:
                async with self._http.get(f"{url}{self._protocol.health_path}", timeout=aiohttp.ClientTimeout(HEALTH_S)) as response:
                    response.raise_for_status()
                    return await response.json(content_type=None)
        raise AssertionError("retry_context ends by returning or raising")
