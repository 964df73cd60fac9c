"""Measure the changed-block map on xfs: `python -m benchmarks.changed_blocks [--size 2G] [--rounds 3] [--folder DIR]`.

As root: an xfs in a file is mounted, and an image of real files made on it. Two vaults take the same points in turns,
one that keeps snapshots and goes by the map, one with `--no-keep` that scans. The disk is cold (the page cache is
dropped), the program warm (it is started once). Then clones of a file with many extents are compared. Medians; take the
ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.measure import blockvault
from blockvault import workload
from blockvault.image import extent_map
from blockvault.image.source import ImageSource
from blockvault.snapshots.reflink import clone_all
from blockvault.units import format_size, parse_size

CHUNK = 64 << 10
EXTENTS = (1_000, 10_000, 100_000)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=2 << 30, metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where the file system's file goes")
    asked = parser.parse_args()
    room = max(3 * asked.size, 4 << 30)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder, _mounted(folder, room) as disk:
        image = os.path.join(disk, "disk.img")
        workload.build_image(image, asked.size, 1)
        print("| work, whole process, cold | with the map | scan | ratio of times | map reads | scan reads |")
        print("|---|---:|---:|---:|---:|---:|")
        _points(folder, image, asked.size, asked.rounds)
        print("\n| extents | two clones compared, cold | again |")
        print("|---:|---:|---:|")
        for count in EXTENTS:
            _compare(disk, count)


@contextmanager
def _mounted(folder: str, size: int) -> Iterator[str]:
    backing, mount = os.path.join(folder, "xfs.fs"), os.path.join(folder, "xfs")
    os.mkdir(mount)
    with open(backing, "wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", backing], check=True)
    subprocess.run(["mount", "-o", "loop", backing, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def _drop_caches() -> None:
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def _points(folder: str, image: str, size: int, rounds: int) -> None:
    ways = {"map": (), "scan": ("--no-keep",)}
    for name, options in ways.items():
        blockvault("snapshot", image, *options, state=os.path.join(folder, name))
    for title, changes in (("nothing changed", False), ("1% of the data, random pages", True)):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        read: dict[str, list[int]] = {name: [] for name in ways}
        touched: list[int] = []
        for number in range(rounds):
            if changes:
                workload.apply_churn(image, workload.Churn.RANDOM_PAGES, 100 + number, 0.01)
            for name, options in ways.items():
                _drop_caches()
                blockvault("item", "list", state=os.path.join(folder, name))  # the program itself is warm
                done = blockvault("snapshot", image, *options, "--json", state=os.path.join(folder, name))
                told = json.loads(done.output.splitlines()[-1])
                assert told["churn_source"] == {"map": "reflink", "scan": "scan"}[name], told["audit"]
                seconds[name].append(done.seconds)
                read[name].append(told["read_bytes"])
            touched.append(told["changed_chunks"] * CHUNK)
        ratios = [a / b for a, b in zip(seconds["map"], seconds["scan"], strict=True)]
        middle = {name: statistics.median(seconds[name]) for name in ways}
        shown = [_told(statistics.median(read[name]), size, statistics.median(touched)) for name in ways]
        print(
            f"| {title} | {middle['map']:.2f} s | {middle['scan']:.2f} s | {statistics.median(ratios):.2f} | "
            f"{shown[0]} | {shown[1]} |"
        )


def _told(read: float, size: int, touched: float) -> str:
    text = f"{format_size(int(read))}, {100 * read / size:.2f}% of the disk"
    return f"{text}, {read / touched:.2f} of the touched chunks" if touched else text


def _compare(disk: str, count: int) -> None:
    """A file of `count` extents, cloned, a tenth of them overwritten, cloned again."""
    path = os.path.join(disk, f"fragmented-{count}")
    clones = [f"{path}.old", f"{path}.new"]
    rng = np.random.default_rng(count)
    with open(path, "w+b") as file:
        fd = file.fileno()
        for index in range(count):  # every other block is a hole
            os.pwrite(fd, b"%08d" % index * 512, 8192 * index)
        os.ftruncate(fd, 8192 * count)
        for clone in clones:
            with ImageSource.open(path, CHUNK) as source:
                clone_all([source], [clone])
            for index in rng.choice(count, size=count // 10, replace=False).tolist():
                os.pwrite(fd, rng.bytes(4096), 8192 * index)
    found = []
    for cold in (True, False):
        if cold:
            _drop_caches()
        fds = [os.open(clone, os.O_RDONLY) for clone in clones]
        began = time.perf_counter()
        ranges = extent_map.changed_ranges(*fds)
        found.append(time.perf_counter() - began)
        for fd in fds:
            os.close(fd)
        assert len(ranges) == count // 10, ranges
    print(f"| {count} | {found[0]:.3f} s | {found[1]:.3f} s |")


if __name__ == "__main__":
    main()
