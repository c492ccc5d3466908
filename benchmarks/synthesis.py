"""Making data sets: the stages beside what they stand on, and the manifest of a million utterances.

    rba bench synthesis

Its parts run alone too: ``python -m benchmarks.teacher``, ``duplicates``, ``speech`` and ``manifest``.
"""

from __future__ import annotations

from typing import Any

from benchmarks import duplicates, manifest, speech, teacher
from benchmarks.command import command


def measure() -> list[dict[str, Any]]:
    """Every row. The teacher's engine comes last: it leaves threads behind that the others would feel."""
    return [*duplicates.measure(), *speech.measure(), *manifest.measure(), *teacher.measure()]


if __name__ == "__main__":
    command("synthesis", __doc__, measure)
