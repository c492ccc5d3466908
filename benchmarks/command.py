"""The command line that every side-by-side measurement has."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import table

Flags = dict[str, dict[str, Any]]
"""What `argparse` is told of each flag, by the name of the parameter that it sets."""


def command(bench: str, doc: str | None, measure: Callable[..., list[dict[str, Any]]], flags: Flags | None = None) -> None:
    """Read the flags, measure, print the table; with ``--json`` write the rows."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, settings in (flags or {}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = vars(parser.parse_args())
    path = options.pop("json")
    rows = measure(**options)
    print(table(rows))
    if path is not None:
        path.write_text(json.dumps({"bench": bench, "rows": rows}, indent=1) + "\n", encoding="utf-8")
