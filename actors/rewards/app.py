"""The reward server's HTTP face: what may come in, and what goes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from actors.rewards import bearer
from actors.rewards.admission import Refusal, Room, Stay
from actors.rewards.batcher import Batcher, QueueFullError, ScorerBrokenError
from actors.rewards.items import ITEM, QueryAnswer, QueryRequest, RewardItem, RewardScore, ScoringAnswer, ScoringRequest, unscored
from actors.rewards.scorers.scorer import Scorer, unwrap
from protocol.metrics import Metrics

MAX_TEXT_CHARS = 1 << 17
"""Longest instruction, answer or reference; a longer one is that item's error."""
MAX_ANSWERS = 4096
END_MARKER = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<end_of_turn>)$")
"""What decoding leaves at the end of OpenRLHF's queries, one or several of them."""
LONGEST_MARKER = 44
PREFERENCE = re.compile(r"\bwait=(\d{1,6})\b")
"""How long the client waits for an answer, in seconds: the header ``Prefer`` of RFC 7240."""

Body = TypeVar("Body", bound=BaseModel)


def make_app(name: str, scorer: Scorer, batcher: Batcher, patience_s: float, metrics: Metrics, token: str | None = None) -> FastAPI:
    """The app of one reward server. `patience_s`: how long a request's body may take to arrive.

    Routes: ``POST /v1/rewards``, ``POST /get_reward`` (OpenRLHF's shape), ``GET /health``, ``GET /metrics``. With a `token`, the first two
    want it as ``Authorization: Bearer``; the others tell figures alone, to Prometheus and to load balancers, which have no token.
    """
    app = FastAPI(title="rba rewards", docs_url=None, redoc_url=None, openapi_url=None)
    room = Room(patience_s)

    @app.exception_handler(Refusal)
    async def refuse(_request: Request, refusal: Refusal) -> Response:
        metrics.inc("rba_reward_errors_total", kind=refusal.reason)
        return refusal.answer

    @app.exception_handler(HTTPException)
    async def refuse_route(_request: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, "route", str(error.detail)).answer

    @app.exception_handler(Exception)
    async def fail(_request: Request, error: Exception) -> Response:
        metrics.inc("rba_reward_errors_total", kind="internal")
        return Refusal(500, "internal", type(error).__name__).answer

    async def read(request: Request, stay: Stay, shape: type[Body]) -> Body:
        reason = bearer.refused(token, request.headers.get("Authorization", ""))
        if reason is not None:
            metrics.inc("rba_authentication_failures_total", socket="rewards", reason=reason)
            headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            raise Refusal(401, reason, "send the server's token as `Authorization: Bearer …`", headers)
        return checked_shape(await stay.body(request), shape)

    async def rewards(request: Request) -> Response:
        with room.stay() as stay:
            # not kept while the items wait: a body may hold more than its items
            items, outcomes = sift((await read(request, stay, ScoringRequest)).items, batcher.capacity_items)
            if len(items) < len(outcomes):
                metrics.inc("rba_reward_errors_total", len(outcomes) - len(items), kind="bad_item")
            scores = await score(batcher, items, preferred_s(request))
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = next(scores)
        answer = ScoringAnswer(items=[outcome for outcome in outcomes if outcome], scorer=name, signature=scorer.signature)
        return Response(answer.model_dump_json(), media_type="application/json")

    async def get_reward(request: Request) -> Response:
        values: list[float] = []
        with room.stay() as stay:
            items = split_queries(await read(request, stay, QueryRequest), batcher.capacity_items, partial(unwrap, scorer))
            scores = await score(batcher, items, preferred_s(request))
        for outcome in scores:
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


def checked_shape(body: bytes, shape: type[Body]) -> Body:
    """A body, read. Raises `Refusal` for what is no JSON, or of another shape."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "bad_json", str(first["msg"])) from None
        raise Refusal(422, "bad_shape", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def sift(bodies: list[Any], max_items: int) -> tuple[list[RewardItem], list[RewardScore | None]]:
    """The items to score, and one slot a body: an error for a bad one, None for one to be scored.

    Raises `Refusal` for too many, and for a body without an id, since its error could not be told from the others'.
    """
    _check_number(len(bodies), max_items)
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
        texts = (item.instruction, item.answer, item.reference or "", item.language)
        if max(*map(len, texts), sum(map(len, item.answers))) > MAX_TEXT_CHARS:
            outcomes.append(unscored(item_id, f"too_long: a text has at most {MAX_TEXT_CHARS} characters"))
            continue
        if len(item.answers) > MAX_ANSWERS:
            outcomes.append(unscored(item_id, f"too_long: at most {MAX_ANSWERS} further answers"))
            continue
        items.append(item)
        outcomes.append(None)
    return items, outcomes


def _check_number(items: int, max_items: int) -> None:
    if items > max_items:
        raise Refusal(413, "too_many_items", f"a request has at most {max_items} items")


def split_queries(body: QueryRequest, max_items: int, unwrapped: Callable[[str], str] = str) -> list[RewardItem]:
    """Items of OpenRLHF's queries: what follows the prompt is the answer. Raises `Refusal` where that cannot be told.

    Prompts come rendered by a chat template; `unwrapped` gives the instruction within those that the scorer would render again.
    """
    _check_number(len(body.query), max_items)
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
    try:
        scores = await asyncio.wrap_future(batcher.submit(items, patience_s))
    except QueueFullError as error:
        raise Refusal(429, "queue_full", str(error), {"Retry-After": str(error.retry_after_s)}) from None
    except ScorerBrokenError as error:
        raise Refusal(503, "scorer_broken", str(error), {"Connection": "close"}) from None
    return iter(scores)
