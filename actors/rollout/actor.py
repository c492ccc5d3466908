"""The rollout actor's working loop, without a process, a thread or vLLM of its own.

    learner ──notices──▶ listen ──▶ waiting leases ──▶ group tasks ──▶ results ──▶ deliver ──▶ learner
                            └─▶ known version ──▶ update (fetch, apply) ──▶ applied version ──▲

A lease's groups are sampled only once the actor holds the lease's policy version or a newer one, so what an actor samples is never
older than the lease, by construction.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.rollout.failing import Failing
from actors.rollout.gauges import Gauges
from actors.rollout.generation import GenerationEngine, RefusedVersionError
from actors.rollout.groups import GroupRunner, Stage
from actors.rollout.idle import Idle, IdleClock, idle_state
from actors.rollout.neighbours import Fetch, Link
from protocol.dialogue.actor_events import Ended, Granted, Registered, VersionKnown
from protocol.errors import RbaError
from protocol.logs import get_logger
from protocol.messages import GroupResult, LeasedGroup, PolicyVersion
from protocol.weights.fetching import FetchError
from protocol.weights.messages import Fetched

REPORT_S = 0.5
RETRY_S = 0.5
REFUSALS = 3
"""Times in a row that a version may turn out damaged."""
ABORT_S = 5.0
"""Time for groups under way to be called off."""
FLUSH_S = 5.0
"""Time for results on their way to be acknowledged."""


class Actor:
    """Works until the learner says Bye, or `stop` or `drain` is called. All methods but `figures` belong to one event loop."""

    def __init__(
        self,
        link: Link,
        fetch: Fetch,
        engine: GenerationEngine,
        runner: GroupRunner,
        gauges: Gauges,
        capacity_groups: int,
        *,
        spare: bool = False,
    ) -> None:
        """A `spare` applies policy versions and is leased nothing until `rest` says otherwise; its link has told the learner so."""
        self._link, self._fetch, self._engine, self._runner, self._gauges = link, fetch, engine, runner, gauges
        self._capacity_groups = capacity_groups
        self._log = get_logger("rollout")
        self._changed = asyncio.Condition()
        self._waiting: deque[tuple[LeasedGroup, PolicyVersion]] = deque()
        self._running: dict[asyncio.Task[None], LeasedGroup] = {}
        self._stages: Counter[Stage] = Counter()
        self._results: asyncio.Queue[GroupResult] = asyncio.Queue()
        self._idle = IdleClock(time.monotonic(), Idle.SPARE if spare else Idle.LEASES)
        self._known: PolicyVersion | None = None
        self._ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._moved_s = time.monotonic()
        """When work last moved on, or there was none."""
        self._applying = False
        self._leaves_for = ""
        """Why it takes no more groups, or ""."""
        self.applied: PolicyVersion | None = None
        self.registered = False
        self.spare = spare

    async def work(self) -> str:
        """Consumes: notices of the learner, policy versions. Produces: group results. Waits for: the end of the job.
        Unblocked by: the learner's Bye, `stop`, `drain`, or the first error of any task, which is raised. Returns why it ended.
        """
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(loop) for loop in (self._listen(), self._update(), self._sample(tasks), self._deliver(), self._report())
            ]
            reason = await self._ending
            for task in (*loops, *self._running):
                task.cancel()
            _, late = await asyncio.wait([*loops, *self._running], timeout=ABORT_S)
            if late:
                self._log.warning("groups could not be called off", groups=len(late))
        self._hand_over([])
        return reason

    def drain(self, reason: str, within_s: float) -> None:
        """Take no more groups, give back those that have not begun, finish the others within `within_s`, and end `work`."""
        if self._leaves_for:
            return
        self._leaves_for = reason or "drained"
        self._waiting.clear()
        self._log.info("leaving", reason=reason, groups=len(self._running), within_s=within_s)
        self._link.give_back([leased.ordinal for leased in self._running.values()])
        self._ending.get_loop().call_later(within_s, self.stop, self._leaves_for)
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._leaves_for and not self._running:
            self.stop(self._leaves_for)

    def stop(self, reason: str) -> None:
        """End `work`: no new groups, what is under way is called off, and the learner may lease it to others."""
        if not self._ending.done():
            self._ending.set_result(reason)

    def rest(self, spare: bool) -> None:
        """Be a spare from now on, which finishes what it holds, or be one no more."""
        if spare != self.spare:
            self.spare = spare
            self._log.info("spare" if spare else "spare no more", policy_version=str(self.applied))
            self._link.resize(0 if spare else self._capacity_groups)
            self._account()

    def figures(self) -> dict[str, Any]:
        """Current figures; the closing ones when `work` has returned. Any thread may ask."""
        now_s = time.monotonic()
        gauges = self._gauges
        return {
            "policy_version": str(self.applied) if self.applied else None,
            "quiet_s": round(now_s - self._moved_s, 3),
            "registered": self.registered,
            "spare": self.spare,
            "held_groups": len(self._waiting) + len(self._running),
            "groups": gauges.groups,
            "outcomes": dict(gauges.outcomes),
            "completions": gauges.completions,
            "generated_tokens": gauges.tokens,
            "idle": None if (share := self._idle.share(now_s)) is None else round(share, 4),
            "idle_seconds": {reason.value: round(seconds, 3) for reason, seconds in self._idle.seconds(now_s).items()},
            "waits_for": self._idle.state.value if self._idle.state else None,
            "pushes": gauges.pushes,
            "refused_versions": gauges.refused,
            "pause_ms_p50": gauges.pause_ms_p50,
            "pause_seconds": round(gauges.paused_s, 3),
            "consistency": gauges.consistency,
        }

    # --- loops ----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Consumes: notices. Produces: waiting leases, the known version. Waits for: a notice.
        Unblocked by: the link, also when it fails.
        """
        while True:
            match notice := await self._link.next_event():
                case Registered():
                    self.registered = True
                    self._log.info("registered", run_id=notice.welcome.run_id, policy_version=str(notice.welcome.policy_version))
                case Granted() if self._leaves_for:
                    pass  # it was on its way, and is given back
                case Granted():
                    self._waiting.extend((leased, notice.lease.policy_version) for leased in notice.lease.groups)
                    await self._know(notice.lease.policy_version)
                case VersionKnown():
                    await self._know(notice.version)
                case Ended():
                    if notice.refused:
                        raise RbaError(f"the learner refuses this actor: {notice.reason}")
                    self.stop(notice.reason)
                    return

    async def _update(self) -> None:
        """Consumes: known versions. Produces: applied versions. Waits for: a version newer than the applied one.
        Unblocked by: `_listen`.
        """
        refusals, failing = 0, None
        while True:
            await self._until(lambda: self._known is not None and (self.applied is None or self._known > self.applied))
            wanted, now_s = self._known, time.monotonic()
            assert wanted is not None  # noqa: S101 - by the line before
            try:
                await self._change_to(wanted)
                refusals, failing = 0, None
                continue
            except FetchError as error:
                if failing is None:
                    failing = Failing(wanted)
                    self._log.warning("policy version does not come yet", policy_version=str(wanted), error=str(error))
                if failing.too_long(wanted, error, now_s):
                    raise
            except RefusedVersionError as error:
                refusals += 1
                self._gauges.refused += 1
                self._log.error("policy version refused", policy_version=str(wanted), error=str(error), applied=str(self.applied))
                if refusals == REFUSALS:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _change_to(self, wanted: PolicyVersion) -> None:
        """Fetch `wanted`, or what is newer by now, while groups are sampled, and apply it."""
        started_s = time.monotonic()
        fetched = await self._fetch(wanted)
        fetched_s = time.monotonic()
        self._applying = True
        try:
            pause_s = await self._engine.apply(fetched)
        except RefusedVersionError as error:
            if _is_there(fetched):
                raise
            raise FetchError(f"newer versions have taken the place of {fetched.policy_version}") from error
        finally:
            self._applying, self._moved_s = False, time.monotonic()
        apply_s = time.monotonic() - fetched_s
        self.applied = fetched.policy_version
        self._gauges.applied(self.applied, pause_s, apply_s)
        times = {"fetch_ms": fetched_s - started_s, "apply_ms": apply_s, "pause_ms": pause_s}
        self._log.info("applied", policy_version=str(self.applied), **{name: round(1000 * seconds, 1) for name, seconds in times.items()})
        self._link.report(self.applied, self._gauges.tokens)
        await self._notify()

    async def _sample(self, tasks: asyncio.TaskGroup) -> None:
        """Consumes: waiting leases. Produces: group tasks. Waits for: a lease whose version is applied, and room. Unblocked by: `_listen`,
        `_update`, the end of a group task.
        """
        while True:
            await self._until(lambda: bool(self._waiting) and self._may_start())
            leased, _ = self._waiting.popleft()
            task = tasks.create_task(self._run_group(leased))
            self._running[task] = leased

    async def _run_group(self, leased: LeasedGroup) -> None:
        started_s = time.monotonic()
        stage: list[Stage] = []

        def entered(new: Stage) -> None:
            self._stages.subtract(stage)
            stage[:] = [new]
            self._stages.update(stage)
            self._moved_s = time.monotonic()
            self._account()

        try:
            result = await self._runner.run(leased, entered)
            self._gauges.sampled(result, leased, time.monotonic() - started_s)
            self._results.put_nowait(result)
        finally:
            self._stages.subtract(stage)
            self._running.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
            self._account()
            self._leave_if_done()
        await self._notify()

    async def _deliver(self) -> None:
        """Consumes: group results. Produces: messages, each with all results of the moment. Waits for: a result.
        Unblocked by: group tasks.
        """
        while True:
            self._hand_over([await self._results.get()])

    async def _report(self) -> None:
        """Consumes: nothing. Produces: the heartbeat's figures, idle seconds. Waits for: `REPORT_S`. Unblocked by: time."""
        while True:
            await asyncio.sleep(REPORT_S)
            self._engine.raise_if_failed()
            self._account()
            if self._idle.state is not None and not self._applying:
                self._moved_s = time.monotonic()
            self._gauges.idle(self._idle, time.monotonic())
            self._link.report(self.applied, self._gauges.tokens)

    # --- parts ----------------------------------------------------------------------------------------------

    def _may_start(self) -> bool:
        _, version = self._waiting[0]
        return len(self._running) < self._capacity_groups and self.applied is not None and self.applied >= version

    def _hand_over(self, results: list[GroupResult]) -> None:
        """Send `results` and all others that are finished."""
        while not self._results.empty():
            results.append(self._results.get_nowait())
        if results:
            self._link.send_results(results)

    def _account(self) -> None:
        stages = self._stages
        state = idle_state(stages[Stage.SAMPLING], stages[Stage.AUDIO], stages[Stage.SCORING], len(self._waiting), spare=self.spare)
        self._idle.switch(state, time.monotonic())

    async def _know(self, version: PolicyVersion) -> None:
        if self._known is None or version > self._known:
            self._known = version
        self._account()
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)


def _is_there(fetched: Fetched) -> bool:
    """False once the fetcher has removed it for newer versions."""
    return Path(fetched.directory).exists()
