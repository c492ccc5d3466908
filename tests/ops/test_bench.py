from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.rows import row, table
from ops import bench, cli
from protocol.errors import UserError


def rows() -> list[dict[str, Any]]:
    print("measuring")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    return [row("small", "pairs/s", 10.0, "plain loop", 4.0, 2.0), row("large", "pairs/s", 1.0, "plain loop", 2.0, None)]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("demo", "tests.ops.test_bench:rows", bench.GROUP), EntryPoint("unfit", "builtins:list", bench.GROUP)]
    monkeypatch.setattr(bench, "entry_points", lambda group: points if group == bench.GROUP else [])


def test_a_benchmark_prints_its_rows_as_json_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    printed = CliRunner().invoke(cli.app, ["bench", "demo", "--json"])
    assert "measuring" in printed.stderr
    seen = capfd.readouterr()
    assert ("from a child" in seen.out, "from a child" in seen.err) == (False, True)
    assert json.loads(printed.stdout) == {"bench": "demo", "rows": rows()}
    assert rows()[0]["ratio"] == 2.5


def test_or_as_a_table() -> None:
    printed = CliRunner().invoke(cli.app, ["bench", "demo"])
    assert printed.exit_code == 0
    assert "plain loop" in printed.stdout
    assert "| large | pairs/s | 1 | plain loop | 2 | 0.5 |  |" in table(rows())


def test_one_that_cannot_run_has_no_table() -> None:
    printed = CliRunner().invoke(cli.app, ["bench", "unfit"])
    assert (printed.exit_code, printed.stdout) == (0, "")


def test_an_unknown_one_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="demo"):
        bench.measure("lerner")
