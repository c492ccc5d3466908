"""Frames and connections that nobody would send in good faith.

    python -m tests.protocol.fuzz [--frames 1000000] [--seed 0]

Half of the frames go through the decoders, half over real sockets at a learner's endpoint, open or with keys, that has a real exchange
and journal behind it, while an actor in good faith does its work there. What the run prints is what became
of them, and what it cost in memory and descriptors.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from benchmarks.exchange.endpoint import Endpoint
from benchmarks.exchange.fleet import Fleet, Seen, Shape
from benchmarks.exchange.load import Load
from protocol import messages, sockets
from protocol.codec import ACTOR_CODEC, DIALOGUE_CAP_BYTES, LEARNER_CODEC, WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError
from protocol.gate import server_door
from protocol.keyring import ClientKeys, Keyring
from protocol.logs import configure
from protocol.messages import PolicyVersion
from protocol.weights import messages as weight_messages
from tests.protocol import examples

VERSION = PolicyVersion(1, 5)
LEARNER_MESSAGES: list[messages.LearnerMessage] = [
    messages.Welcome("run", "boot", VERSION, 2.0),
    messages.Lease([examples.leased(4, 2)], VERSION, 300.0),
    messages.Ack(0, 3, VERSION),
    messages.Refused("no"),
    messages.Bye("done"),
]
WEIGHT_MESSAGES: list[weight_messages.WeightMessage] = [
    weight_messages.Manifest(VERSION, [weight_messages.TensorEntry("w", "F32", [2, 2], 0, 16)], 16, 16, [7], "xxh128:0"),
    weight_messages.ManifestRequest(VERSION),
    weight_messages.SeatRequest("fetcher-0:1", 7),
    weight_messages.Seat(7, 4711, 1, 2),
    weight_messages.ChunkRequest(VERSION, 3),
    weight_messages.Chunk(VERSION, 3),
    weight_messages.NotServed(VERSION, None),
    weight_messages.Fetched(VERSION, "/dev/shm/none", "xxh128:0", 16, 0.5),
]
BOMBS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 3000,
    b"\xc1",
    b"\x80",
]
"""Lengths that are not true, nesting, and what msgpack never begins with."""
ODD: list[Any] = [
    -1,
    0,
    1 << 31,
    (1 << 63) - 1,
    (1 << 64) - 1,
    1e308,
    float("nan"),
    None,
    True,
    "",
    "x" * 1000,
    b"",
    b"\xff" * 8,
    [],
    {},
    [[1, 2]],
]
SERVED_S = 30.0
Frames = list[bytes]


def seeds(said: Sequence[Any], *payload: bytes) -> list[Frames]:
    """Whole messages to begin with."""
    return [[*(bytes(frame) for frame in encode(message)), *payload] for message in said]


def mutate(rng: random.Random, frames: Frames) -> Frames:
    """The same frames with one to three things changed."""
    changed = list(frames)
    for _ in range(rng.randint(1, 3)):
        if not changed:
            return [rng.randbytes(rng.randint(0, 64))]
        rng.choice(CHANGES)(rng, changed)
    return changed


def _change_bytes(rng: random.Random, frames: Frames) -> None:
    place = rng.randrange(len(frames))
    data = bytearray(frames[place])
    for _ in range(rng.randint(1, 6)):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xC0, 0xFF, rng.randrange(256)))
    frames[place] = bytes(data)


def _cut(rng: random.Random, frames: Frames) -> None:
    place = rng.randrange(len(frames))
    start, stop = sorted(rng.randint(0, len(frames[place])) for _ in range(2))
    frames[place] = frames[place][:start] + frames[place][stop:]


def _insert(rng: random.Random, frames: Frames) -> None:
    place = rng.randrange(len(frames))
    at = rng.randint(0, len(frames[place]))
    frames[place] = frames[place][:at] + rng.choice([*BOMBS, rng.randbytes(rng.randint(1, 32))]) + frames[place][at:]


def _repeat(rng: random.Random, frames: Frames) -> None:
    place = rng.randrange(len(frames))
    start, stop = sorted(rng.randint(0, len(frames[place])) for _ in range(2))
    frames[place] = frames[place][:stop] + frames[place][start:stop] * rng.randint(1, 20) + frames[place][stop:]


def _change_value(rng: random.Random, frames: Frames) -> None:
    """One value of the message, which stays whole."""
    try:
        message = msgspec.msgpack.decode(frames[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, IndexError):
        return
    inside = message
    while isinstance(inside, (dict, list)) and inside:
        key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
        if not isinstance(inside[key], (dict, list)) or rng.random() < 0.1:
            alike = [odd for odd in ODD if type(odd) is type(inside[key])]
            inside[key] = rng.choice(alike if alike and rng.random() < 0.8 else ODD)
            break
        inside = inside[key]
    frames[1] = msgspec.msgpack.encode(message)


def _drop_frame(rng: random.Random, frames: Frames) -> None:
    del frames[rng.randrange(len(frames))]


def _add_frame(rng: random.Random, frames: Frames) -> None:
    frames.insert(rng.randint(0, len(frames)), rng.randbytes(rng.choice((0, 5, 100))))


CHANGES: list[Callable[[random.Random, Frames], None]] = [
    *[_change_value] * 12,
    *[_change_bytes, _cut, _insert, _repeat],
    *[_drop_frame, _add_frame],
]


def decode(count: int, seed: int) -> Counter[str]:
    """Mutated frames through every decoder; anything but a message or a `ProtocolError` is raised. Returns what became of them."""
    rng, became = random.Random(seed), Counter[str]()
    boundaries = [
        (ACTOR_CODEC, seeds([*examples.ACTOR_MESSAGES, *results()])),
        (LEARNER_CODEC, seeds(LEARNER_MESSAGES)),
        (WEIGHTS_CODEC, [*seeds(WEIGHT_MESSAGES), *seeds(WEIGHT_MESSAGES, b"payload")]),
    ]
    for number in range(count):
        codec, whole = boundaries[number % len(boundaries)]
        frames = mutate(rng, rng.choice(whole))
        try:
            codec.decode(frames)  # type: ignore[attr-defined]
            became["read"] += 1
        except ProtocolError as error:
            became[error.reason] += 1
    return became


def results() -> list[messages.GroupResults]:
    """Of the groups that the endpoint leases, so that what little is changed of them may be taken for true."""
    load = Load(1)
    completions, groups = load.completions(PolicyVersion(0, 0)), load.groups(4)
    leased = [messages.LeasedGroup(ordinal, 0, group) for ordinal, group in enumerate(groups)]
    return [messages.GroupResults("mallory", 0, each.ordinal, [load.result(each, completions)]) for each in leased]


class Attack:
    """Throws mutated messages at an endpoint over ZeroMQ, half of them as a registered actor, and bytes at its port."""

    SOCKETS, RENEW = 8, 2_000

    def __init__(self, endpoint: str, seed: int, keys: ClientKeys | None = None) -> None:
        """With `keys`, half of the connections have them."""
        self._endpoint, self._rng, self._keys = endpoint, random.Random(seed), keys
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._address = (host, int(port))
        self._whole = seeds([*examples.ACTOR_MESSAGES, *results()])
        self._load, self._sequence = Load(1), 0
        self._names: dict[zmq.Socket[bytes], str] = {}
        self.sent = self.answered = 0

    def run(self, count: int) -> None:
        """Until `count` messages are sent. Connections come and go meanwhile."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        peers: list[zmq.Socket[bytes]] = []
        while self.sent < count:
            if self.sent % self.RENEW == 0:
                for each in peers:
                    each.close(linger=0)
                self._names.clear()
                peers = [self._connect(context, number) for number in range(self.SOCKETS)]
                self._raw()
            each = self._rng.choice(peers)
            if each.poll(0 if self._keys else 5_000, zmq.POLLOUT):
                each.send_multipart(mutate(self._rng, self._rng.choice(self._whole)) or [b""])
            while each.poll(0, zmq.POLLIN):
                self._heard(each)
            self.sent += 1
        context.destroy(linger=0)

    def _heard(self, peer: zmq.Socket[bytes]) -> None:
        """Answer a lease, though not as it ought to be answered."""
        message, _ = LEARNER_CODEC.decode(peer.recv_multipart())
        if isinstance(message, messages.Lease):
            completions = self._load.completions(message.policy_version)
            for leased in message.groups:
                self._sequence += 1
                results = [self._load.result(leased, completions)]
                frames = seeds([messages.GroupResults(self._names.get(peer, "rollout-0"), 0, self._sequence, results)])[0]
                _change_value(self._rng, frames)
                sockets.send(peer, list(frames))
                self.answered += 1

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]], number: int) -> zmq.Socket[bytes]:
        made = sockets.dealer(context, self._endpoint, DIALOGUE_CAP_BYTES, keys=self._keys if number % 4 < 2 else None)
        if number % 2 and made.poll(250, zmq.POLLOUT):
            self._names[made] = "mallory" if number == 1 else f"mallory-{self._rng.randrange(1 << 40)}"
            hello = examples.hello(self._names[made], capacity=1)
            made.send_multipart([bytes(frame) for frame in encode(hello)])
        return made

    def _raw(self) -> None:
        """Bytes on the bare port: none, noise, HTTP, a greeting of ZeroMQ that goes astray."""
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
        for data in (b"", self._rng.randbytes(2000), b"GET / HTTP/1.1\r\n\r\n", greeting + self._rng.randbytes(200), greeting[:20]):
            with socket.create_connection(self._address, timeout=5) as connection:
                connection.sendall(data)


