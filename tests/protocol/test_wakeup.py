from __future__ import annotations

import threading

import zmq

from protocol.wakeup import Mailbox


def test_no_event_waits_for_the_next_one() -> None:
    """Several threads put events in while the owner takes them out; it sleeps only while there is none."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mailbox: Mailbox[int] = Mailbox(context)
    threads = [threading.Thread(target=lambda start: [mailbox.put(start + n) for n in range(5000)], args=(5000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 20_000:
        assert mailbox.socket.poll(60_000), "an event that nobody was woken for"
        taken += mailbox.take()
    assert sorted(taken) == list(range(20_000))
    assert not mailbox.socket.poll(0)
    for thread in threads:
        thread.join()
    mailbox.put(1)
    assert mailbox.socket.poll(60_000)
    assert mailbox.take() == [1]
    mailbox.close()
    mailbox.put(2)
    assert mailbox.waiting(int) == 0
    context.destroy(linger=0)


class Meddling:
    """A lock at whose release somebody is quick to put an event in, once."""

    def __init__(self, mailbox: Mailbox[int]) -> None:
        self._mailbox, self._lock, self._done = mailbox, threading.Lock(), False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self._done:
            self._done = True
            self._mailbox.put(2)


def test_what_comes_right_behind_a_taking_wakes_the_owner() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mailbox: Mailbox[int] = Mailbox(context)
    mailbox.put(1)
    mailbox._lock = Meddling(mailbox)  # type: ignore[assignment]
    assert mailbox.take() == [1]
    assert mailbox.socket.poll(60_000)
    assert mailbox.take() == [2]
    mailbox.close()
    context.destroy(linger=0)
