"""Restore from the vault: point -> merged layers -> blocks in pack order -> target.

Every step is checked: records and layers by their tags, runs by their digests (R1), every block by its id. What does
not check is never written as if it were right: a damaged block goes into quarantine, and unless a kept snapshot has the
same bytes by identity the restore ends and names pack, slot and disk range.

Reading is in pack order within a cell, so packs are read forward; writing joins neighbouring chunks. To standard
output it is in chunk order instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.blocks import STATUS_NO_BASE, STATUS_TEXT, Fetched, Gathered, block_name, fetch, gather
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.model import FillKind, PointDisk, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS, cell_count
from blockvault.monitor import Monitor
from blockvault.pipeline import RESTORE_BATCH_BYTES, batch_chunks, in_order
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap, Manifest
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine
from blockvault.units import format_size

ZERO_RUN_BYTES = 1 << 20
Spare = Callable[[PointDisk, int, bytes], bytes | None]  # disk, chunk, id -> plain bytes that have that id


@dataclass(slots=True)
class _Batch:
    cell: CellMap
    rows: NDArray[np.int64]  # chunks in the cell
    blocks: Gathered | None = None  # of the whole cell, where all its packs may be open at once
    at: NDArray[np.uint32] | None = None  # where the blocks of `rows` stand there


class DiskRestore:
    """Restores one disk of one point out of the vault."""

    def __init__(
        self,
        store: LocalStore,
        keys: VaultKeys,
        shelf: PackShelf,
        disk: PointDisk,
        monitor: Monitor,
        *,
        quarantine: Quarantine,
        spare: Spare | None = None,
    ) -> None:
        self.quarantine = quarantine
        self._spare = spare
        self._spare_lock = threading.Lock()
        self.keys = keys
        self.shelf = shelf
        self.disk = disk
        self.monitor = monitor
        self.manifest = Manifest(store, keys, disk)

    def to_target(self, fd: int, *, fresh: bool, direct_fd: int | None = None) -> int:
        """Write the disk to a file or device; returns the bytes written.

        `direct_fd`: the same target opened with O_DIRECT, if it can be.
        `fresh`: the target was made for this and reads as zeros; otherwise holes and zeros are written (R14).
        """
        written = 0

        # Blocks are decoded on all cores, but written by this thread alone: two writers of one file would only wait
        # for its lock, and burn the cores that decode.
        batches = self._batches(fd, fresh=fresh, pack_order=True)
        with in_order(lambda batch: (batch, self._fetch(batch)), batches) as results:
            for batch, plain in results:
                self.monitor.check()
                chunks = (batch.rows + batch.cell.first_chunk).astype(np.uint64)
                order = np.argsort(chunks, kind="stable").astype(np.uint32)
                reach("restore.write")
                count = kernel.apply(
                    plain,
                    order,
                    fd,
                    chunks[order],
                    disk_size=self.disk.size,
                    fresh=fresh,
                    direct_fd=direct_fd,
                    cancel=None,
                )
                written += count
                self.monitor.count("written_bytes", count)
        return written

    def chunks_in(self, cell: CellMap, rows: NDArray[np.int64]) -> kernel.PlainBatch:
        """Fetch some data chunks of a cell, each checked. Raises `CorruptionError`."""
        return self._fetch(_Batch(cell, rows))

    def to_stream(self, fd: int) -> int:
        """Write the disk from its first byte to its last to a pipe."""
        size, chunk_size = self.disk.size, self.disk.chunk_size
        position = 0
        batches = self._batches(None, fresh=True, pack_order=False)
        with in_order(lambda batch: (batch, self._fetch(batch)), batches) as results:
            for batch, plain in results:
                self.monitor.check()
                starts = (batch.rows + batch.cell.first_chunk) * chunk_size
                breaks = np.flatnonzero(np.diff(starts) != chunk_size) + 1
                for rows in np.split(np.arange(len(starts), dtype=np.uint32), breaks):
                    begin = int(starts[rows[0]])
                    self._write_zeros(fd, begin - position)
                    length = min(len(rows) * chunk_size, size - begin)
                    plain.write_into(fd, np.ascontiguousarray(rows), length)
                    position = begin + length
        self._write_zeros(fd, size - position)
        return size

    def _write_zeros(self, fd: int, byte_count: int) -> None:
        """A hole as a stream has it. It may be stopped: a record may claim a disk of 4 EiB."""
        zeros = memoryview(bytes(min(ZERO_RUN_BYTES, max(0, byte_count))))
        while byte_count > 0:
            self.monitor.check()
            byte_count -= os.write(fd, zeros[: min(len(zeros), byte_count)])

    def close(self) -> None:
        """Give descriptors back."""
        self.manifest.close()

    def _batches(self, fd: int | None, *, fresh: bool, pack_order: bool) -> Iterator[_Batch]:
        """Data chunks in batches; on the way, holes and zeros are cleared on a target that is not fresh."""
        per_batch = batch_chunks(self.disk.chunk_size, RESTORE_BATCH_BYTES)
        with_segments = self.manifest.cells_with_segments()
        if fd is not None and not fresh:
            self._clear_other_cells(fd, with_segments)
        for cell_index in with_segments:
            self.monitor.check()
            cell = self.manifest.cell(cell_index)
            problems = cell.check_runs(self.shelf, self.keys.run_key)
            if problems:
                first = problems[0]
                for problem in problems:
                    self.quarantine.note_object(problem.object, None, problem.reason)
                raise self.damage(first.object, None, first.reason, cell, first.chunks)
            if fd is not None and not fresh:
                self._clear_fills(fd, cell)
            rows = np.flatnonzero(cell.kind == FillKind.DATA)
            if pack_order and len(rows):
                rows = rows[np.lexsort((cell.slot[rows], cell.pack[rows]))]
            blocks = gather(self.shelf, cell.packs, cell.pack[rows], cell.slot[rows], self.disk.chunk_size)
            for start in range(0, len(rows), per_batch):
                part = rows[start : start + per_batch]
                yield _Batch(cell, part, blocks, np.arange(start, start + len(part), dtype=np.uint32))
            self._advance(cell)

    def _advance(self, cell: CellMap) -> None:
        held = int(np.count_nonzero(cell.kind == FillKind.DATA))
        self.monitor.advance(held * self.disk.chunk_size)

    def _fetch(self, batch: _Batch) -> kernel.PlainBatch:
        cell, rows = batch.cell, batch.rows
        if batch.blocks is not None and batch.at is not None:
            fetched = batch.blocks.fetch(self.keys, batch.at)
        else:
            fetched = fetch(self.shelf, self.keys, cell.packs, cell.pack[rows], cell.slot[rows], self.disk.chunk_size)
        if not fetched.all_good:
            self.shelf.refresh()  # a repair may have put the next generation of a pack in its place
            fetched = fetch(self.shelf, self.keys, cell.packs, cell.pack[rows], cell.slot[rows], self.disk.chunk_size)
        if not fetched.all_good:
            plain = self._from_spare(cell, rows, fetched)
            if plain is not None:
                self.monitor.count("blocks_decoded", len(rows))
                return plain
            bad = int(np.flatnonzero(fetched.status)[0])
            row = int(rows[bad])
            pack = cell.packs[cell.pack[row]]
            reason = STATUS_TEXT[int(fetched.status[bad])]
            raise self.damage(
                block_name(self.shelf, pack), int(cell.slot[row]), reason, cell, rows[fetched.status != 0]
            )
        self.monitor.count("blocks_decoded", len(rows))
        return fetched.plain

    def _from_spare(self, cell: CellMap, rows: NDArray[np.int64], fetched: Fetched) -> kernel.PlainBatch | None:
        """Put the damaged blocks of a batch into quarantine; the batch, if spare copies make up for all of them."""
        chunks = [fetched.plain.chunk(row) if not fetched.status[row] else b"" for row in range(len(rows))]
        for at in np.flatnonzero(fetched.status).tolist():
            row = int(rows[at])
            pack, slot = cell.packs[cell.pack[row]], int(cell.slot[row])
            if fetched.status[at] != STATUS_NO_BASE:  # of its base the base's own status says more: verify names it
                self.quarantine.note(pack, slot, STATUS_TEXT[int(fetched.status[at])])
            if self._spare is None:
                continue
            try:
                table = self.shelf.reader(pack).table
            except CorruptionError:
                return None
            with self._spare_lock:
                chunks[at] = self._spare(self.disk, row + cell.first_chunk, table.ids[slot].tobytes()) or b""
        if not all(chunks):
            return None
        self.monitor.count("chunks_from_spare", int(np.count_nonzero(fetched.status)))
        return kernel.identify_plain(b"".join(chunks), chunk_size=self.disk.chunk_size, seed=0, id_key=None)

    def damage(
        self, name: str, slot: int | None, reason: str, cell: CellMap, chunks: NDArray[np.int64]
    ) -> CorruptionError:
        """The error for a damaged block (or, without `slot`, a whole object) that these chunks of the cell need."""
        offset = (int(chunks.min()) + cell.first_chunk) * self.disk.chunk_size
        where = f"block {slot} of the vault's object {name}" if slot is not None else f"the vault's object {name}"
        return CorruptionError(
            "vault.block-damaged",
            f"{where} is damaged, and disk '{self.disk.name}' needs it",
            why=f"{reason}; first affected: {format_size(self.disk.chunk_size)} at byte {offset} of the disk",
            do="run `blockvault vault repair`; `blockvault verify` tells what it touches; other points are as before",
        )

    def _clear_other_cells(self, fd: int, with_segments: list[int]) -> None:
        """Cells that are one fill: make them read as zeros, neighbours in one call."""
        stated = set(with_segments)
        cells = cell_count(self.manifest.chunk_count)
        start: int | None = None
        for cell in [*range(cells), None]:
            if cell is not None and cell not in stated:
                self.manifest.fill_of(cell)
                start = cell if start is None else start
                continue
            if start is not None:
                end = cells if cell is None else cell
                self._clear(fd, start * CELL_CHUNKS, end * CELL_CHUNKS)
                start = None

    def _clear_fills(self, fd: int, cell: CellMap) -> None:
        empty = cell.kind != FillKind.DATA
        edges = np.flatnonzero(np.diff(np.concatenate(([False], empty, [False])).astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            self._clear(fd, cell.first_chunk + start, cell.first_chunk + end)

    def _clear(self, fd: int, first_chunk: int, end_chunk: int) -> None:
        begin = first_chunk * self.disk.chunk_size
        end = min(end_chunk * self.disk.chunk_size, self.disk.size)
        if end > begin:
            kernel.clear(fd, begin, end - begin)


def data_bytes(manifest: Manifest) -> int:
    """Bytes of data chunks in a manifest: what a restore has to write."""
    total = 0
    for cell_index in manifest.cells_with_segments():
        cell = manifest.cell(cell_index)
        total += int(np.count_nonzero(cell.kind == FillKind.DATA))
    return total * manifest.disk.chunk_size
