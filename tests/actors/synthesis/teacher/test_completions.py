"""A teacher behind a server: what is sent, and what becomes of servers that fail, go away, or cannot do what is needed."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from actors.synthesis.teacher.completions import ServedTeacher
from actors.synthesis.teacher.teacher import Generation, Request, TeacherFailedError
from configs.teaching import LanguageModelSection
from protocol.errors import UserError
from tests.actors.synthesis.teacher.server import Answer, Server, plain, said
from tests.vllm_server import free_port

CHAT = [{"role": "user", "content": "Hi"}]
ASKED = "is asked for first, to see whether the server can do it"


def teacher(url: str, **settings: Any) -> ServedTeacher:
    section = LanguageModelSection.model_validate({"model": "tiny", "url": url, "attempts": 4, **settings})
    return ServedTeacher(section, first_wait_s=0.01)


def raw(seed: int = 0) -> Request:
    return Request(prompt_ids=[5, 6], max_tokens=9, temperature=1.1, top_p=0.99, seed=seed, stop_token_ids=[2], stop=["\n"])


def chat(seed: int = 0, **more: Any) -> Request:
    return Request(messages=CHAT, max_tokens=9, seed=seed, **more)


def in_turn(*answers: Callable[[str, dict[str, Any]], Answer]) -> Callable[[str, dict[str, Any]], Answer]:
    """One after the other, then the last for ever."""
    lock, turns = threading.Lock(), itertools.chain(answers, itertools.repeat(answers[-1]))

    def answer(path: str, body: dict[str, Any]) -> Answer:
        with lock:
            return next(turns)(path, body)

    return answer


def status(code: int, text: bytes = b"no", **headers: str) -> Callable[[str, dict[str, Any]], Answer]:
    return lambda path, body: (code, headers, text)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


def test_a_raw_prompt_is_sent_as_token_ids(server: Server) -> None:
    with teacher(server.url) as asked:
        assert asked.sample([raw(4)]) == [Generation("seed 4", 3, "stop")]
    path, body = server.bodies[-1]
    assert path == "/v1/completions"
    assert body == {
        "model": "tiny",
        "prompt": [5, 6],
        "add_special_tokens": False,
        "skip_special_tokens": True,
        "max_tokens": 9,
        "temperature": 1.1,
        "top_p": 0.99,
        "seed": 4,
        "stop": ["\n"],
        "stop_token_ids": [2],
    }


def test_a_chat_is_sent_as_one(server: Server) -> None:
    options = {"chat_template_options": {"enable_thinking": False}, "extra": {"max_tokens": None, "max_completion_tokens": 9}}
    schema = {"type": "object"}
    with teacher(server.url, **options) as asked:
        asked.sample([chat(4), chat(5, schema=schema)])
    bodies = {body.get("seed"): (path, body) for path, body in server.bodies}
    path, body = bodies[4]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "tiny",
        "messages": CHAT,
        "chat_template_kwargs": {"enable_thinking": False},
        "max_completion_tokens": 9,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 4,
    }
    assert bodies[5][1]["response_format"]["json_schema"]["schema"] == schema


def test_the_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no RBA_TEST_KEY"):
        teacher(server.url, api_key_env="RBA_TEST_KEY")
    monkeypatch.setenv("RBA_TEST_KEY", "abc")
    with teacher(server.url, api_key_env="RBA_TEST_KEY") as asked:
        asked.sample([chat()])
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer abc"}


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://host:port/v1", "http://"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(UserError, match="no HTTP address"):
        teacher(url)


@pytest.mark.parametrize("code", [400, 404, 405, 422, 501])
def test_a_server_without_raw_prompts_is_refused_with_the_alternative(server: Server, code: int) -> None:
    server.answer = lambda path, body: status(code)(path, body) if path == "/v1/completions" else plain(path, body)
    with teacher(server.url) as asked:
        with pytest.raises(UserError, match=rf"no raw prompts.*status {code}: no.*instructions\.source: seeded_chat"):
            asked.sample([raw(), raw()])
        assert len(server.bodies) == 1, ASKED
        assert asked.sample([chat(1)])[0].text == "seed 1"


def test_a_server_that_knows_no_such_model_or_lets_nobody_in_is_told(server: Server) -> None:
    server.answer = status(404, b"no model tiny")
    with teacher(server.url) as asked, pytest.raises(UserError, match=r"no model tiny.*model's name"):
        asked.sample([chat()])
    server.answer = status(401, b"who are you?")
    with teacher(server.url) as asked, pytest.raises(UserError, match=r"api_key_env.*who are you"):
        asked.sample([chat()])


def test_a_server_that_writes_no_json_is_refused(server: Server) -> None:
    server.answer = lambda path, body: said(path, "Sure! Here it is")
    with teacher(server.url) as asked, pytest.raises(UserError, match="writes no JSON by a schema"):
        asked.sample([chat(schema={"type": "object"})])


def test_what_a_server_can_do_is_asked_once(server: Server) -> None:
    with teacher(server.url) as asked:
        for _ in range(3):
            asked.sample([raw(), chat(), chat(schema={"type": "object"})])
    assert len(server.bodies) == 3 + 9


@pytest.mark.parametrize(
    "failure",
    [
        status(503),
        status(500, b""),
        status(429, **{"Retry-After": "0"}),
        status(404),
        status(200, b"<html>"),
        status(200, b'{"choices": []}'),
        status(200, b"[]"),
        lambda path, body: said(path, "half a", "abort"),
    ],
)
def test_another_try_follows_what_may_pass(server: Server, failure: Callable[[str, dict[str, Any]], Answer]) -> None:
    server.answer = in_turn(plain, failure, failure, plain)
    with teacher(server.url) as asked:
        assert asked.sample([chat(7)]) == [Generation("seed 7", 3, "stop")]
    assert len(server.bodies) == 4


def test_a_teacher_that_stays_away_is_told(server: Server) -> None:
    server.answer = in_turn(plain, status(503, b"loading"))
    with teacher(server.url) as asked, pytest.raises(TeacherFailedError, match=r"4 tries.*503: loading.*call the synthesis again"):
        asked.sample([raw(number) for number in range(5)])
    with teacher(f"http://127.0.0.1:{free_port()}/v1") as asked, pytest.raises(TeacherFailedError, match="ConnectError"):
        asked.sample([raw()])


def test_a_server_that_goes_and_comes_back_loses_nothing() -> None:
    """Half of the answers are there when it goes; it comes back at the same address while the client tries again."""
    first, second = threading.Event(), threading.Event()
    answers: list[Generation] = []

    def half(path: str, body: dict[str, Any]) -> Answer:
        if (body.get("seed") or 0) < 10 or not first.is_set():
            first.set()
            return plain(path, body)
        second.set()
        return status(503)(path, body)

    with teacher("http://127.0.0.1:1/v1") as unused:
        assert unused.description
    with Server(half) as gone:
        asked = teacher(gone.url, attempts=200, concurrency=4)
        asked.__enter__()
        worker = threading.Thread(target=lambda: answers.extend(asked.sample([raw(seed) for seed in range(20)])))
        worker.start()
        assert second.wait(60)
    with Server(port=gone.port) as back:
        worker.join(60)
        assert back.bodies
    asked.__exit__(None, None, None)
    assert [each.text for each in answers] == [f"seed {seed}" for seed in range(20)]


def test_a_refused_request_harms_no_other(server: Server) -> None:
    server.answer = lambda path, body: status(400, b"too long")(path, body) if body["seed"] == 3 else plain(path, body)
    with teacher(server.url) as asked:
        done = asked.sample([raw(seed) for seed in range(6)])
    assert [each.finish_reason for each in done] == ["stop"] * 3 + ["refused"] + ["stop"] * 2
    assert "too long" in done[3].detail
    server.answer = lambda path, body: said(path, None, "content_filter") if body["seed"] == 3 else said(path, None)
    with teacher(server.url) as asked:
        empty, filtered = asked.sample([chat(2), chat(3)])
    assert empty == Generation("", 3, "stop")
    assert filtered.finish_reason == "refused"


def test_no_more_requests_at_once_than_are_allowed() -> None:
    fifth = threading.Barrier(5)

    def meet(path: str, body: dict[str, Any]) -> Answer:
        if body["seed"] >= 100:
            with contextlib.suppress(threading.BrokenBarrierError):
                fifth.wait(0.5)
        return plain(path, body)

    with Server(meet) as server, teacher(server.url, concurrency=4) as asked:
        assert len(asked.sample([raw(100 + number) for number in range(16)])) == 16
        assert fifth.broken, "five requests met"
        assert server.busiest == 4


def test_a_user_that_leaves_by_an_error_waits_for_nobody() -> None:
    asked_for, answered = threading.Event(), threading.Event()

    def late(path: str, body: dict[str, Any]) -> Answer:
        if body["seed"] == 100:
            asked_for.set()
            answered.wait(60)
        return plain(path, body)

    with Server(late) as server, ThreadPoolExecutor(1) as pool, teacher(server.url) as kept:
        kept.__enter__()
        waiting = pool.submit(kept.sample, [raw(100)])
        assert asked_for.wait(60)
        kept.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        with pytest.raises(CancelledError):
            waiting.result(30)
        answered.set()
        assert kept.sample([raw(1)])[0].text == "seed 1"


def test_a_closed_teacher_says_so(server: Server) -> None:
    with pytest.raises(TeacherFailedError, match="closed"):
        teacher(server.url).sample([raw()])
