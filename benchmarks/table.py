"""Measure everything and write the results: `python -m benchmarks.table [--image-size 4G] [-k WORDS]`.

Runs `pytest benchmarks/` and leaves two files in `benchmarks/results/`: the raw JSON and a Markdown table with the
machine it was measured on. `--render FILE` makes the table from an earlier JSON. Arguments not known here go to pytest.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
from typing import Any

from blockvault.units import format_size

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, "results")


def main() -> int:
    """Run, render, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", metavar="FILE", help="make the table from this JSON, measure nothing")
    arguments, for_pytest = parser.parse_known_args()
    path, code = arguments.render, 0
    if path is None:
        os.makedirs(RESULTS, exist_ok=True)
        name = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d-%H%M%S")
        path = os.path.join(RESULTS, f"{name}.json")
        command = [sys.executable, "-m", "pytest", HERE, "-q", f"--benchmark-json={path}", *for_pytest]
        code = subprocess.run(command, check=False).returncode
        if not os.path.exists(path) or not os.path.getsize(path):
            return code or 1
    with open(path) as file:
        text = render(json.load(file))
    with open(os.path.splitext(path)[0] + ".md", "w") as file:
        file.write(text)
    print(text)
    return code


def render(results: dict[str, Any]) -> str:
    """The Markdown table of a pytest-benchmark JSON."""
    benches = {bench["name"]: bench["extra_info"] for bench in results["benchmarks"]}
    parts = [_machine(results["machine_info"])]
    for title, wanted, header, make in _SECTIONS:
        rows = [make(name, info) for name, info in benches.items() if wanted in info]
        if rows:
            parts.append(f"### {title}\n\n" + _markdown(header, rows))
    return "\n".join(parts)


def _machine(info: dict[str, Any]) -> str:
    sheet = info["sheet"]
    build = sheet["build"]
    simd = " ".join(build["simd"]) or "no SIMD"
    return (
        f"Machine: {sheet['processor']}, {sheet['cores']} cores, {format_size(sheet['memory_bytes'])} memory, "
        f"{sheet['system']}, {sheet['file_system']}. "
        f"Build: kernel {build['kernel']} {build['version']}, {build['profile']}, {simd}; Python {sheet['python']}; "
        f"commit {sheet['commit']}. Image: {info['image_size']}, three quarters of it real files; page cache warm; "
        "medians of rounds in turns.\n"
    )


def _against_row(name: str, info: dict[str, Any]) -> list[str]:
    return [
        _readable(name),
        f"{info['seconds']:.2f} s",
        f"{format_size(info['bytes'] / info['seconds'])}/s",
        info["ceiling"],
        f"{info['ceiling_seconds']:.2f} s",
        f"{info['ratio']:.2f} ({info['ratio_of']})",
        _judged(info["ratio"], info.get("goal")),
    ]


def _space_row(_name: str, info: dict[str, Any]) -> list[str]:
    per = info["stored_per_changed"]
    per_disk = info["stored_disk_per_changed"]
    return [
        f"{info['model']}, {'vault only' if 'vault-only' in _name else 'with snapshot'}",
        str(info["pages_changed"]),
        format_size(info["page_bytes_changed"]),
        format_size(info["stored_bytes"]),
        "-" if per is None else f"{per:.3f}",
        "-" if per_disk is None else f"{per_disk:.3f}",
        "-" if per is None else _judged(per, info.get("goal")),
        f"{info['seconds']:.2f} s",
    ]


def _memory_row(name: str, info: dict[str, Any]) -> list[str]:
    return [
        _readable(name),
        format_size(info["anonymous_bytes"]),
        "< 256 MiB" + _mark(info["anonymous_bytes"] < 256 << 20),
    ]


def _huge_row(_name: str, info: dict[str, Any]) -> list[str]:
    return [
        format_size(info["size_bytes"]),
        format_size(info["data_bytes"]),
        f"{info['seconds']:.2f} s",
        f"{info['again_seconds']:.2f} s",
        f"{info['restore_seconds']:.2f} s",
        format_size(info["state_bytes"]),
    ]


def _help_row(_name: str, info: dict[str, Any]) -> list[str]:
    return [f"{info['cpu_seconds'] * 1000:.0f} ms", "< 120 ms" + _mark(info["cpu_seconds"] < 0.12)]


_SECTIONS = (
    (
        "Speed beside the ceiling",
        "ceiling",
        ["measured", ">time", ">rate", "ceiling", ">its time", ">ratio", "goal"],
        _against_row,
    ),
    (
        "Stored for each byte of the changed pages",
        "stored_bytes",
        ["churn", ">pages", ">changed", ">stored", ">stored/changed", ">on disk/changed", "goal", ">time"],
        _space_row,
    ),
    ("Anonymous memory, highest", "anonymous_bytes", ["command", ">memory", "goal"], _memory_row),
    (
        "A huge sparse image",
        "again_seconds",
        [">size", ">data", ">first point", ">nothing changed", ">restore", ">state folder"],
        _huge_row,
    ),
    ("`blockvault --help`", "cpu_seconds", [">CPU", "goal"], _help_row),
)


def _readable(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ").replace("[", " (").replace("]", ")")


def _judged(value: float, goal: str | None) -> str:
    if not goal:
        return "-"
    sign, limit = goal.split()
    return goal + _mark(value <= float(limit) if sign == "<=" else value >= float(limit))


def _mark(reached: bool) -> str:
    return ": reached" if reached else ": **missed**"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [
        "| " + " | ".join(title.lstrip(">") for title in header) + " |",
        "|" + "|".join("---:" if title.startswith(">") else "---" for title in header) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
