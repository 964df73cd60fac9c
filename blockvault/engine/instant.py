"""Instant restore: from a local snapshot, without decoding.

The target is cloned or copied from the snapshot; then the snapshot, which nothing writes, is checked against the
point's ids (R15), and what does not match is taken from the vault into the target before it is released. Chunks whose
packs are lost cannot be checked: they are restored as the snapshot has them, and that is told. A point
that lives only in the snapshot tier has nothing to be checked against, and the result says `unchecked`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.claims import Claims
from blockvault.engine.diff import ids_of
from blockvault.engine.restore import DiskRestore
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.image.reader import DiskReader
from blockvault.model import ChunkState, FillKind
from blockvault.model.geometry import cell_bounds, cell_count
from blockvault.pipeline import batch_chunks, in_order
from blockvault.store.manifest import CellMap


def check_and_mend(
    reader: DiskReader,
    restore: DiskRestore,
    fd: int | None,
    *,
    of_the_point: bool = False,
    claims: Claims | None = None,
) -> int:
    """Compare what a reader reads with the point by identity; write what differs from the vault to the target.

    Args:
        reader: the snapshot's disk, or the target itself.
        restore: the same disk's restore from the vault.
        fd: the target, which holds what the reader reads; None: compare only.
        of_the_point: the reader is the point's own snapshot: what cannot be checked is restored as it has it.
        claims: all chunks that may differ, where that is known; no other is read.

    Returns:
        How many chunks differed and were mended.
    """
    manifest, monitor = restore.manifest, restore.monitor
    chunk_size = restore.disk.chunk_size
    mended = unchecked = 0
    with_segments = set(manifest.cells_with_segments())
    for index in range(cell_count(manifest.chunk_count)):
        monitor.check()
        first, count = cell_bounds(index, manifest.chunk_count)
        asked = claims.mask(first, count) if claims is not None else np.ones(count, dtype=np.bool_)
        if not asked.any():
            continue
        runs = list(reader.data_runs(first, count))
        if not runs and index not in with_segments:
            continue
        wanted = np.zeros((count, 32), dtype=np.uint8)
        cell = manifest.cell(index)
        known = _known(cell, restore) if of_the_point else asked
        unchecked += int(np.count_nonzero(asked & ~known))
        wanted[known] = ids_of(cell, restore.shelf, only=known)[known]
        actual = np.zeros((count, 32), dtype=np.uint8)
        size = batch_chunks(chunk_size)
        there = np.zeros(count, dtype=np.bool_)
        for start, length in runs:
            there[start - first : start - first + length] = True
        read = np.flatnonzero(there & asked).astype(np.uint64) + np.uint64(first)
        batches = [read[at : at + size] for at in range(0, len(read), size)]

        def identify(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
            plain = reader.identify(numbers, seed=0, id_key=restore.keys.id_key, cancel=None)
            ids = np.array(plain.ids)
            ids[np.asarray(plain.states) != ChunkState.CHANGED] = 0
            return numbers, ids

        with in_order(identify, batches) as results:
            for numbers, ids in results:
                monitor.check()
                actual[(numbers - np.uint64(first)).astype(np.int64)] = ids
                monitor.count("compared_chunks", len(numbers))
                monitor.advance(len(numbers) * chunk_size)
        wrong = known & (actual != wanted).any(axis=1)
        if not wrong.any():
            continue
        mended += int(np.count_nonzero(wrong))
        if fd is None:
            continue
        problems = cell.check_runs(restore.shelf, restore.keys.run_key)
        for problem in problems:
            if not wrong[problem.chunks].any():
                continue
            raise restore.damage(problem.object, None, problem.reason, cell, problem.chunks)
        for row in np.flatnonzero(wrong & (cell.kind != FillKind.DATA)).tolist():
            begin = (first + row) * chunk_size
            kernel.clear(fd, begin, min(chunk_size, restore.disk.size - begin))
        data = np.flatnonzero(wrong & (cell.kind == FillKind.DATA))
        for start in range(0, len(data), size):
            rows = data[start : start + size]
            plain = restore.chunks_in(cell, rows)
            kernel.apply(
                plain,
                np.arange(len(rows), dtype=np.uint32),
                fd,
                (rows + first).astype(np.uint64),
                disk_size=restore.disk.size,
                fresh=False,
                cancel=None,
            )
            reach("restore.mended")
    if unchecked:
        monitor.warn(
            "snapshot.unchecked",
            f"{unchecked} chunks could not be checked, because packs of the vault that name their blocks are lost: "
            "they are as the snapshot has them",
        )
        monitor.count("chunks_unchecked", unchecked)
    return mended


def _known(cell: CellMap, restore: DiskRestore) -> NDArray[np.bool_]:
    """(chunks,) of which the vault can still say what they must be; packs that are lost go into quarantine."""
    known = np.ones(cell.chunk_count, dtype=np.bool_)
    data = cell.kind == FillKind.DATA
    for index in np.unique(cell.pack[data]).tolist():
        try:
            restore.shelf.reader(cell.packs[index])
        except CorruptionError as error:
            known[data & (cell.pack == index)] = False
            restore.quarantine.note(cell.packs[index], None, error.why or error.message)
    return known
