"""The dedup index at scale: what `Index` costs an entry, how long commits take and how fast it answers.

    python -m benchmarks.scale_index anew FOLDER --to 20000000      made anew from index segments, as when it was lost
    python -m benchmarks.scale_index arrive FOLDER --to 5000000     as transfers bring them: one commit of 65,536 each
    python -m benchmarks.scale_index fill FOLDER --to 20000000 --lmdb-alone     by key, round after round
    python -m benchmarks.scale_index commit FOLDER --entries 20000000      more commits, until entries were moved
    python -m benchmarks.scale_index lookup FOLDER --entries 20000000 [--cold]

Each prints a line of JSON. `python -m benchmarks.scale --what index` runs them as processes, which gives their memory.
`--lmdb-alone` gives LMDB a share without end: the index as it would be without sorted segments.

Invariants:
- Entries are synthetic, the code is the real one: `blockvault.store.index.Index`, as a transfer and an opening call it.
- Entry `i` has the prefix `mix(i)`, a bijection, so that hits and misses can be drawn without a list of what is in.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.clock import utc_now
from blockvault.engine.packing import PENDING_BLOCKS_MAX
from blockvault.ids import PackName
from blockvault.store import index as index_module
from blockvault.store.index import Commit, Index

U64 = NDArray[np.uint64]
ROUND = 10_000_000  # entries that are sorted at once
BATCH_IDS = 128  # chunks in a transfer's batch of 8 MiB
LOOKUPS = 100_000
PACK_BLOCKS = 768  # of a synthetic pack: 48 MiB of chunks that do not compress


def mix(numbers: U64) -> U64:
    """SplitMix64: a bijection that looks random, so no two entries have one prefix."""
    with np.errstate(over="ignore"):
        value = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def ids_of(prefixes: U64) -> NDArray[np.uint8]:
    """(n,) prefixes -> (n, 32) ids that begin with them."""
    ids = np.zeros((len(prefixes), 32), dtype=np.uint8)
    ids[:, :8] = prefixes.astype(">u8").view(np.uint8).reshape(-1, 8)
    return ids


def pack_name(number: int) -> PackName:
    """A synthetic pack's name."""
    return PackName(number.to_bytes(16, "big"))


def open_index(folder: str) -> Index:
    """The real index, in a folder of its own."""
    os.makedirs(folder, exist_ok=True)
    note = os.path.join(folder, "note")
    return Index(os.path.join(folder, "lmdb"), "scale", now=utc_now(), note=note)


