"""Finding churn: which chunks of a disk differ from the parent point, cell by cell.

Three sources tell it. With the parent's digest state, every chunk is scanned and its digest compared; without one
(first transfer, refused state, `--full`), every data chunk is a candidate and is compared by identity when it is read.
With the digest state and a changed-block map that was audited (`engine/claims.py`), what it claims is a candidate.

A damaged cell of the digest state is compared by identity; without a manifest to do so it ends the walk.

With `suspects` (something is in quarantine) a chunk whose block at the parent is not sound is a candidate whatever its
digest says, and a cell of which the parent's manifest cannot be read is stated anew (R15).

Invariants:
- A chunk that is not a candidate and not cleared reads the same as at the parent: by digest, because both are holes, or
  because a map that was audited does not claim it.
- Chunks from min(old count, new count) on are always stated (R6); the last chunk counts as changed when the size does.
- Hole and zero read the same: a hole that became zeros is no churn, data that became either is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.claims import Claims
from blockvault.engine.suspects import Suspects
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.image.reader import DiskReader
from blockvault.model import ChunkState, ChurnSource, FillKind, PointDisk
from blockvault.model.geometry import CELL_CHUNKS, cell_bounds, cell_count, chunk_count
from blockvault.monitor import Monitor
from blockvault.pipeline import SCAN_BYTES, worker_count
from blockvault.store.digests import DigestState
from blockvault.store.manifest import CellMap, Manifest


@dataclass(slots=True)
class CellChurn:
    """What may have changed in one cell. Chunk numbers are within the cell."""

    cell: int
    first_chunk: int
    chunk_count: int
    candidates: NDArray[np.uint32]  # to be read, hashed and compared by identity
    fills: NDArray[np.uint8]  # FillKind of chunks that became (or must be stated as) hole or zero, else UNSTATED
    digests: (
        NDArray[np.uint8] | None
    )  # (chunk_count, 16), to be completed by what the candidates read; None: as the parent's
    parent: CellMap | None  # the parent's manifest of this cell, where candidates need it
    must_state: int  # chunks of the cell from here on are stated even if they read the same


@dataclass(slots=True)
class FillSpan:
    """Whole cells that are one hole: stated in the layer's root, nothing is read."""

    cell: int
    span: int


