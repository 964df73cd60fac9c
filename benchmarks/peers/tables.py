"""The results as Markdown: who took part and how, each measure as a table, and where BlockVault wins and loses.

The comparison with the best peer is made of the same medians as the tables; a loss is printed like a win.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.scenario import BACKUPS, TITLES, Step
from benchmarks.peers.tool import Kind
from blockvault.units import format_size

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
OURS = "blockvault"


@dataclass(frozen=True)
class Measure:
    """One of the figures: where it stands in the results and how it is shown."""

    field: str
    title: str
    show: Callable[[float], str]
    steps: tuple[Step, ...] = tuple(Step)

    @property
    def word(self) -> str:
        """The title's first part, in a sentence."""
        return self.title.split(",")[0].lower().replace("cpu", "CPU")


def seconds(value: float) -> str:
    """Seconds with three digits that say something."""
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


TIME = Measure("seconds", "Time", seconds)
STORED = Measure("stored_bytes", "Stored", format_size, (*BACKUPS, Step.RECLAIM))
MEASURES = (
    TIME,
    STORED,
    Measure("cpu_seconds", "CPU, user and system, all processes", seconds),
    Measure("anonymous_bytes", "Peak of anonymous memory, all processes", format_size),
)


def value(results: dict[str, Any], tool: str, step: Step, field: str) -> float | None:
    """The median over the rounds; None where a round has none, or failed."""
    found = []
    for each in results["rounds"]:
        outcome = each.get(tool, {}).get(step)
        if outcome is None or outcome["failure"] or outcome[field] is None:
            return None
        found.append(outcome[field])
    return statistics.median(found) if found else None


def failures(results: dict[str, Any], tool: str, step: Step) -> list[str]:
    """Why the step failed, in each round that it did."""
    outcomes = [each.get(tool, {}).get(step) for each in results["rounds"]]
    return [outcome["failure"] for outcome in outcomes if outcome and outcome["failure"]]


def render(results: dict[str, Any], pictures: dict[Step, str] | None = None) -> str:
    """All of it; `pictures` are paths relative to where the text will stand."""
    done = {name for each in results["rounds"] for name in each}
    results = {**results, "tools": [tool for tool in results["tools"] if tool["name"] in done]}
    parts = [_conditions(results), _tools(results), _beside_the_best(results)]
    for measure in MEASURES:
        parts.append(f"### {measure.title}\n\n{_measure(results, measure)}")
    failed = _failed(results)
    if failed:
        parts.append(f"### Failed\n\n{failed}")
    if pictures:
        shown = "\n".join(f"![{TITLES[step]}]({path})" for step, path in pictures.items())
        parts.append(f"### Pictures\n\n{shown}\n")
    return "\n".join(parts)


def write_between(path: str, text: str) -> None:
    """Put the text between the markers of a file; without markers at its end, without a file into a new one."""
    block = f"{BEGIN}\n{text.rstrip()}\n{END}\n"
    old = ""
    if os.path.exists(path):
        with open(path) as file:
            old = file.read()
    if BEGIN in old and END in old:
        before, rest = old.split(BEGIN, 1)
        new = before + block + rest.split(END, 1)[1].removeprefix("\n")
    elif old:
        new = f"{old.rstrip()}\n\n{block}"
    else:
        new = f"# BlockVault beside its peers\n\n{block}"
    with open(path, "w") as file:
        file.write(new)


def _conditions(results: dict[str, Any]) -> str:
    machine = results["machine"]
    loads = [
        outcome["load"]
        for each in results["rounds"]
        for steps in each.values()
        for outcome in steps.values()
        if outcome["load"] is not None
    ]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    count = len(results["rounds"])
    changed = ", ".join(
        f"{TITLES[Step(step)]}: {format_size(changed)}" for step, changed in results.get("changed_bytes", {}).items()
    )
    return (
        f"Measured by `python -m benchmarks.peers --size {results['size'] >> 20}M` on "
        f"{results['when']}: {machine['processor']}, {machine['cores']} cores, "
        f"{format_size(machine['memory_bytes'])} memory, {machine['system']}, {machine['file_system']}; "
        f"commit {machine['commit']}. Image: {format_size(results['size'])}, of it "
        f"{format_size(results['data_bytes'])} allocated. "
        f"{'One round' if count == 1 else f'Medians of {count} rounds'}; page cache warm; load average before the "
        f"steps {load}, the tools' own work included. Pages changed: {changed or 'not recorded'}.\n\n"
        "The steps in their order: "
        + "; ".join(f"*{step}*, {TITLES[step]}" for step in Step)
        + ". Time ends after a `syncfs`. Stored is the growth of what the repository takes on disk (after reclaim less "
        "than nothing: freed). What only copies or compresses keeps one copy of each disk, which is what each point "
        "costs there.\n"
    )


