"""What every backend promises between a learner's publisher and an actor's receiver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from protocol.weights import fetcher, pull, rounds
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient, FetchError
from protocol.weights.files import MANIFEST, WEIGHTS, TensorBytes, directory_of, newest, open_version
from protocol.weights.messages import Fetched, Manifest
from protocol.weights.store import WeightStore
from protocol.weights.transfer import FolderPublisher, Publisher, Receiver
from tests.protocol.weights.roles import Counting, Running, endpoint, until, version
from tests.protocol.weights.tensors import CHUNK_BYTES

ANCHOR_EVERY = {"zmq": 0, "delta": 16, "nccl": 0}
GLOO = ("-m", "actors.courier", "gloo")
"""What `weights.backend: nccl` is with `weights.collective: gloo`."""


class Subject:
    """One backend: a learner's side, and as many nodes as a test wants."""

    def __init__(self, backend: str, folder: Path, running: Running) -> None:
        self.backend, self._folder, self._running = backend, folder, running
        self.published = folder / "published"
        self.publisher: Publisher = FolderPublisher(self.published, CHUNK_BYTES)
        self.options: dict[str, Any] = {"deltas": True} if backend == "delta" else {"courier": GLOO} if backend == "nccl" else {}
        self.store = running.start(Counting(self.published, **self.options))
        self.in_group = backend == "nccl"
        """Whether a node that starts waits for its seat, so that its versions come by broadcast."""
        self.nodes: dict[int, NodeFetcher] = {}
        self._receivers: list[FetcherClient] = []
        self._values = np.random.default_rng(0).integers(0, 1 << 16, 60_000, dtype=np.uint16)

    def publish(self, step: int) -> Manifest:
        """A version of which a hundredth differs from the one before."""
        return self.publisher.publish(version(step), self.tensors(step))

    def tensors(self, step: int) -> list[TensorBytes]:
        self._values[step % 100 :: 100] += 1
        return [(f"w{number}", "BF16", [len(part)], part.tobytes()) for number, part in enumerate(np.array_split(self._values, 3))]

    def publish_wrong(self, step: int, wrong: str) -> None:
        """A version whose bytes, or whose digest, are not right; it was never seen otherwise."""
        aside = self._folder / "aside"
        manifest = FolderPublisher(aside, CHUNK_BYTES).publish(version(step), self.tensors(step))
        folder = directory_of(aside, version(step))
        if wrong == "bytes":
            (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4096] + bytes(4096))
        else:
            manifest.digest = "xxh128:" + 32 * "0"
            (folder / MANIFEST).write_bytes(msgspec.msgpack.encode(manifest))
        folder.rename(directory_of(self.published, version(step)))

    def receiver(self, node: int = 0) -> Receiver:
        """An actor on that node; the first one of a node starts what the node needs."""
        if node not in self.nodes:
            root = self._folder / f"node-{node}"
            options = {"anchor_every": ANCHOR_EVERY[self.backend], "courier": self.options.get("courier", ())}
            self.nodes[node] = self._running.start(NodeFetcher(endpoint(self.store), root, index=node, **options))
            self.settle()
        self._receivers.append(FetcherClient(self.nodes[node].describe()["endpoints"]["fetcher"]))
        return self._receivers[-1]

    def settle(self) -> None:
        """Wait for the end of the last broadcast, as the store sees it: a version that is asked for before is pulled."""
        if self.in_group:
            until(lambda: in_group(self.store) == len(self.nodes), 60)

    def pulls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No group comes together, so that there are pulls to disturb."""
        self.in_group = False
        monkeypatch.setattr(rounds, "SETTLE_S", 1e9)

    def crash(self, node: int) -> None:
        """The node's process is gone; its shared memory is not."""
        self._running.stop(self.nodes.pop(node))

    def close(self) -> None:
        for each in self._receivers:
            each.close()


