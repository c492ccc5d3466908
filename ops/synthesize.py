"""`rba synthesize`: stages of a synthesis with a progress bar each, and what became of the drafts."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from actors.synthesis import describe as describing
from actors.synthesis.main import STAGES, Synthesis
from actors.synthesis.page import page
from actors.synthesis.records import Draft
from configs.synthesis import SynthesisConfig
from protocol import logs
from protocol.errors import UserError

PLAIN_EVERY_S = 5.0


def carry_out(
    config: SynthesisConfig,
    stages: Sequence[str],
    console: Console,
    *,
    redo: str | None = None,
    as_json: bool = False,
    written: SynthesisConfig | None = None,
) -> None:
    """Run these stages (all of them where none is named) and tell what came of them. SIGTERM ends it as Ctrl-C does: engine and processes
    go with it. `redo`: the stage that is made again, with those behind it. `written`: `config` as the user wrote it, before names became
    paths.
    """
    for option, named in (("--stage", stages), ("--redo", [redo] if redo is not None else [])):
        unknown = [stage for stage in named if stage not in STAGES]
        if unknown:
            raise UserError(f"no stage {', '.join(unknown)}", where=option, fix=f"use {', '.join(STAGES)}")
    synthesis = Synthesis(config, written)
    logs.configure(synthesis.folder, "synthesis")
    with _ending_on_sigterm(), Shown(console if not as_json else Console(stderr=True)) as shown:
        synthesis.run(stages or STAGES, shown, redo)
    figures = {"folder": synthesis.place, "stages": outcome(synthesis)}
    if as_json:
        console.file.write(json.dumps(figures) + "\n")
        return
    for stage, each in figures["stages"].items():  # type: ignore[attr-defined]
        reasons = ", ".join(f"{count} {reason}" for reason, count in each["rejected"].items())
        console.print(f"{stage:13} {each['kept']:>9,} kept" + (f"   rejected: {reasons}" if reasons else ""), highlight=False)
    console.print(f"the data set is in {synthesis.place}", highlight=False)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Exit code 143, by way of every `finally`. Only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def outcome(synthesis: Synthesis) -> dict[str, dict[str, Any]]:
    """By stage that has begun: ``{"blocks", "of", "kept", "rejected": {reason: count}}``."""
    told = {}
    for stage, (done, total) in synthesis.progress().items():
        if not done:
            continue
        rejected: Counter[str] = Counter()
        kept = 0
        for draft in synthesis.shelf(stage).every():
            kept += draft.kept
            if not draft.kept:
                rejected[draft.rejected.partition(": ")[2]] += 1
        told[stage] = {"blocks": done, "of": total, "kept": kept, "rejected": dict(rejected.most_common())}
    return told


def describe(config: SynthesisConfig, console: Console, html: Path | None, *, as_json: bool = False) -> None:
    """Show what is in a data set, as far as it has come; with `html` as a page too."""
    synthesis = Synthesis(config)
    synthesis.look()
    found = describing.describe(synthesis.drafts())
    if not found.drafts:
        raise UserError("there is nothing yet", where=synthesis.place, fix="call it without --describe first")
    if html is not None:
        html.write_text(page(found, config.name), encoding="utf-8")
    if as_json:
        console.file.write(json.dumps(describing.as_dict(found)) + "\n")
    else:
        console.print(describing.tables(found))


class Rate(ProgressColumn):
    """Instructions a second."""

    def render(self, task: Task) -> Text:
        """Empty until there is a rate."""
        if not task.fields["rate"]:
            return Text("")
        return Text(f"{task.fields['kept']:,} kept  {task.fields['rate']:.0f}/s")


class Shown:
    """A bar a stage in a terminal; elsewhere a line every few seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=120)
        self._task: TaskID | None = None
        self._kept = self._rejected = self._done = self._seen = self._total = 0
        self._began_s = self._told_s = 0.0

    def begins(self, stage: str, blocks: int, total: int) -> None:
        """A new bar."""
        self._kept = self._rejected = self._seen = 0
        self._done, self._total = blocks, total
        self._began_s = self._told_s = self._clock()
        self._task = self._bars.add_task(stage, total=total, completed=blocks, kept=0, rate=0.0)

    def block(self, stage: str, drafts: Sequence[Draft]) -> None:
        """Further along."""
        kept = sum(draft.kept for draft in drafts)
        self._done, self._seen = self._done + 1, self._seen + len(drafts)
        self._kept, self._rejected = self._kept + kept, self._rejected + len(drafts) - kept
        now_s = self._clock()
        rate = self._seen / max(now_s - self._began_s, 1e-9)
        if self._task is not None:
            self._bars.update(self._task, completed=self._done, kept=self._kept, rate=rate)
        if not self._console.is_terminal and now_s - self._told_s >= PLAIN_EVERY_S:
            self._told_s = now_s
            self._line(stage, rate)

    def ends(self, stage: str) -> None:
        """The bar stays."""
        if not self._console.is_terminal:
            self._line(stage, self._seen / max(self._clock() - self._began_s, 1e-9))

    def _line(self, stage: str, rate: float) -> None:
        left = (self._total - self._done) * (self._seen / max(1, self._done)) / rate if rate else 0.0
        said = f"{stage}: block {self._done} of {self._total}"
        if self._seen:
            said += f", {self._kept} kept, {self._rejected} rejected, {rate:.1f}/s"
        self._console.print(said + (f", {left:.0f} s left" if left else ""), highlight=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()
