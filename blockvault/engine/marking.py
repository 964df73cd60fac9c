"""Marking: which slots of which packs, and which layers, the roots need (R9).

Needed is what a restore of a root would read: a slot that a live piece names for a chunk that no newer layer of
the same stack states, and the base of its block. That is exact: a block is dead as soon as every point that could
see it is gone, although a layer that is still listed may name it.

Roots are the points that are not ended, and the points that leases name, ended or not. Only point records and layers
are read, never a pack: layers list the bases that their blocks need.

Invariants:
- A root or a layer that cannot be read ends the marking (`reclaim.stopped`): nobody knows what it needs.
- Points may be added later; what was needed stays needed.

How the work grows: each layer's segment of a cell is read once for a disk. A stack costs a pass over its layers only
where one of them is seen in part so far: a layer that is the newest of some root needs none. Memory follows one cell of
one disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import BlockVaultError, CorruptionError, UnsupportedError
from blockvault.format.envelope import damaged
from blockvault.format.layers import ENTRY_SEGMENT, Segment
from blockvault.format.tables import SLOTS_MAX
from blockvault.ids import LayerName, PackName
from blockvault.model import LayerRef, Point, PointRef, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS, cell_count
from blockvault.monitor import Monitor
from blockvault.store.layers import LayerReader
from blockvault.store.local import LocalStore

Stack = tuple[tuple[LayerRef, ...], int, int]  # layers, newest first; chunks of the disk; bytes of a chunk


class NeededSlots:
    """Slots by pack, as bits; a pack that is not in it is not needed at all."""

    def __init__(self) -> None:
        self._slots: dict[PackName, NDArray[np.bool_]] = {}

    def add(self, pack: PackName, slots: NDArray[np.integer]) -> None:
        """These slots of a pack are needed."""
        if not len(slots):
            return
        known = self._slots.get(pack)
        size = int(slots.max()) + 1
        if known is None or len(known) < size:
            grown = np.zeros(max(size, 2 * len(known) if known is not None else 0), dtype=np.bool_)
            if known is not None:
                grown[: len(known)] = known
            self._slots[pack] = known = grown
        known[slots.astype(np.int64)] = True

    def of(self, pack: PackName, slot_count: int | None = None) -> NDArray[np.bool_]:
        """(slot_count,) which slots of a pack are needed; without a count as many as needed ones end."""
        if slot_count is None:
            return self._slots.get(pack, np.zeros(0, dtype=np.bool_))
        found = np.zeros(slot_count, dtype=np.bool_)
        known = self._slots.get(pack)
        if known is not None:
            count = min(slot_count, len(known))
            found[:count] = known[:count]
        return found

    def __contains__(self, pack: PackName) -> bool:
        return pack in self._slots

    def packs(self) -> list[PackName]:
        """Packs of which something is needed."""
        return list(self._slots)


@dataclass(slots=True)
class _Said:
    """What one layer says of one cell: its live slots, and which of them some stack sees."""

    layer: str  # the object's name
    packs: tuple[PackName, ...]
    chunk: NDArray[np.uint32]
    pack: NDArray[np.uint32]
    slot: NDArray[np.uint32]
    base_row: NDArray[np.int64]  # index into the columns above
    base_pack: NDArray[np.uint32]
    base_slot: NDArray[np.uint32]
    stated: NDArray[np.uint32]  # chunks that are hidden from older layers
    seen: NDArray[np.bool_] = field(init=False)
    all_seen: bool = field(init=False)

    def __post_init__(self) -> None:
        self.seen = np.zeros(len(self.chunk), dtype=np.bool_)
        self.all_seen = not len(self.chunk)

    def see(self, limit: int) -> None:
        """A stack sees all of it, up to the end of its disk."""
        if not self.all_seen:
            self.seen |= self.chunk < limit
            self.all_seen = bool(self.seen.all())


class Marker:
    """Gathers what roots need, stack by stack."""

    def __init__(self, store: LocalStore, keys: VaultKeys, monitor: Monitor) -> None:
        self._store = store
        self._keys = keys
        self._monitor = monitor
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
        for stacks in groups.values():
            self._mark_disk(list(stacks))
        self._done.update(point.ref for point in fresh)
        return len(fresh)

    def _mark_disk(self, stacks: list[Stack]) -> None:
        readers: dict[LayerName, LayerReader] = {}
        try:
            for layers, _, chunk_size in stacks:
                for ref in layers:
                    if ref.name not in readers:
                        self._monitor.check()
                        readers[ref.name] = LayerReader(self._store, self._keys, ref, chunk_size)
                        readers[ref.name].close()  # its root is known; segments are read with the file opened again
            cells = {int(cell) for reader in readers.values() for cell in reader.segment_cells()}
            for cell in sorted(cells):
                self._monitor.check()
                self._mark_cell(cell, stacks, readers)
        except (CorruptionError, UnsupportedError) as error:
            raise stopped(error) from error
        finally:
            for reader in readers.values():
                reader.close()

    def _mark_cell(self, cell: int, stacks: list[Stack], readers: dict[LayerName, LayerReader]) -> None:
        entries = {name: reader.entry(cell) for name, reader in readers.items()}
        views = dict.fromkeys(
            (_speaking(layers, entries), min(CELL_CHUNKS, chunks - cell * CELL_CHUNKS))
            for layers, chunks, _ in stacks
            if cell < cell_count(chunks)
        )
        said: dict[LayerName, _Said] = {}
        for here, _ in views:
            for name in here:
                if name not in said:
                    said[name] = _read_said(readers[name], entries[name])
                    readers[name].close()
                    self._monitor.count("segments_marked")
        # A layer on top of a stack hides behind nothing: most are that of the point that they were made for, and only
        # for the others it has to be looked what lies above them.
        for here, limit in views:
            if here:
                said[here[0]].see(limit)
        for here, limit in views:
            depth = max((at + 1 for at, name in enumerate(here) if not said[name].all_seen), default=0)
            if depth > 1:
                self._monitor.count("stacks_walked")
                _look_down([said[name] for name in here[:depth]], limit)
        for layer in said.values():
            self._take(layer)

    def _take(self, layer: _Said) -> None:
        """Note the slots that some stack sees, and the bases of their blocks."""
        for pack, slots in (
            (layer.pack[layer.seen], layer.slot[layer.seen]),
            (layer.base_pack[layer.seen[layer.base_row]], layer.base_slot[layer.seen[layer.base_row]]),
        ):
            if len(slots) and int(slots.max()) >= SLOTS_MAX:
                raise damaged(layer.layer, f"it names slot {int(slots.max())}, which no pack can have")
            for index in np.unique(pack).tolist():
                self.needed.add(layer.packs[index], slots[pack == index])


def _speaking(layers: tuple[LayerRef, ...], entries: dict[LayerName, Any]) -> tuple[LayerName, ...]:
    """The layers of a stack that have a segment of the cell in hand, newest first, down to one that hides the rest."""
    here: list[LayerName] = []
    for ref in layers:
        entry = entries[ref.name]
        if entry is None:
            continue
        if entry["kind"] != ENTRY_SEGMENT:
            break  # states the whole cell
        here.append(ref.name)
    return tuple(here)


def _look_down(stack: list[_Said], limit: int) -> None:
    """Note what a stack, newest first, sees of each of its layers."""
    free = np.zeros(CELL_CHUNKS, dtype=np.bool_)
    free[:limit] = True
    for layer in stack:
        if not layer.all_seen:
            layer.seen |= free[layer.chunk]
            layer.all_seen = bool(layer.seen.all())
        free[layer.stated] = False


def _read_said(reader: LayerReader, entry: Any) -> _Said:
    segment: Segment = reader.read_segment(entry)
    run, slot, chunk, live = segment.slots()
    rows = np.cumsum(live) - 1
    fills = [
        np.arange(first, first + count, dtype=np.uint32)
        for first, count in zip(segment.fill_first.tolist(), segment.fill_length.tolist(), strict=True)
    ]
    of_base = live[segment.base_ordinal]
    return _Said(
        layer=reader.name,
        packs=segment.packs,
        chunk=chunk[live],
        pack=segment.run_pack[run[live]],
        slot=slot[live],
        base_row=rows[segment.base_ordinal[of_base]],
        base_pack=segment.base_pack[of_base],
        base_slot=segment.base_slot[of_base],
        stated=np.concatenate([chunk[live], *fills]),
    )


def stopped(error: BlockVaultError) -> CorruptionError:
    """The error that ends reclaim: what cannot be read may need anything."""
    return CorruptionError(
        "reclaim.stopped",
        "nothing was freed: what a point needs cannot be read",
        why=f"{error.message}{f' ({error.why})' if error.why else ''}",
        do="run `blockvault verify --all`, put the object back from a copy or delete the points that it touches",
    )