@pytest.fixture(params=list(ANCHOR_EVERY))
def subject(request: pytest.FixtureRequest, tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    monkeypatch.setattr(pull, "ANSWER_S", 0.2)
    monkeypatch.setattr(rounds, "SETTLE_S", 0.1)
    monkeypatch.setattr(fetcher, "SEAT_S", 0.05)
    made = Subject(request.param, tmp_path, running)
    yield made
    made.close()


def whole(answer: Fetched, manifest: Manifest) -> None:
    """What was fetched is what was published, bit for bit."""
    with open_version(Path(answer.directory)) as found:
        found.verify()
        assert found.manifest == manifest
    assert (answer.policy_version, answer.digest) == (manifest.policy_version, manifest.digest)


def in_group(store: WeightStore) -> int:
    """Nodes that take part in broadcasts."""
    group = store._broadcasts
    return len(group._rounds._ranks) if group is not None and group.state == "ready" else 0


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    return thread, answers


def test_each_version_arrives_bit_for_bit(subject: Subject) -> None:
    receiver = subject.receiver()
    for step in range(1, 6):
        subject.settle()
        manifest = subject.publish(step)
        whole(receiver.fetch(version(step), 60), manifest)
    assert subject.nodes[0].status()["deltas"] == (4 if subject.backend == "delta" else 0)
    if subject.in_group:
        assert subject.nodes[0].status()["broadcasts"] == 5
        assert subject.store.chunks == [], "nothing was pulled"


def test_a_version_is_published_whole_or_not_at_all(subject: Subject) -> None:
    first = subject.publish(1)
    receiver = subject.receiver()

    def half() -> Iterator[TensorBytes]:
        yield subject.tensors(2)[0]
        whole(receiver.fetch(version(1), 60), first)
        raise RuntimeError("the learner died")

    with pytest.raises(RuntimeError, match="the learner died"):
        subject.publisher.publish(version(2), half())
    with pytest.raises(FetchError):
        receiver.fetch(version(2), 1)
    whole(receiver.fetch(version(1), 60), first)


@pytest.mark.parametrize("wrong", ["bytes", "digest"])
def test_what_is_wrong_is_refused_while_the_old_version_stays(subject: Subject, wrong: str) -> None:
    first = subject.publish(1)
    receiver = subject.receiver()
    old = receiver.fetch(version(1), 60)
    subject.publish_wrong(2, wrong)
    with pytest.raises(FetchError):
        receiver.fetch(version(2), 60)
    whole(old, first)
    third = subject.publish(3)
    whole(receiver.fetch(version(2), 60), third)


def test_who_joins_late_gets_the_newest(subject: Subject) -> None:
    early = subject.receiver()
    for step in range(1, 5):
        manifest = subject.publish(step)
        early.fetch(version(step), 60)
    whole(subject.receiver(node=1).fetch(version(1), 60), manifest)


def test_the_newest_wins_and_two_are_kept(subject: Subject) -> None:
    receiver = subject.receiver()
    first = subject.publish(1)
    held = receiver.fetch(version(1), 60)
    second = subject.publish(2)
    whole(receiver.fetch(version(2), 60), second)
    whole(held, first)
    subject.publish(3)
    fourth = subject.publish(4)
    whole(receiver.fetch(version(3), 60), fourth)
    assert newest(subject.published) == version(4)


def test_a_version_that_goes_while_it_is_pulled_gives_way_to_a_newer_one(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject.pulls(monkeypatch)
    receiver = subject.receiver()
    subject.publish(1)
    subject.store.quiet_after = 4
    thread, answers = in_thread(lambda: receiver.fetch(version(1), 60))
    until(lambda: subject.store.answered(4))
    for step in (2, 3):
        last = subject.publish(step)
    subject.store.quiet_after = 1 << 30
    thread.join()
    whole(answers[0], last)


@pytest.mark.parametrize("who", ["the node", "the learner's side"])
def test_a_crash_half_way_loses_nothing(subject: Subject, running: Running, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes back, the version arrives, and what had arrived before does not come again."""
    subject.pulls(monkeypatch)
    receiver = subject.receiver()
    manifest = subject.publish(1)
    subject.store.quiet_after = 5
    thread, answers = in_thread(lambda: fetch(receiver, 6 if who == "the node" else 60))
    until(lambda: subject.store.answered(5))
    if who == "the node":
        subject.crash(0)
        subject.store.quiet_after, subject.store.chunks = 1 << 30, []
        thread.join()
        store = subject.store
        answers = [subject.receiver().fetch(version(1), 60)]
    else:
        running.stop(subject.store)
        port = int(endpoint(subject.store).rpartition(":")[2])
        store = running.start(Counting(subject.published, port=port, **subject.options))
        thread.join()
    whole(answers[0], manifest)
    assert len({index for _, index in store.chunks}) == len(manifest.chunk_checksums) - 5


def fetch(receiver: Receiver, patience_s: float) -> Fetched | None:
    try:
        return receiver.fetch(version(1), patience_s)
    except FetchError:
        return None
