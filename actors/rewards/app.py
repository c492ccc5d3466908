"""The reward server's HTTP face: what may come in, and what goes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from actors.rewards import bearer
from actors.rewards.batcher import Batcher, QueueFullError, ScorerBrokenError
from actors.rewards.items import ITEM, QueryAnswer, QueryRequest, RewardItem, RewardScore, ScoringAnswer, ScoringRequest, unscored
from actors.rewards.scorers.scorer import Scorer, unwrap
from protocol.metrics import Metrics

MAX_BODY_BYTES = 16 << 20
MAX_ARRIVING_BYTES = 16 * MAX_BODY_BYTES
"""Of all bodies that are on their way in."""
MAX_TEXT_CHARS = 1 << 17
"""Longest instruction, answer or reference; a longer one is that item's error."""
END_MARKER = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<end_of_turn>)$")
"""What decoding leaves at the end of OpenRLHF's queries, one or several of them."""
LONGEST_MARKER = 44
PREFERENCE = re.compile(r"\bwait=(\d{1,6})\b")
"""How long the client waits for an answer, in seconds: the header ``Prefer`` of RFC 7240."""

Body = TypeVar("Body", bound=BaseModel)


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with a status and a machine-readable reason."""

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.answer = JSONResponse({"error": {"reason": reason, "detail": detail}}, status_code=status, headers=headers)


def make_app(name: str, scorer: Scorer, batcher: Batcher, patience_s: float, metrics: Metrics, token: str | None = None) -> FastAPI:
    """The app of one reward server. `patience_s`: how long a request's body may take to arrive.

    Routes: ``POST /v1/rewards``, ``POST /get_reward`` (OpenRLHF's shape), ``GET /health``, ``GET /metrics``. With a `token`, the first two
    want it as ``Authorization: Bearer``; the others tell figures alone, to Prometheus and to load balancers, which have no token.
    """
    app = FastAPI(title="rba rewards", docs_url=None, redoc_url=None, openapi_url=None)
    arrivals = Arrivals(patience_s)

    @app.exception_handler(Refusal)
    async def refuse(_request: Request, refusal: Refusal) -> Response:
        metrics.inc("rba_reward_errors_total", kind=refusal.reason)
        return refusal.answer

    @app.exception_handler(HTTPException)
    async def refuse_route(_request: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, "route", str(error.detail)).answer

    async def read(request: Request, shape: type[Body]) -> Body:
        reason = bearer.refused(token, request.headers.get("Authorization", ""))
        if reason is not None:
            metrics.inc("rba_authentication_failures_total", socket="rewards", reason=reason)
            headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            raise Refusal(401, reason, "send the server's token as `Authorization: Bearer …`", headers)
        return checked_shape(await arrivals.body(request), shape)

    async def rewards(request: Request) -> Response:
        bodies = (await read(request, ScoringRequest)).items
        items, outcomes = sift(bodies)
        if len(items) < len(bodies):
            metrics.inc("rba_reward_errors_total", len(bodies) - len(items), kind="bad_item")
        scores = await score(batcher, items, preferred_s(request))
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = next(scores)
        answer = ScoringAnswer(items=[outcome for outcome in outcomes if outcome], scorer=name, signature=scorer.signature)
        return Response(answer.model_dump_json(), media_type="application/json")

    async def get_reward(request: Request) -> Response:
        items = split_queries(await read(request, QueryRequest), partial(unwrap, scorer))
        values: list[float] = []
        for outcome in await score(batcher, items, preferred_s(request)):
            if outcome.score is None:
                raise Refusal(422, "unscored", f"query {outcome.id}: {outcome.error}")
            values.append(outcome.score)
        return Response(QueryAnswer(rewards=values, scores=values).model_dump_json(), media_type="application/json")

    # as plain routes, without what FastAPI does for parameters that they do not have
    app.add_route("/v1/rewards", rewards, methods=["POST"])
    app.add_route("/get_reward", get_reward, methods=["POST"])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "scorer": name, "signature": scorer.signature, "queued_items": batcher.waiting_items}

    @app.get("/metrics")
    async def exposition() -> Response:
        metrics.set("rba_reward_queue_items", batcher.waiting_items)
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return app


def preferred_s(request: Request) -> float | None:
    """How long the client will wait for its answer, if it says so."""
    found = PREFERENCE.search(request.headers.get("Prefer", ""))
    return float(found[1]) if found else None


class Arrivals:
    """The bodies that are on their way in, of all requests. Lives in one event loop."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a body may take."""
        self._patience_s = patience_s
        self._bytes = 0

    async def body(self, request: Request) -> bytes:
        """The request's body. Raises `Refusal` for what is too large or too slow, and where there is no room for it now."""
        announced = request.headers.get("Content-Length", "")
        _check_size(int(announced) if announced.isdigit() else 0)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._patience_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._bytes += len(chunk)
                    _check_size(size)
                    self._check_room()
                    chunks.append(chunk)
        except TimeoutError:
            raise Refusal(408, "too_slow", f"the body took longer than {self._patience_s} s", {"Connection": "close"}) from None
        finally:
            self._bytes -= size
        return b"".join(chunks)

    def _check_room(self) -> None:
        if self._bytes > MAX_ARRIVING_BYTES:
            raise Refusal(429, "queue_full", "too many bytes arrive at once", {"Retry-After": "1", "Connection": "close"})


def checked_shape(body: bytes, shape: type[Body]) -> Body:
    """A body, read. Raises `Refusal` for what is no JSON, or of another shape."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "bad_json", str(first["msg"])) from None
        raise Refusal(422, "bad_shape", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise Refusal(413, "too_large", f"a body has at most {MAX_BODY_BYTES} bytes", {"Connection": "close"})


def sift(bodies: list[Any]) -> tuple[list[RewardItem], list[RewardScore | None]]:
    """The items to score, and one slot a body: an error for a bad one, None for one to be scored.

    Raises `Refusal` for a body without an id, since its error could not be told from the others'.
    """
    items: list[RewardItem] = []
    outcomes: list[RewardScore | None] = []
    for index, body in enumerate(bodies):
        item_id = body.get("id") if isinstance(body, dict) else None
        if not isinstance(item_id, str) or len(item_id) > MAX_TEXT_CHARS:
            raise Refusal(422, "bad_shape", f"items.{index}.id: must be a text")
        try:
            item = ITEM.validate_python(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            outcomes.append(unscored(item_id, f"bad_item: {'.'.join(map(str, first['loc']))}: {first['msg']}"))
            continue
        if max(len(item.instruction), len(item.answer), len(item.reference or ""), sum(map(len, item.answers))) > MAX_TEXT_CHARS:
            outcomes.append(unscored(item_id, f"too_long: a text has at most {MAX_TEXT_CHARS} characters"))
            continue
        items.append(item)
        outcomes.append(None)
    return items, outcomes


def split_queries(body: QueryRequest, unwrapped: Callable[[str], str] = str) -> list[RewardItem]:
    """Items of OpenRLHF's queries: what follows the prompt is the answer. Raises `Refusal` where that cannot be told.

    Prompts come rendered by a chat template; `unwrapped` gives the instruction within those that the scorer would render again.
    """
    labels = body.labels if body.labels is not None else [None] * len(body.query)
    if not len(body.query) == len(body.prompts) == len(labels):
        raise Refusal(422, "bad_shape", "query, prompts and labels must have one entry each per answer")
    items = []
    for index, (query, prompt, label) in enumerate(zip(body.query, body.prompts, labels, strict=True)):
        if not query.startswith(prompt):
            raise Refusal(422, "bad_shape", f"query.{index} does not start with prompts.{index}")
        if len(query) > MAX_TEXT_CHARS or len(label or "") > MAX_TEXT_CHARS:
            raise Refusal(413, "too_long", f"query.{index}: a text has at most {MAX_TEXT_CHARS} characters")
        items.append(RewardItem(str(index), unwrapped(prompt), without_end(query[len(prompt) :]), label))
    return items


def without_end(text: str) -> str:
    """`text` without white space around it and markers at its end."""
    text = text.strip()
    while (marker := END_MARKER.search(text, max(0, len(text) - LONGEST_MARKER))) is not None:
        text = text[: marker.start()].rstrip()
    return text


async def score(batcher: Batcher, items: list[RewardItem], patience_s: float | None) -> Iterator[RewardScore]:
    """An iterator over the items' scores, in order. Raises `Refusal` when the queue has no room."""
    if not items:
        return iter(())
    if len(items) > batcher.capacity_items:
        raise Refusal(413, "too_many_items", f"a request has at most {batcher.capacity_items} items")
    try:
        scores = await asyncio.wrap_future(batcher.submit(items, patience_s))
    except QueueFullError as error:
        raise Refusal(429, "queue_full", str(error), {"Retry-After": str(error.retry_after_s)}) from None
    except ScorerBrokenError as error:
        raise Refusal(503, "scorer_broken", str(error), {"Connection": "close"}) from None
    return iter(scores)
