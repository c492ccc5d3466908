"""The proxy spoils what it is told to, and nothing else."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy, Way

SENT = random.Random(0).randbytes(200_000)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
        except OSError:
            return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with Proxy(server.server_address[1]) as made:
            yield made
        server.shutdown()
        thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def first_byte(proxy: Proxy) -> bytes:
    with connect(proxy) as client:
        return client.recv(1)


def exchange(client: socket.socket, data: bytes) -> bytes:
    sending = threading.Thread(target=client.sendall, args=(data,))
    sending.start()
    received = b""
    while len(received) < len(data):
        received += client.recv(1 << 16)
    sending.join()
    return received


@pytest.mark.parametrize(
    "way",
    [Way(), Way(latency_s=0.02, jitter_s=0.02), Way(rate_bytes_s=1e6), Way(slices=50)],
    ids=["plain", "latency", "bandwidth", "slices"],
)
def test_what_passes_is_whole_and_in_order(proxy: Proxy, way: Way) -> None:
    proxy.up = proxy.down = way
    with connect(proxy) as client:
        assert exchange(client, SENT) == SENT
        assert exchange(client, SENT[:1000]) == SENT[:1000]


def test_a_stall_of_one_way_holds_the_bytes_and_lets_them_go(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"before") == b"before"
        proxy.down.stalled = True
        client.sendall(b"while")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        assert proxy.up.passed_bytes == len(b"beforewhile"), "the other way is open"
        proxy.down.stalled = False
        client.settimeout(10)
        assert client.recv(10) == b"while"


def test_resets_are_errors(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"before") == b"before"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            client.recv(10)
    proxy.up.reset_share = 1.0
    with connect(proxy) as client:
        client.sendall(b"into the void")
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_one_bit_is_flipped_once(proxy: Proxy) -> None:
    proxy.up.flip_at = 150_000
    with connect(proxy) as client:
        received = exchange(client, SENT)
        assert [place for place in range(len(SENT)) if SENT[place] != received[place]] == [150_000]
        assert (SENT[150_000] ^ received[150_000]).bit_count() == 1
        assert exchange(client, SENT) == SENT


def test_a_server_that_is_away_is_a_reset(proxy: Proxy) -> None:
    proxy.target_port = 1
    with pytest.raises(ConnectionResetError):
        first_byte(proxy)
