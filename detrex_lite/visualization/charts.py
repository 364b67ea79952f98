"""Draws line charts as inline SVG, which is part of the page and sharp at any size."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

MOST_POINTS = 300
"""Curves with more points are drawn by the means of this many segments."""

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 26
PALETTE = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#65a30d")


class Curve(NamedTuple):
    """One line of a chart.

    Attributes:
        name: name in the legend.
        points: (iteration or another x, value); a value that is not finite interrupts the line.
        colour: CSS colour.
        dashed: draw a dashed line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


def line_chart(
    title: str, curves: Sequence[Curve], *, dots: bool = False, from_zero: bool = True, x_label: str = "iteration"
) -> str:
    """Return a figure with a caption, a chart and a legend; "" when no curve has a finite value.

    The few highest values, which are usually those of the first training steps, are cut off, so that the rest of the
    curve is not flattened.

    Args:
        title: the caption.
        curves: the curves to draw; curves without finite values are left out.
        dots: mark each point, with its value as a tooltip.
        from_zero: begin the axis at 0 unless there are negative values.
        x_label: name of x in tooltips.
    """
    curves = [curve for curve in curves if any(math.isfinite(value) for _, value in curve.points)]
    if not curves:
        return ""
    drawn = [curve._replace(points=_thinned(curve.points)) for curve in curves]
    values = sorted(value for curve in drawn for _, value in curve.points if math.isfinite(value))
    high = values[-1] if dots or len(values) < 20 else max(values[int(0.98 * len(values))], values[0])
    ticks = _ticks(min(0.0, values[0]) if from_zero else values[0], high)
    iterations = [iteration for curve in drawn for iteration, _ in curve.points]
    frame = _Frame(min(iterations), max(iterations), ticks[0], ticks[-1])
    lines = "".join(_draw(curve, frame, dots, x_label) for curve in drawn)
    # A single curve needs no legend if the caption has its name.
    with_legend = len(curves) > 1 or curves[0].name.lower() not in title.lower()
    legend = "".join(
        f'<span><i style="border-top:3px {"dashed" if curve.dashed else "solid"} {curve.colour}"></i>'
        f"{escape(curve.name)}</span>"
        for curve in curves
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_axes(frame, ticks)}{lines}</svg>"
        + (f'<div class="legend">{legend}</div>' if with_legend else "")
        + "</figure>"
    )


class _Frame(NamedTuple):
    """The values at the edges of the chart."""

    first: float
    last: float
    low: float
    high: float

    def x(self, iteration: float) -> float:
        fraction = (iteration - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        fraction = (min(value, self.high) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)


def _draw(curve: Curve, frame: _Frame, dots: bool, x_label: str) -> str:
    path, pen_is_down = [], False
    marks = []
    for iteration, value in curve.points:
        if not math.isfinite(value):
            pen_is_down = False
            continue
        x, y = f"{frame.x(iteration):.1f}", f"{frame.y(value):.1f}"
        path.append(f"{'L' if pen_is_down else 'M'}{x} {y}")
        pen_is_down = True
        if dots or len(curve.points) == 1:
            tip = f"{curve.name}: {value:.4g} at {x_label} {iteration}"
            marks.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{curve.colour}"><title>{escape(tip)}</title></circle>')
    dashes = ' stroke-dasharray="5 3"' if curve.dashed else ""
    return f'<path d="{"".join(path)}" stroke="{curve.colour}"{dashes}/>' + "".join(marks)


def _axes(frame: _Frame, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = f"{frame.y(tick):.1f}"
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy="0.35em" text-anchor="end">{_short(tick)}</text>')
    marked = [mark for mark in _ticks(frame.first, frame.last) if frame.first <= mark <= frame.last]
    for iteration in marked if frame.last > frame.first else [frame.first]:
        parts.append(
            f'<text x="{frame.x(iteration):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{_short(iteration)}</text>'
        )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose the range."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _short(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        if abs(value) >= 1e4 and abs(value) < 1e7:
            return f"{value / 1000:g}k"
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return the means of segments of a long curve; a segment without finite values remains a gap."""
    if len(points) <= MOST_POINTS:
        return points
    length = math.ceil(len(points) / MOST_POINTS)
    means = []
    for start in range(0, len(points), length):
        segment = points[start : start + length]
        finite = [value for _, value in segment if math.isfinite(value)]
        means.append((segment[len(segment) // 2][0], sum(finite) / len(finite) if finite else math.nan))
    return means
