import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rewards.batcher import BROKEN_AFTER, Batcher, Pace, QueueFullError, ScorerBrokenError
from actors.rewards.items import RewardItem, RewardScore


class LengthScorer:
    """Scores an answer by its length; remembers its batches; raises for "bad"."""

    signature = "length"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        self.batches.append([item.id for item in items])
        if any(item.answer == "bad" for item in items):
            raise ValueError("cannot read this")
        return [RewardScore(item.id, float("nan") if item.answer == "nan" else float(len(item.answer))) for item in items]


def item(item_id: str, answer: str = "xx") -> RewardItem:
    return RewardItem(item_id, "q", answer)


def make(scorer: LengthScorer, **fields: object) -> Batcher:
    settings: dict[str, object] = {"batch_items": 4, "batch_tokens": 1000, "capacity_items": 64, "patience_s": 60.0, **fields}
    return Batcher(scorer, **settings)  # type: ignore[arg-type]


def work(batcher: Batcher, until: Callable[[], bool] = lambda: True) -> None:
    """Runs the scorer's loop until everything that was submitted is answered."""
    thread = threading.Thread(target=batcher.run, daemon=True)
    thread.start()
    assert until()
    batcher.close()
    thread.join(60)
    assert not thread.is_alive()


def answers(*futures: Future[list[RewardScore]]) -> Callable[[], bool]:
    return lambda: all(future.result(10) is not None for future in futures)


def test_requests_that_wait_share_a_batch():
    scorer = LengthScorer()
    batcher = make(scorer)
    futures = [batcher.submit([item(f"{request}-{index}") for index in range(2)]) for request in range(3)]
    work(batcher, answers(*futures))
    assert scorer.batches == [["0-0", "0-1", "1-0", "1-1"], ["2-0", "2-1"]]
    assert [score.id for score in futures[1].result()] == ["1-0", "1-1"]


def test_a_scorer_that_is_stuck_makes_its_batcher_quiet():
    gate = threading.Event()

    class Stuck(LengthScorer):
        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            gate.wait(10)
            return super().score(items)

    batcher = make(Stuck())
    assert batcher.quiet_s == 0.0
    future = batcher.submit([item("a")])

    def stuck_and_freed() -> bool:
        deadline_s = time.monotonic() + 10
        while batcher.quiet_s < 0.1:
            assert time.monotonic() < deadline_s
        gate.set()
        return future.result(10) is not None

    work(batcher, stuck_and_freed)
    assert batcher.quiet_s == 0.0


@settings(deadline=None)  # each example starts a thread
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 7))
def test_every_request_gets_its_own_scores_in_order(sizes: list[int], batch_items: int):
    scorer = LengthScorer()
    batcher = make(scorer, batch_items=batch_items, capacity_items=100)
    asked = [[item(f"{request}-{index}", "x" * (request + index)) for index in range(size)] for request, size in enumerate(sizes)]
    futures = [batcher.submit(items) for items in asked]
    work(batcher, answers(*futures))
    for items, future in zip(asked, futures, strict=True):
        assert [(score.id, score.score) for score in future.result()] == [(one.id, float(len(one.answer))) for one in items]
    assert all(len(batch) <= batch_items for batch in scorer.batches)


def test_an_item_that_raises_harms_no_other():
    heard: list[Exception] = []
    batcher = make(LengthScorer(), on_error=heard.append)
    future = batcher.submit([item("a"), item("b", "bad"), item("c"), item("d", "nan")])
    work(batcher, answers(future))
    a, b, c, d = future.result()
    assert (a.score, c.score) == (2.0, 2.0)
    assert b.error == "scorer: ValueError: cannot read this"
    assert d.score is None
    assert (d.error or "").startswith("non_finite")
    assert len(heard) == 1
    assert (batcher.tally.items, batcher.tally.errors, batcher.tally.batches) == (4, 2, 1)


def test_a_queue_without_room_says_when_to_come_back():
    batcher = make(LengthScorer(), capacity_items=5)
    batcher.submit([item("a"), item("b"), item("c")])
    with pytest.raises(QueueFullError) as refused:
        batcher.submit([item("d"), item("e"), item("f")])
    assert refused.value.retry_after_s >= 1
    batcher.submit([item("d"), item("e")])
    assert batcher.waiting_items == 5


def test_a_queue_that_is_too_slow_is_full_as_well():
    batcher = make(LengthScorer(), patience_s=2.4)
    batcher._pace.note(6.0, 10)
    batcher.submit([item("a"), item("b")])
    batcher.submit([item("c")])
    with pytest.raises(QueueFullError) as refused:
        batcher.submit([item("d"), item("e"), item("f"), item("g")])
    assert refused.value.retry_after_s == 3, "4.2 s of work, and 1.92 s of the patience"
    with pytest.raises(QueueFullError):
        batcher.submit([item("h")], patience_s=99.0)


def test_the_pace_is_a_mean_so_that_not_all_of_the_patience_is_promised():
    batcher = make(LengthScorer(), patience_s=2.0)
    batcher._pace.note(5.0, 10)
    batcher.submit([item("a"), item("b"), item("c")])
    with pytest.raises(QueueFullError):
        batcher.submit([item("d")])


