"""Capturing a disk where the file system cannot clone: one whole sparse copy, then only what changed.

The newest-state file is brought from the state of the snapshot before (the parent, P) to that of the image, a
group of chunks at a time. For each group:

    1. save      the old chunks of P go to P's delta                                sync
    2. list      P's list names them, with their digests                            sync
    3. write     the image's chunks go to the newest-state file; the bytes that are written are those whose
    digest
                 the new digest state gets (R4)

and at the end: newest state synced, P's list sealed, digest state durable, record (the commit), digest state
switched.

Why a crash anywhere loses nothing: until the record is there, P is the newest snapshot. Whatever step 3 has
overwritten, step 2 had made durable in P's list, so a reader of P finds it there (`overlay`), and the next
capture first puts it back (`newest`), compares the result with P's digests, and only then begins. After
the record, P's sealed list is its difference to the new snapshot, for good.

Invariants:
- What a disk that shrank had beyond its new end is zeroed in the newest state like any other change.
- Zeroing keeps the file's space until the commit, so that rolling back needs no space that others could take.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blockvault import kernel
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.image.system import sync_folder, zero_range
from blockvault.model import ChunkState
from blockvault.model.geometry import CELL_CHUNKS, cell_bounds, chunk_count
from blockvault.pipeline import in_order, worker_count
from blockvault.snapshots.batches import all_rows, is_stated, pieces_of, runs_of
from blockvault.snapshots.deltas import ChunkList, delta_path, list_path
from blockvault.snapshots.newest import Parent, cells_with_data, drop_list, open_newest, roll_back
from blockvault.snapshots.overlay import stem_of
from blockvault.units import GIB, MIB

if TYPE_CHECKING:
    from blockvault.image.reader import U8, U64
    from blockvault.image.source import ImageSource
    from blockvault.kernel import CancelToken
    from blockvault.monitor import Monitor
    from blockvault.store.digests import DigestState, DigestWriter

SCAN_BYTES = 256 * MIB
GROUP_BYTES = GIB  # touched data per group: two syncs each
GROUP_CELLS = 16  # their digests wait in memory


@dataclass(slots=True)
class _Touched:
    """What a scan found changed in one cell; chunk numbers are those of the disk."""

    cell: int
    after: U8  # the cell's digests to be, completed by what is written
    changed: U64  # data to be written
    changed_before: U8
    cleared: U64  # now zeros, data before
    cleared_before: U8


@dataclass(slots=True)
class CaptureContext:
    """What all disks of one capture share."""

    number: int
    chunk_size: int
    seed: int
    monitor: Monitor
    token: CancelToken


class DiskCapture:
    """The capture of one disk into a newest-state file, new (`parent` None) or that of the parent.

    The order is `prepare`, (the record is `MAKING`), `run`, `settle`, (it is `KEPT`), `after_commit`; or
    `undo` instead, from anywhere before the commit; at last `close`.
    """

    def __init__(
        self,
        context: CaptureContext,
        source: ImageSource,
        path: str,
        *,
        parent: Parent | None,
        bound_to: bytes,
        before: DigestState | None,
        writer: DigestWriter,
    ) -> None:
        self.context = context
        self.source = source
        self.path = path
        self.parent = parent
        self.read_bytes = 0
        self._bound_to = bound_to
        self._before = before
        self._writer = writer
        self._padded = source.chunk_count * source.chunk_size
        self._fd = -1
        self._delta_fd = -1
        self._list: ChunkList | None = None
        self._emptied: list[U64] = []  # zeroed with their space kept, to be freed after the commit
        self._group: list[_Touched] = []
        self._group_rows = 0
        self._newest_damage = 0

    # -- the parts of a capture -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Open the newest-state file, put back and proven to be in the parent's state, where there is a parent.

        Raises:
            CorruptionError, FileNotFoundError: the chain cannot be built upon; nothing of it was lost by
            trying.
        """
        if self.parent is not None:
            self._fd, self._list = open_newest(
                self.path,
                self.parent,
                self.source.chunk_size,
                bound_to=self._bound_to,
                digests=self._before,
                seed=self.context.seed,
            )

    def run(self) -> None:
        """Bring the newest-state file to the state of the image."""
        if self.parent is None:
            self._copy_all()
        else:
            self._copy_changes(self.parent)

    def settle(self) -> int:
        """Make all durable and seal the parent's list; returns the file's time, by which it is known again."""
        os.fsync(self._fd)
        reach("snapshot.raw.synced")
        if self._list is not None:
            self._list.seal(self.context.number)
        sync_folder(os.path.dirname(self.path))
        self._writer.finish()
        reach("snapshot.raw.sealed")
        # Whole seconds survive every file system, also after the file has left the cache.
        seconds = os.fstat(self._fd).st_mtime_ns // 1_000_000_000
        self._set_mtime(seconds * 1_000_000_000)
        os.fsync(self._fd)
        return seconds * 1_000_000_000

    def after_commit(self, record_digest: bytes, mtime_ns: int) -> None:
        """Switch the digest state to the new record, and give back the space of what was zeroed."""
        self._writer.switch("snapshot", record_digest)
        size = self.source.chunk_size
        for chunks in self._emptied:
            for first, count in runs_of(chunks):
                kernel.clear(self._fd, first * size, count * size)
        if self._emptied:
            self._set_mtime(mtime_ns)

    def undo(self) -> None:
        """Leave things as they were: no new file, or the newest state put back to the parent's."""
        self._writer.abort()
        if self.parent is None:
            if self._fd >= 0:
                os.unlink(self.path)
                sync_folder(os.path.dirname(self.path))
        elif self._fd >= 0 and self._list is not None:
            self._list.unseal()
            roll_back(self._fd, self._delta_fd, self._list, self.source.chunk_size)
            self._set_mtime(self.parent.mtime_ns)
            drop_list(self._fd, self._list, self.path)

    def close(self) -> None:
        """Let go of the files; safe to call again."""
        self._writer.close()
        if self._before is not None:
            self._before.close()
        if self._list is not None:
            self._list.close()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.fchmod(self._fd, 0o400)
        for fd in (self._fd, self._delta_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._delta_fd = -1

    def _set_mtime(self, mtime_ns: int) -> None:
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))

    # -- the first copy -------------------------------------------------------------------------------------

    def _copy_all(self) -> None:
        """A whole sparse copy of the image; what reads as zeros is left a hole."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self._padded)
        sync_folder(os.path.dirname(self.path))
        reach("snapshot.raw.created")
        source, size = self.source, self.source.chunk_size
        cells = cells_with_data(source.fd, source.size, size)
        done = 0
        for cell in cells:
            first, count = cell_bounds(cell, source.chunk_count)
            self.context.monitor.advance(first * size - done)
            done = first * size
            runs = [
                np.arange(start, start + length, dtype=np.uint64) for start, length in source.data_runs(first, count)
            ]
            digests = np.zeros((count, 16), np.uint8)
            if runs:
                chunks = np.concatenate(runs)
                digests[(chunks - np.uint64(first)).astype(np.int64)] = self._write(chunks, fresh=True)
            self._writer.put(cell, digests)
            stop = min(source.size, (first + count) * size)
            self.context.monitor.advance(stop - done)
            done = stop
        self.context.monitor.advance(source.size - done)

    # -- the changes ----------------------------------------------------------------------------------------

    def _copy_changes(self, parent: Parent) -> None:
        source, size = self.source, self.source.chunk_size
        self._begin(parent)
        old_chunks = chunk_count(parent.size, size)
        done = 0
        for cell in self._cells_to_look_at(old_chunks):
            first, count = cell_bounds(cell, source.chunk_count)
            start = min(source.size, first * size)
            self.context.monitor.advance(max(0, start - done))
            done = max(done, start)
            self._compare_cell(cell, old_chunks)
            done = max(done, min(source.size, (first + count) * size))
            if self._group_rows * size >= GROUP_BYTES or len(self._group) >= GROUP_CELLS:
                self._flush()
        self.context.monitor.advance(source.size - done)
        self._flush()
        if self._newest_damage:
            self.context.monitor.warn(
                "snapshot.damaged",
                f"{self._newest_damage} chunks of the snapshot of point {parent.number} were damaged on its disk; "
                "they are told when it is restored",
            )

    def _begin(self, parent: Parent) -> None:
        """Have the parent's list and delta there before the newest state is touched."""
        stem = stem_of(self.path)
        if self._list is None:
            self._list = ChunkList.create(
                list_path(stem, parent.number),
                bound_to=self._bound_to,
                number=parent.number,
                chunk_size=self.source.chunk_size,
                seed=self.context.seed,
            )
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._delta_fd = os.open(delta_path(stem, parent.number), flags, 0o600)
        padded = max(os.fstat(self._fd).st_size, self._padded)
        os.ftruncate(self._delta_fd, padded)
        os.fsync(self._delta_fd)
        sync_folder(os.path.dirname(self.path))
        reach("snapshot.raw.begun")
        # From here on the list is there: whoever sees the file changed looks at it first.
        if os.fstat(self._fd).st_size < padded:  # to its own size it would still count as written to
            os.ftruncate(self._fd, padded)
        self._padded = padded

    def _cells_to_look_at(self, old_chunks: int) -> list[int]:
        size = self.source.chunk_size
        cells = set(cells_with_data(self.source.fd, self.source.size, size))
        if self._before is not None:
            cells.update(self._before.stated_cells())
        else:
            cells.update(cells_with_data(self._fd, old_chunks * size, size))
        return sorted(cells)

    def _compare_cell(self, cell: int, old_chunks: int) -> None:
        """Find what changed in a cell, by digest of every chunk of the image."""
        source = self.source
        first, count = cell_bounds(cell, source.chunk_count)
        old_count = cell_bounds(cell, old_chunks)[1]
        total = max(count, old_count)
        before = np.zeros((total, 16), np.uint8)
        before[:old_count], is_trusted = self._digests_before(cell, old_count)
        after = np.zeros((total, 16), np.uint8)
        states = np.full(total, int(ChunkState.HOLE), np.uint8)
        step = max(1, SCAN_BYTES // source.chunk_size)
        for start in range(0, count, step):
            self.context.monitor.check()
            stop = min(count, start + step)
            scan = source.scan(
                first + start,
                stop - start,
                before[start:stop],
                seed=self.context.seed,
                threads=worker_count(),
                cancel=self.context.token,
            )
            states[start:stop] = scan.states
            after[start:stop] = scan.digests
            self._count_read(scan.read_bytes)
            end = min(source.size, (first + stop) * source.chunk_size)
            self.context.monitor.advance(end - (first + start) * source.chunk_size)
        changed = np.flatnonzero(states == ChunkState.CHANGED)
        cleared = np.flatnonzero((states <= ChunkState.ZERO) & is_stated(before))
        if len(changed) or len(cleared):
            base = np.uint64(cell * CELL_CHUNKS)
            self._group.append(
                _Touched(
                    cell,
                    after[:count],
                    changed.astype(np.uint64) + base,
                    before[changed],
                    cleared.astype(np.uint64) + base,
                    before[cleared],
                )
            )
            self._group_rows += len(changed)
        elif not is_trusted and count:
            self._writer.put(cell, after[:count])

    def _digests_before(self, cell: int, count: int) -> tuple[U8, bool]:
        """The parent's digests of a cell; where the host has lost them, from the newest state, never the source."""
        if not count:
            return np.zeros((0, 16), np.uint8), self._before is not None
        if self._before is not None:
            with contextlib.suppress(CorruptionError):
                return self._before.cell(cell, count), True
        batch = kernel.scan(
            self._fd,
            chunk_size=self.source.chunk_size,
            disk_size=self._padded,
            first_chunk=cell * CELL_CHUNKS,
            chunk_count=count,
            digests=None,
            seed=self.context.seed,
            threads=worker_count(),
            drop_cache=False,
            cancel=self.context.token,
        )
        return batch.digests, False

    def _flush(self) -> None:
        """Save, list, write (see above) what has been found changed so far."""
        group, self._group, self._group_rows = self._group, [], 0
        if not group:
            return
        assert self._list is not None
        size = self.source.chunk_size
        chunks = np.concatenate([part for found in group for part in (found.changed, found.cleared)])
        olds = np.concatenate([part for found in group for part in (found.changed_before, found.cleared_before)])
        order = np.argsort(chunks)
        chunks, olds = chunks[order], olds[order]
        free = ~self._list.names(chunks)  # an attempt that was broken off may have saved some already
        chunks, olds = chunks[free], olds[free]
        self._save(chunks, olds)
        os.fsync(self._delta_fd)
        reach("snapshot.raw.saved")
        self._list.append(chunks, olds)
        reach("snapshot.raw.listed")
        for found in group:
            base = np.uint64(found.cell * CELL_CHUNKS)
            if len(found.changed):
                rows = (found.changed - base).astype(np.int64)
                found.after[rows] = self._write(found.changed, fresh=False)
            for first, count in runs_of(found.cleared):
                if not zero_range(self._fd, first * size, count * size):
                    kernel.clear(self._fd, first * size, count * size)
            if len(found.cleared):
                self._emptied.append(found.cleared)
            if len(found.after):
                self._writer.put(found.cell, found.after)
        reach("snapshot.raw.written")

    def _save(self, chunks: U64, olds: U8) -> None:
        """Copy the parent's chunks from the newest state to the delta; those that read as zeros need none."""
        held = is_stated(olds)
        wanted, expected = chunks[held], olds[held]

        def save(piece: slice) -> int:
            batch = self._read_newest(wanted[piece])
            rows = all_rows(len(batch))
            kernel.apply(
                batch,
                rows,
                self._delta_fd,
                wanted[piece],
                disk_size=self._padded,
                fresh=False,
                cancel=self.context.token,
            )
            return int(np.count_nonzero((batch.digests != expected[piece]).any(axis=1)))

        with in_order(save, pieces_of(len(wanted), self.source.chunk_size)) as results:
            for wrong in results:
                self.context.monitor.check()
                self._newest_damage += wrong

    def _read_newest(self, chunks: U64) -> kernel.PlainBatch:
        return kernel.identify(
            np.full(len(chunks), self._fd, np.int32),
            chunks,
            chunk_size=self.source.chunk_size,
            disk_size=self._padded,
            seed=self.context.seed,
            id_key=None,
            cancel=self.context.token,
        )

    def _write(self, chunks: U64, *, fresh: bool) -> U8:
        """Copy chunks of the image to the newest state; returns the digests of the very bytes that were written."""

        def copy(piece: slice) -> tuple[slice, U8, int]:
            wanted = chunks[piece]
            batch = self.source.identify(wanted, seed=self.context.seed, id_key=None, cancel=self.context.token)
            reach("snapshot.raw.writing")
            kernel.apply(
                batch,
                all_rows(len(batch)),
                self._fd,
                wanted,
                disk_size=self._padded,
                fresh=fresh,
                cancel=self.context.token,
            )
            return piece, np.array(batch.digests), batch.read_bytes

        digests = np.empty((len(chunks), 16), np.uint8)
        with in_order(copy, pieces_of(len(chunks), self.source.chunk_size)) as results:
            for piece, found, read_bytes in results:
                self.context.monitor.check()
                digests[piece] = found
                self._count_read(read_bytes)
        return digests

    def _count_read(self, byte_count: int) -> None:
        self.read_bytes += byte_count
        self.context.monitor.count("read_bytes", byte_count)
