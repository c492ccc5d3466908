"""An event loop that several threads use, and a teacher that several users share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from actors.loop import Loop, together
from actors.synthesis.teacher.teacher import Request, TeacherFailedError
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop("test")
    yield made
    made.close()


async def after(steps: int, result: int) -> int:
    for _ in range(steps):
        await asyncio.sleep(0)
    return result


def test_threads_get_their_own_results_in_order(loop: Loop) -> None:
    def ask(number: int) -> list[int]:
        return loop.run(together(after(9 - each, 10 * number + each) for each in range(10)))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(8))) == [[10 * number + each for each in range(10)] for number in range(8)]


def test_the_first_error_ends_the_others(loop: Loop) -> None:
    ended = threading.Event()

    async def for_ever() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    async def fails() -> int:
        await asyncio.sleep(0)
        raise TeacherFailedError("gone")

    with pytest.raises(TeacherFailedError, match="gone"):
        loop.run(together([for_ever(), fails()]))
    assert ended.wait(60)


def test_closing_ends_what_runs() -> None:
    made, started = Loop("test"), threading.Event()

    async def for_ever() -> None:
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.run, for_ever())
        assert started.wait(60)
        made.close()
        with pytest.raises(CancelledError):
            waiting.result(10)
    assert "test" not in {thread.name for thread in threading.enumerate()}


def test_abandoning_ends_what_is_waited_for_and_nothing_else(loop: Loop) -> None:
    started, others = threading.Event(), []

    async def for_ever() -> None:
        others.append(asyncio.ensure_future(after(10**9, 0)))
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, for_ever())
        assert started.wait(60)
        loop.abandon()
        with pytest.raises(CancelledError):
            waiting.result(10)
    assert loop.run(after(3, 7)) == 7
    assert not others[0].done()


def test_users_of_several_threads_share_one_life() -> None:
    teacher, inside = ScriptedTeacher(), threading.Barrier(6)

    def use(seed: int) -> None:
        with teacher:
            inside.wait(30)
            teacher.sample([Request(prompt_ids=[1], max_tokens=4, seed=seed)])
            inside.wait(30)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    assert (teacher.starts, teacher.stops) == (1, 1)
    with teacher:
        pass
    assert (teacher.starts, teacher.stops) == (2, 2)


def test_a_start_that_fails_is_tried_again_by_the_next() -> None:
    class Failing(ScriptedTeacher):
        def _start(self) -> None:
            super()._start()
            if self.starts == 1:
                raise TeacherFailedError("no memory")

    teacher = Failing()
    with pytest.raises(TeacherFailedError, match="no memory"), teacher:
        pass
    with teacher:
        assert (teacher.starts, teacher.stops) == (2, 0)


@pytest.mark.parametrize("both", [{}, {"prompt_ids": [1], "messages": [{"role": "user", "content": "Hi"}]}])
def test_a_request_is_a_prompt_or_a_chat(both: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either prompt_ids or messages"):
        Request(max_tokens=1, **both)  # type: ignore[arg-type]
