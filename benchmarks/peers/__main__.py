"""Measure BlockVault and every peer that is found: `python -m benchmarks.peers [--size 4G] [--write FILE]`.

    python -m benchmarks.peers --size 4G --rounds 3 --json peers.json --write docs/performance.md
    python -m benchmarks.peers --render peers.json --write docs/performance.md

It installs nothing. A tool that lies elsewhere is found by `PATH=$PATH:FOLDER`. The folder needs room for about seven
times the size, as each tool's repository is removed before the next begins. `--write` puts the tables between the
markers of a file, and the pictures into `pictures/` beside it. What was done when it is interrupted stays in the JSON
file, and `--resume` with the same arguments does the rest.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from benchmarks.machine import machine_sheet
from benchmarks.peers.backy2 import Backy2
from benchmarks.peers.benji import Benji
from benchmarks.peers.borg import Borg, BorgBuzhash
from benchmarks.peers.bup import Bup
from benchmarks.peers.casync import Casync
from benchmarks.peers.ceilings import Copy, QemuImg, Rsync, Zstd
from benchmarks.peers.kopia import Kopia
from benchmarks.peers.ours import BlockVault, BlockVaultEncrypted, BlockVaultSnapshot
from benchmarks.peers.pictures import write_pictures
from benchmarks.peers.restic import Restic
from benchmarks.peers.scenario import NotTheSameError, make_images, run_tool
from benchmarks.peers.tables import render, write_between
from benchmarks.peers.tool import Tool
from benchmarks.peers.zbackup import ZBackup
from blockvault.bench import release_build
from blockvault.errors import BlockVaultError
from blockvault.units import format_size, parse_size

TOOLS: tuple[type[Tool], ...] = (
    BlockVault,
    BlockVaultEncrypted,
    BlockVaultSnapshot,
    Restic,
    Borg,
    BorgBuzhash,
    Kopia,
    Casync,
    ZBackup,
    Bup,
    Benji,
    Backy2,
    Zstd,
    QemuImg,
    Rsync,
    Copy,
)
SCHEMA = "blockvault.peers/1"


def main(arguments: list[str] | None = None) -> int:
    """Measure, or read what was measured; then show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=4 << 30, metavar="SIZE", help="of the image (default 4G)")
    parser.add_argument("--folder", help="work here and keep the images (default: a temporary folder, removed)")
    parser.add_argument("--only", type=_names, metavar="NAME,NAME", help=f"of: {', '.join(t.name for t in TOOLS)}")
    parser.add_argument("--rounds", type=int, default=1, help="the whole scenario so many times; medians are shown")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one step of one tool")
    parser.add_argument("--json", metavar="FILE", help="the results as they were measured")
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has, measure the rest")
    parser.add_argument("--render", metavar="FILE", help="measure nothing, show this JSON file")
    parser.add_argument("--write", metavar="FILE", help="a Markdown file to put the tables into, pictures beside it")
    asked = parser.parse_args(arguments)
    if asked.render:
        results = _read(asked.render)
    else:
        earlier = _read(asked.json) if asked.resume and asked.json and os.path.exists(asked.json) else None
        if earlier and earlier["size"] != asked.size:
            parser.error(f"{asked.json} was measured with an image of {format_size(earlier['size'])}")
        try:
            release_build()  # a debug build is many times slower: refuse to measure it
        except BlockVaultError as error:
            parser.error(f"{error.message}: {error.do}")
        with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
            folder = os.path.abspath(asked.folder or temporary)
            os.makedirs(folder, exist_ok=True)
            try:
                results = compare(folder, asked.size, asked.only, asked.rounds, asked.timeout, asked.json, earlier)
            except NotTheSameError as error:
                _say(f"error: {error}")
                return 1
            except KeyboardInterrupt:
                _say("interrupted; --resume goes on after the last tool that was done")
                return 130
    show(results, asked.write)
    return 0


def compare(
    folder: str,
    size: int,
    only: list[str] | None = None,
    rounds: int = 1,
    timeout: float | None = None,
    json_file: str | None = None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Take every tool that is found through the scenario, tool by tool, round by round; not again what was done."""
    wanted = [tool for tool in TOOLS if only is None or tool.name in only]
    here = [tool for tool in wanted if tool.is_here()]
    _say(f"building the images of {size >> 20} MiB")
    images = make_images(folder, size)
    if earlier:
        images.digests.update(earlier["digests"])  # bytes that differ from those of before end the run
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "when": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine_sheet(folder),
        "size": size,
        "data_bytes": os.stat(images.pristine).st_blocks * 512,
        "tools": [_described(tool, folder) for tool in here],
        "absent": [tool.name for tool in wanted if tool not in here],
        "changed_bytes": images.changed_bytes,
        "digests": images.digests,
        "rounds": [],
    }
    if earlier:
        _take_over(earlier, results)
    for number in range(rounds):
        if number == len(results["rounds"]):
            results["rounds"].append({})
        for tool in here:
            if tool.name in results["rounds"][number]:
                continue
            _say(f"round {number + 1} of {rounds}: {tool.name}")
            outcomes = run_tool(tool, images, _say, timeout)
            results["rounds"][number][tool.name] = {step: asdict(outcome) for step, outcome in outcomes.items()}
            if json_file:
                with open(json_file, "w") as file:
                    json.dump(results, file, indent=1)
    return results


def show(results: dict[str, Any], path: str | None) -> None:
    """Print the tables, or write them and the pictures."""
    if path is None:
        print(render(results))
        return
    beside = os.path.dirname(os.path.abspath(path))
    pictures = write_pictures(results, os.path.join(beside, "pictures"))
    write_between(path, render(results, {step: os.path.relpath(file, beside) for step, file in pictures.items()}))
    _say(f"written: {path}, {len(pictures)} pictures")


def _take_over(earlier: dict[str, Any], results: dict[str, Any]) -> None:
    """Put what was measured before into new results; what it was measured with is not forgotten."""
    results["rounds"] = earlier["rounds"]
    results["changed_bytes"].update(earlier["changed_bytes"])
    described = {tool["name"]: tool for tool in [*results["tools"], *earlier["tools"]]}
    done = {name for each in earlier["rounds"] for name in each}
    named = {tool["name"] for tool in results["tools"]} | done
    results["tools"] = [described[tool.name] for tool in TOOLS if tool.name in named and tool.name in described]
    results["absent"] = [tool.name for tool in TOOLS if tool.name in {*results["absent"], *earlier["absent"]} - named]
    commits = [*str(earlier["machine"]["commit"]).split(", "), str(results["machine"]["commit"])]
    results["machine"]["commit"] = ", ".join(dict.fromkeys(commits))


def _read(path: str) -> dict[str, Any]:
    with open(path) as file:
        found: dict[str, Any] = json.load(file)
    return found


def _described(tool: type[Tool], folder: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as home:
        made = tool(home)
        made.prepare()
        return {
            "name": tool.name,
            "kind": tool.kind,
            "version": made.version(),
            "settings": tool.settings,
            "encrypts": tool.encrypts,
            "note": tool.note,
            "untested": tool.untested,
        }


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [tool.name for tool in TOOLS]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no tool {name!r}; there are {', '.join(known)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
