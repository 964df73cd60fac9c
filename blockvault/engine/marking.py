"""Marking: which slots of which packs, and which layers, the roots need (R9).

Needed is what a restore of a root would read: a slot that a live piece names for a chunk that no newer layer of
the same stack states, and the base of its block. That is exact: a block is dead as soon as every point that could
see it is gone, although a layer that is still listed may name it.

Roots are the points that are not ended, and the points that leases name, ended or not. Only point records and layers
are read, never a pack: layers list the bases that their blocks need.

Invariants:
- A root or a layer that cannot be read ends the marking (`reclaim.stopped`): nobody knows what it needs.
- Points may be added later; what was needed stays needed.

How the work grows: a layer is read once and its outline kept in LMDB (`store/outlines.py`), so what is done at each
marking is one look-up a layer. A stack costs a pass over its layers only where one of them is seen in part so far: a
layer that is the newest of some root needs none. Chunks are held as ranges. Where the stacks of a disk state more
ranges than `WINDOW_PIECES`, the disk is looked at in windows of cells, so memory follows the window.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import BlockVaultError, CorruptionError, UnsupportedError
from blockvault.format.envelope import damaged
from blockvault.format.layers import ENTRY_SEGMENT
from blockvault.format.outlines import (
    Outline,
    cut,
    holds,
    joined,
    no_ranges,
    outline_of_segment,
    without,
)
from blockvault.format.tables import SLOTS_MAX
from blockvault.ids import LayerName, PackName
from blockvault.model import LayerRef, Point, PointRef, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS, cell_count
from blockvault.monitor import Monitor
from blockvault.store.layers import LayerReader, layer_object
from blockvault.store.local import LocalStore
from blockvault.store.outlines import OutlineShelf

Stack = tuple[tuple[LayerRef, ...], int, int]  # layers, newest first; chunks of the disk; bytes of a chunk
I64 = NDArray[np.int64]
L = TypeVar("L", bound=Hashable)
CHUNK_MAX = int(np.iinfo(np.int64).max)

WINDOW_PIECES = 1 << 20
OUTLINE_ROWS_HELD = 1 << 19
NEEDED_ROWS_HELD = 1 << 16


class NeededSlots:
    """Slots by pack, as bits; a pack that is not in it is not needed at all."""

    def __init__(self) -> None:
        self._slots: dict[PackName, NDArray[np.bool_]] = {}
        self._waiting: dict[PackName, list[tuple[I64, I64]]] = {}
        self._rows = 0

    def add(self, pack: PackName, first: I64, length: I64) -> None:
        """These slots of a pack are needed: from `first` on so many."""
        if len(first):
            self._waiting.setdefault(pack, []).append((first, length))
            self._rows += len(first)
            if self._rows > NEEDED_ROWS_HELD:
                for name in list(self._waiting):
                    self._take_in(name)

    def _take_in(self, pack: PackName) -> None:
        waiting = self._waiting.pop(pack, None)
        if waiting is None:
            return
        first = np.concatenate([rows for rows, _ in waiting])
        end = first + np.concatenate([rows for _, rows in waiting])
        self._rows -= len(first)
        size = int(end.max())
        steps = np.bincount(first, minlength=size + 1) - np.bincount(end, minlength=size + 1)
        fresh = np.cumsum(steps)[:size] > 0
        known = self._slots.get(pack)
        if known is None:
            self._slots[pack] = fresh
        elif len(known) >= size:
            known[:size] |= fresh
        else:
            fresh[: len(known)] |= known
            self._slots[pack] = fresh

    def of(self, pack: PackName, slot_count: int | None = None) -> NDArray[np.bool_]:
        """(slot_count,) which slots of a pack are needed; without a count as many as needed ones end."""
        self._take_in(pack)
        known = self._slots.get(pack, np.zeros(0, dtype=np.bool_))
        if slot_count is None:
            return known
        found = np.zeros(slot_count, dtype=np.bool_)
        count = min(slot_count, len(known))
        found[:count] = known[:count]
        return found

    def __contains__(self, pack: PackName) -> bool:
        return pack in self._slots or pack in self._waiting

    def packs(self) -> list[PackName]:
        """Packs of which something is needed."""
        return list(self._slots.keys() | self._waiting.keys())


class Marker:
    """Gathers what roots need, stack by stack."""

    def __init__(
        self, store: LocalStore, keys: VaultKeys, monitor: Monitor, outlines: OutlineShelf | None = None
    ) -> None:
        self._store = store
        self._keys = keys
        self._monitor = monitor
        self._outlines = outlines or OutlineShelf(store, keys, None)
        self.needed = NeededSlots()
        self.layers: set[LayerName] = set()
        self._done: set[PointRef] = set()

    def add(self, points: Iterable[Point]) -> int:
        """Mark what these points need; points that were marked before are passed over. Returns how many were new.

        Raises:
            CorruptionError: one of their layers cannot be read, or is of a newer version (`reclaim.stopped`).
        """
        groups: dict[tuple[str, str], dict[Stack, None]] = defaultdict(dict)
        fresh = [point for point in points if point.ref not in self._done]
        for point in fresh:
            for disk in point.disks:
                self.layers.update(ref.name for ref in disk.layers)
                groups[point.item_id, disk.name][disk.layers, disk.chunk_count, disk.chunk_size] = None
        try:
            for stacks in groups.values():
                self._mark_disk(list(stacks))
        except (CorruptionError, UnsupportedError) as error:
            raise stopped(error) from error
        finally:
            self._outlines.save()
        self._done.update(point.ref for point in fresh)
        return len(fresh)

    def _mark_disk(self, stacks: list[Stack]) -> None:
        source = _Source(self._store, self._keys, self._monitor, self._outlines)
        layers = {ref.name: _Layer(source, ref, chunk_size) for refs, _, chunk_size in stacks for ref in refs}
        try:
            for first, end in self._windows(stacks, layers):
                self._mark_window(stacks, layers, first, end)
        finally:
            for layer in layers.values():
                layer.close()

    def _windows(self, stacks: list[Stack], layers: dict[LayerName, _Layer]) -> list[tuple[int, int]]:
        """First and end cell of each part of the disk that is looked at in one go."""
        cells = max(cell_count(chunks) for _, chunks, _ in stacks)
        if sum(layer.ref.piece_count for layer in layers.values()) <= WINDOW_PIECES:
            return [(0, cells)]
        pieces = np.zeros(cells, dtype=np.int64)
        for layer in layers.values():
            self._monitor.check()
            entries = layer.reader().entries
            of_segment = entries[(entries["kind"] == ENTRY_SEGMENT) & (entries["cell"] < cells)]
            np.add.at(pieces, of_segment["cell"], of_segment["pieces"])
            layer.close()
        windows: list[tuple[int, int]] = []
        first = held = 0
        for cell, count in enumerate(pieces.tolist()):
            if held and held + count > WINDOW_PIECES:
                windows.append((first, cell))
                first, held = cell, 0
            held += count
        return [*windows, (first, cells)]

    def _mark_window(self, stacks: list[Stack], layers: dict[LayerName, _Layer], first: int, end: int) -> None:
        stated: dict[LayerName, I64] = {}
        live: dict[LayerName, I64] = {}
        views = [(tuple(ref.name for ref in refs), chunks) for refs, chunks, _ in stacks]
        seen_to = newest_layers(views)
        held = _Held()
        for name, layer in layers.items():
            self._monitor.check()
            outline = held.keep(name, layer.outline(first, end))
            stated[name] = outline.stated
            if int((outline.first + outline.length).max(initial=0)) > seen_to.get(name, 0):
                live[name] = cut(outline.live, seen_to.get(name, 0), CHUNK_MAX)
        unseen = unseen_of(views, stated, live, self._monitor)
        for name, layer in layers.items():
            self._monitor.check()
            self._take(layer_object(name), held.get(name) or layer.outline(first, end), unseen.get(name, no_ranges()))

    def _take(self, layer: str, outline: Outline, unseen: I64) -> None:
        """Note the slots that some stack sees, and the bases of their blocks."""
        first, length, pack, slot = (
            outline.first,
            outline.length.astype(np.int64),
            outline.pack,
            outline.slot.astype(np.int64),
        )
        seen = ~holds(unseen, outline.base_chunk) if len(unseen) else np.ones(len(outline.base_chunk), dtype=np.bool_)
        if len(unseen):
            # Extents that are hidden in part are taken slot by slot.
            low = np.searchsorted(unseen[:, 1], first, side="right")
            high = np.searchsorted(unseen[:, 0], first + length, side="left")
            whole, part = low >= high, np.flatnonzero(low < high)
            rows = np.repeat(part, length[part])
            offset = np.arange(len(rows)) - np.repeat(np.cumsum(length[part]) - length[part], length[part])
            there = ~holds(unseen, first[rows] + offset)
            rows, offset = rows[there], offset[there]
            pack = np.concatenate([pack[whole], pack[rows]])
            slot = np.concatenate([slot[whole], slot[rows] + offset])
            length = np.concatenate([length[whole], np.ones(len(rows), dtype=np.int64)])
        base_slot = outline.base_slot[seen].astype(np.int64)
        for packs, slots, lengths in (
            (pack, slot, length),
            (outline.base_pack[seen], base_slot, np.ones(len(base_slot), dtype=np.int64)),
        ):
            if len(slots) and int((slots + lengths).max()) > SLOTS_MAX:
                raise damaged(layer, f"it names slot {int((slots + lengths).max()) - 1}, which no pack can have")
            order = np.argsort(packs, kind="stable")
            found, starts = np.unique(packs[order], return_index=True)
            for index, begin, stop in zip(found.tolist(), starts, np.append(starts, len(order))[1:], strict=True):
                rows_of = order[begin:stop]
                self.needed.add(outline.packs[index], slots[rows_of], lengths[rows_of])


def newest_layers(stacks: Iterable[tuple[tuple[L, ...], int]]) -> dict[L, int]:
    """The layers on top of some stack, and up to which chunk it sees all of them.

    Such a layer hides behind nothing: most are that of the point that they were made for, and only of the others it has
    to be looked what lies above them.
    """
    found: dict[L, int] = {}
    for names, chunks in stacks:
        if names:
            found[names[0]] = max(found.get(names[0], 0), chunks)
    return found


def unseen_of(
    stacks: Iterable[tuple[tuple[L, ...], int]], stated: Mapping[L, I64], live: Mapping[L, I64], monitor: Monitor
) -> dict[L, I64]:
    """Of each layer the chunks that no stack sees there, of those that are asked about.

    Args:
        stacks: layers, newest first, and the chunks of the disk.
        stated: of each layer that some stack lists the chunks that it states.
        live: of layers chunks of their live blocks, but for what `newest_layers` answers.
        monitor: counts the stacks that had to be walked.
    """
    unseen = dict(live)
    above: dict[L, dict[tuple[tuple[L, ...], int], None]] = defaultdict(dict)
    for names, chunks in stacks:
        for at in range(1, len(names)):
            if len(unseen.get(names[at], ())):
                above[names[at]][names[:at], chunks] = None
    for name, views in above.items():
        left = unseen[name]
        for over, chunks in sorted(views, key=lambda view: len(view[0])) if len(left) else ():
            monitor.count("stacks_walked")
            visible = cut(left, 0, chunks)
            for hiding in over:
                if not len(visible):
                    break
                visible = without(visible, stated[hiding])
            left = without(left, visible)
            if not len(left):
                break
        unseen[name] = left
    return unseen


class _Held:
    """Outlines that were just looked at, as many as memory allows: they are asked for twice."""

    def __init__(self) -> None:
        self._outlines: OrderedDict[LayerName, Outline] = OrderedDict()
        self._rows = 0

    def keep(self, name: LayerName, outline: Outline) -> Outline:
        if self._rows + outline.rows <= OUTLINE_ROWS_HELD:
            self._outlines[name] = outline
            self._rows += outline.rows
        return outline

    def get(self, name: LayerName) -> Outline | None:
        return self._outlines.get(name)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where layers are read."""

    store: LocalStore
    keys: VaultKeys
    monitor: Monitor
    outlines: OutlineShelf


