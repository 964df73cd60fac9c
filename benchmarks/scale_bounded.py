"""What dedup is lost when the index is bounded: `python -m benchmarks.scale_bounded [--size 256M] [--disks 8]`.

Disks of real files are read as first points, one after the other, and their chunks are looked up in an index that keeps
the N newest entries: newest by when a block was stored, or by when it was last stored or found; and as the index does
it, where the oldest quarter goes at once. Two fleets: clones of a
disk, each with its own churn, and disks whose files come from the same machine but lie elsewhere. N is told as a share
of one disk's distinct chunks. Only first points are asked here: later ones compare with their parent and ask the index
for changed chunks alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable

from blockvault.units import CHUNK_BYTES_DEFAULT, parse_size
from blockvault.workload import Churn, apply_churn, build_image

SHARES = (0.25, 0.5, 0.9, 1.1, 2.0, 4.0)
CLONE_CHURN = 0.05


def chunk_ids(path: str) -> list[bytes]:
    """Ids of the chunks that are not zeros, in order."""
    zero = bytes(CHUNK_BYTES_DEFAULT)
    found = []
    with open(path, "rb") as file:
        while piece := file.read(CHUNK_BYTES_DEFAULT):
            if piece != zero[: len(piece)]:
                found.append(hashlib.blake2b(piece, digest_size=16).digest())
    return found


def found_again(ids: Iterable[bytes], bound: int, *, by_use: bool = False, at_once: int = 1) -> int:
    """How many chunks an index of the newest `bound` entries finds, asked and told in this order."""
    index: OrderedDict[bytes, None] = OrderedDict()
    hits = 0
    for one in ids:
        if one in index:
            hits += 1
            if by_use:
                index.move_to_end(one)
            continue
        index[one] = None
        if len(index) > bound:
            for _ in range(at_once):
                index.popitem(last=False)
    return hits


def fleets(folder: str, size: int, disks: int) -> dict[str, list[list[bytes]]]:
    """For each fleet the chunk ids of its disks."""
    first = os.path.join(folder, "first.img")
    build_image(first, size, 1)
    clones, others = [chunk_ids(first)], [chunk_ids(first)]
    for number in range(1, disks):
        path = os.path.join(folder, "next.img")
        shutil.copyfile(first, path)
        apply_churn(path, Churn.RUNS, number, CLONE_CHURN)
        clones.append(chunk_ids(path))
        build_image(path, size, 1 + number)
        others.append(chunk_ids(path))
    return {"clones with 5% churn each": clones, "other disks of the same files": others}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=256 << 20, metavar="SIZE")
    parser.add_argument("--disks", type=int, default=8)
    parser.add_argument("--folder", default=None)
    asked = parser.parse_args()
    shares = " | ".join(f"{share:g} disks" for share in SHARES)
    print(f"| fleet | kept | chunks that an unbounded index finds | {shares} |")
    print("|---|---|---:|" + "---:|" * len(SHARES))
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for name, fleet in fleets(folder, asked.size, asked.disks).items():
            ids = [one for disk in fleet for one in disk]
            distinct = len(set(fleet[0]))
            most = found_again(ids, len(ids))
            for kept, by_use, pieces in (
                ("by age", False, 0),
                ("by last use", True, 0),
                ("by age, in quarters", False, 4),
            ):
                rates = []
                for share in SHARES:
                    bound = max(1, int(distinct * share))
                    at_once = bound // pieces if pieces else 1
                    rates.append(found_again(ids, bound, by_use=by_use, at_once=at_once))
                cells = " | ".join(f"{100 * rate / most:.0f}%" if most else "-" for rate in rates)
                print(f"| {name} | {kept} | {most} of {len(ids)} ({100 * most / len(ids):.0f}%) | {cells} |")


if __name__ == "__main__":
    main()
