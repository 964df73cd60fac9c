"""Plots as SVG text, written by hand: lines over two axes, each linear or by powers of ten; light and dark pages alike.

A plot says how something grows, so both axes are logarithmic unless said otherwise: a straight line at 45 degrees is
growth in proportion, a flat one is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f", "#e377c2", "#bcbd22")
INK = "#888"


@dataclass(frozen=True)
class Line:
    """One line: its name and its points (x, y), in order of x; dashed for limits and goals."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:g}".format,
    x_logarithmic: bool = True,
    y_logarithmic: bool = True,
) -> str:
    """An SVG document. `x_text` and `y_text` write the numbers at the axes."""
    drawn = [line for line in lines if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    across = _Axis(xs, LEFT, WIDTH - RIGHT, logarithmic=x_logarithmic)
    up = _Axis(ys, HEIGHT - BOTTOM, TOP, logarithmic=y_logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f"<title>{escape(title)}</title>",
        _text(LEFT, 20, title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, anchor="middle"),
        _text(8, TOP - 8, y_title),
    ]
    for value in sorted(set(xs)) if len(set(xs)) <= 8 else across.ticks():
        at = across.at(value)
        parts.append(_grid_line(at, TOP, at, HEIGHT - BOTTOM))
        parts.append(_text(at, HEIGHT - BOTTOM + 18, x_text(value), anchor="middle"))
    for value in up.ticks():
        at = up.at(value)
        parts.append(_grid_line(LEFT, at, WIDTH - RIGHT, at))
        parts.append(_text(LEFT - 6, at + 4, y_text(value), anchor="end"))
    for number, (line, label_at) in enumerate(zip(drawn, _label_places(drawn, up), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across.at(x), up.at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if not line.dashed:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(_text(WIDTH - RIGHT + 10, label_at, line.name, colour=colour))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


class _Axis:
    """Maps values to places between two ends, a little beyond the lowest and highest value."""

    def __init__(self, values: Sequence[float], first: float, last: float, *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._first, self._last = first, last
        low, high = self._scaled(min(values)), self._scaled(max(values))
        if not logarithmic:
            low = min(0.0, low)
        room = 0.05 * (high - low) or 0.5
        self._low, self._high = (low - room if logarithmic else low), high + room

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self._logarithmic else value

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Values to be written at the axis: powers of ten with 2 and 5 where there is room, or even steps."""
        if not self._logarithmic:
            step = 10 ** math.floor(math.log10((self._high - self._low) / 4))
            return [step * i for i in range(math.ceil(self._low / step), math.floor(self._high / step) + 1)]
        factors = (1, 2, 5) if self._high - self._low < 3 else (1,)
        exponents = range(math.floor(self._low), math.ceil(self._high) + 1)
        values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        return [value for value in values if self._low <= math.log10(value) <= self._high]


def _label_places(lines: Sequence[Line], up: _Axis) -> list[float]:
    """Heights of the lines' names: at their last points, moved apart where they would overlap."""
    order = sorted(range(len(lines)), key=lambda i: up.at(lines[i].points[-1][1]))
    places = [0.0] * len(lines)
    lowest = float(TOP)
    for i in order:
        lowest = places[i] = max(lowest, up.at(lines[i].points[-1][1]) + 4)
        lowest += 15
    beyond = max(0.0, lowest - 15 - (HEIGHT - 8))
    return [place - beyond for place in places]


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {places} stroke="{INK}" stroke-opacity="0.3"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )
