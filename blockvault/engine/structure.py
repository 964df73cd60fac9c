"""The structure of many points, proved layer by layer: each is read and each run compared once, whatever the points.

Of a point the same is proved as by walking its manifest cell by cell (`Verifier`): every layer that it lists is there
and is the one that its record names, every chunk of its disks is stated, and every run of which it sees a slot agrees
with its digest. That follows from what layers say, because points only stack them:

    stated      a stack states what its layers state together: ranges, united from the oldest layer on
    seen        a run counts if some stack sees a slot of it; the newest layer of a stack is seen whole, and of the
                others only those that no point has on top any more are looked for behind those above them

Invariants:
- A disk that this says nothing of is whole. One where anything is wrong, or too large to be held, is given back, and
  walked cell by cell: only that names what is damaged, and which chunks of which points it takes with it.
- Nothing is taken from LMDB: layers and tables are read from the vault.
- What is held is ranges of chunks: disks that state more of them than a window may have are looked at in windows of
  cells, and one whose layers say more than they claimed is walked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import blake3
import numpy as np
from numpy.typing import NDArray

from blockvault.engine.marking import CHUNK_MAX, newest_layers, unseen_of
from blockvault.errors import CorruptionError
from blockvault.format.layers import ENTRY_SEGMENT, SEGMENT_SLOTS_MAX, Segment
from blockvault.format.outlines import I64, cut, holds, no_ranges, united, without
from blockvault.ids import PackName
from blockvault.model import LayerRef, Point, PointDisk, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS, cell_count
from blockvault.monitor import Monitor
from blockvault.store.layers import LayerReader
from blockvault.store.local import LocalStore
from blockvault.store.manifest import unsound
from blockvault.store.packs import PackShelf

WINDOW_PIECES = 1 << 20
ROWS_MAX = 4 * WINDOW_PIECES
SOUND_MAX = 1 << 18

Row = tuple[str, Point, PointDisk]
Stack = tuple[tuple[LayerRef, ...], int]  # newest first; chunks of the disk
Mark = Callable[[PackName, NDArray[np.uint32], int], None]  # a pack, slots of it, bytes of a chunk


class _TooLargeError(Exception):
    """A disk's layers say more than is held at once."""


@dataclass(slots=True)
class _Disk:
    """The stacks of one disk, with the points that have them, and what was found of their layers."""

    chunk_size: int
    stacks: dict[Stack, list[Row]] = field(default_factory=lambda: defaultdict(list))
    bad: set[LayerRef] = field(default_factory=set)
    gaps: set[Stack] = field(default_factory=set)


