"""How everything grows: `python -m benchmarks.scale --what points,items,disk,index [--to N] [--json FILE] [--write]`.

For growing numbers of points, items, bytes of a sparse disk and entries of the dedup index it measures each operation
as a whole process through the command line: wall time, CPU time and the highest anonymous memory. `--json FILE` keeps
what was measured, and adds to what stands there; `--write` puts the tables into `docs/performance.md`, between markers,
and the plots beside it. `--render` does that from the file alone.

Invariants:
- Points and items are made by the library, each through `Vault.snapshot`; the operations measured are processes.
- What was not reached is not in the file: nothing is extrapolated. `--seconds` ends the making of points or items, and
  the last row is then what there is. A folder that has more of them than a step wants begins with the next step.
- An operation that changes the vault is measured after those that do not.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.machine import machine_sheet
from benchmarks.measure import Finished, blockvault, folder_sizes, run
from benchmarks.plots import Line, plot
from blockvault import Vault
from blockvault.units import MIB, TIB, format_size

HERE = os.path.dirname(os.path.abspath(__file__))
DOCUMENT = os.path.join(os.path.dirname(HERE), "docs", "performance.md")
PAGE = 4096
IMAGE_BYTES = 32 * MIB  # of the disk that many points are taken of: 512 chunks
ITEM_BYTES = MIB
SPARSE_DATA_BYTES = 64 * MIB
FILE_BYTES_MAX = 16 * TIB - PAGE  # ext4's limit: a larger disk is several, as one point
STEPS = {
    "points": (10, 100, 1_000, 10_000),
    "items": (1, 10, 100, 1_000),
    "disk": (TIB, 4 * TIB, 6 * TIB, 16 * TIB, 64 * TIB),
    "index": (1_000_000, 10_000_000, 100_000_000),
}
GOAL_BYTES = 256 * MIB
Row = dict[str, Any]


def main() -> int:
    """Measure what was asked for, keep it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="points,items,disk,index")
    parser.add_argument("--to", type=int, default=None, metavar="N", help="go no further than this")
    parser.add_argument("--seconds", type=float, default=420, help="for making the points or items of one step")
    parser.add_argument("--folder", default=None, help="where it works; kept, and gone on with, if it is given")
    parser.add_argument("--json", default=None, metavar="FILE")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and the plots")
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    if asked.json and os.path.exists(asked.json):
        with open(asked.json) as file:
            results = json.load(file)
    if not asked.render:
        with _folder(asked.folder) as folder:
            for what in asked.what.split(","):
                measure = {"points": points, "items": items, "disk": disk, "index": index}[what]
                rows: list[Row] = results.setdefault(what, {}).setdefault("rows", [])
                results[what].update(sheet=machine_sheet(folder), load_before=os.getloadavg())
                for row in measure(os.path.join(folder, what), asked.to or STEPS[what][-1], asked.seconds):
                    rows[:] = [old for old in rows if (old["n"], old["work"]) != (row["n"], row["work"])] + [row]
                    print(_told(what, row), flush=True)
                    if asked.json:
                        with open(asked.json, "w") as file:
                            json.dump(results, file, indent=1)
    if asked.write:
        write(results)
    return 0


class _folder:  # noqa: N801 - reads as what it is in a `with` statement
    """A folder that is kept if it was named, else removed."""

    def __init__(self, named: str | None) -> None:
        self._named = named
        self._path = ""

    def __enter__(self) -> str:
        if self._named:
            os.makedirs(self._named, exist_ok=True)
        self._path = self._named or tempfile.mkdtemp()
        return self._path

    def __exit__(self, *_: object) -> None:
        if not self._named:
            shutil.rmtree(self._path)


def _row(n: int, work: str, done: Finished, **more: Any) -> Row:
    return {
        "n": n,
        "work": work,
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "anonymous_bytes": done.anonymous_bytes,
        "load": os.getloadavg()[0],
        **more,
    }


def _told(what: str, row: Row) -> str:
    return f"{what} {json.dumps(row)}"


def _upto(what: str, to: int) -> list[int]:
    return [n for n in STEPS[what] if n <= to] or [to]


# --- points and items ---------------------------------------------------------------------------------------------


