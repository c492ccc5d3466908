"""The learner's end and the simulated actors that `rba bench pairs` and `rba bench scaling` measure with."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from benchmarks.exchange.endpoint import Endpoint
from benchmarks.exchange.fleet import Fleet, Seen, Shape
from benchmarks.exchange.load import PAIR_BYTES, Load
from benchmarks.exchange.redis import Connection
from learner.journal.disk import PosixDisk
from learner.journal.records import Received
from learner.journal.recovery import read_all
from protocol.codec import encode
from protocol.messages import GroupResults, LeasedGroup, PolicyVersion


@pytest.mark.parametrize("pairs", [1, 8])
def test_a_pair_has_the_size_that_is_said(pairs: int) -> None:
    load = Load(pairs)
    result = load.result(LeasedGroup(0, 0, load.groups(1)[0]), load.completions(PolicyVersion(0, 0)))
    size = sum(len(frame) for frame in encode(GroupResults("rollout-0", 0, 0, [result])))
    assert size == pytest.approx(pairs * PAIR_BYTES, rel=0.1)


def test_what_actors_see_acknowledged_is_in_the_journal(tmp_path: Path) -> None:
    learner = Endpoint(tmp_path, Load(2), 4)
    fleet, seen = Fleet(learner.link.endpoint, Shape(3, 2, 0.001, 2)), list[Seen]()
    working = threading.Thread(target=lambda: seen.append(fleet.run()))
    working.start()
    learner.run(lambda: learner.step >= 20 and len(learner.link.status()["actors"]) == 3)
    learner.close()
    working.join(60)
    ordinals = [record.result.ordinal for _, record in read_all(PosixDisk(tmp_path)).records() if isinstance(record, Received)]
    assert len(set(ordinals)) == len(ordinals) == learner.pairs // 2
    assert 80 <= seen[0].acknowledged <= len(ordinals)
    assert learner.faults() == []


def test_replies_of_redis_are_read_in_their_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        link = Connection(listening.getsockname()[1])
        server, _ = listening.accept()
        with server:
            link.send(b"XADD", b"results", b"*", b"m", b"\r\n")
            assert server.recv(1000) == b"*5\r\n$4\r\nXADD\r\n$7\r\nresults\r\n$1\r\n*\r\n$1\r\nm\r\n$2\r\n\r\n\r\n"
            server.sendall(b"+OK\r\n:7\r\n*2\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n-ERR no\r\n")
            assert [link.reply() for _ in range(4)] == [b"OK", 7, [b"a\r\n", None], None]
            with pytest.raises(RuntimeError, match="ERR no"):
                link.reply()
        link.close()
