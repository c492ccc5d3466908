"""Ray's own queue as a peer: senders are Ray tasks, the receiver is this process. Edge: ray."""

from __future__ import annotations

import time

import ray
from ray.util.queue import Empty, Queue

from benchmarks.exchange.load import Load
from protocol.codec import ACTOR_CODEC, PREFIX, encode
from protocol.messages import GroupResults, LeasedGroup, PolicyVersion

SENDERS = 2


def _send(queue: Queue, pairs: int) -> None:
    load = Load(pairs)
    completions, group, number = load.completions(PolicyVersion(0, 0)), load.groups(1)[0], 0
    while True:
        result = load.result(LeasedGroup(number, 0, group), completions)
        queue.put(bytes(encode(GroupResults("rollout-0", 0, number, [result]))[1]))
        number += 1


def messages_per_s(outstanding: int, pairs: int, warm_s: float, measured_s: float) -> float:
    """Messages a second through `ray.util.queue.Queue`, decoded. Nothing is durable. Starts a Ray of its own, and ends it."""
    ray.init(num_cpus=SENDERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        queue = Queue(maxsize=outstanding, actor_options={"num_cpus": 0})
        send = ray.remote(num_cpus=1, max_retries=0)(_send)
        senders = [send.remote(queue, pairs) for _ in range(SENDERS)]
        ACTOR_CODEC.decode([PREFIX, queue.get()])
        count, started_s = 0, time.monotonic() + warm_s
        while (now_s := time.monotonic()) < started_s + measured_s:
            try:
                ACTOR_CODEC.decode([PREFIX, queue.get(timeout=1.0)])
            except Empty:
                ray.get(senders, timeout=0)  # they never end, but with an error
            count += now_s >= started_s
        return count / (now_s - started_s)
    finally:
        ray.shutdown()
