"""A manifest: which block holds each chunk of one disk at one point, merged from its stack of layers, cell by cell.

Invariants:
- The newest layer that states a chunk decides; every chunk of the disk is stated by some layer, or the manifest is
  damaged and says so: a gap is never read as a hole.
- `CellMap.check_runs` compares every run that is used with the digest made when its blocks were placed (R1), taking
  the ids from the packs' tables: a wrong place is never a right-looking restore.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import CorruptionError
from blockvault.format.envelope import damaged
from blockvault.format.layers import ENTRY_HOLE, ENTRY_SEGMENT, SEGMENT_SLOTS_MAX, Segment, run_digest
from blockvault.ids import PackName
from blockvault.model import FillKind, PointDisk, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS, cell_bounds, cell_count
from blockvault.store.layers import LayerReader
from blockvault.store.local import LocalStore
from blockvault.store.packs import PackShelf, pack_folder

# By layer and cell: which of the segment's runs agree with their digests.
SoundRuns = dict[tuple[str, int], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class RunDamage:
    """A run that cannot be trusted: the object at fault, the chunks (in the cell) that it takes with it, and why."""

    object: str
    chunks: NDArray[np.int64]
    reason: str


@dataclass(slots=True)
class _UsedRuns:
    layer: str
    segment: Segment
    slot_chunk: NDArray[np.uint32]
    slot_used: NDArray[np.bool_]
    runs: NDArray[np.int64]


@dataclass(slots=True)
class CellMap:
    """One cell of a manifest. Arrays have one entry for each chunk of the cell that the disk has."""

    cell: int
    first_chunk: int
    chunk_count: int
    kind: NDArray[np.uint8]  # FillKind
    pack: NDArray[np.int32]  # index into packs where kind is DATA
    slot: NDArray[np.uint32]
    packs: list[PackName]
    _used: list[_UsedRuns] = field(default_factory=list)

    def check_runs(self, shelf: PackShelf, run_key: bytes, sound: SoundRuns | None = None) -> list[RunDamage]:
        """Compare every run in use with its digest. Returns what does not agree; empty means sound.

        `sound` is what earlier calls found sound and is not looked at again; it is told of what this one does.
        """
        damage: list[RunDamage] = []
        for used in self._used:
            segment = used.segment
            known = np.zeros(len(segment.run_count), dtype=np.bool_)
            if sound is not None:
                known = sound.setdefault((used.layer, self.cell), known)
            starts = np.cumsum(segment.run_count, dtype=np.int64) - segment.run_count
            chunks = used.slot_chunk.astype(np.uint64) + np.uint64(self.first_chunk)
            for run in used.runs[~known[used.runs]].tolist():
                span = slice(int(starts[run]), int(starts[run]) + int(segment.run_count[run]))
                found = unsound(shelf, run_key, used.layer, segment, run, chunks[span])
                if found is not None:
                    name, reason = found
                    hit = used.slot_chunk[span][used.slot_used[span]].astype(np.int64)
                    damage.append(RunDamage(name, hit, reason))
                else:
                    known[run] = True
        return damage


def unsound(
    shelf: PackShelf, run_key: bytes, layer: str, segment: Segment, run: int, chunks: NDArray[np.uint64]
) -> tuple[str, str] | None:
    """What is wrong with a run that binds these chunks of the disk: the object at fault, and why (R1)."""
    count, first = int(segment.run_count[run]), int(segment.run_first_slot[run])
    pack = segment.packs[segment.run_pack[run]]
    name = f"{pack_folder(pack)}/{pack.hex()}"
    try:
        table = shelf.reader(pack).table
    except CorruptionError as error:
        return next(iter(shelf.names(pack)), name), error.why or error.message
    if first + count > table.slot_count:
        return name, "it has fewer slots than a manifest refers to"
    if run_digest(run_key, chunks, table.ids[first : first + count]) != segment.run_digest[run].tobytes():
        return name, f"slots {first} to {first + count - 1} do not hold what layer {layer} bound to them"
    return None


class Manifest:
    """The manifest of one disk at one point. Layers are opened at once: a missing one is told before work begins."""

    def __init__(self, store: LocalStore, keys: VaultKeys, disk: PointDisk) -> None:
        self.disk = disk
        self.chunk_count = disk.chunk_count
        self.layers: list[LayerReader] = []
        for ref in disk.layers:
            self.layers.append(LayerReader(store, keys, ref, disk.chunk_size))
        self._check_covered()

    def _check_covered(self) -> None:
        """Every cell is stated by some layer; one that none states is damage, never a hole."""
        none = np.zeros(0, np.int64)
        starts = np.concatenate([none, *(layer.entries["cell"].astype(np.int64) for layer in self.layers)])
        spans = np.concatenate([none, *(layer.entries["span"].astype(np.int64) for layer in self.layers)])
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(starts[order] + spans[order])
        # All cells before an entry's start are covered by those that begin earlier, or there is a gap. By the ends
        # and not cell by cell: a record may claim a disk of 2^32 cells.
        before = np.concatenate([[0], ends[:-1]]) if len(ends) else none
        gaps = np.flatnonzero(starts > before)
        reached = int(before[gaps[0]]) if len(gaps) else int(ends[-1]) if len(ends) else 0
        if reached < cell_count(self.chunk_count):
            raise self._gap(reached)

    def _gap(self, cell: int) -> CorruptionError:
        name = self.layers[0].name if self.layers else "(none)"
        return CorruptionError(
            "vault.manifest-gap",
            f"the manifest of disk '{self.disk.name}' says nothing of some chunks of cell {cell}",
            why=f"its layers, the newest of which is {name}, do not cover the disk",
            do="restore an older point; run `blockvault verify --all` to see which are whole",
        )

    def read_all(self) -> None:
        """Read every segment of every layer. Raises `CorruptionError` for the first that is damaged."""
        for layer in self.layers:
            for entry in layer.entries:
                if entry["kind"] == ENTRY_SEGMENT:
                    layer.segment(entry)

    def cells_with_segments(self) -> list[int]:
        """Cells of which some layer says more than one fill; all others are one hole or one zero stretch."""
        found = [layer.segment_cells() for layer in self.layers]
        cells = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        return [cell for cell in cells.tolist() if cell < cell_count(self.chunk_count)]

    def cell(self, cell: int) -> CellMap:
        """One cell, merged. Raises `CorruptionError` where a segment is damaged or a chunk is stated nowhere."""
        first, count = cell_bounds(cell, self.chunk_count)
        kind = np.zeros(CELL_CHUNKS, dtype=np.uint8)
        pack = np.full(CELL_CHUNKS, -1, dtype=np.int32)
        slot = np.zeros(CELL_CHUNKS, dtype=np.uint32)
        packs: dict[PackName, int] = {}
        used: list[_UsedRuns] = []
        slot_total = 0
        for layer in self.layers:
            entry = layer.entry(cell)
            if entry is None:
                continue
            free = kind == FillKind.UNSTATED
            if entry["kind"] != ENTRY_SEGMENT:
                kind[free] = FillKind.HOLE if entry["kind"] == ENTRY_HOLE else FillKind.ZERO
                break
            segment = layer.segment(entry)
            slot_total += segment.slot_count
            if slot_total > 2 * SEGMENT_SLOTS_MAX:
                raise damaged(layer.name, f"the layers under it say more of cell {cell} than those of a whole vault")
            run, slots, chunk, live = segment.slots()
            take = live & free[chunk] & (chunk < count)
            if take.any():
                indexes = np.array([packs.setdefault(name, len(packs)) for name in segment.packs], dtype=np.int32)
                at = chunk[take]
                kind[at] = FillKind.DATA
                pack[at] = indexes[segment.run_pack[run[take]]]
                slot[at] = slots[take]
                used.append(_UsedRuns(layer.name, segment, chunk, take, np.unique(run[take]).astype(np.int64)))
            for start, length, fill in zip(
                segment.fill_first.tolist(),
                segment.fill_length.tolist(),
                segment.fill_kind.tolist(),
                strict=True,
            ):
                span = slice(start, start + length)
                kind[span][free[span]] = fill
            if not (kind[:count] == FillKind.UNSTATED).any():
                break
        if (kind[:count] == FillKind.UNSTATED).any():
            raise self._gap(cell)
        return CellMap(cell, first, count, kind[:count], pack[:count], slot[:count], list(packs), used)

    def fill_of(self, cell: int) -> FillKind:
        """What a cell without segments is. Raises `CorruptionError` if no layer states it."""
        for layer in self.layers:
            entry = layer.entry(cell)
            if entry is not None:
                return FillKind.HOLE if entry["kind"] == ENTRY_HOLE else FillKind.ZERO
        raise self._gap(cell)

    def close(self) -> None:
        """Give the layers' descriptors back."""
        for layer in self.layers:
            layer.close()
