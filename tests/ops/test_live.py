from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ops import live, telling
from ops.pace import WINDOW_S, Pace, Total
from ops.status import figures_of


def status(**changes: Any) -> dict[str, Any]:
    return {
        "run": "demo",
        "state": "running",
        "phase": "training",
        "step": 12,
        "steps": 100,
        "elapsed_s": 65.0,
        "policy_version": {"lineage": 0, "step": 10},
        "figures": {"loss": 0.6931, "accuracy": 0.615, "tokens_per_s": 2345.0, "eta_s": 80.0},
        "processes": [{"id": "learner-0", "phase": "running"}, {"id": "rollout-0", "phase": "building"}],
        "problems": [],
    } | changes


def shown(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_plain_line_has_the_figures_that_are_known() -> None:
    assert live.plain(status()) == "training step 12/100 loss 0.693 accuracy 61.5% tokens/s 2,345 version 0.10 eta 1:20"


def test_rollbacks_are_shown_where_there_are_some() -> None:
    assert figures_of({"nonfinite_steps": 0, "rollbacks": 0}) == {}
    assert " skipped 4 rollbacks 1 " in live.plain(status(figures=figures_of({"nonfinite_steps": 4, "rollbacks": 1})))


def test_a_plain_line_of_the_start_says_what_is_waited_for() -> None:
    assert live.plain(status(state="starting", phase="starting")) == "starting: waiting for rollout-0"


def test_problems_are_shown() -> None:
    assert live.plain(status(problems=["rollout-0 has not answered for 40 s"])).endswith("! rollout-0 has not answered for 40 s")
    assert "not answered" in shown(live.panel(status(problems=["rollout-0 has not answered for 40 s"])))


def test_the_panel_shows_step_figures_and_processes() -> None:
    text = shown(live.panel(status()))
    assert not any("━" in line and "loss" in line for line in text.splitlines()), "the bar has a line of its own"
    for part in ("training", "step 12/100", "loss 0.693", "version 0.10", "rollout-0", "eta 1:20"):
        assert part in text


def test_a_spare_is_shown_as_one_and_counted_until_it_runs() -> None:
    spare = {"id": "rollout-1", "phase": "building", "spare": True}
    waiting = status(processes=[spare], spares={"wanted": 1, "running": 0}, actors={"wanted": 1, "running": 1})
    assert "rollout-1 (spare)" in shown(live.panel(waiting))
    assert " spares 0/1 version" in live.plain(waiting)


def test_the_table_compares_before_and_after() -> None:
    table = live.evaluation_table({"before": {"accuracy": 0.6, "bleu": 70.0}, "after": {"accuracy": 0.75, "bleu": 80.5}})
    text = shown(table)
    assert "60.0%" in text
    assert "+15.0" in text
    assert "+10.5" in text
    assert live.evaluation_table({"before": {}, "after": {}}) is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3723, "1:02:03")])
def test_a_clock(seconds: float, text: str) -> None:
    assert telling.clock(seconds) == text


def test_lines_are_printed_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=40)
    with live.Progress(console) as progress:
        progress.show(status())
        progress.show(status(step=13))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("\n") == 1, "one line, not folded, and no second one right after it"


def test_rates_are_those_of_the_last_while() -> None:
    pace = Pace()
    assert pace.figures(100) == {}
    for second in range(101):
        pace.saw(float(second), step=max(0, second - 20), groups=8 * second if second > 50 else 0, pairs=0, tokens=100 * second)
    figures = pace.figures(100)
    assert figures["groups_per_s"] == pytest.approx(8.0)
    assert figures["tokens_per_s"] == pytest.approx(100.0)
    assert figures["eta_s"] == pytest.approx(20.0), "counted from the first step, not from the start"
    assert len(pace._seen) <= WINDOW_S + 2


def test_a_total_goes_on_when_a_process_counts_from_zero_again() -> None:
    total = Total()
    assert total.saw({"rollout-0": 10, "rollout-1": 5}) == 15
    assert total.saw({"rollout-0": 12}) == 17, "what rollout-1 counted stays"
    assert total.saw({"rollout-0": 13, "rollout-1": 2}) == 20