def synthetic(numbers: U64, segment: str) -> Commit:
    """A commit of entries, as `decode_index` returns it."""
    packs = (numbers // np.uint64(PACK_BLOCKS)).astype(np.int64)
    used, at = np.unique(packs, return_inverse=True)
    slots = (numbers % np.uint64(PACK_BLOCKS)).astype(np.uint32)
    return [pack_name(n) for n in used.tolist()], mix(numbers), at.astype(np.uint32), slots, segment


def add(index: Index, numbers: U64, segment: str | None) -> None:
    """Take entries in with one commit, as `PackFiller` does."""
    packs, prefixes, pack, slot, _ = synthetic(numbers, "")
    index.add_blocks(packs, prefixes, pack, slot, segment)


def anew(folder: str, to: int) -> dict[str, Any]:
    """Make an index anew from index segments of 65,536 entries, as `Session` does when it was lost."""

    def commits() -> Iterator[Commit]:
        for first in range(0, to, PENDING_BLOCKS_MAX):
            numbers = np.arange(first, min(first + PENDING_BLOCKS_MAX, to), dtype=np.uint64)
            yield synthetic(numbers, f"scale/{first:010d}")

    index = open_index(folder)
    began = time.perf_counter()
    index.take_in(commits())
    seconds = time.perf_counter() - began
    size = index.size
    files = len([entry for entry in os.listdir(os.path.join(folder, "lmdb")) if entry.startswith("sorted-")])
    index.close()
    return {"entries": to, "bytes": size, "bytes_per_entry": size / to, "seconds": seconds, "files": files}


def fill(folder: str, to: int, budget: float) -> dict[str, Any]:
    """Bring the index to `to` entries, rounds sorted by prefix: each page is written once a round, not once a commit.

    A round that the budget of seconds cuts off is begun again by the next call; `entries` is what is complete.
    """
    began = time.perf_counter()
    done = _filled(folder)
    index = open_index(folder)
    while done < to and time.perf_counter() - began < budget:
        numbers = np.arange(done, min(done + ROUND, to), dtype=np.uint64)
        numbers = numbers[np.argsort(mix(numbers))]
        for start in range(0, len(numbers), PENDING_BLOCKS_MAX):
            add(index, numbers[start : start + PENDING_BLOCKS_MAX], None)
        done += len(numbers)
        with open(os.path.join(folder, "filled"), "w") as file:
            file.write(str(done))
    size = index.size
    index.close()
    return {"entries": done, "bytes": size, "bytes_per_entry": size / done, "seconds": time.perf_counter() - began}


def _filled(folder: str) -> int:
    try:
        with open(os.path.join(folder, "filled")) as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def arrive(folder: str, to: int, budget: float) -> dict[str, Any]:
    """Bring an empty index to `to` entries in the order in which transfers bring them, a commit for each segment."""
    began = time.perf_counter()
    index = open_index(folder)
    done, steps = 0, []
    while done < to and time.perf_counter() - began < budget:
        at = time.perf_counter()
        count = min(PENDING_BLOCKS_MAX, to - done)
        add(index, np.arange(done, done + count, dtype=np.uint64), f"scale/{done:010d}")
        done += count
        steps.append((done, time.perf_counter() - at))
    size = index.size
    index.close()
    return {
        "entries": done,
        "bytes_per_entry": size / done,
        "seconds": time.perf_counter() - began,
        "steps": steps,
    }


def commit(folder: str, entries: int) -> dict[str, Any]:
    """Take in transfers' commits of 65,536 new entries until one has moved LMDB's share, 17 at most."""
    index = open_index(folder)
    first = (1 << 41) + (int.from_bytes(os.urandom(4), "big") << 20)
    times: list[float] = []
    files = set(os.listdir(os.path.join(folder, "lmdb")))
    while len(times) < 17 and files == set(os.listdir(os.path.join(folder, "lmdb"))):
        numbers = np.arange(first, first + PENDING_BLOCKS_MAX, dtype=np.uint64)
        first += PENDING_BLOCKS_MAX
        began = time.perf_counter()
        add(index, numbers, None)
        times.append(time.perf_counter() - began)
        if entries < index_module.LMDB_ENTRIES:
            break
    index.close()
    moved = files != set(os.listdir(os.path.join(folder, "lmdb")))
    told: dict[str, Any] = {"entries": entries}
    if moved:
        told["moving_seconds"] = times.pop()
    if times:
        told["commit_seconds"] = float(np.median(times))
    return told


def _drawn(entries: int, *, hits: bool) -> U64:
    """Numbers of entries that are in, or of ones that are not."""
    rng = np.random.default_rng(7 if hits else 8)
    first = 0 if hits else 1 << 40
    return rng.integers(first, first + entries, LOOKUPS, dtype=np.uint64)


def lookup(folder: str, entries: int, *, cold: bool) -> dict[str, Any]:
    """How fast the real index answers, in batches as a transfer asks."""
    for entry in os.scandir(os.path.join(folder, "lmdb")):
        (_drop if cold else _read)(entry.path)
    began = time.perf_counter()
    index = open_index(folder)
    result: dict[str, Any] = {"entries": entries, "open_seconds": time.perf_counter() - began, "cold": cold}
    for name in ("misses", "hits"):
        numbers = _drawn(entries, hits=name == "hits")
        ids = ids_of(mix(numbers))
        began = time.perf_counter()
        found = [place for at in range(0, LOOKUPS, BATCH_IDS) for place in index.find_blocks(ids[at : at + BATCH_IDS])]
        result[f"{name}_a_second"] = LOOKUPS / (time.perf_counter() - began)
        wanted = [(pack_name(n // PACK_BLOCKS), n % PACK_BLOCKS) for n in numbers.tolist()]
        assert found == (wanted if name == "hits" else [None] * LOOKUPS), name
    index.close()
    return result


def _read(path: str) -> None:
    """Have the page cache hold a file."""
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def _drop(path: str) -> None:
    """Have the page cache forget a file that nobody has mapped."""
    os.sync()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def main() -> None:
    """Run one part and print what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("anew", "fill", "arrive", "commit", "lookup"))
    parser.add_argument("folder")
    parser.add_argument("--to", "--entries", dest="entries", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=420, help="`fill` and `arrive` end after so long")
    parser.add_argument("--cold", action="store_true", help="have the page cache forget the files first")
    parser.add_argument("--lmdb-alone", action="store_true", help="no sorted segments")
    asked = parser.parse_args()
    if asked.lmdb_alone:
        index_module.LMDB_ENTRIES = 1 << 62
    done = {
        "anew": lambda: anew(asked.folder, asked.entries),
        "fill": lambda: fill(asked.folder, asked.entries, asked.seconds),
        "arrive": lambda: arrive(asked.folder, asked.entries, asked.seconds),
        "commit": lambda: commit(asked.folder, asked.entries),
        "lookup": lambda: lookup(asked.folder, asked.entries, cold=asked.cold),
    }[asked.part]()
    print(json.dumps(done))


if __name__ == "__main__":
    main()
