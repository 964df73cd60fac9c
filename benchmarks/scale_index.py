"""The dedup index at scale: what `Index` costs an entry, how fast it answers, and what else would do.

    python -m benchmarks.scale_index fill FOLDER --to 20000000      by key, round after round: quick to build
    python -m benchmarks.scale_index arrive FOLDER --to 5000000     as transfers bring them: one commit of 65,536 each
    python -m benchmarks.scale_index commit FOLDER --entries 20000000      one more commit of 65,536
    python -m benchmarks.scale_index lookup FOLDER --entries 20000000 [--cold]
    python -m benchmarks.scale_index segments|filter FOLDER --entries N

Each prints a line of JSON. `python -m benchmarks.scale --what index` runs them as processes, which gives their memory.

Invariants:
- Entries are synthetic, the code is the real one: `blockvault.store.index.Index`, as a transfer and an opening call it.
- Entry `i` has the prefix `mix(i)`, a bijection, so that hits and misses can be drawn without a list of what is in.
- The alternatives are prototypes for comparison and know nothing of a vault; no engine imports them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.clock import utc_now
from blockvault.engine.packing import PACK_SLOTS, PENDING_BLOCKS_MAX
from blockvault.ids import PackName
from blockvault.store.index import Index

U64 = NDArray[np.uint64]
ROUND = 10_000_000  # entries that are sorted at once
BATCH_IDS = 128  # chunks in a transfer's batch of 8 MiB
LOOKUPS = 100_000
FILTER_BITS = 12  # a key
FILTER_PROBES = 4
FILTER_BLOCK = 8  # words of 64 bits that one key's bits lie in: a cache line
ENTRY = np.dtype([("pack", "<u4"), ("slot", "<u2")])


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


def add(index: Index, numbers: U64, segment: str | None) -> None:
    """Take entries in with one commit, as `PackFiller` and `Session` do."""
    packs = (numbers // np.uint64(PACK_SLOTS)).astype(np.int64)
    used, at = np.unique(packs, return_inverse=True)
    slots = (numbers % np.uint64(PACK_SLOTS)).astype(np.uint32)
    index.add_blocks([pack_name(n) for n in used.tolist()], mix(numbers), at.astype(np.uint32), slots, segment)


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
    size = _used_bytes(index)
    index.close()
    return {"entries": done, "bytes": size, "bytes_per_entry": size / done, "seconds": time.perf_counter() - began}


def _filled(folder: str) -> int:
    try:
        with open(os.path.join(folder, "filled")) as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def _used_bytes(index: Index) -> int:
    return index.size


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
    size = _used_bytes(index)
    index.close()
    return {
        "entries": done,
        "bytes_per_entry": size / done,
        "seconds": time.perf_counter() - began,
        "steps": steps,
    }


def commit(folder: str, entries: int) -> dict[str, Any]:
    """Take one transfer's 65,536 new entries into an index of that size; the process does nothing else."""
    index = open_index(folder)
    first = (1 << 41) + (int.from_bytes(os.urandom(4), "big") << 16)
    numbers = np.arange(first, first + PENDING_BLOCKS_MAX, dtype=np.uint64)
    began = time.perf_counter()
    add(index, numbers, None)
    seconds = time.perf_counter() - began
    index.close()
    return {"entries": entries, "commit_seconds": seconds}


def _drawn(entries: int, *, hits: bool) -> U64:
    """Numbers of entries that are in, or of ones that are not."""
    rng = np.random.default_rng(7 if hits else 8)
    first = 0 if hits else 1 << 40
    return rng.integers(first, first + entries, LOOKUPS, dtype=np.uint64)


