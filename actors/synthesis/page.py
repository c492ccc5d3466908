"""The description of a data set as one HTML page that needs nothing from outside, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from actors.synthesis.describe import (
    PAPER_DIFFICULTIES,
    PAPER_TOPICS,
    SPLITS,
    UNNAMED,
    Description,
    StageCount,
    comparable,
    percent,
)

WIDTH, LABEL, NUMBERS = 720, 170, 150
ROW, BAR = 30, 16

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1c1d21; --soft: #666a73; --line: #e4e5e8;
  --c0: #2f6fde; --bad: #c23b3b; --track: #eeeff1; }
@media (prefers-color-scheme: dark) { :root { --paper: #15161a; --card: #1d1f24; --ink: #e8e9ec; --soft: #9a9ea8; --line: #31343b;
  --c0: #6c9ff2; --bad: #ef7d7d; --track: #282a30; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 12px; }
p { margin: 0 0 10px; } .soft { color: var(--soft); }
.facts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-top: 20px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; overflow-x: auto; }
.card .name { color: var(--soft); font-size: 13px; } .value { font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
svg { width: 100%; min-width: 560px; height: auto; display: block; font-size: 13px; }
text { fill: var(--ink); font-variant-numeric: tabular-nums; } text.soft { fill: var(--soft); }
.track { fill: var(--track); } .mark { stroke: var(--ink); stroke-width: 2; }
.f0 { fill: var(--c0); background: var(--c0); } .bad { fill: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin: 0 0 8px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.key i.line { width: 2px; height: 13px; border-radius: 0; background: var(--ink); vertical-align: -2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 500; color: var(--soft); font-size: 13px; } td.n, th.n { text-align: right; }
"""


def page(description: Description, name: str) -> str:
    """The page of the data set called `name`."""
    topics, difficulties = description.topic_counts, description.difficulty_counts
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{description.kept:,} instructions of {description.drafts:,} drafts</p>',
        _facts(description),
        "<h2>Topics</h2>",
        _shares(topics, comparable(topics, PAPER_TOPICS), description.kept, "Shares of topics"),
        "<h2>Difficulty</h2>",
        _shares(difficulties, comparable(difficulties, PAPER_DIFFICULTIES), description.kept, "Shares of difficulties"),
        "<h2>Topics and difficulty</h2>",
        _crossed(description.topics, list(difficulties)),
        "<h2>Splits</h2>",
        _crossed(description.splits, [split for split in (*SPLITS, UNNAMED) if any(split in each for each in description.splits.values())]),
        "<h2>What went on the way</h2>",
        *([_losses(each) for each in description.stages] or ['<p class="soft">Nothing was rejected.</p>']),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(name)} · rba</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body><main>{"".join(parts)}</main></body></html>\n'


def _facts(description: Description) -> str:
    facts = [("words an instruction", f"{description.instruction_words:.1f}"), ("words a reference", f"{description.reference_words:.1f}")]
    if description.utterances:
        facts += [
            ("utterances", f"{description.utterances:,}"),
            ("voices", f"{description.voices:,}"),
            ("hours of speech", f"{description.spoken_hours:,.1f}"),
        ]
    cards = (f'<div class="card"><div class="name">{name}</div><div class="value">{value}</div></div>' for name, value in facts)
    return f'<div class="facts">{"".join(cards)}</div>'


def _shares(counts: dict[str, int], paper: dict[str, float], whole: int, label: str) -> str:
    """A bar a name; a line across it stands for the paper's share."""
    if not counts:
        return '<p class="soft">None.</p>'
    across = WIDTH - LABEL - NUMBERS
    most = max([percent(count, whole) for count in counts.values()] + list(paper.values())) or 1.0
    rows = []
    for number, (name, count) in enumerate(counts.items()):
        share, top = percent(count, whole), number * ROW
        row = _bar(name, top, across * share / most, f"{share:.1f} %", f"{count:,}")
        if name in paper:
            x = LABEL + across * paper[name] / most
            row += f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 4}" y2="{top + ROW - 4}">'
            row += f"<title>the paper: {paper[name]:.1f} %</title></line>"
        rows.append(row)
    keys = '<span class="key"><i class="line"></i>the paper</span>' if paper else ""
    legend = f'<div class="legend"><span class="key"><i class="f0"></i>this data set</span>{keys}</div>' if paper else ""
    return f'<div class="card">{legend}{_svg(rows, label)}</div>'


def _losses(stage: StageCount) -> str:
    """A bar a reason, in shares of what reached the stage."""
    across = WIDTH - LABEL - NUMBERS
    most = max(stage.rejected.values())
    rows = [
        _bar(reason, number * ROW, across * count / most, f"{percent(count, stage.reached):.1f} %", f"{count:,}", "bad")
        for number, (reason, count) in enumerate(stage.rejected.items())
    ]
    told = f'<p class="soft"><b>{escape(stage.stage)}</b>: {stage.kept:,} of {stage.reached:,} went on</p>'
    return f'<div class="card" style="margin-bottom:14px">{told}{_svg(rows, f"Rejected by {stage.stage}")}</div>'


def _bar(name: str, top: int, width: float, share: str, count: str, colour: str = "f0") -> str:
    middle, across = top + ROW / 2, WIDTH - LABEL - NUMBERS
    shown = name if len(name) <= 24 else name[:23] + "…"
    return (
        f'<text x="0" y="{middle + 4.5}">{escape(shown)}<title>{escape(name)}</title></text>'
        f'<rect class="track" x="{LABEL}" y="{middle - BAR / 2}" width="{across}" height="{BAR}" rx="4"/>'
        f'<rect class="{colour}" x="{LABEL}" y="{middle - BAR / 2}" width="{max(width, 1.5):.1f}" height="{BAR}" rx="4"/>'
        f'<text x="{WIDTH - NUMBERS + 70}" y="{middle + 4.5}" text-anchor="end">{share}</text>'
        f'<text class="soft" x="{WIDTH}" y="{middle + 4.5}" text-anchor="end">{count}</text>'
    )


def _svg(rows: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {len(rows) * ROW}" role="img" aria-label="{escape(label, quote=True)}">{"".join(rows)}</svg>'


def _crossed(counts: dict[str, dict[str, int]], columns: Sequence[str]) -> str:
    """A table of counts, names by columns, with sums."""
    head = "".join(f'<th class="n">{escape(column)}</th>' for column in (*columns, "all"))
    rows = [(name, [row.get(column, 0) for column in columns]) for name, row in counts.items()]
    rows.append(("all", [sum(row[place] for _, row in rows) for place in range(len(columns))]))
    body = "".join(f"<tr><td>{escape(name)}</td>{_cells(row)}</tr>" for name, row in rows)
    return f'<div class="card"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _cells(row: Sequence[int]) -> str:
    return "".join(f'<td class="n">{number:,}</td>' for number in (*row, sum(row)))