class _Layer:
    """One layer of a disk: its outline from LMDB, or from its segments."""

    def __init__(self, source: _Source, ref: LayerRef, chunk_size: int) -> None:
        self.ref = ref
        self._source = source
        self._chunk_size = chunk_size
        self._reader: LayerReader | None = None

    def reader(self) -> LayerReader:
        """The layer itself, with its root read."""
        if self._reader is None:
            self._reader = LayerReader(self._source.store, self._source.keys, self.ref, self._chunk_size)
        return self._reader

    def close(self) -> None:
        """Give its descriptor back; segments are read with the file opened again."""
        if self._reader is not None:
            self._reader.close()

    def outline(self, first: int, end: int) -> Outline:
        """What it says of the cells from `first` up to before `end`."""
        kept = self._source.outlines.get(self.ref)
        if kept is not None:
            return _part(kept, first * CELL_CHUNKS, end * CELL_CHUNKS)
        reader = self.reader()
        parts, fills = [], []
        for entry in reader.entries:
            cell, span = int(entry["cell"]), int(entry["span"])
            if cell >= end or cell + span <= first:
                continue
            if entry["kind"] == ENTRY_SEGMENT:
                parts.append(outline_of_segment(cell, reader.read_segment(entry)))
                self._source.monitor.count("segments_marked")
            else:
                fills.append((max(cell, first) * CELL_CHUNKS, min(cell + span, end) * CELL_CHUNKS))
        reader.close()
        found = joined(parts, np.array(fills, dtype=np.int64).reshape(-1, 2))
        if not len(reader.entries) or (
            first <= int(reader.entries["cell"].min())
            and end >= int((reader.entries["cell"].astype(np.int64) + reader.entries["span"]).max())
        ):
            self._source.outlines.put(self.ref, found)
        return found


def _part(outline: Outline, first: int, end: int) -> Outline:
    """What an outline says of some chunks. Cells are not cut through: extents lie within one."""
    inside = (outline.first >= first) & (outline.first < end)
    based = (outline.base_chunk >= first) & (outline.base_chunk < end)
    if inside.all() and based.all():
        return outline
    return Outline(
        outline.packs,
        cut(outline.stated, first, end),
        outline.first[inside],
        outline.length[inside],
        outline.pack[inside],
        outline.slot[inside],
        outline.base_chunk[based],
        outline.base_pack[based],
        outline.base_slot[based],
    )


def stopped(error: BlockVaultError) -> CorruptionError:
    """The error that ends reclaim: what cannot be read may need anything."""
    return CorruptionError(
        "reclaim.stopped",
        "nothing was freed: what a point needs cannot be read",
        why=f"{error.message}{f' ({error.why})' if error.why else ''}",
        do="run `blockvault verify --all`, put the object back from a copy or delete the points that it touches",
    )