def test_behind_a_batch_that_outlasts_a_requests_patience_nobody_is_let_in():
    entered, go_on = threading.Event(), threading.Event()

    class Stuck(LengthScorer):
        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            entered.set()
            assert go_on.wait(60)
            return super().score(items)

    batcher = make(Stuck(), patience_s=0.05)
    first = batcher.submit([item("a")])
    thread = threading.Thread(target=batcher.run, daemon=True)
    thread.start()
    assert entered.wait(60)
    give_up_s = time.monotonic() + 10
    while batcher.quiet_s <= 0.05:
        assert time.monotonic() < give_up_s
    with pytest.raises(QueueFullError):
        batcher.submit([item("b")])
    go_on.set()
    assert first.result(10)[0].score == 2.0
    batcher.close()
    thread.join(60)


def test_a_request_may_have_less_patience_than_the_server():
    batcher = make(LengthScorer(), patience_s=2.0)
    batcher._pace.note(6.0, 10)
    batcher.submit([item("a")])
    with pytest.raises(QueueFullError):
        batcher.submit([item("b")], patience_s=1.0)
    batcher.submit([item("b")])


def test_what_nobody_waits_for_is_not_scored():
    scorer = LengthScorer()
    batcher = make(scorer, patience_s=0.0)
    late = batcher.submit([item("late")])
    work(batcher, answers(late))
    assert (late.result()[0].error or "").startswith("expired")
    assert scorer.batches == []


def test_what_was_cancelled_is_not_scored():
    scorer = LengthScorer()
    batcher = make(scorer)
    batcher.submit([item("cancelled"), item("too")]).cancel()
    kept = batcher.submit([item("kept")])
    work(batcher, answers(kept))
    assert scorer.batches == [["kept"]]


def test_a_broken_scorer_ends_the_loop_and_every_request():
    batcher = make(LengthScorer(), batch_items=2)
    futures = [batcher.submit([item(f"{index}a", "bad"), item(f"{index}b", "bad")]) for index in range(BROKEN_AFTER + 2)]
    with pytest.raises(ScorerBrokenError, match="every item"):
        batcher.run()
    assert all((score.error or "").startswith("scorer: ") for future in futures[:BROKEN_AFTER] for score in future.result(1))
    for future in futures[BROKEN_AFTER:]:
        with pytest.raises(ScorerBrokenError):
            future.result(1)
    with pytest.raises(ScorerBrokenError):
        batcher.submit([item("z")]).result(1)


def test_a_good_item_in_between_clears_the_scorer():
    batcher = make(LengthScorer(), batch_items=1)
    futures = [batcher.submit([item(str(index), "good" if index % BROKEN_AFTER == 0 else "bad")]) for index in range(4 * BROKEN_AFTER)]
    work(batcher, answers(*futures))
    assert sum(future.result()[0].error is None for future in futures) == 4


class WeighingScorer(LengthScorer):
    def cost(self, item: RewardItem) -> int:
        if item.answer == "odd":
            raise ValueError("cannot weigh this")
        return len(item.answer)


def test_a_batch_is_bounded_by_padded_tokens_and_like_goes_with_like():
    scorer = WeighingScorer()
    batcher = make(scorer, batch_items=8, batch_tokens=100)
    lengths = {"a": 10, "b": 50, "c": 12, "d": 48, "e": 500, "f": 11, "g": 9}
    futures = [batcher.submit([item(name, "x" * length)]) for name, length in lengths.items()]
    work(batcher, answers(*futures))
    assert scorer.batches == [["a", "c", "f", "g"], ["b", "d"], ["e"]]
    assert [future.result()[0].score for future in futures] == [float(length) for length in lengths.values()]


def test_newer_ones_do_not_go_before_older_ones_that_are_unlike_the_others():
    scorer, more = WeighingScorer(), 60
    batcher = make(scorer, batch_items=4, batch_tokens=4000)

    def score(items: Sequence[RewardItem]) -> list[RewardScore]:
        nonlocal more
        if more:
            more -= 1
            futures.append(batcher.submit([item(f"new-{more}-{number}", "x" * 5) for number in range(4)]))
        return LengthScorer.score(scorer, items)

    scorer.score = score  # type: ignore[method-assign]
    unlike = [f"old-{length}" for length in (900, 100, 500, 5, 5, 5, 5)]
    futures = [batcher.submit([item(name, "x" * int(name[4:])) for name in unlike])]
    work(batcher, answers(futures[0]))
    order = list(itertools.chain.from_iterable(scorer.batches))
    assert set(order[: len(unlike)]) == set(unlike)


def test_what_cannot_be_weighed_is_scored_all_the_same():
    batcher = make(WeighingScorer())
    future = batcher.submit([item("a", "odd"), item("b")])
    work(batcher, answers(future))
    assert [score.score for score in future.result()] == [3.0, 2.0]


def test_the_pace_goes_by_the_last_large_batch():
    pace = Pace()
    assert pace.seconds_per_item == 0.0
    for _ in range(20):
        pace.note(0.1, 1)
    pace.note(0.64, 64)
    assert 0.01 < pace.seconds_per_item < 0.02


def test_the_pace_has_the_time_to_weigh_in_it(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(LengthScorer):
        def cost(self, item: RewardItem) -> int:
            clock[0] += 1.0
            return 1

        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            clock[0] += 2.0 * len(items)
            return super().score(items)

    batcher = make(Slow())
    work(batcher, answers(batcher.submit([item("a"), item("b")])))
    assert batcher._pace.seconds_per_item == 3.0
    assert batcher.tally.busy_s == 4.0
    assert batcher.quiet_s == 0.0
