"""Waveforms and histograms as inline SVG, for a page that needs nothing from outside. Colours are CSS variables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.audio import SAMPLE_RATE, Samples

WIDTH, HEIGHT = 260, 44
COLUMNS = 130
"""Moments of a waveform, whose loudest and lowest samples are joined."""
BARS_WIDTH, BARS_HEIGHT, AXIS = 460, 150, 22


def waveform(samples: Samples) -> str:
    """An ``<svg>`` element of a clip, float32 ``[sample]``; it fills the height, however soft the clip is."""
    columns = min(COLUMNS, len(samples))
    edges = np.linspace(0, len(samples), columns + 1).astype(int)[:-1]
    top, bottom = np.maximum.reduceat(samples, edges), np.minimum.reduceat(samples, edges)
    peak = max(float(np.abs(samples).max()), 1e-6)
    across = (np.arange(columns) + 0.5) * WIDTH / columns
    up = HEIGHT / 2 * (1 - np.concatenate([top, bottom[::-1]]) / peak * 0.95)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(np.concatenate([across, across[::-1]]), up, strict=True))
    label = f"waveform, {len(samples) / SAMPLE_RATE:.2f} s"
    return (
        f'<svg class="wave" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<polygon class="fill0 stroke0" points="{points}"/></svg>'
    )


def histogram(values: Sequence[float] | NDArray[np.floating[Any]], bins: int, unit: str, label: str) -> str:
    """An ``<svg>`` element; an empty string for no values. Bars begin at 0."""
    if not len(values):
        return ""
    counts, edges = np.histogram(values, bins, range=(0.0, max(float(np.max(values)), 1e-6)))
    step = BARS_WIDTH / bins
    height = BARS_HEIGHT - AXIS
    parts = [f'<svg class="chart" viewBox="0 0 {BARS_WIDTH} {BARS_HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">']
    for number, count in enumerate(counts):
        tall = count / counts.max() * (height - 4)
        title = f"<title>{edges[number]:.1f}–{edges[number + 1]:.1f} {escape(unit)}: {count}</title>"
        at = f'x="{number * step + 1:.1f}" y="{height - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"'
        parts.append(f'<rect class="fill0" {at} rx="1.5">{title}</rect>')
    parts.append(f'<line class="rule" x1="0" x2="{BARS_WIDTH}" y1="{height}" y2="{height}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = f"{edges[-1] * share:.3g}" + (f" {escape(unit)}" if share == 1.0 else "")
        parts.append(f'<text class="tick" x="{share * BARS_WIDTH:.0f}" y="{BARS_HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    return "".join([*parts, "</svg>"])
