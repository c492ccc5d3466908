from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import zmq

from protocol import sockets
from protocol.errors import UserError

CAP_BYTES = 10_000
WAIT_MS = 5_000


@pytest.fixture
def context() -> Iterator[sockets.Context]:
    made: sockets.Context = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_a_message_goes_there_and_back(context: sockets.Context) -> None:
    server, endpoint = sockets.router(context, "127.0.0.1", 0, CAP_BYTES, "test")
    client = sockets.dealer(context, endpoint, CAP_BYTES, b"me")
    assert sockets.ask(client, [b"question"], WAIT_MS)
    assert server.poll(WAIT_MS)
    assert server.recv_multipart() == [b"me", b"question"]
    assert sockets.send(server, [b"me", b"answer"])
    assert client.poll(WAIT_MS)
    assert client.recv_multipart() == [b"answer"]


def test_what_cannot_be_delivered_is_told(context: sockets.Context) -> None:
    server, _ = sockets.router(context, "127.0.0.1", 0, CAP_BYTES, "test")
    assert not sockets.send(server, [b"nobody", b"answer"])
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        assert not sockets.ask(sockets.dealer(context, endpoint, CAP_BYTES), [b"question"], 100)


def test_a_frame_above_the_cap_never_arrives(context: sockets.Context) -> None:
    server, endpoint = sockets.router(context, "127.0.0.1", 0, CAP_BYTES, "test")
    large = sockets.dealer(context, endpoint, CAP_BYTES, b"large")
    assert sockets.ask(large, [b"x" * (CAP_BYTES + 1)], WAIT_MS)
    assert not server.poll(300)
    small = sockets.dealer(context, endpoint, CAP_BYTES, b"small")
    assert sockets.ask(small, [b"x" * CAP_BYTES], WAIT_MS)
    assert server.poll(WAIT_MS)
    assert server.recv_multipart()[0] == b"small"


@pytest.mark.parametrize(("bind", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", "0.0.0.0")])  # noqa: S104 - closed at once
def test_the_endpoint_is_that_of_the_address_it_was_bound_to(context: sockets.Context, bind: str, host: str) -> None:
    _, endpoint = sockets.router(context, bind, 0, CAP_BYTES, "test")
    assert endpoint.rpartition(":")[0] == f"tcp://{host}"
    assert int(endpoint.rpartition(":")[2]) > 0


def test_a_taken_port_is_the_users_error_and_names_port_and_setting(context: sockets.Context) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=str(port)) as caught:
            sockets.router(context, "127.0.0.1", port, CAP_BYTES, "network.pairs_port")
    assert caught.value.where == "network.pairs_port"
    assert "another port" in caught.value.fix


def test_an_address_that_is_not_ours_is_the_users_error(context: sockets.Context) -> None:
    with pytest.raises(UserError, match="192\\.0\\.2\\.1"):
        sockets.router(context, "192.0.2.1", 0, CAP_BYTES, "network.bind")


def test_a_peer_that_takes_the_connection_and_says_nothing_is_not_waited_for(
    context: sockets.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 100)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(10)
        asking = sockets.dealer(context, f"tcp://127.0.0.1:{silent.getsockname()[1]}", 1 << 20)
        accepted = [silent.accept()[0] for _ in range(3)]
    for each in (asking, *accepted):
        each.close()
