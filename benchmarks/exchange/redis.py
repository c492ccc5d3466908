"""A Redis stream as a peer: what a sender and a receiver need of its protocol, and the two as processes of their own.

python -m benchmarks.exchange.redis PORT --outstanding MESSAGES --pairs PAIRS
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.exchange.load import Load
from protocol.codec import ACTOR_CODEC, PREFIX, encode
from protocol.messages import GroupResults, LeasedGroup, PolicyVersion

STREAM, GROUP = b"results", b"learner"
READ_COUNT = 64
"""Most messages that the receiver asks for at once."""
START_S = 10.0


class Connection:
    """Commands go out and replies come back in their order; replies are read one at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb", buffering=1 << 20)

    def send(self, *words: bytes) -> None:
        """One command, without waiting for its reply."""
        head = b"*%d\r\n" % len(words)
        self._socket.sendall(head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))

    def reply(self) -> Any:
        """The next reply. Raises `RuntimeError` for an error."""
        line = self._replies.readline()
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b":":
                return int(rest)
            case b"$":
                return self._replies.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
            case b"*":
                return [self.reply() for _ in range(int(rest))] if int(rest) >= 0 else None
        raise RuntimeError(f"redis: {rest.decode() if rest else 'the connection is gone'}")

    def ask(self, *words: bytes) -> Any:
        """One command and its reply."""
        self.send(*words)
        return self.reply()

    def close(self) -> None:
        """Hang up."""
        self._replies.close()
        self._socket.close()


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """A server on a free port that answers a write once it is on disk (``appendfsync always``)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "appendfsync": "always"}
    options |= {"save": "", "auto-aof-rewrite-percentage": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
    try:
        give_up_s = time.monotonic() + START_S
        while True:
            try:
                Connection(port).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up_s:
                    raise
        yield port
    finally:
        process.terminate()
        process.wait()


def installed() -> bool:
    """True when there is a Redis server on this machine."""
    return shutil.which("redis-server") is not None


def send_results(port: int, outstanding: int, pairs: int) -> None:
    """Add messages to the stream until the connection breaks; `outstanding` of them at most have no reply yet."""
    load, link = Load(pairs), Connection(port)
    completions, group = load.completions(PolicyVersion(0, 0)), load.groups(1)[0]
    waiting = number = 0
    while True:
        while waiting < outstanding:
            result = load.result(LeasedGroup(number, 0, group), completions)
            message = bytes(encode(GroupResults("rollout-0", 0, number, [result]))[1])
            link.send(b"XADD", STREAM, b"*", b"m", message)
            number, waiting = number + 1, waiting + 1
        link.reply()
        waiting -= 1


def receive(link: Connection) -> int:
    """Read what there is, decode it and acknowledge it. Returns the messages."""
    found = link.ask(b"XREADGROUP", b"GROUP", GROUP, b"me", b"COUNT", b"%d" % READ_COUNT, b"BLOCK", b"1000", b"STREAMS", STREAM, b">")
    entries = found[0][1] if found else []
    for _, (_, message) in entries:
        ACTOR_CODEC.decode([PREFIX, message])
    if entries:
        link.ask(b"XACK", STREAM, GROUP, *(name for name, _ in entries))
    return len(entries)


def messages_per_s(folder: Path, outstanding: int, pairs: int, warm_s: float, measured_s: float) -> float:
    """Messages a second through a stream: added durably, read by a consumer group, decoded, acknowledged durably."""
    with server(folder) as port:
        link = Connection(port)
        link.ask(b"XGROUP", b"CREATE", STREAM, GROUP, b"0", b"MKSTREAM")
        command = [sys.executable, "-m", "benchmarks.exchange.redis", str(port), f"--outstanding={outstanding}", f"--pairs={pairs}"]
        sender = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            while not receive(link):
                continue
            count, started_s = 0, time.monotonic() + warm_s
            while time.monotonic() < started_s:
                receive(link)
            while (now_s := time.monotonic()) < started_s + measured_s:
                count += receive(link)
            return count / (now_s - started_s)
        finally:
            sender.kill()
            sender.wait()
            link.close()


def main() -> None:
    """Be the sender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--outstanding", type=int, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    options = parser.parse_args()
    send_results(options.port, options.outstanding, options.pairs)


if __name__ == "__main__":
    main()
