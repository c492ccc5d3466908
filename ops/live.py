"""What a person sees while a run goes on: a live panel in a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops import screen, telling

PLAIN_EVERY_S = 5.0
PANEL_WIDTH = 76
"""Of a line of figures; a terminal of 80 columns holds it."""


class Lossy:
    """A text stream that loses what is written once its reader or terminal has gone, so that a run does not end with whoever watched it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        """Write, or lose it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, unless there is nobody to flush to."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        if not self._gone:
            try:
                act()
            except OSError:  # a broken pipe, or the input/output error of a closed terminal
                self._gone = True


class Progress:
    """Shows statuses as they come. A context manager; `note` prints a line that stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._last_line = ""
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, status: Mapping[str, Any]) -> None:
        """The latest status; takes well under a millisecond."""
        if self._live is not None:
            self._live.update(panel(status))
            return
        now_s = time.monotonic()
        line = plain(status)
        if line != self._last_line and now_s - self._printed_at >= PLAIN_EVERY_S:
            self._last_line, self._printed_at = line, now_s
            self.note(f"{time.strftime('%H:%M:%S')} {line}")


def plain(status: Mapping[str, Any]) -> str:
    """One line: ``training step 12/100 loss 0.693 … version 0.10 eta 1:20``."""
    parts = [str(status["phase"])]
    if status["state"] == "running":
        parts.append(f"step {status['step']}/{status['steps']}")
        parts += [f"{name} {value}" for name, value in [*telling.figures(status), *telling.fleet(status)]]
        parts += [f"version {telling.version(status['policy_version'])}", f"eta {telling.eta(status)}"]
    elif waiting := [each["id"] for each in status["processes"] if each["phase"] in {"waiting", "building"}]:
        parts[0] += f": waiting for {', '.join(waiting)}"
    return " ".join([*parts, *(f"! {problem}" for problem in status["problems"])])


def panel(status: Mapping[str, Any]) -> Panel:
    """The live panel: the parts of `ops.screen` that a launch has room for."""
    processes = Text(no_wrap=False)
    for each in status["processes"]:
        processes.append("● ", style=screen.COLOURS.get(each["phase"], ""))
        processes.append(f"{each['id']}{' (spare)' if each.get('spare') else ''}  ")
    problems = [Text(f"! {problem}", style="bold red") for problem in status["problems"]]
    shown = [*screen.progress(status), *screen.figures(status, PANEL_WIDTH), processes, *problems]
    return Panel(Group(*shown), title=f"rba · {status['run']}", border_style="red" if problems else "blue")


def evaluation_table(evaluation: Mapping[str, Mapping[str, float]]) -> Table | None:
    """Before and after, a row per figure; None when nothing was measured."""
    before, after = evaluation.get("before") or {}, evaluation.get("after") or {}
    if all(value is None for value in (*before.values(), *after.values())):
        return None
    table = Table(title="held-out evaluation", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, form in (
        ("accuracy", "{:.1%}"),
        ("bleu", "{:.1f}"),
        ("consistency", "{:.3f}"),
        ("agreement", "{:.1%}"),
        ("reward", "{:.3f}"),
    ):
        old, new = before.get(name), after.get(name)
        if old is None and new is None:
            continue
        change = "" if old is None or new is None else f"{(new - old) * (100 if '%' in form else 1):+.{1 if '%' in form else form[3]}f}"
        table.add_row(name, *("–" if value is None else form.format(value) for value in (old, new)), change)
    return table
