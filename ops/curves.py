"""Line charts as inline SVG, for a page that needs nothing from outside. Colours are CSS variables, so light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 28
SMOOTHED_FROM = 30
"""Series with at least this many points also get a moving average, and are drawn faintly themselves."""
DOTS_UP_TO = 12
MOST_POINTS = 600


@dataclass(frozen=True)
class Series:
    """One line: points ``(x, y)`` in the order of x. Points that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(series: Sequence[Series], *, x_label: str = "learner step", y_format: str = "{:g}", label: str = "") -> str:
    """An ``<svg>`` element; an empty string when there is nothing to draw. `label` is read out by screen readers."""
    drawn = [Series(each.name, [(x, y) for x, y in each.points if math.isfinite(x) and math.isfinite(y)]) for each in series]
    drawn = [each for each in drawn if each.points]
    if not drawn:
        return ""
    xs = [x for each in drawn for x, _ in each.points]
    ys = [y for each in drawn for _, y in each.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6, least=1.0), ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">']
    for value in y_ticks:
        y = place(x_low, value)[1]
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(y_format.format(value))}</text>')
    for value in x_ticks:
        if x_low <= value <= x_high:
            x = place(value, y_low)[0]
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    for number, each in enumerate(drawn):
        parts += _line(each, number, place, y_format)
    parts.append("</svg>")
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """Names beside their colours; an empty string for a single line."""
    if len(series) < 2:
        return ""
    keys = "".join(f'<span class="key"><i class="fill{number}"></i>{escape(each.name)}</span>' for number, each in enumerate(series))
    return f'<div class="legend">{keys}</div>'


def ticks(low: float, high: float, wanted: int, least: float = 0.0) -> list[float]:
    """About `wanted` round values that enclose ``[low, high]``, at least `least` apart."""
    if high - low < 1e-12:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(wanted - 1, 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = max(least, scale * next(factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * scale >= raw * 0.999))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Moving average over a tenth of the points, centred."""
    reach = max(1, len(points) // 20)
    averaged = []
    for middle, (x, _) in enumerate(points):
        window = points[max(0, middle - reach) : middle + reach + 1]
        averaged.append((x, sum(y for _, y in window) / len(window)))
    return averaged


def _line(series: Series, number: int, place: Callable[[float, float], tuple[float, float]], y_format: str) -> list[str]:
    smoothed = len(series.points) >= SMOOTHED_FROM
    parts = [f'<polyline class="line stroke{number}{" faint" if smoothed else ""}" points="{_path(series.points, place)}"/>']
    if smoothed:
        parts.append(f'<polyline class="line stroke{number}" points="{_path(smooth(series.points), place)}"/>')
    if len(series.points) <= DOTS_UP_TO:
        for x, y in series.points:
            across, down = place(x, y)
            title = escape(f"{series.name}: {y_format.format(y)} at {x:g}")
            parts.append(f'<circle class="fill{number}" cx="{across:.1f}" cy="{down:.1f}" r="3"><title>{title}</title></circle>')
    return parts


def _path(points: Sequence[tuple[float, float]], place: Callable[[float, float], tuple[float, float]]) -> str:
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = [*points[::every], *([points[-1]] if (len(points) - 1) % every else [])]
    return " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in kept)
