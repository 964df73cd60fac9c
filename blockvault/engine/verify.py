"""Verify: every byte that points need, against its identity; and what each damaged thing touches.

Order: records -> layers -> runs against tables (R1) -> blocks, pack by pack in slot order. Layers are shared between
points, so a cell that several points see through the same layers is walked once, and a block is decoded once.

`quick` stops before the blocks: records, layers, tables and the binding of runs, no payload.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault.engine.blocks import STATUS_TEXT, block_name, fetch
from blockvault.engine.pipeline import batch_chunks, in_order
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.format.envelope import Kind, unseal_record
from blockvault.format.index import decode_index
from blockvault.ids import PackName
from blockvault.model import BlockDamage, Codec, FillKind, Point, PointDisk, TouchedRange, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS
from blockvault.monitor import Monitor
from blockvault.store.catalog import Catalog, point_object, record_names
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap, Manifest
from blockvault.store.packs import PackShelf


@dataclass(slots=True)
class Verified:
    """What was looked at and what was found wrong."""

    blocks: int
    plain_bytes: int
    stored_bytes: int
    damage: list[BlockDamage]


class Verifier:
    """Verifies a set of points of one vault."""

    def __init__(
        self, store: LocalStore, keys: VaultKeys, shelf: PackShelf, catalog: Catalog, monitor: Monitor
    ) -> None:
        self.store = store
        self.keys = keys
        self.shelf = shelf
        self.catalog = catalog
        self.monitor = monitor
        self._found: dict[tuple[str, int | None], tuple[str, list[TouchedRange]]] = {}
        self._needed: dict[PackName, NDArray[np.bool_]] = {}
        self._chunk_size: dict[PackName, int] = {}
        self._seen: dict[tuple[bytes, ...], bool] = {}  # cells walked so far, and whether something was wrong there

    def run(self, points: list[tuple[str, Point]], *, quick: bool, everything: bool) -> Verified:
        """Verify points, given with their labels; `everything` adds records that no point needs."""
        if everything:
            self._check_records()
        for label, point in points:
            self._check_point_record(label, point)
            for disk in point.disks:
                self._walk_disk(label, point, disk)
        blocks = plain = stored = 0
        if not quick:
            blocks, plain, stored, bad = self._check_blocks()
            if bad:
                self._name_ranges(points, bad)
        damage = [
            BlockDamage(name, slot, reason, tuple(_joined(touches)))
            for (name, slot), (reason, touches) in sorted(
                self._found.items(),
                key=lambda entry: (entry[0][0], -1 if entry[0][1] is None else entry[0][1]),
            )
        ]
        return Verified(blocks, plain, stored, damage)

    def _note(self, name: str, slot: int | None, reason: str, touches: list[TouchedRange]) -> None:
        known = self._found.setdefault((name, slot), (reason, []))
        known[1].extend(touches)

    def _whole(self, label: str, point: Point, disk: PointDisk) -> TouchedRange:
        return TouchedRange(label, point.item_name, disk.name, 0, disk.size)

    def _check_records(self) -> None:
        for damage in self.catalog.damage.values():
            self._note(damage.name, None, damage.reason, [])
        for kind in (Kind.CONFIG, Kind.ORIGIN, Kind.ITEM, Kind.MARK, Kind.INDEX):
            for name in record_names(self.store, kind):
                try:
                    body, _ = unseal_record(self.keys, kind, name, self.store.read(name))
                    if kind is Kind.INDEX:
                        decode_index(name, body)
                except BlockVaultError as error:
                    reason = error.why or error.message
                    if kind is Kind.INDEX:
                        reason += " (serves dedup only: no point needs it)"
                    self._note(name, None, reason, [])

    def _check_point_record(self, label: str, point: Point) -> None:
        """The record as it lies in the vault, not as the catalog remembers it.

        What a damaged record refers to is checked all the same, as far as the catalog still knows it.
        """
        name = point_object(point.ref)
        try:
            _, tag = unseal_record(self.keys, Kind.POINT, name, self.store.read(name))
            if tag == point.digest:
                return
            reason = "it is another record than the one that was committed"
        except BlockVaultError as error:
            reason = error.why or error.message
        self._note(name, None, reason, [self._whole(label, point, disk) for disk in point.disks])

    def _cells(self, manifest: Manifest) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """Cells with what decides their content: the tags of the entries that state them."""
        for cell in manifest.cells_with_segments():
            tags = []
            for layer in manifest.layers:
                entry = layer.entry(cell)
                if entry is not None:
                    tags.append(layer.ref.name + bytes(entry["tag"]) + bytes([int(entry["kind"])]))
            yield cell, (*tags, manifest.chunk_count.to_bytes(8, "little"))

    def _walk_disk(self, label: str, point: Point, disk: PointDisk) -> None:
        try:
            manifest = Manifest(self.store, self.keys, disk)
        except CorruptionError as error:
            self._note(_object_of(error), None, error.why or error.message, [self._whole(label, point, disk)])
            return
        try:
            for cell_index, key in self._cells(manifest):
                self.monitor.check()
                first = cell_index * CELL_CHUNKS * disk.chunk_size
                span = TouchedRange(
                    label,
                    point.item_name,
                    disk.name,
                    first,
                    min(CELL_CHUNKS * disk.chunk_size, disk.size - first),
                )
                if key in self._seen and not self._seen[key]:
                    continue
                try:
                    cell = manifest.cell(cell_index)
                except CorruptionError as error:
                    self._seen[key] = True
                    self._note(_object_of(error), None, error.why or error.message, [span])
                    continue
                problems = cell.check_runs(self.shelf, self.keys.run_key)
                self._seen[key] = bool(problems)
                spoiled = np.zeros(cell.chunk_count, dtype=np.bool_)
                for problem in problems:
                    spoiled[problem.chunks] = True
                    ranges = _ranges(problem.chunks, cell, disk)
                    self._note(
                        problem.object, None, problem.reason,
                        [TouchedRange(label, point.item_name, disk.name, at, length) for at, length in ranges],
                    )  # fmt: skip
                self._need(cell, (cell.kind == FillKind.DATA) & ~spoiled, disk.chunk_size)
        finally:
            manifest.close()

    def _need(self, cell: CellMap, data: NDArray[np.bool_], chunk_size: int) -> None:
        for index in np.unique(cell.pack[data]).tolist():
            pack = cell.packs[index]
            table = self.shelf.reader(pack).table
            slots = cell.slot[data & (cell.pack == index)]
            self._mark(pack, slots, table.slot_count, chunk_size)

    def _mark(self, pack: PackName, slots: NDArray[np.uint32], slot_count: int, chunk_size: int) -> None:
        needed = self._needed.get(pack)
        if needed is None:
            needed = self._needed[pack] = np.zeros(slot_count, dtype=np.bool_)
            self._chunk_size[pack] = chunk_size
        needed[slots[slots < slot_count]] = True

    def _add_bases(self) -> None:
        """Bases of needed deltas are needed too, to any depth, so that a damaged base is named itself."""
        todo = list(self._needed)
        while todo:
            pack = todo.pop()
            try:
                table = self.shelf.reader(pack).table
            except CorruptionError:
                continue
            deltas = np.flatnonzero(self._needed[pack] & (table.codecs == Codec.DELTA))
            for index in np.unique(table.base_pack[deltas]).tolist():
                base = table.base_packs[index]
                try:
                    below = self.shelf.reader(base).table
                except CorruptionError:
                    continue
                before = int(np.count_nonzero(self._needed[base])) if base in self._needed else 0
                here = deltas[table.base_pack[deltas] == index]
                here = here[table.base_slot[here] < below.slot_count]
                # Only what lies less deep is a base (`fetch` refuses the rest): so this ends, whatever tables say.
                here = here[below.depths[table.base_slot[here]] < table.depths[here]]
                self._mark(base, table.base_slot[here], below.slot_count, self._chunk_size[pack])
                if int(np.count_nonzero(self._needed[base])) > before and base != pack:
                    todo.append(base)

    def _check_blocks(self) -> tuple[int, int, int, dict[PackName, dict[int, str]]]:
        self._add_bases()
        total = sum(int(np.count_nonzero(slots)) * self._chunk_size[pack] for pack, slots in self._needed.items())
        self.monitor.phase("Verify", total)
        bad: dict[PackName, dict[int, str]] = defaultdict(dict)
        blocks = plain = stored = 0

        def batches() -> Iterator[tuple[PackName, NDArray[np.int64]]]:
            for pack in sorted(self._needed):
                slots = np.flatnonzero(self._needed[pack])
                size = batch_chunks(self._chunk_size[pack])
                for start in range(0, len(slots), size):
                    yield pack, slots[start : start + size]

        def work(
            batch: tuple[PackName, NDArray[np.int64]],
        ) -> tuple[PackName, NDArray[np.int64], NDArray[np.uint8]]:
            pack, slots = batch
            fetched = fetch(
                self.shelf, self.keys, [pack], np.zeros(len(slots), np.int64), slots, self._chunk_size[pack]
            )
            return pack, slots, fetched.status

        for pack, slots, status in in_order(work, batches()):
            self.monitor.check()
            self.monitor.advance(len(slots) * self._chunk_size[pack])
            blocks += len(slots)
            plain += len(slots) * self._chunk_size[pack]
            try:
                stored += int(self.shelf.reader(pack).table.lengths[slots].sum(dtype=np.int64))
            except CorruptionError:
                pass
            for row in np.flatnonzero(status).tolist():
                bad[pack][int(slots[row])] = STATUS_TEXT[int(status[row])]
        return blocks, plain, stored, bad

    def _name_ranges(self, points: list[tuple[str, Point]], bad: dict[PackName, dict[int, str]]) -> None:
        """Which ranges of which points the damaged blocks take with them."""
        names = {pack: block_name(self.shelf, pack) for pack in bad}
        for pack, slots in bad.items():
            for slot, reason in slots.items():
                self._note(names[pack], slot, reason, [])
        for label, point in points:
            for disk in point.disks:
                try:
                    manifest = Manifest(self.store, self.keys, disk)
                except CorruptionError:
                    continue
                for cell_index in manifest.cells_with_segments():
                    self.monitor.check()
                    try:
                        cell = manifest.cell(cell_index)
                    except CorruptionError:
                        continue
                    for index, pack in enumerate(cell.packs):
                        if pack not in bad:
                            continue
                        here = (cell.kind == FillKind.DATA) & (cell.pack == index)
                        for slot in bad[pack]:
                            rows = np.flatnonzero(here & (cell.slot == slot))
                            if len(rows):
                                ranges = _ranges(rows, cell, disk)
                                touches = [
                                    TouchedRange(label, point.item_name, disk.name, at, length) for at, length in ranges
                                ]
                                self._note(names[pack], slot, bad[pack][slot], touches)
                manifest.close()


def _object_of(error: CorruptionError) -> str:
    """The object's name in an error's message: the word with a slash."""
    return next((word for word in error.message.split() if "/" in word), error.message)


def _ranges(rows: NDArray[np.int64], cell: CellMap, disk: PointDisk) -> list[tuple[int, int]]:
    """Chunks of a cell as byte ranges of the disk, neighbours joined."""
    if not len(rows):
        return []
    rows = np.sort(rows)
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    ends = np.append(starts[1:], len(rows))
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        offset = (int(rows[start]) + cell.first_chunk) * disk.chunk_size
        found.append((offset, min((end - start) * disk.chunk_size, disk.size - offset)))
    return found


def _joined(touches: list[TouchedRange]) -> list[TouchedRange]:
    """The same ranges, each once, neighbours joined."""
    out: list[TouchedRange] = []
    for touch in sorted(set(touches), key=lambda t: (t.label, t.disk, t.offset)):
        last = out[-1] if out else None
        if (
            last
            and (last.label, last.disk) == (touch.label, touch.disk)
            and last.offset + last.byte_count >= touch.offset
        ):
            end = max(last.offset + last.byte_count, touch.offset + touch.byte_count)
            out[-1] = TouchedRange(last.label, last.item, last.disk, last.offset, end - last.offset)
        else:
            out.append(touch)
    return out