def lookup(folder: str, entries: int, *, cold: bool) -> dict[str, Any]:
    """How fast the real index answers, in batches as a transfer asks."""
    (_drop if cold else _read)(os.path.join(folder, "lmdb", "data.mdb"))
    began = time.perf_counter()
    index = open_index(folder)
    result: dict[str, Any] = {"entries": entries, "open_seconds": time.perf_counter() - began, "cold": cold}
    count = LOOKUPS // 10 if cold else LOOKUPS
    for name in ("misses", "hits"):
        numbers = _drawn(entries, hits=name == "hits")[:count]
        ids = ids_of(mix(numbers))
        began = time.perf_counter()
        found = [place for at in range(0, count, BATCH_IDS) for place in index.find_blocks(ids[at : at + BATCH_IDS])]
        result[f"{name}_a_second"] = count / (time.perf_counter() - began)
        wanted = [(pack_name(n // PACK_SLOTS), n % PACK_SLOTS) for n in numbers.tolist()]
        assert found == (wanted if name == "hits" else [None] * count), name
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


# --- prototypes ----------------------------------------------------------------------------------------------


def build_segment(folder: str, entries: int) -> dict[str, Any]:
    """Write one sorted segment: keys and places in files of their own, and where each upper 16 bits begin.

    A key keeps 48 bits of the prefix: the upper 16 are its bucket, the others stand in the file; with a place of 6
    bytes that is 10 bytes an entry. It is made in rounds by key range, as a merge of smaller segments would.
    """
    os.makedirs(folder, exist_ok=True)
    began = time.perf_counter()
    bounds = np.zeros((1 << 16) + 1, dtype=np.int64)
    rounds = max(1, entries // ROUND)
    with open(os.path.join(folder, "keys"), "wb") as keys, open(os.path.join(folder, "places"), "wb") as places:
        for part in range(rounds):
            low, high = (part << 16) // rounds, ((part + 1) << 16) // rounds
            found = []
            for start in range(0, entries, ROUND):
                numbers = np.arange(start, min(start + ROUND, entries), dtype=np.uint64)
                top = mix(numbers) >> np.uint64(48)
                found.append(numbers[(top >= low) & (top < high)])
            numbers = np.concatenate(found)
            prefixes = mix(numbers)
            order = np.argsort(prefixes)
            numbers, prefixes = numbers[order], prefixes[order]
            bounds[1:] += np.bincount((prefixes >> np.uint64(48)).astype(np.int64), minlength=1 << 16)
            keys.write(((prefixes >> np.uint64(16)) & np.uint64(0xFFFFFFFF)).astype("<u4").tobytes())
            place = np.zeros(len(numbers), dtype=ENTRY)
            place["pack"], place["slot"] = numbers // np.uint64(PACK_SLOTS), numbers % np.uint64(PACK_SLOTS)
            places.write(place.tobytes())
    np.cumsum(bounds).astype("<i8").tofile(os.path.join(folder, "bounds"))
    size = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name in ("keys", "places", "bounds"))
    return {"entries": entries, "bytes_per_entry": size / entries, "seconds": time.perf_counter() - began}


class SortedSegment:
    """A sorted segment in mapped files: nothing of it is anonymous memory but the 512 KiB of bounds."""

    def __init__(self, folder: str) -> None:
        self._keys = np.memmap(os.path.join(folder, "keys"), dtype="<u4", mode="r")
        self._places = np.memmap(os.path.join(folder, "places"), dtype=ENTRY, mode="r")
        self._bounds = np.fromfile(os.path.join(folder, "bounds"), dtype="<i8")

    def find(self, prefixes: U64) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Which are in, and the places of those: a bisection of all at once, so as many steps as a bucket has bits."""
        bucket = (prefixes >> np.uint64(48)).astype(np.int64)
        key = ((prefixes >> np.uint64(16)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        low, end = self._bounds[bucket], self._bounds[bucket + 1]
        high = end.copy()
        last = len(self._keys) - 1
        while (low < high).any():
            middle = (low + high) >> 1
            less = (self._keys[np.minimum(middle, last)] < key) & (low < high)
            low = np.where(less, middle + 1, low)
            high = np.where(less, high, np.minimum(high, middle))
        there = (low < end) & (self._keys[np.minimum(low, last)] == key)
        return there, self._places[low[there]]


def segments(folder: str, entries: int, *, cold: bool) -> dict[str, Any]:
    """How fast one sorted segment answers."""
    if cold:
        for name in ("keys", "places"):
            _drop(os.path.join(folder, name))
    segment = SortedSegment(folder)
    result: dict[str, Any] = {"entries": entries, "cold": cold}
    count = LOOKUPS // 10 if cold else LOOKUPS
    for name in ("misses", "hits"):
        numbers = _drawn(entries, hits=name == "hits")[:count]
        prefixes = mix(numbers)
        began = time.perf_counter()
        found = right = 0
        for at in range(0, count, BATCH_IDS):
            there, places = segment.find(prefixes[at : at + BATCH_IDS])
            found += int(there.sum())
            if name == "hits":
                wanted = numbers[at : at + BATCH_IDS]
                right += int((places["slot"] == (wanted % np.uint64(PACK_SLOTS)).astype(np.uint16)).sum())
        result[f"{name}_a_second"] = count / (time.perf_counter() - began)
        result[f"{name}_found"] = found / count
        assert name == "misses" or right == count
    return result


def _bits(prefixes: U64, lines: int) -> tuple[U64, U64]:
    """For each key the words (n, probes) that hold its bits, and their masks: all in one cache line."""
    line = (prefixes >> np.uint64(16)) % np.uint64(lines)
    with np.errstate(over="ignore"):
        draw = mix(prefixes ^ np.uint64(0xA5A5A5A5A5A5A5A5))
    shifts = np.arange(FILTER_PROBES, dtype=np.uint64) * np.uint64(9)
    bit = (draw[:, None] >> shifts) & np.uint64(64 * FILTER_BLOCK - 1)
    word = line[:, None] * np.uint64(FILTER_BLOCK) + (bit >> np.uint64(6))
    return word, np.uint64(1) << (bit & np.uint64(63))


def build_filter(folder: str, entries: int) -> dict[str, Any]:
    """Write a blocked Bloom filter over all prefixes, and measure its false positives."""
    os.makedirs(folder, exist_ok=True)
    began = time.perf_counter()
    lines = -(-entries * FILTER_BITS // (64 * FILTER_BLOCK))
    path = os.path.join(folder, "filter")
    words = np.memmap(path, dtype="<u8", mode="w+", shape=(lines * FILTER_BLOCK,))
    for start in range(0, entries, 1 << 20):
        word, mask = _bits(mix(np.arange(start, min(start + (1 << 20), entries), dtype=np.uint64)), lines)
        np.bitwise_or.at(words, word.reshape(-1), mask.reshape(-1))
    words.flush()
    built = time.perf_counter() - began
    result: dict[str, Any] = {"entries": entries, "bytes_per_entry": words.nbytes / entries, "build_seconds": built}
    for name in ("misses", "hits"):
        prefixes = mix(_drawn(entries, hits=name == "hits"))
        began = time.perf_counter()
        passed = 0
        for at in range(0, LOOKUPS, BATCH_IDS):
            word, mask = _bits(prefixes[at : at + BATCH_IDS], lines)
            passed += int(((words[word] & mask) == mask).all(axis=1).sum())
        result[f"{name}_a_second"] = LOOKUPS / (time.perf_counter() - began)
        result[f"{name}_passed"] = passed / LOOKUPS
    assert result["hits_passed"] == 1
    return result


def main() -> None:
    """Run one part and print what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("fill", "arrive", "commit", "lookup", "build-segment", "segments", "filter"))
    parser.add_argument("folder")
    parser.add_argument("--to", "--entries", dest="entries", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=420, help="`fill` and `arrive` end after so long")
    parser.add_argument("--cold", action="store_true", help="have the page cache forget the files first")
    asked = parser.parse_args()
    done = {
        "fill": lambda: fill(asked.folder, asked.entries, asked.seconds),
        "arrive": lambda: arrive(asked.folder, asked.entries, asked.seconds),
        "commit": lambda: commit(asked.folder, asked.entries),
        "lookup": lambda: lookup(asked.folder, asked.entries, cold=asked.cold),
        "build-segment": lambda: build_segment(asked.folder, asked.entries),
        "segments": lambda: segments(asked.folder, asked.entries, cold=asked.cold),
        "filter": lambda: build_filter(asked.folder, asked.entries),
    }[asked.part]()
    print(json.dumps(done))


if __name__ == "__main__":
    main()
