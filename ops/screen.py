"""What `rba status` shows in a terminal: the whole run on one screen, as high as there is room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops import telling

COLOURS = {
    "running": "green",
    "building": "yellow",
    "waiting": "dim",
    "placing": "dim",
    "stopping": "yellow",
    "restarting": "bold yellow",
    "ended": "dim",
    "failed": "bold red",
    "quarantined": "bold red",
}
"""Of the dot before a process, by its phase."""
AIRY = 34
"""Lines from which on empty ones stand between the parts."""
WIDE = 90
"""Columns from which on those of the table stand further apart."""
MOST_ALERTS = 4
LEAST_ROWS = 3


class Screen:
    """A status, drawn to the size of the terminal; with `whole` as high as it is."""

    def __init__(self, status: Mapping[str, Any], *, whole: bool = False) -> None:
        self._status, self._whole = status, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = None if self._whole else (options.height or console.size.height)
        yield panel(self._status, options.max_width, height)


def panel(status: Mapping[str, Any], width: int, height: int | None) -> Panel:
    """One panel of at most `height` lines; processes that have no room are summed up, those that are well first."""
    inner = width - 4
    parts = [part for part in (progress(status), figures(status, inner), _trends(status, inner), _ledger(status), _kept(status)) if part]
    alarms = _alerts(status)
    airy = height is None or height >= AIRY
    processes = _processes(status, inner, None if height is None else height - _lines(parts, alarms, airy=airy))
    sections = [*parts[:-2], processes, *parts[-2:], alarms] if status["processes"] else [*parts, alarms]
    drawn: list[RenderableType] = []
    for number, section in enumerate(each for each in sections if each):
        drawn += [Text("")] if airy and number else []
        drawn += section
    wrong = telling.alerts(status)
    return Panel(
        Group(*drawn), title=f"rba · {status['run']}", title_align="left", border_style="red" if wrong else "blue", box=box.ROUNDED
    )


def _lines(parts: Sequence[Sequence[RenderableType]], alarms: Sequence[RenderableType], *, airy: bool) -> int:
    """Of everything but the rows of processes: the border, the parts, and the empty lines between all of them."""
    return 2 + sum(len(part) for part in parts) + len(alarms) + (len(parts) + 1 if airy else 0)


def progress(status: Mapping[str, Any]) -> list[RenderableType]:
    """How far it is, in two lines."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    done = status["step"] / status["steps"] if status["steps"] else 0.0
    head.add_row(
        Text.assemble((str(status["phase"]), "bold"), f"  step {status['step']}/{status['steps']}  {done:.0%}"),
        f"elapsed {telling.clock(status['elapsed_s'])}  eta {telling.eta(status)}",
    )
    bar = Table.grid(expand=True)  # a bare bar ends without a new line
    bar.add_row(ProgressBar(total=max(status["steps"], 1), completed=status["step"]))
    return [head, bar]


def figures(status: Mapping[str, Any], width: int) -> list[RenderableType]:
    """Figures in as many lines as they need, then who is idle, and what limits the job."""
    shown = [("version", telling.version(status["policy_version"])), *telling.figures(status), *telling.fleet(status)]
    if status.get("load", {}).get("learner_idle") is not None:
        shown = [each for each in shown if each[0] != "learner idle"]  # its share of the last while is below
    lines: list[RenderableType] = list(_flow(shown, width))
    waits = telling.idle(status)
    if waits:
        lines.append(_labelled("idle", Text("   ").join(Text(f"{who} {share}") for who, share in waits)))
    if limit := telling.limit(status):
        stage, _, figure = limit.partition(":")
        lines.append(_labelled("limit", Text.assemble((stage, "bold"), f":{figure}")))
    return lines


def _trends(status: Mapping[str, Any], width: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for trend in telling.trends(status, max(10, min(60, width - telling.LABEL - 19))):
        line = Text.assemble(f"{trend.value:>7}  ", (trend.line, "cyan"), (f"  {trend.minutes:.0f} min", "dim"))
        lines.append(_labelled(trend.name, line))
    return lines


def _processes(status: Mapping[str, Any], width: int, lines: int | None) -> list[RenderableType]:
    """Heading, and a row for each process; of more than there is room for the last line tells the rest."""
    rows = telling.rows(status)
    room = len(rows) if lines is None else max(LEAST_ROWS, lines - 1)
    shown = rows if len(rows) <= room else rows[: room - 1]
    table = Table(box=None, pad_edge=False, padding=(0, 2 if width >= WIDE else 1, 0, 0), header_style="dim")
    table.add_column("process", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    for heading in ("version", "heard", "a second", "so far"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in shown:
        name = Text.assemble(
            ("● ", "bold red" if not row.healthy else COLOURS.get(row.phase, "")), (row.id, "" if row.healthy else "bold red")
        )
        table.add_row(name, row.phase, row.version, row.heard, row.rate, row.done, row.doing)
    # A table counts as one part of the panel and has a line for each row.
    return [table, *([Text(telling.rest(rows[room - 1 :]), style="dim")] if len(rows) > room else [])]


def _ledger(status: Mapping[str, Any]) -> list[RenderableType]:
    return [
        _labelled("ledger" if not number else "", Text(text, style="" if holds else "bold red"))
        for number, (text, holds) in enumerate(telling.ledger(status))
    ]


def _kept(status: Mapping[str, Any]) -> list[RenderableType]:
    if not status["processes"]:
        return []
    (name, value), *others = telling.kept(status)
    return [_labelled(name, Text.assemble(value, *(part for each in others for part in (("   " + each[0] + " ", "dim"), each[1]))))]


def _alerts(status: Mapping[str, Any]) -> list[RenderableType]:
    found = telling.alerts(status)
    if not found:
        return [_labelled("alerts", Text("none", style="green"))] if status["processes"] else []
    shown = found if len(found) <= MOST_ALERTS else found[: MOST_ALERTS - 1]
    lines = [_labelled("alerts" if not number else "", Text(text, style="bold red")) for number, text in enumerate(shown)]
    if len(found) > len(shown):
        lines.append(_labelled("", Text(f"and {len(found) - len(shown)} more", style="red")))
    return list(lines)


def _labelled(label: str, content: Text) -> Text:
    line = Text.assemble((f"{label:{telling.LABEL}}", "dim"), content)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _flow(items: Iterable[tuple[str, str]], width: int) -> list[Text]:
    """Names and values one after the other, in lines of at most `width`."""
    lines: list[Text] = []
    for name, value in items:
        item = Text.assemble((f"{name} ", "dim"), value)
        if not lines or lines[-1].cell_len + 3 + item.cell_len > width:
            lines.append(Text(no_wrap=True, overflow="ellipsis"))
        lines[-1].append("   " if lines[-1].cell_len else "")
        lines[-1].append_text(item)
    return lines
