"""The progress bar of a training loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_EVERY = 50
"""Steps from one plain line to the next, where the output is no terminal."""


@contextmanager
def ticking(name: str) -> Iterator[Callable[[int, float], None]]:
    """A function to call with (step, loss) after each step; it moves a bar, or prints plain lines where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, loss: None if step % PLAIN_EVERY else print(f"{name}: step {step}, loss {loss:.3f}", file=sys.stderr, flush=True)
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as shown:
        task = shown.add_task(f"training {name}")
        yield lambda step, loss: shown.update(task, description=f"training {name}: step {step}, loss {loss:.3f}")
