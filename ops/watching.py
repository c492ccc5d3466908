"""`rba status`, `rba stop` and `rba scale`: look at a run from outside, through its control server and the files it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live

from ops import alerts, live, status, telling
from ops.rundir import RunDir
from ops.screen import Screen
from protocol.errors import RbaError, UserError

EVERY_S = 1.0
STOP_LIMIT_S = 900.0
"""A large model's checkpoint takes minutes."""
VANISHED = "vanished"
OVER = {"completed", "stopped", "failed", VANISHED}
MOST_UNANSWERED = 3
"""Looks in a row at a run that was there, after which it is taken for gone."""


def show(run: RunDir, console: Console, *, watch: bool, as_json: bool, prometheus: str | None = None) -> int:
    """Print the status once, or follow it with `watch`; 0 when healthy, 1 when not. `prometheus` is asked for alerts that fire."""
    seen = first = look(run, prometheus)
    if watch and not as_json and console.is_terminal:
        with Live(Screen(first), console=console, screen=True, auto_refresh=False) as display:
            for seen in _follow(first, run, prometheus, EVERY_S):
                display.update(Screen(seen), refresh=True)
    elif watch:
        for later in _follow(first, run, prometheus, EVERY_S if as_json else live.PLAIN_EVERY_S):
            _print(seen, console, as_json)
            seen = later
    _print(seen, console, as_json)
    return 0 if seen["healthy"] else 1


def _follow(seen: dict[str, Any], run: RunDir, prometheus: str | None, every_s: float) -> Iterator[dict[str, Any]]:
    """Statuses, one after the other, until the run is over. A supervisor may be too busy to answer once."""
    unanswered = 0
    while seen["state"] not in OVER or 0 < unanswered < MOST_UNANSWERED:
        time.sleep(every_s)
        seen = look(run, prometheus)
        unanswered = unanswered + 1 if seen["state"] == VANISHED else 0
        yield seen


def look(run: RunDir, prometheus: str | None = None) -> dict[str, Any]:
    """The status, with the alerts that `prometheus` has firing for it."""
    seen = status.read(run)
    if prometheus is None:
        return seen
    try:
        return {**seen, "alerts": alerts.firing(prometheus, seen["run"]), "alerts_error": ""}
    except RbaError as error:
        return {**seen, "alerts": [], "alerts_error": str(error)}


def stop(run: RunDir, console: Console, *, wait: bool) -> int:
    """Ask the supervisor to end the run; with `wait` until it has. Raises `UserError` when the run is over already."""
    seen = status.read(run)
    if seen["state"] in OVER:
        raise UserError(f"the run is over: {seen['state']}", where=str(run.path), fix="nothing is left to stop")
    status.ask(run, "POST", "/v1/stop")
    deadline_s = time.monotonic() + STOP_LIMIT_S
    while wait and seen["state"] not in OVER:
        if time.monotonic() > deadline_s:
            console.print(f"still {seen['state']} after {STOP_LIMIT_S:.0f} s; a second `rba stop` ends it at once")
            return 1
        time.sleep(EVERY_S / 4)
        seen = status.read(run)
    console.print(f"{seen['state']} at step {seen['step']}" if wait else "stopping", highlight=False)
    return 0 if seen["healthy"] else 1


def scale(run: RunDir, console: Console, wanted: Mapping[str, int], *, wait: bool) -> int:
    """Ask for so many rollout actors (`wanted["actors"]`) or reward servers (`["rewards"]`); with `wait` until they run.

    Raises `UserError` when nothing is asked for, and when the run is over, or about to be.
    """
    if not wanted:
        raise UserError("nothing is to be scaled", where="the command line", fix="give --actors N, --rewards N or both")
    seen = status.read(run)
    if seen["state"] in OVER:
        raise UserError(f"the run is over: {seen['state']}", where=str(run.path), fix="only a run that goes on can be scaled")
    status.ask(run, "POST", "/v1/scale", wanted)
    with console.status("waiting for them", spinner="dots"):
        seen = status.read(run)
        while (
            wait
            and seen["state"] not in OVER
            and any((seen[name]["wanted"], seen[name]["running"]) != (count, count) for name, count in wanted.items())
        ):
            time.sleep(EVERY_S)
            seen = status.read(run)
    if seen["state"] in OVER:
        console.print(f"the run has ended: {seen['state']}", highlight=False)
        return 1
    for name, count in wanted.items():
        called = "rollout actors" if name == "actors" else "reward servers"
        console.print(f"{count} {called} wanted, {seen[name]['running']} run", highlight=False)
    return 0


def _print(seen: dict[str, Any], console: Console, as_json: bool) -> None:
    if as_json:
        console.file.write(json.dumps(seen) + "\n")
        console.file.flush()
    elif console.is_terminal:
        console.print(Screen(seen, whole=True))
    else:
        told = "".join(f"\n  {line}" for line in telling.lines(seen))
        console.print(f"{seen['state']} {live.plain(seen)}{told}", highlight=False, markup=False, soft_wrap=True)
