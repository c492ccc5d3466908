"""The strategies side by side: whole runs of a recipe, same held-out items, equal updates, several seeds.

    python -m benchmarks.strategies configs/quickstart.yaml --seeds 0 1 2 --out results.json

Prints a table: held-out figures before and after, each with a 95 % interval over the held-out groups (bootstrap of groups, seeds
averaged), and the spread over seeds. Runs that are there already are read, not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
LEVEL = 95.0


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    overrides: tuple[str, ...]


PREFERENCE_ALONE = ("loss.lambda_ce=0", "loss.reference_model=frozen", "learner.learning_rate=1e-4")
"""Without the cross-entropy the recipe's rate is too high: nothing teaches what is right, only what is better."""
CASES = (
    Case("group", ("strategy=group",)),
    Case("single", ("strategy=single",)),
    Case("sft", ("strategy=sft",)),
    Case("group, λ = 0, frozen reference", ("strategy=group", *PREFERENCE_ALONE)),
    Case("single, λ = 0, frozen reference", ("strategy=single", *PREFERENCE_ALONE)),
)
FIGURES: dict[str, Callable[[dict[str, Any]], tuple[float, float]]] = {
    "accuracy": lambda row: (row["exact"], row["answers"]),
    "consistency": lambda row: (row["consistency"], 1.0),
    "reward": lambda row: (row["reward_sum"], row["scored"]),
}
"""Each figure as a sum and what it is divided by, of one held-out group."""


def run_case(case: Case, seed: int, recipe: str, root: Path, extra: Sequence[str]) -> Path:
    """Carry out one run, unless its summary is there. Returns its folder."""
    folder = root / f"{''.join(c if c.isalnum() else '-' for c in case.name)}-seed{seed}"
    if not (folder / "summary.json").exists():
        overrides = [*case.overrides, f"run.seed={seed}", "evaluation.score=true", *extra]
        command = [sys.executable, "-m", "ops.cli", "launch", recipe, "--run-dir", str(folder)]
        subprocess.run([*command, *(part for override in overrides for part in ("-o", override))], check=True, stdin=subprocess.DEVNULL)
    return folder


def read(folder: Path, label: str) -> dict[str, dict[str, Any]]:
    """Held-out measures of one run, by group."""
    lines = (folder / "evaluation" / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["group"]: row for row in map(json.loads, lines)}


def sums(rows: Sequence[dict[str, dict[str, Any]]], groups: Sequence[str], figure: str) -> NDArray[np.float64]:
    """``[group, 2]``: sum and divisor of a figure, added over the runs in `rows`."""
    pick = FIGURES[figure]
    return np.array([np.sum([pick(run[group]) for run in rows], axis=0) for group in groups], dtype=np.float64)


def interval(before: NDArray[np.float64], after: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float, float]:
    """Change of a figure from `before` to `after` (``[group, 2]`` each): (change, low, high), by bootstrap over groups."""
    drawn = generator.integers(0, len(before), (RESAMPLES, len(before)))

    def ratio(table: NDArray[np.float64]) -> NDArray[np.float64]:
        total = table[drawn].sum(axis=1)
        result: NDArray[np.float64] = total[:, 0] / total[:, 1]
        return result

    change = after[:, 0].sum() / after[:, 1].sum() - before[:, 0].sum() / before[:, 1].sum()
    low, high = np.percentile(ratio(after) - ratio(before), [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(change), float(low), float(high)


def tabulate(case: Case, folders: Sequence[Path]) -> dict[str, Any]:
    """One row: figures before and after, changes with intervals, and each seed's own change."""
    before, after = [read(folder, "before") for folder in folders], [read(folder, "after") for folder in folders]
    groups = sorted(set.intersection(*(set(run) for run in (*before, *after))))
    generator = np.random.default_rng(0)
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    row: dict[str, Any] = {"case": case.name, "seeds": len(folders), "groups": len(groups)}
    for figure in FIGURES:
        first, last = sums(before, groups, figure), sums(after, groups, figure)
        change, low, high = interval(first, last, generator)
        totals = [sums([run], groups, figure).sum(axis=0) for run in after]
        by_seed = [float(total[0] / total[1]) for total in totals]
        row[figure] = {
            "before": float(first[:, 0].sum() / first[:, 1].sum()),
            "after": float(last[:, 0].sum() / last[:, 1].sum()),
            "change": change,
            "interval": [low, high],
            "after_by_seed": by_seed,
        }
    row["bleu"] = {label: float(np.mean([s["evaluation"][label]["bleu"] for s in summaries])) for label in ("before", "after")}
    row["policy_lag_max"] = max(s["policy_lag"]["max"] or 0 for s in summaries)
    row["learner_idle"] = max(s["idle"]["learner"] for s in summaries)
    row["pushes"] = min(s["pushes"] for s in summaries)
    row["wall_s"] = float(np.mean([s["wall_seconds"] for s in summaries]))
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| strategy | accuracy | change (95 % interval) | by seed | consistency | reward | BLEU | max. lag | pushes | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy, consistency, reward, bleu = row["accuracy"], row["consistency"], row["reward"], row["bleu"]
        low, high = accuracy["interval"]
        seeds = " ".join(f"{100 * value:.1f}" for value in accuracy["after_by_seed"])
        lines.append(
            f"| {row['case']} | {100 * accuracy['before']:.1f} → {100 * accuracy['after']:.1f} | "
            f"{100 * accuracy['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) | {seeds} | "
            f"{consistency['before']:.3f} → {consistency['after']:.3f} | {reward['before']:.2f} → {reward['after']:.2f} | "
            f"{bleu['before']:.1f} → {bleu['after']:.1f} | {row['policy_lag_max']} | {row['pushes']} | {row['wall_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--extra-seeds", type=int, nargs="+", default=[0], help="seeds of the rows with λ = 0")
    parser.add_argument("--root", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("-o", "--override", action="append", default=[])
    options = parser.parse_args()
    rows = []
    for case in CASES:
        seeds = options.extra_seeds if "λ" in case.name else options.seeds
        folders = [run_case(case, seed, options.recipe, options.root, options.override) for seed in seeds]
        rows.append(tabulate(case, folders))
        print(table(rows), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"bench": "strategies", "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
