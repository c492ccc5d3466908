"""One writer behind a URL, as far as a store without locks can tell."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import destination
from protocol.claim import NAME, Claim, Holder, machine
from protocol.destination import Destination
from protocol.errors import UserError
from tests.protocol import stores

pytestmark = pytest.mark.usefixtures("known_stores")


@pytest.fixture(params=["bucket://far", "disk://{}/far"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return Destination(str(request.param).format(tmp_path), "directory")


def left(there: Destination, **changes: Any) -> None:
    """A claim of somebody who lives on another machine, but for `changes`."""
    said = {"who": "process 7 on elsewhere", "machine": "another", "process": 7, "token": "x", "seen_s": time.time(), **changes}
    there.put_content(msgspec.json.encode(Holder(**said)), NAME)


def ended() -> int:
    """A process of this machine that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_second_writer_is_refused_and_told_who_writes(there: Destination) -> None:
    with Claim(there) as first:
        assert not first.left_behind
        with pytest.raises(UserError, match=r"process \d+ on .* writes this data set"), Claim(there):
            pass
        first.check()
    assert there.content(NAME) is None
    with Claim(there) as next_one:
        assert not next_one.left_behind


@pytest.mark.parametrize(
    ("changes", "lives"),
    [
        (dict, True),
        (lambda: {"seen_s": time.time() - 290}, True),
        (lambda: {"seen_s": time.time() - 310}, False),
        (lambda: {"machine": machine(), "process": ended()}, False),
        (lambda: {"machine": machine(), "process": 1}, True),
    ],
)
def test_what_a_writer_left_that_was_killed_keeps_nobody_out(
    there: Destination, changes: Callable[[], dict[str, Any]], lives: bool
) -> None:
    left(there, **changes())
    if lives:
        with pytest.raises(UserError, match="process 7 on elsewhere"), Claim(there):
            pass
        return
    with Claim(there) as claim:
        assert claim.left_behind
    assert there.content(NAME) is None


def test_a_damaged_claim_is_nobody_s(there: Destination) -> None:
    there.put_content(b"{", NAME)
    with Claim(there) as claim:
        assert not claim.left_behind


def test_what_another_kind_of_writer_has_left_is_not_taken_for_ones_own(there: Destination) -> None:
    left(there, machine=machine(), process=ended(), purpose="draft")
    with Claim(there) as claim:
        assert not claim.left_behind
    left(there, machine=machine(), process=ended(), purpose="draft")
    with Claim(there, purpose="draft") as claim:
        assert claim.left_behind


def test_a_writer_whose_place_was_taken_is_told_and_leaves_the_other_one_alone(there: Destination) -> None:
    with Claim(there) as claim:
        left(there)
        with pytest.raises(UserError, match="process 7 on elsewhere writes this data set"):
            claim.check()
    content = there.content(NAME)
    assert content is not None
    assert msgspec.json.decode(content, type=Holder).token == "x"


def test_it_is_renewed_while_it_is_held(there: Destination) -> None:
    renewed = threading.Event()
    put_content = there.put_content

    def told(content: bytes, path: str) -> None:
        put_content(content, path)
        renewed.set()

    there.put_content = told  # type: ignore[method-assign]
    with Claim(there, renew_s=0.01) as claim:
        assert renewed.wait(60)
        claim.check()


def test_a_store_that_fails_now_and_then_is_asked_again(there: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "FIRST_WAIT_S", 0.001)
    stores.FAULTS.fails = lambda number: number % 3 == 1
    with Claim(there) as claim:
        claim.check()


def test_of_many_that_come_at_once_one_writes(there: Destination) -> None:
    """Where a store cannot create what is not there yet, some may begin, and all but one of them show nothing."""
    together, count = threading.Barrier(8, timeout=60), list[int]()

    def come() -> None:
        with ExitStack() as stack:
            together.wait()
            with suppress(UserError):
                claim = stack.enter_context(Claim(there))
            together.wait()
            with suppress(UserError, UnboundLocalError):
                claim.check()
                count.append(1)
            together.wait()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1
