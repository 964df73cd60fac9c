"""Pictures of reports as SVG that stands in a page: a strip of days for each item, and lines over time.

Invariants:
- Every picture has a title and a description, and whoever puts it into a page puts the same data beside it as a table.
- Colours are classes of the page's style, so that they follow light and dark; what matters is told by shape too.
- Every text is escaped, and what is no character of a page is written out (`plain`).
"""

from __future__ import annotations

import html
import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from blockvault.reports.sla import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NAME_MAX = 80  # an item's name has no more; what is longer was written by something else
_CELL, _STEP, _ROW, _LEFT = 10, 12, 14, 190
_LABEL_MAX = 28
_WIDTH, _HEIGHT, _MARGIN = 720, 240, 64


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a picture: its name, the class of its colour, and its points as (x, value)."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]


def plain(text: str, limit: int = 400) -> str:
    """Text as a page may hold it: escaped, without controls and marks that turn the direction of writing."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(written_out(text))


def written_out(text: str) -> str:
    r"""Text with what no page or sheet shall obey written out: `\x1b` for an escape."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(sign: str) -> str:
    if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        code = ord(sign)
        return f"\\x{code & 0xFF:02x}" if code < 0x100 or 0xDC80 <= code < 0xE000 else f"\\u{code:04x}"
    return sign


def strip(rows: Sequence[tuple[str, Mapping[date, Outcome]]], last: date, days: int) -> str:
    """A row an item, a cell a day, the newest on the right. Cells of neighbouring days of one kind are one shape."""
    first = last - timedelta(days=days - 1)
    width, height = _LEFT + days * _STEP, 20 + len(rows) * _ROW
    paths: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    labels = []
    for place, (name, found) in enumerate(rows):
        top = 20 + place * _ROW
        labels.append(f'<text x="{_LEFT - 8}" y="{top + 9}">{plain(name, _LABEL_MAX)}</text>')
        column = 0
        for outcome, group in groupby(found.get(first + timedelta(days=day)) for day in range(days)):
            length = sum(1 for _ in group)
            if outcome is not None:
                high = _HIGH[outcome]
                left, wide = _LEFT + column * _STEP, length * _STEP - (_STEP - _CELL)
                if outcome is Outcome.MISSED:  # an outline a day, within its cell
                    paths[outcome] += [f"M{left + 1 + day * _STEP} {top + 1}h8v8h-8z" for day in range(length)]
                else:
                    paths[outcome].append(f"M{left} {top + _CELL - high}h{wide}v{high}h-{wide}z")
            column += length
    shapes = {kind: f'<path class="{kind}" d="{"".join(paths[kind])}"/>' for kind in Outcome if paths[kind]}
    missed = shapes.pop(Outcome.MISSED, "")
    # What parts the days of one shape again.
    parts = "".join(f"M{_LEFT + day * _STEP - 2} 18v{len(rows) * _ROW + 2}" for day in range(1, days))
    head = "".join(
        f'<text class="day" x="{_LEFT + day * _STEP}" y="12">{first + timedelta(days=day):%d}</text>'
        for day in range(0, days, 5)
    )
    return (
        f'<svg role="img" aria-labelledby="st sd" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<title id="st">What became of each day, by item</title>'
        f'<desc id="sd">{len(rows)} items from {first} to {last}. Full cells: on time. Half cells: late. Outlined: '
        f"missed. Full cells in the colour of warning: failed. The table below says the same.</desc>"
        f'<g class="labels">{"".join(labels)}</g>{head}{"".join(shapes.values())}'
        f'<path class="parts" d="{parts}"/>{missed}</svg>'
    )


_HIGH = {Outcome.ON_TIME: 10, Outcome.RUNNING: 3, Outcome.LATE: 5, Outcome.MISSED: 10, Outcome.FAILED: 10}


def chart(
    ident: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    told_y: Callable[[float], str],
    ends: tuple[str, str],
) -> str:
    """Lines over time. `told_y` writes a value, `ends` are what the left and right end of the picture are called."""
    points = [point for line in lines for point in line.points]
    left, right = min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0)
    top = max((y for _, y in points), default=0.0) or 1.0
    span = (right - left) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = _MARGIN + 20 + (x - left) / span * (_WIDTH - _MARGIN - 40)
        return round(across, 1), round(_HEIGHT - 30 - y / top * (_HEIGHT - 60), 1)

    shapes = []
    for share in (0.0, 0.5, 1.0):
        y = at(left, top * share)[1]
        shapes.append(f'<path class="grid" d="M{_MARGIN + 12} {y}H{_WIDTH - 12}"/>')
        shapes.append(f'<text x="{_MARGIN + 6}" y="{y + 4}" text-anchor="end">{plain(told_y(top * share))}</text>')
    for number, line in enumerate(lines):
        places = [at(x, y) for x, y in line.points]
        if len(places) > 1:
            shapes.append(f'<path class="line {line.style}" d="M{"L".join(f"{x} {y}" for x, y in places)}"/>')
        shapes += [f'<circle class="dot {line.style}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]
        across = _MARGIN + 20 + number * 170
        shapes.append(f'<circle class="dot {line.style}" cx="{across}" cy="10" r="4"/>')
        shapes.append(f'<text x="{across + 8}" y="14">{plain(line.name, _LABEL_MAX)}</text>')
    shapes.append(f'<text x="{_MARGIN + 20}" y="{_HEIGHT - 10}">{plain(ends[0])}</text>')
    shapes.append(f'<text x="{_WIDTH - 12}" y="{_HEIGHT - 10}" text-anchor="end">{plain(ends[1])}</text>')
    return (
        f'<svg role="img" aria-labelledby="{ident}t {ident}d" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}"><title id="{ident}t">{plain(title)}</title><desc id="{ident}d">{plain(description)}</desc>'
        f"{''.join(shapes)}</svg>"
    )