def points(folder: str, to: int, seconds: float) -> Iterator[Row]:
    """Operations on a vault of more and more points of one item, an hour apart, each with one page changed."""
    state, image = os.path.join(folder, "state"), os.path.join(folder, "disk.img")
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng()
    if not os.path.exists(image):
        with open(image, "wb") as file:
            file.write(rng.bytes(IMAGE_BYTES))
    for n in _upto("points", to):
        made = _make_points(state, image, n, rng, seconds)
        if made > n:
            continue
        yield from _operations(made, state, image, lambda: _churn(image, rng), middle=made // 2)
        if made < n:
            return


def _churn(image: str, rng: np.random.Generator) -> None:
    with open(image, "r+b") as file:
        file.seek(PAGE * int(rng.integers(os.path.getsize(image) // PAGE)))
        file.write(rng.bytes(PAGE))


def _make_points(state: str, image: str, n: int, rng: np.random.Generator, seconds: float) -> int:
    """Take points until there are `n`, or the seconds are over; returns how many there are."""
    began = time.perf_counter()
    with Vault.open_or_create(state_dir=state) as vault:
        made = len(vault.points())
        before = made
        present = dt.datetime.now(dt.UTC)
        while made < n and time.perf_counter() - began < seconds:
            _churn(image, rng)
            vault.snapshot([image], keep=False, now=present - dt.timedelta(hours=STEPS["points"][-1] - made))
            made += 1
    if made > before:
        each = (time.perf_counter() - began) / (made - before)
        print(f"# {made} points, {1000 * each:.0f} ms for each of the last {made - before}", flush=True)
    return made


def items(folder: str, to: int, seconds: float) -> Iterator[Row]:
    """Operations on a vault of more and more items with two points each."""
    state = os.path.join(folder, "state")
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng()
    for n in _upto("items", to):
        began = time.perf_counter()
        with Vault.open_or_create(state_dir=state) as vault:
            made = len(vault.items())
            if made > n:
                continue
            while made < n and time.perf_counter() - began < seconds:
                image = os.path.join(folder, f"vm{made:04d}.img")
                with open(image, "wb") as file:
                    file.write(rng.bytes(ITEM_BYTES))
                vault.snapshot([image], keep=False)
                _churn(image, rng)
                vault.snapshot([image], keep=False)
                made += 1
        image = os.path.join(folder, "vm0000.img")
        yield from _operations(made, state, image, lambda image=image: _churn(image, rng), middle=made)
        if made < n:
            return


def _operations(n: int, state: str, image: str, churn: Callable[[], None], *, middle: int) -> Iterator[Row]:
    """Every operation once, as a process; those that change the vault come last."""

    def cli(*arguments: str) -> Finished:
        return blockvault(*arguments, state=state, sample_memory=True)

    newest = json.loads(cli("points", "--json").output)["points"][-1]["label"]
    yield _row(n, "opening (item list)", cli("item", "list"))
    yield _row(n, "points", cli("points"))
    yield _row(n, "one chunk out of a point", _read_chunk(state, newest))
    target = os.path.join(os.path.dirname(state), "restored.img")
    yield _row(n, "restore", cli("restore", "--point", newest, "--from", "vault", "-o", target))
    os.unlink(target)
    yield _row(n, "verify --quick", cli("verify", "--quick"))
    yield _row(n, "verify --budget 5%", cli("verify", "--budget", "5%"))
    yield _row(n, "prune --dry-run", cli("prune", "--dry-run"))
    yield _row(n, "snapshot, nothing changed", cli("snapshot", image, "--no-keep"))
    churn()
    yield _row(n, "snapshot, one page changed", cli("snapshot", image, "--no-keep"))
    cli("point", "delete", str(middle), "--purge", "--yes")
    yield _row(n, "prune after a purge", cli("prune", "--yes"))


def _read_chunk(state: str, point: str) -> Finished:
    return run((sys.executable, "-m", "benchmarks.scale_read", point), state=state, sample_memory=True)


# --- disk ---------------------------------------------------------------------------------------------------------


def disk(folder: str, to: int, _seconds: float) -> Iterator[Row]:
    """Operations on larger and larger sparse disks with the same 64 MiB of data, in a vault of its own each."""
    rng = np.random.default_rng()
    for n in _upto("disk", to):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        state = os.path.join(folder, "state")
        images = _sparse(folder, n, rng)
        name = ("--name", "huge")

        def cli(*arguments: str, state: str = state) -> Finished:
            return blockvault(*arguments, state=state, sample_memory=True)

        yield _row(n, "first point", cli("snapshot", *images, "--no-keep", *name))
        before = folder_sizes(os.path.join(state, "vaults"))[0]
        manifest = folder_sizes(os.path.join(state, "vaults", "default", "main", "layers"))[0]
        done = cli("snapshot", "huge", "--no-keep")
        grown = folder_sizes(os.path.join(state, "vaults"))[0] - before
        layers = folder_sizes(os.path.join(state, "vaults", "default", "main", "layers"))[0] - manifest
        yield _row(
            n, "snapshot, nothing changed", done, vault_growth_bytes=grown, layer_growth_bytes=layers, disks=len(images)
        )
        _change_page(images[0], rng)
        yield _row(n, "snapshot, one page changed", cli("snapshot", "huge", "--no-keep"))
        yield _row(n, "points", cli("points"))
        yield _row(n, "one chunk out of a point", _read_chunk(state, "2"))
        target = os.path.join(folder, "restored")
        yield _row(n, "restore", cli("restore", "--point", "2", "--from", "vault", "-o", target))
        yield _row(n, "verify --quick", cli("verify", "--quick"))
        yield _row(n, "verify", cli("verify"))
        yield _row(n, "prune --dry-run", cli("prune", "--dry-run"))
        cli("point", "delete", "2", "--purge", "--yes")
        yield _row(n, "prune after a purge", cli("prune", "--yes"))
    shutil.rmtree(folder, ignore_errors=True)


def _sparse(folder: str, size: int, rng: np.random.Generator) -> list[str]:
    """A disk of that size, or several where files cannot be so large, with data in 64 places."""
    sizes = [min(size, FILE_BYTES_MAX)] * max(1, round(size / (16 * TIB)))
    images = []
    for number, each in enumerate(sizes):
        path = os.path.join(folder, f"disk{number}.img")
        with open(path, "wb") as file:
            file.truncate(each)
            for place in range(64 // len(sizes)):
                file.seek((each // 64 * len(sizes) * place) & -PAGE)
                file.write(rng.bytes(SPARSE_DATA_BYTES // 64))
        images.append(path)
    return images


def _change_page(image: str, rng: np.random.Generator) -> None:
    with open(image, "r+b") as file:
        file.write(rng.bytes(PAGE))


# --- index --------------------------------------------------------------------------------------------------------


def index(folder: str, to: int, _seconds: float) -> Iterator[Row]:
    """The real dedup index with more and more synthetic entries, and beside it LMDB alone."""

    def part(name: str, where: str, n: int, *more: str) -> Finished:
        command = (sys.executable, "-m", "benchmarks.scale_index", name, where, "--entries", str(n), *more)
        return run(command, sample_memory=True)

    def told(n: int, work: str, done: Finished) -> Row:
        row = _row(n, work, done)
        row.update((f"index_{key}", value) for key, value in json.loads(done.output).items() if key != "entries")
        return row

    for n in _upto("index", to):
        where, lmdb = os.path.join(folder, f"index-{n}"), os.path.join(folder, f"lmdb-{n}")
        yield told(n, "made anew", part("anew", where, n))
        yield told(n, "look-ups", part("lookup", where, n))
        yield told(n, "look-ups, cold", part("lookup", where, n, "--cold"))
        yield told(n, "commits", part("commit", where, n))
        shutil.rmtree(where)
        yield told(n, "LMDB alone, filled by key", part("fill", lmdb, n, "--lmdb-alone"))
        yield told(n, "LMDB alone, look-ups", part("lookup", lmdb, n, "--lmdb-alone"))
        yield told(n, "LMDB alone, look-ups, cold", part("lookup", lmdb, n, "--cold", "--lmdb-alone"))
        yield told(n, "LMDB alone, commits", part("commit", lmdb, n, "--lmdb-alone"))
        shutil.rmtree(lmdb)


# --- what is written ----------------------------------------------------------------------------------------------


def write(results: dict[str, Any]) -> None:
    """Put tables between the markers of the document, and the plots beside it."""
    folder = os.path.join(os.path.dirname(DOCUMENT), "performance")
    os.makedirs(folder, exist_ok=True)
    with open(DOCUMENT) as file:
        text = file.read()
    for what, found in results.items():
        begin, end = f"<!-- scale: {what} -->\n", f"<!-- end of scale: {what} -->"
        head, _, rest = text.partition(begin)
        _, there, tail = rest.partition(end)
        if not there:
            continue
        text = f"{head}{begin}\n{_section(what, found, folder)}\n{end}{tail}"
    with open(DOCUMENT, "w") as file:
        file.write(text)


def _section(what: str, found: dict[str, Any], folder: str) -> str:
    rows = found["rows"]
    loads = [row["load"] for row in rows]
    sheet = found["sheet"]
    told = (
        f"Measured on {sheet['cores']} cores ({sheet['processor']}), {sheet['file_system']}, {sheet['system']}, while "
        f"the load of the machine was {min(loads):.1f} to {max(loads):.1f}."
    )
    if what == "index":
        return f"{told}\n\n{_index_table(rows)}{_index_plots(rows, folder)}"
    works = list(dict.fromkeys(row["work"] for row in rows))
    numbers = sorted({row["n"] for row in rows})
    by = {(row["work"], row["n"]): row for row in rows}
    shown = _sizes if what == "disk" else _count
    lines = [
        f"| {what if what != 'disk' else 'sparse disk'} | " + " | ".join(shown(n) for n in numbers) + " |",
        "|---|" + "---:|" * len(numbers),
    ]
    for work in works:
        cells = []
        for n in numbers:
            row = by.get((work, n))
            cells.append(f"{row['seconds']:.2f} s, {row['anonymous_bytes'] / MIB:.0f} MiB" if row else "-")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    pictures = []
    for key, title, text in (
        ("seconds", "wall time of a whole process", _seconds),
        ("anonymous_bytes", "highest anonymous memory", _sizes),
    ):
        drawn = [Line(work, [(n, by[work, n][key]) for n in numbers if (work, n) in by]) for work in works]
        if key == "anonymous_bytes":
            drawn.append(Line("goal: 256 MiB", [(n, GOAL_BYTES) for n in numbers], dashed=True))
        name = f"{what}-{'memory' if key == 'anonymous_bytes' else 'time'}.svg"
        axis = "bytes of the disk" if what == "disk" else what
        picture = plot(f"{what}: {title}", drawn, x_title=axis, y_title="", x_text=shown, y_text=text)
        with open(os.path.join(folder, name), "w") as file:
            file.write(picture)
        pictures.append(f"![{title}](performance/{name})")
    return f"{told}\n\n" + "\n".join(lines) + "\n\n" + "\n".join(pictures) + "\n"


def _index_table(rows: list[Row]) -> str:
    lines = [
        "| entries | what | bytes an entry | misses a second | hits a second | anonymous memory |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row["n"]):
        each = row.get("index_bytes_per_entry")
        rates = [row.get(f"index_{name}_a_second") for name in ("misses", "hits")]
        cells = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
        size = "-" if each is None else f"{each:.1f}"
        memory = f"{row['anonymous_bytes'] / MIB:.0f} MiB"
        times = [(row.get(f"index_{key}"), text) for key, text in (("seconds", ""), ("commit_seconds", " each"))]
        times.append((row.get("index_moving_seconds"), " with a move"))
        seconds = ", ".join(f"{value:.2f} s{text}" for value, text in times if value is not None)
        work = row["work"] + (f": {seconds}" if seconds else "")
        lines.append(f"| {_count(row['n'])} | {work} | {size} | {cells[0]} | {cells[1]} | {memory} |")
    return "\n".join(lines) + "\n"


def _index_plots(rows: list[Row], folder: str) -> str:
    pictures = []
    for key, title, text in (
        ("index_misses_a_second", "lookups a second that miss", _count),
        ("index_bytes_per_entry", "bytes an entry", "{:g}".format),
    ):
        works = list(dict.fromkeys(row["work"] for row in rows if key in row))
        drawn = [Line(work, sorted((row["n"], row[key]) for row in rows if row["work"] == work)) for work in works]
        name = f"index-{'rate' if 'second' in key else 'size'}.svg"
        with open(os.path.join(folder, name), "w") as file:
            file.write(plot(f"index: {title}", drawn, x_title="entries", y_title="", x_text=_count, y_text=text))
        pictures.append(f"![{title}](performance/{name})")
    return "\n" + "\n".join(pictures) + "\n"


def _count(value: float) -> str:
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g}"


def _sizes(value: float) -> str:
    return format_size(int(value))


def _seconds(value: float) -> str:
    return f"{value:g} s"


if __name__ == "__main__":
    sys.exit(main())
