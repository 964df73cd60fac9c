"""Where two states of a disk differ: two points, or a point and the disk image as it is now.

Between points only the layers that they do not share are read, and blocks are compared by id, never decoded. A hole
and zeros are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import CorruptionError, InvalidInputError
from blockvault.image.reader import DiskReader
from blockvault.model import ChunkState, FillKind, PointDisk, VaultKeys
from blockvault.model.geometry import cell_bounds, cell_count
from blockvault.monitor import Monitor
from blockvault.pipeline import batch_chunks
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap, Manifest
from blockvault.store.packs import PackShelf

Extent = tuple[int, int]  # byte offset, byte count


def ids_of(cell: CellMap, shelf: PackShelf, *, only: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """(chunks, 32) ids of a cell, or of some of its chunks; zero bytes for hole and zero chunks."""
    ids = np.zeros((cell.chunk_count, 32), dtype=np.uint8)
    asked = (cell.kind == FillKind.DATA) & (only if only is not None else True)
    for index in np.unique(cell.pack[asked]).tolist():
        rows = np.flatnonzero(asked & (cell.pack == index))
        ids[rows] = shelf.reader(cell.packs[index]).table.ids[cell.slot[rows].astype(np.int64)]
    return ids


def _bound_ids_of(cell: CellMap, shelf: PackShelf, keys: VaultKeys) -> NDArray[np.uint8]:
    """`ids_of`, once the runs they come from were found to be those that were placed (R1)."""
    for problem in cell.check_runs(shelf, keys.run_key):
        raise CorruptionError(
            "vault.block-damaged",
            f"the vault's object {problem.object} is damaged, and the comparison needs it",
            why=problem.reason,
            do="run `blockvault verify --all` to see every point it touches",
        )
    return ids_of(cell, shelf)


def _cell_key(manifest: Manifest, cell: int) -> tuple[bytes, ...]:
    key = []
    for layer in manifest.layers:
        entry = layer.entry(cell)
        if entry is not None:
            key.append(bytes(layer.ref.name))
    return tuple(key)


def between_points(
    store: LocalStore, keys: VaultKeys, shelf: PackShelf, left: PointDisk, right: PointDisk, monitor: Monitor
) -> Iterator[Extent]:
    """Extents in which `right` differs from `left`, in order, cut at cells."""
    if left.chunk_size != right.chunk_size:
        raise InvalidInputError(
            "diff.chunk-size",
            f"disk '{left.name}' has chunks of {left.chunk_size} bytes at one point, {right.chunk_size} at the other",
            do="compare points of one chunk size",
        )
    old, new = Manifest(store, keys, left), Manifest(store, keys, right)
    try:
        size = max(left.size, right.size)
        chunks = max(old.chunk_count, new.chunk_count)
        stated = set(old.cells_with_segments()) | set(new.cells_with_segments())
        resized = left.size != right.size
        for cell in sorted(stated):  # all others are hole or zeros on both sides, however many there are
            monitor.check()
            if not resized and _cell_key(old, cell) == _cell_key(new, cell):
                continue
            first, count = cell_bounds(cell, chunks)
            before, after = (np.zeros((count, 32), dtype=np.uint8) for _ in range(2))
            for manifest, ids in ((old, before), (new, after)):
                if first < manifest.chunk_count:
                    part = manifest.cell(cell)
                    ids[: part.chunk_count] = _bound_ids_of(part, shelf, keys)
            yield from _extents((before != after).any(axis=1), first, left.chunk_size, size)
    finally:
        old.close()
        new.close()


def with_image(
    store: LocalStore,
    keys: VaultKeys,
    shelf: PackShelf,
    point: PointDisk,
    reader: DiskReader,
    monitor: Monitor,
) -> Iterator[Extent]:
    """Extents in which the disk image differs from the point: every data chunk is read and compared by identity."""
    manifest = Manifest(store, keys, point)
    try:
        size = max(point.size, reader.size)
        chunk_size = point.chunk_size
        now_chunks = -(-reader.size // chunk_size)
        chunks = max(manifest.chunk_count, now_chunks)
        with_segments = set(manifest.cells_with_segments())
        monitor.phase("Compare", reader.size)
        for cell in sorted({*range(cell_count(now_chunks)), *with_segments}):
            first, count = cell_bounds(cell, chunks)
            here = max(0, min(count, now_chunks - first))
            runs = list(reader.data_runs(first, here)) if here else []
            monitor.advance(here * chunk_size)
            if not runs and cell not in with_segments:
                continue
            before, after = (np.zeros((count, 32), dtype=np.uint8) for _ in range(2))
            if first < manifest.chunk_count and cell in with_segments:
                part = manifest.cell(cell)
                before[: part.chunk_count] = _bound_ids_of(part, shelf, keys)
            for start, length in runs:
                for at in range(start, start + length, batch_chunks(chunk_size)):
                    monitor.check()
                    numbers = np.arange(at, min(at + batch_chunks(chunk_size), start + length), dtype=np.uint64)
                    plain = reader.identify(numbers, seed=0, id_key=keys.id_key, cancel=None)
                    monitor.count("read_bytes", plain.read_bytes)
                    ids = np.array(plain.ids)
                    ids[np.asarray(plain.states) != ChunkState.CHANGED] = 0
                    after[(numbers - np.uint64(first)).astype(np.int64)] = ids
            yield from _extents((before != after).any(axis=1), first, chunk_size, size)
    finally:
        manifest.close()


def _extents(differs: NDArray[np.bool_], first_chunk: int, chunk_size: int, size: int) -> Iterator[Extent]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], differs, [False])).astype(np.int8)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        offset = (first_chunk + start) * chunk_size
        yield offset, min((first_chunk + end) * chunk_size, size) - offset


def join(extents: Iterator[Extent]) -> list[Extent]:
    """Join extents that touch."""
    out: list[Extent] = []
    for offset, count in extents:
        if out and sum(out[-1]) == offset:
            out[-1] = (out[-1][0], out[-1][1] + count)
        else:
            out.append((offset, count))
    return out


def picture(extents: list[Extent], size: int, pieces: int = 64) -> tuple[float, ...]:
    """The share of each of `pieces` equal parts of the disk that changed."""
    if not size:
        return ()
    shares = np.zeros(pieces)
    width = size / pieces
    for offset, count in extents:
        first, last = int(offset / width), min(pieces - 1, int((offset + count - 1) / width))
        for piece in range(first, last + 1):
            shares[piece] += min((piece + 1) * width, offset + count) - max(piece * width, offset)
    return tuple(float(min(1.0, share / width)) for share in shares)
