"""A TCP proxy that spoils what passes through it, while it runs: latency, stalls, little bandwidth, small pieces, resets, a flipped bit.

client ──up──▶ proxy ──up──▶ server
       ◀─down─       ◀─down─
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

CHUNK_BYTES = 1 << 16
LOOK_S = 0.02
"""Between two looks at whether a stall is over."""


@dataclass
class Way:
    """One direction. Fields may be set from any thread, at any time."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Latency varies by so much, both ways; nothing overtakes."""
    stalled: bool = False
    """Nothing passes. What comes waits, for a network that is gone tells nobody."""
    rate_bytes_s: float = 0.0
    """0 for no bound."""
    slices: int = 0
    """So many bytes of each piece travel one by one."""
    reset_share: float = 0.0
    """Of the pieces: the connection is reset instead."""
    flip_at: int | None = None
    """One bit of the byte at this place of all that passes is turned over, once."""
    passed_bytes: int = 0

    def become(self, **fields: Any) -> None:
        """As a new one with these fields."""
        for each in dataclasses.fields(self):
            if each.name != "passed_bytes":
                setattr(self, each.name, fields.get(each.name, each.default))


@dataclass
class Proxy:
    """Listens on a port of its own, in a thread of its own."""

    target_port: int
    seed: int = 0
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)

    def __enter__(self) -> Self:
        self._chance = random.Random(self.seed)
        self._open: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end.set_result, None)
        self._thread.join(60)

    @property
    def endpoint(self) -> str:
        """For ZeroMQ."""
        return f"tcp://127.0.0.1:{self.port}"

    def black_hole(self, *, stalled: bool) -> None:
        """Both ways."""
        self.up.stalled = self.down.stalled = stalled

    def reset_all(self) -> None:
        """Reset every connection."""
        self._call(self._reset_all)

    # --- in the proxy's thread ------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._end
            self._reset_all()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
            await self._join(reader, writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(writer)
            return
        pair = (writer, server_writer)
        self._open.update(pair)
        for each in pair:
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            asyncio.create_task(self._carry(self.up, reader, server_writer)),
            asyncio.create_task(self._carry(self.down, server_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in pair:
            self._open.discard(each)
            _reset(each)

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends the connection."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def read() -> None:
            due_s = 0.0
            while data := await reader.read(CHUNK_BYTES):
                latency_s = way.latency_s + self._chance.uniform(-way.jitter_s, way.jitter_s)
                due_s = max(due_s, time.monotonic() + latency_s)
                await waiting.put((due_s, data))
            await waiting.put((due_s, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due_s, data = await waiting.get()
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                while way.stalled:
                    await asyncio.sleep(LOOK_S)
                if not data or self._chance.random() < way.reset_share:
                    return
                await self._write(way, writer, self._flipped(way, data))
        except (ConnectionError, OSError):
            return
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reading

    async def _write(self, way: Way, writer: asyncio.StreamWriter, data: bytes) -> None:
        cut = min(way.slices, len(data))
        pieces = [data[place : place + 1] for place in range(cut)]
        step = max(1, int(way.rate_bytes_s * LOOK_S)) if way.rate_bytes_s else CHUNK_BYTES
        pieces += [data[place : place + step] for place in range(cut, len(data), step)]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            way.passed_bytes += len(piece)
            await asyncio.sleep(len(piece) / way.rate_bytes_s if way.rate_bytes_s else 0)

    def _flipped(self, way: Way, data: bytes) -> bytes:
        if way.flip_at is None or not 0 <= way.flip_at - way.passed_bytes < len(data):
            return data
        place, way.flip_at = way.flip_at - way.passed_bytes, None
        return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]

    def _reset_all(self) -> None:
        for writer in self._open:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the peer reads an error, not an end."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
