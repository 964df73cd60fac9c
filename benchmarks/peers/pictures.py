"""Bar charts of the results as SVG, one a step: time, and beside it what was stored or the memory.

Bars begin at zero and their scale is linear: a bar twice as long is twice as much.
"""

from __future__ import annotations

import os
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.peers.scenario import TITLES, Step
from benchmarks.peers.tables import MEASURES, STORED, TIME, Measure, failures, value
from benchmarks.peers.tool import Kind

_ROW, _BAR, _TOP, _NAMES, _PANEL, _VALUES = 20, 13, 56, 150, 230, 90
_COLOURS = {Kind.OURS: "#1f6feb", Kind.PEER: "#8c959f", Kind.CEILING: "#d0d7de"}


def write_pictures(results: dict[str, Any], folder: str) -> dict[Step, str]:
    """Write `peers-STEP.svg` for every step that anyone took; returns the paths."""
    os.makedirs(folder, exist_ok=True)
    written = {}
    for step in Step:
        if any(value(results, tool["name"], step, TIME.field) is not None for tool in results["tools"]):
            written[step] = os.path.join(folder, f"peers-{step}.svg")
            with open(written[step], "w") as file:
                file.write(picture(results, step))
    return written


def picture(results: dict[str, Any], step: Step) -> str:
    """The chart of one step."""
    second = STORED if step in STORED.steps and step is not Step.RECLAIM else MEASURES[3]
    tools = [
        tool
        for tool in results["tools"]
        if value(results, tool["name"], step, TIME.field) is not None or failures(results, tool["name"], step)
    ]
    width = _NAMES + 2 * (_PANEL + _VALUES)
    height = _TOP + _ROW * len(tools) + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="12">',
        f"<title>{escape(TITLES[step])}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="15" font-weight="bold">{escape(TITLES[step])}</text>',
    ]
    for row, tool in enumerate(tools):
        y = _TOP + row * _ROW + _BAR - 2
        parts.append(f'<text x="{_NAMES - 8}" y="{y}" text-anchor="end">{escape(tool["name"])}</text>')
    for panel, measure in enumerate((TIME, second)):
        parts += _panel(results, step, measure, tools, _NAMES + panel * (_PANEL + _VALUES))
    parts.append(_legend(height - 10))
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _panel(results: dict[str, Any], step: Step, measure: Measure, tools: list[dict[str, Any]], left: int) -> list[str]:
    parts = [f'<text x="{left}" y="44" fill="#57606a">{escape(measure.word)}, less is better</text>']
    found = {tool["name"]: value(results, tool["name"], step, measure.field) for tool in tools}
    longest = max((each for each in found.values() if each is not None), default=0)
    for row, tool in enumerate(tools):
        y = _TOP + row * _ROW
        own = found[tool["name"]]
        failed = bool(failures(results, tool["name"], step))
        length = max(0.0, own or 0) / longest * _PANEL if longest > 0 and not failed else 0
        shown = "FAILED" if failed else "-" if own is None else measure.show(own)
        parts += [
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{_COLOURS[Kind(tool["kind"])]}"/>',
            f'<text x="{left + length + 5:.1f}" y="{y + _BAR - 2}">{escape(shown)}</text>',
        ]
    return parts


def _legend(y: int) -> str:
    words = {Kind.OURS: "BlockVault", Kind.PEER: "peer", Kind.CEILING: "ceiling: one copy, no points"}
    parts, x = [], 8
    for kind, word in words.items():
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{_COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 15}" y="{y}" fill="#57606a" font-size="11">{word}</text>')
        x += 30 + 7 * len(word)
    return "\n".join(parts)