class ChurnFinder:
    """Walks one disk. `source` says what tells the churn."""

    def __init__(
        self,
        reader: DiskReader,
        *,
        parent: PointDisk | None,
        manifest: Manifest | None,
        digests: DigestState | None,
        seed: int,
        monitor: Monitor,
        claims: Claims | None = None,
        suspects: Suspects | None = None,
    ) -> None:
        self.reader = reader
        self.parent = parent
        self.manifest = manifest
        self.digests = digests
        self.seed = seed
        self.monitor = monitor
        self.suspects = suspects
        self.chunks = chunk_count(reader.size, reader.chunk_size)
        self.old_chunks = parent.chunk_count if parent else 0
        self.resized = parent is not None and parent.size != reader.size
        self.first_stated = min(self.chunks, self.old_chunks)
        self.claims = claims if digests is not None and not self.resized else None
        if parent is None:
            self.source = ChurnSource.INITIAL
        elif digests is None:
            self.source = ChurnSource.IDENTITY
        else:
            self.source = ChurnSource.SCAN if self.claims is None else ChurnSource.REFLINK
        self._token = kernel.CancelToken()
        monitor.attach(self._token)
        self._stated = set(digests.stated_cells()) if digests is not None else set()
        self._with_segments = set(manifest.cells_with_segments()) if manifest is not None else set()

    def __iter__(self) -> Iterator[CellChurn | FillSpan]:
        for cell in range(cell_count(self.chunks)):
            self.monitor.check()
            first, count = cell_bounds(cell, self.chunks)
            if self.claims is not None:
                claimed = self.claims.mask(first, count) | self._unsound(cell, first, count)[1]
                churn = self._claimed_cell(cell, first, claimed) if claimed.any() else None
                self._advance(first, count)
                if churn is not None:
                    yield churn
                continue
            runs = list(self.reader.data_runs(first, count))
            if not runs and not self._may_hold_data(cell):
                if first + count > self.first_stated:
                    yield from self._state_hole(cell, first, count)
                self._advance(first, count)
                continue
            if self.digests is not None:
                churn = self._scan_cell(cell, first, count)
            else:
                churn = self._list_cell(cell, first, count, runs)
                self._advance(first, count)
            if churn is not None:
                yield churn

    def _may_hold_data(self, cell: int) -> bool:
        """Whether the parent may have data in the cell."""
        if self.parent is None or cell * CELL_CHUNKS >= self.old_chunks:
            return False
        return cell in (self._stated if self.digests is not None else self._with_segments)

    def _state_hole(self, cell: int, first: int, count: int) -> Iterator[CellChurn | FillSpan]:
        if first >= self.first_stated:
            yield FillSpan(cell, 1)
            return
        fills = np.zeros(count, dtype=np.uint8)
        fills[self.first_stated - first :] = FillKind.HOLE
        yield CellChurn(cell, first, count, np.zeros(0, np.uint32), fills, None, None, self.first_stated - first)

    def _advance(self, first: int, count: int) -> None:
        size = self.reader.chunk_size
        self.monitor.advance(max(0, min(self.reader.size, (first + count) * size) - first * size))

    def _unsound(self, cell: int, first: int, count: int) -> tuple[CellMap | None, NDArray[np.bool_]]:
        """The parent's manifest of a cell, and the chunks whose blocks there are not sound; all if it cannot be read.

        Nothing is read, and nothing is unsound, where nothing is in quarantine.
        """
        found = np.zeros(count, dtype=np.bool_)
        if self.suspects is None or cell not in self._with_segments or first >= self.old_chunks:
            return None, found
        parent = self._parent_cell(cell)
        if parent is None:
            found[:] = True
        else:
            known = min(parent.chunk_count, count)
            found[:known] = self.suspects.rows(parent)[:known]
        return parent, found

    def _claimed_cell(self, cell: int, first: int, claimed: NDArray[np.bool_]) -> CellChurn | None:
        """What a map claims: data is to be read; what became a hole is cleared."""
        assert self.digests is not None
        count = len(claimed)
        data = np.zeros(count, dtype=np.bool_)
        for start, length in self.reader.data_runs(first, count):
            data[start - first : start - first + length] = True
        parent = self._parent_cell(cell)
        try:
            after = self.digests.cell(cell, count)
            if self.manifest is not None and parent is None and cell in self._with_segments:
                raise CorruptionError("vault.object-damaged", f"the parent's manifest of cell {cell} cannot be read")
        except CorruptionError as error:
            self.monitor.note(f"{error.message}: its chunks are compared by identity")
            must_state = 0 if parent is None else None
            runs = list(self.reader.data_runs(first, count))
            return self._list_cell(cell, first, count, runs, must_state=must_state)
        self.monitor.count("claimed_chunks", int(np.count_nonzero(claimed)))
        cleared = claimed & ~data & after.any(axis=1)
        candidates = np.flatnonzero(claimed & data).astype(np.uint32)
        if not len(candidates) and not cleared.any():
            return None
        fills = np.zeros(count, dtype=np.uint8)
        fills[cleared] = FillKind.HOLE
        after[cleared] = 0
        return CellChurn(cell, first, count, candidates, fills, after, parent, count)

    def _scan_cell(self, cell: int, first: int, count: int) -> CellChurn | None:
        """Compare digests of every chunk with the parent's."""
        assert self.digests is not None
        before = np.zeros((count, 16), dtype=np.uint8)
        known = max(0, min(self.old_chunks - first, count))
        if known:
            try:
                before[:known] = self.digests.cell(cell, known)
            except CorruptionError as error:
                if self.manifest is None:
                    raise
                # R5: refused, as far as it is damaged; identity decides here, and the cell is written anew.
                self.monitor.note(f"{error.message}: its chunks are compared by identity")
                self.source = ChurnSource.IDENTITY
                self._advance(first, count)
                return self._list_cell(cell, first, count, list(self.reader.data_runs(first, count)))
        compare = before
        if self.resized:
            compare = before.copy()
            for last in (self.old_chunks - 1, self.chunks - 1):
                if first <= last < first + count:
                    compare[last - first] = 0
        window = max(1, SCAN_BYTES // self.reader.chunk_size)
        states = np.empty(count, dtype=np.uint8)
        after: NDArray[np.uint8] | None = None
        for start in range(0, count, window):
            self.monitor.check()
            length = min(window, count - start)
            reach("image.scan")
            scan = self.reader.scan(
                first + start,
                length,
                compare[start : start + length],
                seed=self.seed,
                threads=worker_count(),
                cancel=self._token,
            )
            part = np.asarray(scan.states)
            states[start : start + length] = part
            if (part != ChunkState.UNCHANGED).any():
                if after is None:
                    after = before.copy()
                after[start : start + length] = scan.digests
            self.monitor.count("read_bytes", scan.read_bytes)
            self.monitor.count("scan_bytes", scan.read_bytes)
            self._advance(first + start, length)
        must_state = max(0, self.first_stated - first)
        parent, again = self._unsound(cell, first, count)
        if parent is None and again.any():
            return self._list_cell(cell, first, count, list(self.reader.data_runs(first, count)), must_state=0)
        again &= states == ChunkState.UNCHANGED
        if after is None and not again.any():
            return None
        empty = states <= ChunkState.ZERO
        stated = np.arange(count) >= must_state
        cleared = empty & (before.any(axis=1) | stated)
        fills = np.zeros(count, dtype=np.uint8)
        fills[cleared] = np.where(states[cleared] == ChunkState.HOLE, int(FillKind.HOLE), int(FillKind.ZERO))
        candidates = np.flatnonzero((states == ChunkState.CHANGED) | again).astype(np.uint32)
        if not len(candidates) and not cleared.any():
            return None
        if parent is None and len(candidates):
            parent = self._parent_cell(cell)
        if self.manifest is not None and parent is None and len(candidates) and must_state:
            # The parent says nothing readable of this cell: state all of it again.
            return self._list_cell(cell, first, count, list(self.reader.data_runs(first, count)), must_state=0)
        return CellChurn(cell, first, count, candidates, fills, after, parent, must_state)

    def _list_cell(
        self, cell: int, first: int, count: int, runs: list[tuple[int, int]], must_state: int | None = None
    ) -> CellChurn:
        """Every chunk that may hold data is a candidate; identity decides."""
        data = np.zeros(count, dtype=np.bool_)
        for start, length in runs:
            data[start - first : start - first + length] = True
        parent = self._parent_cell(cell)
        if must_state is None:
            must_state = max(0, self.first_stated - first) if parent is not None else 0
        fills = np.zeros(count, dtype=np.uint8)
        stated = np.arange(count) >= must_state
        held = np.zeros(count, dtype=np.bool_)
        if parent is not None:
            known = min(parent.chunk_count, count)
            held[:known] = parent.kind[:known] == FillKind.DATA
        fills[~data & (stated | held)] = FillKind.HOLE
        digests = np.zeros((count, 16), dtype=np.uint8)
        return CellChurn(cell, first, count, np.flatnonzero(data).astype(np.uint32), fills, digests, parent, must_state)

    def _parent_cell(self, cell: int) -> CellMap | None:
        """The parent's manifest of the cell. A damaged one is no parent: its chunks are stored anew."""
        if self.manifest is None or cell * CELL_CHUNKS >= self.old_chunks:
            return None
        try:
            return self.manifest.cell(cell)
        except CorruptionError as error:
            self.monitor.warn(error.kind, f"{error.message}: the chunks of this cell are stored again in full")
            return None


def dry_run(finder: ChurnFinder) -> tuple[int, int]:
    """Count changed chunks and read bytes without writing anything; by digest where there is one."""
    changed = 0
    for part in finder:
        if isinstance(part, CellChurn):
            changed += len(part.candidates)
            if finder.parent is not None:
                changed += int(np.count_nonzero(part.fills[: part.must_state]))
    return changed, int(finder.monitor.counters["read_bytes"])


def rows_of(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Indexes of the true entries, as the native core takes them."""
    return np.flatnonzero(values).astype(np.uint32)
