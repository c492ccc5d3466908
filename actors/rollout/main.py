"""The rollout actor's process. Edge: vllm, by way of the engine.

Importing this module imports vLLM, which takes seconds: a supervisor does it early, while what the actor needs is not there yet.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import prometheus_client

from actors.rewards.client import RewardClient
from actors.rollout.actor import FLUSH_S, Actor
from actors.rollout.audio import AudioLibrary
from actors.rollout.engine import VllmEngine
from actors.rollout.gauges import Gauges
from actors.rollout.generation import GenerationEngine
from actors.rollout.groups import GroupRunner
from configs.schema import RunConfig
from policies.adapter import adapter
from protocol import logs
from protocol.dataset import DataSet
from protocol.keyring import ClientKeys, Keyring
from protocol.links.actor import ActorLink
from protocol.messages import PolicyVersion
from protocol.metrics import Metrics
from protocol.role import RoleDescription
from protocol.weights.fetching import FetcherClient
from protocol.weights.messages import Fetched
from protocol.weights.transfer import Receiver

FETCH_SLICE_S = 5.0
"""A fetch is asked for again after this time."""
CHECKPOINT_VERSION = PolicyVersion(0, 0)
"""What the checkpoint's own weights are called until the learner's version is applied, which is before the first sample."""


class RolloutActor:
    """One rollout actor: an engine of its own, and the loop that feeds it (a `protocol.role.Role`)."""

    def __init__(
        self,
        config: RunConfig,
        index: int,
        learner_endpoint: str,
        fetcher_endpoint: str,
        reward_urls: Sequence[str],
        run_dir: Path | str | None,
        engine: GenerationEngine | None = None,
        incarnation: int | None = None,
        spare: bool = False,
        reward_token: str | None = None,
    ) -> None:
        """`config.model.path` and the data sets are folders and files of this machine. The engine starts with `run`.

        `incarnation` is higher with every restart of the same actor; by default the time says which is newer. A `spare` has its engine
        loaded and keeps up with policy versions, and is leased nothing until `adjust` says otherwise.

        Raises `UserError` for a checkpoint, a data set or settings that cannot be used.
        """
        self.id = f"rollout-{index}"
        self._incarnation = time.time_ns() if incarnation is None else incarnation
        logs.configure(Path(run_dir) if run_dir is not None else None, self.id)
        self._log = logs.get_logger("rollout")
        self._config, self._learner_endpoint, self._fetcher_endpoint = config, learner_endpoint, fetcher_endpoint
        keyring = Keyring(config.network.keys) if config.network.keys is not None else None
        self._keys = keyring.client() if keyring is not None else None
        self._fetcher_keys = keyring.neighbour() if keyring is not None else None
        self._reward_urls = list(reward_urls) if config.uses_rewards else []
        self._spare, self._reward_token = spare, reward_token
        model = Path(config.model.path)
        self._processing = adapter(config.model.adapter).open(model)
        paths = config.manifests.values()
        self._audio = AudioLibrary([DataSet.open(path) for path in paths], min(config.data.max_audio_s, self._processing.window_s))
        self._engine = engine or VllmEngine(
            model, config.model.dtype, config.rollout, self._processing.stop_token_ids, self._processing.sampling_rate_hz
        )
        self._metrics = Metrics("rollout", self.id)
        self._metrics.serve_beside(prometheus_client.REGISTRY, "vllm:")  # where vLLM registers its own
        self._metrics_url = self._metrics.serve(config.network.bind)
        self._lock = threading.Lock()
        self._stop_reason: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._actor: Actor | None = None
        self._rewards: RewardClient | None = None
        self._starting: asyncio.Task[None] | None = None
        self._state = "built"
        self._start_seconds = 0.0

    def describe(self) -> RoleDescription:
        """Where it can be found; it connects to others and listens for nothing but metrics."""
        return {
            "role": "rollout",
            "id": self.id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "endpoints": {},
            "metrics_url": self._metrics_url,
        }

    def run(self) -> dict[str, Any]:
        """Start the engine, work until the learner says Bye or `stop` is called, and return the closing figures."""
        try:
            return asyncio.run(self._run())
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from group
        finally:
            self._state = "ended"
            self._metrics.close()

    def status(self) -> dict[str, Any]:
        """Current figures."""
        actor, rewards = self._actor, self._rewards
        asked = {"reward_servers": rewards.servers()} if rewards is not None else {}
        return {"state": self._state, "start_seconds": self._start_seconds, **asked, **(actor.figures() if actor is not None else {})}

    def drain(self, reason: str) -> None:
        """Ask `run` to return once the groups under way have their outcome, or after `fleet.drain_s`; the others are given back at once."""
        self._ask_to_end(reason, self._drain_now)

    def stop(self, reason: str) -> None:
        """Ask `run` to return soon: groups under way are given back to the learner."""
        self._ask_to_end(reason, self._stop_now)

    def _ask_to_end(self, reason: str, how: Callable[[], None]) -> None:
        with self._lock:
            self._stop_reason = self._stop_reason or reason or "stopped"
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(how)

    def _drain_now(self) -> None:
        if self._actor is None:
            self._stop_now()
            return
        self._state = "draining"
        self._actor.drain(self._stop_reason or "", self._config.fleet.drain_s)

    def adjust(self, *, spare: bool, reward_urls: Sequence[str]) -> None:
        """From now on be a spare or not, and ask these reward servers."""
        with self._lock:
            self._spare, self._reward_urls = spare, list(reward_urls) if self._config.uses_rewards else []
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._adjust_now)

    def _adjust_now(self) -> None:
        if self._actor is not None:
            self._actor.rest(self._spare)
        if self._rewards is not None and self._reward_urls:
            self._rewards.use(self._reward_urls)

    def _stop_now(self) -> None:
        reason = self._stop_reason or ""
        if self._actor is not None:
            self._actor.stop(reason)
        elif self._starting is not None:
            self._starting.cancel()

    async def _run(self) -> dict[str, Any]:
        """Consumes: the engine, the learner's leases. Produces: closing figures. Waits for: the end of the job. Unblocked by: `stop`,
        the learner's Bye, an error; the engine's processes are gone in each case.
        """
        with self._lock:
            self._loop = asyncio.get_running_loop()
        try:
            started = self._stop_reason is None and await self._start_engine()
            return await self._work() if started else {"status": self._stop_reason}
        except BaseException:
            self._log.exception("rollout actor failed")
            raise
        finally:
            await self._engine.close()
            with self._lock:
                self._loop = None

    async def _start_engine(self) -> bool:
        """False when `stop` came meanwhile."""
        self._state, started_s = "starting the engine", time.monotonic()
        self._starting = asyncio.create_task(self._engine.start(CHECKPOINT_VERSION))
        await asyncio.wait([self._starting])
        starting, self._starting = self._starting, None
        self._start_seconds = round(time.monotonic() - started_s, 2)
        if starting.cancelled():
            return False
        starting.result()
        self._log.info("engine started", engine=self._engine.description, seconds=self._start_seconds)
        return self._stop_reason is None

    async def _work(self) -> dict[str, Any]:
        config, spare = self._config, self._spare
        gauges = Gauges(self._metrics, needs_rewards=config.needs_rewards)
        asking = RewardClient(self._reward_urls, config.rewards, self._metrics, token=self._reward_token) if self._reward_urls else None
        self._rewards = rewards = asking
        runner = GroupRunner(config, self._engine, self._processing, self._audio, rewards, config.rollout.engine.max_model_len)
        link = ActorLink(
            self._learner_endpoint,
            self.id,
            incarnation=self._incarnation,
            capacity_groups=0 if spare else config.rollout.capacity_groups,
            host=socket.gethostname(),
            pid=os.getpid(),
            engine=self._engine.description,
            keys=self._keys,
            acknowledged=gauges.acknowledged,
        )
        fetcher = _Fetcher(self._fetcher_endpoint, self._fetcher_keys)
        self._actor = actor = Actor(link, fetcher, self._engine, runner, gauges, config.rollout.capacity_groups, spare=spare)
        self._state = "working"
        if self._stop_reason is not None:
            actor.stop(self._stop_reason)
        link.start()
        reason = "the rollout actor failed"
        try:
            reason = await actor.work()
            if not await link.drained(FLUSH_S):
                self._log.warning("results were not acknowledged", messages=link.unacknowledged)
        finally:
            self._state = "stopping"
            await asyncio.to_thread(link.close, reason)
            await asyncio.to_thread(fetcher.close)
            if rewards is not None:
                await rewards.aclose()
        self._log.info("ended", reason=reason, **actor.figures())
        return {"status": reason, "start_seconds": self._start_seconds, **actor.figures()}


class _Fetcher:
    """Asks the node fetcher from a thread of its own, for the client blocks."""

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self._thread = ThreadPoolExecutor(1, "fetch")
        self._client: Receiver = FetcherClient(endpoint, keys)

    async def __call__(self, version: PolicyVersion) -> Fetched:
        """See `actors.rollout.actor.Fetch`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._client.fetch, version, FETCH_SLICE_S)

    def close(self) -> None:
        """Returns when the fetch under way has ended, at most `FETCH_SLICE_S`."""
        self._thread.submit(self._client.close)
        self._thread.shutdown()
