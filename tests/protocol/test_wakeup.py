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
        assert mailbox.socket.poll(10_000), "an event that nobody was woken for"
        taken += mailbox.take()
    assert sorted(taken) == list(range(20_000))
    assert not mailbox.socket.poll(0)
    for thread in threads:
        thread.join()
    mailbox.put(1)
    assert mailbox.socket.poll(10_000)
    assert mailbox.take() == [1]
    mailbox.close()
    mailbox.put(2)
    assert mailbox.waiting(int) == 0
    context.destroy(linger=0)