def _tools(results: dict[str, Any]) -> str:
    rows = []
    for tool in results["tools"]:
        note = tool["note"] or "-"
        if tool["untested"]:
            note = f"**adapter written from the documentation; this may be its first run**; {note}"
        rows.append([tool["name"], tool["version"], tool["settings"], tool["encrypts"], note])
    text = markdown(["tool", "version", "settings", "encrypts", "to know"], rows)
    if results["absent"]:
        text += f"\nNot found on this machine, so not measured: {', '.join(results['absent'])}.\n"
    return text


def _measure(results: dict[str, Any], measure: Measure) -> str:
    steps = [step for step in measure.steps if any(_has(results, tool, step, measure) for tool in _names(results))]
    rows = []
    for tool in results["tools"]:
        cells = [_cell(results, tool["name"], step, measure) for step in steps]
        if measure is STORED:
            left = value(results, tool["name"], Step.RECLAIM, "repository_bytes")
            cells.append("-" if left is None else measure.show(left))
        rows.append([tool["name"], *cells])
    header = ["", *(f">{step}" for step in steps), *([">all, after that"] if measure is STORED else [])]
    return markdown(header, rows)


def _cell(results: dict[str, Any], tool: str, step: Step, measure: Measure) -> str:
    if failures(results, tool, step):
        return "**FAILED**"
    found = value(results, tool, step, measure.field)
    return "-" if found is None else measure.show(found)


def _beside_the_best(results: dict[str, Any]) -> str:
    """For each step and measure BlockVault's figure, the best peer's and which it is: below 1 BlockVault is better."""
    peers = [tool["name"] for tool in results["tools"] if tool["kind"] == Kind.PEER]
    if not peers or OURS not in _names(results):
        return ""
    rows, lost = [], []
    for step in Step:
        row, better_ones = [TITLES[step]], []
        for measure in MEASURES:
            # What a reclaim freed says more of what was wasted before: what is left is compared.
            field = "repository_bytes" if step is Step.RECLAIM and measure is STORED else measure.field
            own = value(results, OURS, step, field)
            others = [(value(results, peer, step, field), peer) for peer in peers]
            known = sorted((found, peer) for found, peer in others if found is not None)
            if own is None or not known or step not in measure.steps:
                row.append("-")
                continue
            best, peer = known[0]
            row.append(f"{measure.show(own)} : {measure.show(best)} {peer}{_ratio(own, best)}")
            better = [name for found, name in known if found < own]
            if better:
                better_ones.append(f"{measure.word}: {', '.join(better)}")
        rows.append(row)
        if better_ones:
            lost.append(f"- {TITLES[step]}: {'; '.join(better_ones)}")
    text = "### BlockVault beside the best peer\n\nBlockVault : the best peer, and the ratio; above 1 it loses. "
    text += f"In the row '{TITLES[Step.RECLAIM]}' stored is what the whole repository takes after it.\n\n"
    text += markdown(["", *(f">{measure.word}" for measure in MEASURES)], rows)
    text += "\nWhere peers are better than BlockVault, the best first:\n\n"
    return text + ("\n".join(lost) if lost else "nowhere in this run.") + "\n"


def _ratio(own: float, best: float) -> str:
    if best <= 0 or own <= 0:
        return ", **more**" if own > best else ""
    ratio = own / best
    shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return f", **{shown}**" if ratio > 1 else f", {shown}"


def _failed(results: dict[str, Any]) -> str:
    lines = [
        f"- {tool}, {TITLES[step]}: {reason}"
        for tool in _names(results)
        for step in Step
        for reason in sorted(set(failures(results, tool, step)))
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _names(results: dict[str, Any]) -> list[str]:
    return [tool["name"] for tool in results["tools"]]


def _has(results: dict[str, Any], tool: str, step: Step, measure: Measure) -> bool:
    return bool(failures(results, tool, step)) or value(results, tool, step, measure.field) is not None


def markdown(header: Iterable[str], rows: Iterable[list[str]]) -> str:
    """A table; a title that begins with `>` has its column set to the right."""
    header = list(header)
    lines = [
        "| " + " | ".join(title.lstrip(">") for title in header) + " |",
        "|" + "|".join("---:" if title.startswith(">") else "---" for title in header) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