class Structure:
    """Proves disks of points; `mark` is told which slots they need."""

    def __init__(self, store: LocalStore, keys: VaultKeys, shelf: PackShelf, monitor: Monitor, mark: Mark) -> None:
        self._store = store
        self._keys = keys
        self._shelf = shelf
        self._monitor = monitor
        self._mark = mark
        self._sound: set[bytes] = set()  # runs that were compared: layers that were merged have the same again

    def doubtful(self, points: list[tuple[str, Point]]) -> Iterator[Row]:
        """The disks of which something may be wrong; all others are whole, and what they need is marked.

        Of those that are given back it may be marked, too, what they need where nothing is wrong.
        """
        disks: dict[tuple[str, str, int], _Disk] = {}
        for label, point in points:
            for disk in point.disks:
                found = disks.setdefault((point.item_id, disk.name, disk.chunk_size), _Disk(disk.chunk_size))
                found.stacks[disk.layers, disk.chunk_count].append((label, point, disk))
        for found in disks.values():
            try:
                self._prove(found)
            except _TooLargeError:
                found.gaps.update(found.stacks)
            for stack, rows in found.stacks.items():
                if stack in found.gaps or not found.bad.isdisjoint(stack[0]):
                    yield from rows

    def _prove(self, disk: _Disk) -> None:
        layers = list(dict.fromkeys(ref for refs, _ in disk.stacks for ref in refs))
        for first, end in self._windows(disk, layers):
            self._prove_window(disk, layers, first * CELL_CHUNKS, end * CELL_CHUNKS)

    def _windows(self, disk: _Disk, layers: list[LayerRef]) -> list[tuple[int, int]]:
        """First and end cell of each part of the disk that is looked at in one go."""
        cells = max(cell_count(chunks) for _, chunks in disk.stacks)
        if sum(ref.piece_count for ref in layers) <= WINDOW_PIECES:
            return [(0, cells)]
        pieces: dict[int, int] = defaultdict(int)
        for ref in layers:
            self._monitor.check()
            try:
                reader = LayerReader(self._store, self._keys, ref, disk.chunk_size)
            except CorruptionError:
                disk.bad.add(ref)
                continue
            for entry in reader.entries[reader.entries["kind"] == ENTRY_SEGMENT]:
                pieces[int(entry["cell"])] += int(entry["pieces"])
            reader.close()
        windows, first, held = [], 0, 0
        for cell, count in sorted(pieces.items()):
            if held and held + count > WINDOW_PIECES and first < cell < cells:
                windows.append((first, cell))
                first, held = cell, 0
            held += count
        return [*windows, (first, cells)]

    def _prove_window(self, disk: _Disk, layers: list[LayerRef], first: int, end: int) -> None:
        """Of the chunks from `first` up to before `end`."""
        top = newest_layers(disk.stacks)
        stated = _United()
        live: dict[LayerRef, I64] = {}
        slots: dict[LayerRef, int] = {}  # of the segment that has most
        rows = 0
        for ref in layers:
            self._monitor.check()
            if ref in disk.bad:
                continue
            parts, alive, most = [no_ranges()], [no_ranges()], 0
            for cell, piece in self._said(disk, ref, first, end):
                if isinstance(piece, Segment):
                    most = max(most, piece.slot_count)
                    lived = _ranges(piece.piece_first[piece.piece_live], piece.piece_length[piece.piece_live], cell)
                    parts += [lived, _ranges(piece.fill_first, piece.fill_length, cell)]
                    if ref in top and not self._runs_agree(disk, ref, cell, piece, top[ref]):
                        disk.bad.add(ref)
                    alive.append(cut(lived, top.get(ref, 0), CHUNK_MAX))
                else:
                    parts.append(piece)
                rows += len(parts[-1]) + len(parts[-2]) + len(alive[-1])
                if rows > ROWS_MAX:
                    raise _TooLargeError
            slots[ref] = most
            stated.keep(ref, parts)
            if any(len(lived) for lived in alive):
                live[ref] = united(np.concatenate(alive))
        whole: list[Stack] = []
        for stack in disk.stacks:
            refs, chunks = stack
            if disk.bad.isdisjoint(refs):
                dense = sum(slots[ref] for ref in refs) > 2 * SEGMENT_SLOTS_MAX
                if dense or not _covered(refs, stated, first, min(end, chunks)):
                    disk.gaps.add(stack)
                else:
                    whole.append(stack)
        for ref, unseen in unseen_of(whole, stated, live, self._monitor).items():
            seen = without(live[ref], unseen)
            for cell, piece in self._said(disk, ref, first, end) if len(seen) else ():
                here = cut(seen, cell * CELL_CHUNKS, (cell + 1) * CELL_CHUNKS)
                if isinstance(piece, Segment) and not self._runs_agree(disk, ref, cell, piece, here):
                    disk.bad.add(ref)

    def _said(self, disk: _Disk, ref: LayerRef, first: int, end: int) -> Iterator[tuple[int, Segment | I64]]:
        """What a layer says of a window: segments by cell, and ranges that it fills. One that is damaged is noted."""
        try:
            reader = LayerReader(self._store, self._keys, ref, disk.chunk_size)
        except CorruptionError:
            disk.bad.add(ref)
            return
        self._monitor.count("layers_proved")
        try:
            begins = reader.entries["cell"].astype(np.int64) * CELL_CHUNKS
            stops = begins + reader.entries["span"].astype(np.int64) * CELL_CHUNKS
            for at in np.flatnonzero((stops > first) & (begins < end)).tolist():
                entry, begin, stop = reader.entries[at], int(begins[at]), int(stops[at])
                cell = begin // CELL_CHUNKS
                if entry["kind"] == ENTRY_SEGMENT:
                    yield cell, reader.read_segment(entry)
                else:
                    yield cell, np.array([[max(begin, first), min(stop, end)]], dtype=np.int64)
        except CorruptionError:
            disk.bad.add(ref)
        finally:
            reader.close()

    def _runs_agree(self, disk: _Disk, ref: LayerRef, cell: int, segment: Segment, seen: I64 | int) -> bool:
        """Whether every run that is seen agrees with its digest; marks the slots that are seen of those that do.

        `seen` are chunks, as ranges that rise and are apart, or the number of chunks from the disk's first on.
        """
        run, slot, chunk, live = segment.slots()
        chunks = chunk.astype(np.int64) + cell * CELL_CHUNKS
        take = live & (chunks < seen if isinstance(seen, int) else holds(seen, chunks))
        starts = np.cumsum(segment.run_count, dtype=np.int64) - segment.run_count
        good = np.zeros(len(starts), dtype=np.bool_)
        used = np.flatnonzero(np.bincount(run[take], minlength=len(starts)))
        for each in used.tolist():
            bound = chunks[starts[each] : starts[each] + int(segment.run_count[each])].astype(np.uint64)
            pack = segment.packs[segment.run_pack[each]]
            key = blake3.blake3(
                pack + segment.run_first_slot[each].tobytes() + segment.run_digest[each].tobytes() + bound.tobytes()
            ).digest(length=16)
            if key not in self._sound:
                if unsound(self._shelf, self._keys.run_key, ref.name.hex(), segment, each, bound) is not None:
                    continue
                if len(self._sound) >= SOUND_MAX:
                    self._sound.clear()
                self._sound.add(key)
            good[each] = True
        take &= good[run]
        packs = segment.run_pack[run[take]]
        slots = slot[take]
        for index in np.flatnonzero(np.bincount(packs)).tolist():
            self._mark(segment.packs[index], slots[packs == index], disk.chunk_size)
        return bool(good[used].all())


def _ranges(first: NDArray[np.uint32], length: NDArray[np.uint32], cell: int) -> I64:
    begin = first.astype(np.int64) + cell * CELL_CHUNKS
    return np.stack([begin, begin + length], axis=1)


class _United(dict[LayerRef, I64]):
    """What layers state, united when it is first asked for: most are never asked for, the oldest covers the disk."""

    def __init__(self) -> None:
        self._parts: dict[LayerRef, I64] = {}

    def keep(self, ref: LayerRef, parts: list[I64]) -> None:
        """Keep what a layer states."""
        self._parts[ref] = np.concatenate(parts)

    def __missing__(self, ref: LayerRef) -> I64:
        found = self[ref] = united(self._parts.pop(ref))
        return found


def _covered(refs: tuple[LayerRef, ...], stated: Mapping[LayerRef, I64], first: int, end: int) -> bool:
    """Whether a stack states every chunk from `first` up to before `end`; the oldest layer mostly does so alone."""
    left = np.array([[first, end]], dtype=np.int64) if first < end else no_ranges()
    for ref in reversed(refs):
        said = stated[ref]
        if not len(left) or (len(said) == 1 and said[0, 0] <= first and said[0, 1] >= end):
            return True
        left = without(left, said)
    return not len(left)