def at_an_endpoint(count: int, seed: int, folder: Path, keys: Keyring | None = None) -> dict[str, Any]:
    """Throw `count` messages at an endpoint that works. Raises when it fails, or when the actor in good faith is not served to the end."""
    log, refused = configure(folder, "learner"), Counter[str]()

    def count_one(reason: str) -> None:
        refused[reason] += 1

    door = server_door(keys, "pairs", count_one) if keys is not None else None
    endpoint = Endpoint(folder / "journal", Load(1), 4, heartbeat_s=0.5, door=door, refused=count_one)
    attack = Attack(endpoint.link.endpoint, seed, keys.client() if keys is not None else None)
    fleet = Fleet(endpoint.link.endpoint, Shape(2, 4, 0.002, 1, first=1000), keys.client() if keys is not None else None)
    seen: list[Seen] = []
    good = threading.Thread(target=lambda: seen.append(fleet.run()), daemon=True)
    bad = threading.Thread(target=attack.run, args=(count,), daemon=True)
    good.start()
    endpoint.run(lambda: endpoint.pairs > 50 and len(endpoint.link.status()["actors"]) == 2)
    before, started_s = footprint(), time.monotonic()
    bad.start()
    warm: dict[str, int] = {}

    def over() -> bool:
        if not warm and attack.sent >= count // 5:
            warm.update(footprint())
        return not bad.is_alive()

    endpoint.run(over)
    if attack.sent < count:
        raise RuntimeError("the attack broke off")
    seconds, mark = time.monotonic() - started_s, endpoint.pairs
    endpoint.run(lambda: endpoint.pairs > mark + 50 or time.monotonic() - started_s > seconds + SERVED_S)
    if endpoint.pairs <= mark + 50:
        raise RuntimeError("the actor in good faith is no longer served")
    after = footprint()
    endpoint.close()
    good.join(30)
    if not seen:
        raise RuntimeError("the actor in good faith was not told that the run has ended")
    ledger = endpoint.link.ledger()
    return {
        "sent": attack.sent,
        "answered": attack.answered,
        "dropped": dict(endpoint.exchange.intake.counts.dropped),
        "seconds": round(seconds, 1),
        "refused": dict(refused),
        "rejected": dict(ledger.rejected),
        "good_acknowledged": seen[0].acknowledged,
        "unique": ledger.unique,
        "faults": endpoint.faults(),
        "log_bytes": log.stat().st_size if log is not None else 0,
        "before": before,
        "warm": warm or after,
        "after": after,
    }


def footprint() -> dict[str, int]:
    """Of this process, the attackers' own share included."""
    process = psutil.Process()
    return {"rss_bytes": process.memory_info().rss, "descriptors": process.num_fds(), "threads": process.num_threads()}


def main() -> None:
    """Run both halves and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    before, started_s = footprint(), time.monotonic()
    became = decode(options.frames // 2, options.seed)
    decoder = {"became": dict(became), "seconds": round(time.monotonic() - started_s, 1), "before": before, "after": footprint()}
    print(json.dumps({"decoder": decoder}), flush=True)
    for keys in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            ring = Keyring(Path(folder) / "keys") if keys else None
            if ring is not None:
                ring.complete()
            print(json.dumps({"with keys" if keys else "open": at_an_endpoint(options.frames // 4, options.seed, Path(folder), ring)}))


if __name__ == "__main__":
    main()
