"""Memory and time of a whole run: a recipe launched as a user would, and the proportional set size of all its processes, sampled.

    python -m benchmarks.footprint configs/quickstart.yaml --run-dir runs/footprint --out footprint.json

A page that several processes share counts once in the sum. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ops import guard

SAMPLE_EVERY_S = 1.0


def proportional_bytes(pid: int) -> int:
    """Proportional set size of one process; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def run_id_of(pid: int) -> str | None:
    """The mark that the processes of this supervisor's run carry, read from the first child that has one."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                if entry.startswith(f"{guard.MARKER}=".encode()):
                    return entry.split(b"=", 1)[1].decode()
    return None


def measure(recipe: str, run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Carry out the run and sample its memory until it ends."""
    command = [sys.executable, "-m", "ops.cli", "launch", recipe, "--run-dir", str(run_dir)]
    launched = subprocess.Popen([*command, *(part for each in overrides for part in ("-o", each))], stdin=subprocess.DEVNULL)
    started_s, run_id, peak_bytes, most_processes = time.monotonic(), None, 0, 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launched.wait(SAMPLE_EVERY_S)
            break
        run_id = run_id or run_id_of(launched.pid)
        pids = [launched.pid, *(guard.processes(run_id) if run_id else [])]
        peak_bytes = max(peak_bytes, sum(map(proportional_bytes, pids)))
        most_processes = max(most_processes, len(pids))
    if launched.returncode:
        raise SystemExit(f"the run failed with exit code {launched.returncode}; see {run_dir}/logs")
    wall_s = round(time.monotonic() - started_s, 1)
    return {"bench": "footprint", "wall_s": wall_s, "peak_bytes": peak_bytes, "processes": most_processes, "run": str(run_dir)}


def main() -> None:
    """Measure one run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/footprint"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("-o", "--override", action="append", default=[])
    options = parser.parse_args()
    figures = measure(options.recipe, options.run_dir, options.override)
    print(f"{figures['wall_s']} s, at most {figures['peak_bytes'] / 2**30:.2f} GiB in {figures['processes']} processes")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
