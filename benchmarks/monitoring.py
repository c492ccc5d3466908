"""What it costs to be watched: exporters that Prometheus scrapes every five seconds, and the status of a run of 128 rollout actors.

    python -m benchmarks.monitoring [--json FILE]

The exporters are those of a learner and of a rollout actor, every metric of theirs filled, with 32 voices; each serves from a
process of its own, whose processor time counts. The run is a real overview behind a real control server, over processes that are made up.
"""

from __future__ import annotations

import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks.command import command
from benchmarks.rows import row
from benchmarks.watched import Watched
from ops import rundir
from ops.control import ControlServer
from ops.launch import SHOW_EVERY_S
from ops.rundir import RunDir
from ops.screen import Screen

SCRAPE_EVERY_S = 5.0
CORE_SHARE = 0.01
SCRAPES = 200
ACTORS, REWARDS = 128, 4
ANSWER_S = 1.0
TIMES, ASKED = 20, 5
WARM_S = 70
"""More than the window that rates and shares are taken over."""
COUNTED_S = 20.0


@contextmanager
def exporter(role: str, *, counts: bool = False) -> Any:
    """(process, URL) of an exporter in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.exporting", role, *(["counts"] if counts else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield psutil.Process(process.pid), process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def processor_s(process: psutil.Process) -> float:
    """Processor time of all threads so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def scrape_s(role: str) -> float:
    """Processor seconds of one scrape."""
    with exporter(role) as (process, url), httpx.Client(trust_env=False) as client:
        client.get(url)
        before_s = processor_s(process)
        for _ in range(SCRAPES):
            client.get(url).raise_for_status()
        return (processor_s(process) - before_s) / SCRAPES


def counting_s(*, scraped: bool) -> float:
    """Processor seconds of an actor's metrics in `COUNTED_S`, while they count groups."""
    with exporter("rollout", counts=True) as (process, url), httpx.Client(trust_env=False) as client:
        client.get(url)
        before_s, began_s = processor_s(process), time.monotonic()
        while (left_s := began_s + COUNTED_S - time.monotonic()) > 0:
            time.sleep(min(left_s, SCRAPE_EVERY_S))
            if scraped:
                client.get(url).raise_for_status()
        return processor_s(process) - before_s


def exporters() -> list[dict[str, Any]]:
    """Shares of a core."""
    rows = []
    for role in ("learner", "rollout"):
        share = scrape_s(role) / SCRAPE_EVERY_S
        rows.append(row(f"exporter of a {role}, scraped every {SCRAPE_EVERY_S:g} s", "share of a core", share, "goal", CORE_SHARE, 1.0))
    counted = f"an actor's metrics, {COUNTED_S:g} s of counting"
    rows.append(row(counted, "processor s", counting_s(scraped=True), "not scraped", counting_s(scraped=False), None))
    return rows


def taken_s(act: Callable[[], object]) -> float:
    """Seconds of one try."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def longest(act: Callable[[], object]) -> float:
    """Seconds of the slowest of some tries."""
    return max(taken_s(act) for _ in range(TIMES))


def overview(folder: Path) -> list[dict[str, Any]]:
    """Answers of the control server, the screen, and the supervisor's own work."""
    watched = Watched(ACTORS, REWARDS)
    began_s = time.monotonic() - WARM_S
    for second in range(WARM_S):
        watched.answer(float(second), began_s + second)
        watched.overview.measure(began_s + second)
    server = ControlServer(status=watched.overview.status, stop=print, scale=print, metrics=watched.metrics.render)
    watched.overview.control_url = server.url
    run = RunDir(folder / "demo", "demo-1")
    run.path.mkdir()
    (run.path / "config.yaml").touch()
    rundir.write_private_json(run.control, {"url": server.url, "token": server.token, "pid": 0})
    try:
        return [*_answers(server), *_shown(watched, run), *_kept(watched)]
    finally:
        server.close()


def _answers(server: ControlServer) -> list[dict[str, Any]]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}, trust_env=False) as client:
        status = longest(lambda: client.get("/v1/status").raise_for_status())
        targets = longest(lambda: client.get("/v1/targets").raise_for_status())
    return [
        row(f"status of {ACTORS} actors, slowest of {TIMES}", "s", status, "goal", ANSWER_S, 1.0),
        row(f"addresses of {ACTORS} actors for Prometheus, slowest of {TIMES}", "s", targets, "goal", ANSWER_S, 1.0),
    ]


def _shown(watched: Watched, run: RunDir) -> list[dict[str, Any]]:
    status = watched.overview.status()
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True)
    told = [sys.executable, "-m", "ops.cli", "status", str(run.path), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = statistics.median(taken_s(lambda: subprocess.run(told, check=True, capture_output=True)) for _ in range(ASKED))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked_s = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / ASKED
    return [
        row(f"the command `rba status` on {ACTORS} actors", "s", asked, "goal", ANSWER_S, 1.0),
        row("of it processor time, nearly all of it imports", "s", worked_s, "goal", ANSWER_S, 1.0),
        row(
            f"drawing the screen of {ACTORS} actors", "s", longest(lambda: console.print(Screen(status))), "between two of them", 1.0, None
        ),
    ]


def _kept(watched: Watched) -> list[dict[str, Any]]:
    """What the supervisor does every second to know all this."""
    at_s = float(WARM_S)

    def second() -> None:
        nonlocal at_s
        at_s += 1
        now_s = time.monotonic()
        watched.answer(at_s, now_s)
        watched.overview.measure(now_s)
        for _ in range(round(1 / SHOW_EVERY_S)):
            watched.overview.count()
            watched.overview.status()

    before_s = time.process_time()
    for _ in range(TIMES):
        second()
    return [
        row(
            f"the supervisor's look at {ACTORS} actors, every second",
            "share of a core",
            (time.process_time() - before_s) / TIMES,
            "goal",
            0.05,
            1.0,
        )
    ]


def measure() -> list[dict[str, Any]]:
    """Every row."""
    with tempfile.TemporaryDirectory() as name:
        return [*exporters(), *overview(Path(name))]


if __name__ == "__main__":
    command("monitoring", __doc__, measure)
