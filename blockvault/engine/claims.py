"""What a changed-block map claims of a disk, and how it is held to account (D11).

A map says which ranges may have changed since the parent point; everything else it says is unchanged. Claimed chunks
are read, hashed and compared as ever, so a map that claims too much costs time alone. One that claims too little would
lose churn without a sound: hence each run reads some chunks that it did not claim, and compares their digests with
the parent's. One chunk that differs turns maps off for the item, and the run scans everything.

What is read: one window in turn, or one for each day since the last run, so that every chunk is read again in `WINDOWS`
days or runs, whichever are over first; and as many chunks as a window has, drawn at random from those that held data at
the parent, which no pattern of lies can avoid for long. Together about 2 / `WINDOWS` of the disk for a daily point.
Chunks that were and are a hole are not read: there is nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault.image.extent_map import Ranges
from blockvault.image.reader import DiskReader
from blockvault.model.geometry import CELL_CHUNKS, cell_bounds, chunk_count
from blockvault.monitor import Monitor
from blockvault.pipeline import batch_chunks, in_order
from blockvault.store.digests import DigestState

WINDOWS = 256
SAMPLE_LEAST = 16  # chunks
SAMPLE_CELLS = 16  # cells from which a run draws its random chunks
SAMPLE_PLACES = 1024  # on a large disk they are drawn in runs: a disk that turns takes 8 ms to each place


@dataclass(frozen=True, slots=True)
class Claims:
    """Chunks that a map claims may have changed, of a disk whose size did not."""

    ranges: Ranges
    chunk_size: int

    def mask(self, first: int, count: int) -> NDArray[np.bool_]:
        """(count,) which of the chunks from `first` on are claimed."""
        low, high = first * self.chunk_size, (first + count) * self.chunk_size
        found = np.zeros(count + 1, dtype=np.int32)
        begin = np.searchsorted(self.ranges[:, 1], low, side="right")
        end = np.searchsorted(self.ranges[:, 0], high, side="left")
        if begin >= end:
            return np.zeros(count, dtype=np.bool_)
        here = self.ranges[begin:end]
        starts = np.maximum(here[:, 0], low) // self.chunk_size - first
        ends = -(-np.minimum(here[:, 1], high) // self.chunk_size) - first
        np.add.at(found, starts, 1)
        np.add.at(found, ends, -1)
        return np.cumsum(found[:-1]) > 0

    def claimed_bytes(self) -> int:
        """Bytes that the map claims."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit read, and the chunks that had changed although the map did not claim them."""

    chunks_read: int
    missed: tuple[int, ...]


def audit(
    reader: DiskReader, digests: DigestState, claims: Claims, windows: range, *, seed: int, monitor: Monitor
) -> Audit:
    """Read unclaimed chunks, those of `windows` and others, and compare them with the parent's digests.

    Raises:
        CorruptionError: a cell of the digest state is damaged (`digests.damaged`).
    """
    read = 0
    missed: list[int] = []

    def look(batch: _Batch) -> tuple[int, int, NDArray[np.uint64]]:
        plain = reader.identify(batch.numbers, seed=seed, id_key=None, cancel=None)
        differs = (np.asarray(plain.digests) != batch.before).any(axis=1)
        return len(batch.numbers), plain.read_bytes, batch.numbers[differs]

    with in_order(look, _batches(reader, digests, claims, windows, monitor)) as results:
        for chunks, byte_count, differing in results:
            monitor.count("audited_chunks", chunks)
            monitor.count("read_bytes", byte_count)
            read += chunks
            missed += differing.tolist()
    return Audit(read, tuple(missed))


@dataclass(frozen=True, slots=True)
class _Batch:
    """Chunks to be read, and the parent's digests of them."""

    numbers: NDArray[np.uint64]
    before: NDArray[np.uint8]


def _batches(
    reader: DiskReader, digests: DigestState, claims: Claims, windows: range, monitor: Monitor
) -> Iterator[_Batch]:
    chunks = chunk_count(reader.size, reader.chunk_size)
    begin, end = windows.start * chunks // WINDOWS, windows.stop * chunks // WINDOWS
    in_window = range(begin // CELL_CHUNKS, -(-end // CELL_CHUNKS))
    drawn, run = _drawn_cells(chunks, digests)
    size = batch_chunks(reader.chunk_size)
    for cell in sorted({*in_window, *drawn}):
        monitor.check()
        first, count = cell_bounds(cell, chunks)
        before = digests.cell(cell, count)
        held = np.asarray(before.any(axis=1), dtype=np.bool_)
        wanted = np.zeros(count, dtype=np.bool_)
        if cell in in_window:
            wanted[max(0, begin - first) : end - first] = True
            wanted &= held | _may_hold_data(reader, first, count)
        if cell in drawn:
            wanted[_random_rows(held, drawn[cell], run)] = True
        rows = np.flatnonzero(wanted & ~claims.mask(first, count))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield _Batch((part + first).astype(np.uint64), before[part])


def _drawn_cells(chunks: int, digests: DigestState) -> tuple[dict[int, int], int]:
    """Cells of which chunks are read at random, how many of each, and how many in a row."""
    stated = [cell for cell in digests.stated_cells() if cell_bounds(cell, chunks)[1]]
    if not stated:
        return {}, 1
    random = np.random.default_rng(secrets.randbits(128))
    drawn = random.choice(len(stated), size=min(SAMPLE_CELLS, len(stated)), replace=False)
    total = max(SAMPLE_LEAST, sum(cell_bounds(cell, chunks)[1] for cell in stated) // WINDOWS)
    return {stated[index]: -(-total // len(drawn)) for index in drawn.tolist()}, -(-total // SAMPLE_PLACES)


def _random_rows(held: NDArray[np.bool_], count: int, run: int) -> NDArray[np.int64]:
    """About `count` of the chunks that held data, in runs of `run`."""
    rows = np.flatnonzero(held)
    if len(rows) <= count:
        return rows
    random = np.random.default_rng(secrets.randbits(128))
    runs = random.choice(-(-len(rows) // run), size=-(-count // run), replace=False)
    return np.concatenate([rows[at * run : (at + 1) * run] for at in runs.tolist()])


def _may_hold_data(reader: DiskReader, first: int, count: int) -> NDArray[np.bool_]:
    found = np.zeros(count, dtype=np.bool_)
    for start, length in reader.data_runs(first, count):
        found[start - first : start - first + length] = True
    return found
