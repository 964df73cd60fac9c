"""Verify: every byte that points need, against its identity; and what each damaged thing touches.

Order: records -> layers -> runs against tables (R1) -> blocks, pack by pack in slot order. Layers are shared between
points, so structure is proved layer by layer (`engine/structure.py`), and a block is decoded once. A disk of a point of
which anything is in doubt is walked cell by cell: that names what is damaged, and what it takes with it.

`quick` stops before the blocks: records, layers, tables and the binding of runs, no payload.

With a budget the structure is looked at in full and then blocks pack by pack, least recently verified first, until it
is spent: at least one pack, so that any budget gets round in the end. When each was read is the host's memory
(`engine/verified.py`). The engine reads no clock: what ends a run, and what time it is, are given.

What is found damaged goes into quarantine (R15).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.engine.blocks import STATUS_NO_BASE, STATUS_TEXT, block_name, fetch
from blockvault.engine.structure import Structure
from blockvault.engine.suspects import Suspects
from blockvault.engine.touches import joined, ranges_of
from blockvault.engine.verified import VerifiedState
from blockvault.errors import BlockVaultError, CorruptionError, NotFoundError
from blockvault.format.envelope import Kind, unseal_record
from blockvault.format.index import decode_index
from blockvault.format.tables import DEPTH_MAX, PackTable
from blockvault.ids import PackName
from blockvault.model import BlockDamage, Codec, FillKind, Point, PointDisk, TouchedRange, VaultKeys
from blockvault.model.geometry import CELL_CHUNKS
from blockvault.monitor import Monitor
from blockvault.pipeline import batch_chunks, in_order
from blockvault.store.catalog import Catalog, point_object, record_names
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap, Manifest, SoundRuns
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine

TABLES_KEPT_BYTES = 32 << 20
TABLE_OVERHEAD = 2048  # what the smallest takes in memory
SAVE_PACKS = 256  # how many packs may be read again after a kill


@dataclass(slots=True)
class Verified:
    """What was looked at and what was found wrong."""

    blocks: int
    plain_bytes: int
    stored_bytes: int
    damage: list[BlockDamage]
    complete: bool = True
    quarantined: int = 0


@dataclass(slots=True)
class Budget:
    """What ends the reading of blocks: `expired` says so, or so many stored bytes, or a share of what is needed."""

    expired: Callable[[], bool] = field(default=lambda: False)
    stored_bytes: int | None = None
    share: float | None = None

    def limit(self, needed_bytes: int) -> int | None:
        """Stored bytes after which no further pack is begun."""
        if self.share is not None:
            return int(needed_bytes * self.share)
        return self.stored_bytes


class Verifier:
    """Verifies a set of points of one vault."""

    def __init__(
        self,
        store: LocalStore,
        keys: VaultKeys,
        shelf: PackShelf,
        catalog: Catalog,
        monitor: Monitor,
        *,
        quarantine: Quarantine | None = None,
        now: datetime,
    ) -> None:
        self.store = store
        self.keys = keys
        self.shelf = shelf
        self.catalog = catalog
        self.monitor = monitor
        self._quarantine = quarantine
        self._state: VerifiedState | None = None
        self._now = now
        self._complete = True
        self.bad: dict[PackName, dict[int, str]] = defaultdict(dict)  # blocks found damaged, by slot
        self._found: dict[tuple[str, int | None], tuple[str, list[TouchedRange]]] = {}
        self.needed: dict[PackName, NDArray[np.bool_]] = {}
        self._to_read: dict[PackName, NDArray[np.bool_]] = {}
        self._chunk_size: dict[PackName, int] = {}
        self._seen: dict[tuple[bytes, ...], bool] = {}  # cells walked so far, and whether something was wrong there
        self._sound: SoundRuns = {}
        self._tables: dict[PackName, tuple[bytes, PackTable]] = {}
        self._tables_bytes = 0

    def run(
        self,
        points: list[tuple[str, Point]],
        *,
        quick: bool,
        everything: bool,
        budget: Budget | None = None,
        state: VerifiedState | None = None,
        suspects: Suspects | None = None,
    ) -> Verified:
        """Verify points, given with their labels.

        Args:
            points: what to verify.
            quick: no blocks.
            everything: the points are all there are, and records that no point needs come too.
            budget: what ends the reading of blocks.
            state: where it is noted what was read, and asked what to read first.
            suspects: read only the blocks that are not sound by what it says.
        """
        self._state = state
        self.shelf.refresh()
        if everything:
            self._check_records()
        for label, point in points:
            self._check_point_record(label, point)
        structure = Structure(self.store, self.keys, self.shelf, self.monitor, self._mark)
        for label, point, disk in structure.doubtful(points):
            self._walk_disk(label, point, disk)
        blocks = plain = stored = 0
        if not quick:
            self._add_bases()
            self._to_read = dict(self.needed)
            if suspects is not None:
                for pack, slots in self.needed.items():
                    self._to_read[pack] = slots & ~suspects.sound(pack, np.arange(len(slots)))
            self._to_read = {pack: slots for pack, slots in self._to_read.items() if slots.any()}
            blocks, plain, stored = self._check_blocks(budget, everything=everything)
            if self.bad:
                self._name_ranges(points)
        damage = [
            BlockDamage(name, slot, reason, tuple(joined(touches)))
            for (name, slot), (reason, touches) in sorted(
                self._found.items(),
                key=lambda entry: (entry[0][0], -1 if entry[0][1] is None else entry[0][1]),
            )
        ]
        return Verified(blocks, plain, stored, damage, self._complete, self._put_into_quarantine(damage))

    def _put_into_quarantine(self, damage: list[BlockDamage]) -> int:
        if self._quarantine is None:
            return 0
        self._quarantine.refresh()
        orphan = STATUS_TEXT[STATUS_NO_BASE]  # nothing is wrong with a delta's own bytes: its base is named
        return sum(
            self._quarantine.note_object(one.object, one.slot, one.reason) for one in damage if one.reason != orphan
        )

    def _note(self, name: str, slot: int | None, reason: str, touches: list[TouchedRange]) -> None:
        known = self._found.setdefault((name, slot), (reason, []))
        known[1].extend(touches)

    def _whole(self, label: str, point: Point, disk: PointDisk) -> TouchedRange:
        return TouchedRange(label, point.item_name, disk.name, 0, disk.size)

    def _check_records(self) -> None:
        self.catalog.read_all()
        for damage in self.catalog.damage.values():
            self._note(damage.name, None, damage.reason, [])
        for kind in (Kind.CONFIG, Kind.ORIGIN, Kind.ITEM, Kind.POLICY, Kind.MARK, Kind.INDEX, Kind.QUARANTINE):
            for name in record_names(self.store, kind):
                try:
                    body, _ = unseal_record(self.keys, kind, name, self.store.read(name))
                    if kind is Kind.INDEX:
                        decode_index(name, body)
                except BlockVaultError as error:
                    if isinstance(error, NotFoundError) and kind in (Kind.INDEX, Kind.QUARANTINE):
                        continue  # a prune or repair beside this deleted it after it was listed
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
                problems = cell.check_runs(self.shelf, self.keys.run_key, self._sound)
                self._seen[key] = bool(problems)
                spoiled = np.zeros(cell.chunk_count, dtype=np.bool_)
                for problem in problems:
                    spoiled[problem.chunks] = True
                    ranges = ranges_of(problem.chunks, cell, disk)
                    self._note(
                        problem.object, None, problem.reason,
                        [TouchedRange(label, point.item_name, disk.name, at, length) for at, length in ranges],
                    )  # fmt: skip
                self._need(cell, (cell.kind == FillKind.DATA) & ~spoiled, disk.chunk_size)
        finally:
            manifest.close()

    def _need(self, cell: CellMap, data: NDArray[np.bool_], chunk_size: int) -> None:
        if not data.any():
            return
        order = np.argsort(cell.pack[data], kind="stable")
        packs, slots = cell.pack[data][order], cell.slot[data][order]
        found, starts = np.unique(packs, return_index=True)
        for index, these in zip(found.tolist(), np.split(slots, starts[1:]), strict=True):
            self._mark(cell.packs[index], these, chunk_size)

    def _mark(self, pack: PackName, slots: NDArray[np.uint32], chunk_size: int) -> None:
        needed = self.needed.get(pack)
        if needed is None:
            needed = self.needed[pack] = np.zeros(self._table(pack)[1].slot_count, dtype=np.bool_)
            self._chunk_size[pack] = chunk_size
        needed[slots[slots < len(needed)]] = True

    def _table(self, pack: PackName) -> tuple[bytes, PackTable]:
        """A pack's table, and the generation that it is of; more packs than can be open are asked for several times."""
        known = self._tables.get(pack)
        if known is None:
            reader = self.shelf.reader(pack)
            known = _suffix(reader.name), reader.table
            self._tables_bytes += known[1].memory_bytes + TABLE_OVERHEAD
            if self._tables_bytes <= TABLES_KEPT_BYTES:
                self._tables[pack] = known
        return known

    def _add_bases(self) -> None:
        """Bases of needed deltas are needed too, to any depth, so that a damaged base is named itself."""
        todo = list(self.needed)
        while todo:
            pack = todo.pop()
            try:
                _, table = self._table(pack)
            except CorruptionError:
                continue
            deltas = np.flatnonzero(self.needed[pack] & (table.codecs == Codec.DELTA))
            for index in np.unique(table.base_pack[deltas]).tolist():
                base = table.base_packs[index]
                try:
                    _, below = self._table(base)
                except CorruptionError:
                    continue
                before = int(np.count_nonzero(self.needed[base])) if base in self.needed else 0
                here = deltas[table.base_pack[deltas] == index]
                here = here[table.base_slot[here] < below.slot_count]
                # Only what lies less deep is a base (`fetch` refuses the rest): so this ends, whatever tables say.
                here = here[below.depths[table.base_slot[here]] < table.depths[here]]
                self._mark(base, table.base_slot[here], self._chunk_size[pack])
                if int(np.count_nonzero(self.needed[base])) > before and base != pack:
                    todo.append(base)

    def _check_blocks(self, budget: Budget | None, *, everything: bool) -> tuple[int, int, int]:
        stored_of, generation_of = self._expect(everything=everything)
        order = list(self._to_read)
        if self._state is not None:
            order = self._state.order({pack: (generation_of[pack], self._to_read[pack]) for pack in order})
        limit = budget.limit(sum(stored_of.values())) if budget is not None else None
        total = sum(int(np.count_nonzero(slots)) * self._chunk_size[pack] for pack, slots in self._to_read.items())
        self.monitor.phase("Verify", total)
        blocks = plain = stored = done = 0

        def batches() -> Iterator[tuple[PackName, NDArray[np.int64], bool]]:
            begun = 0
            for pack in order:
                spent = budget is not None and (budget.expired() or (limit is not None and begun >= limit))
                if begun and spent:
                    self._complete = False
                    return
                begun += max(1, stored_of[pack])
                slots = np.flatnonzero(self._to_read[pack])
                size = batch_chunks(self._chunk_size[pack])
                for start in range(0, len(slots), size):
                    yield pack, slots[start : start + size], start + size >= len(slots)

        def work(
            batch: tuple[PackName, NDArray[np.int64], bool],
        ) -> tuple[PackName, NDArray[np.int64], NDArray[np.uint8], bool]:
            pack, slots, last = batch
            fetched = fetch(
                self.shelf, self.keys, [pack], np.zeros(len(slots), np.int64), slots, self._chunk_size[pack]
            )
            return pack, slots, fetched.status, last

        try:
            with in_order(work, batches()) as results:
                for pack, slots, status, last in results:
                    self.monitor.check()
                    self.monitor.advance(len(slots) * self._chunk_size[pack])
                    blocks += len(slots)
                    plain += len(slots) * self._chunk_size[pack]
                    for row in np.flatnonzero(status).tolist():
                        self.bad[pack][int(slots[row])] = STATUS_TEXT[int(status[row])]
                    if last:
                        self.shelf.let_go(pack)
                        stored += stored_of[pack]
                        self.monitor.count("packs_verified")
                        done += 1
                        self._credit(pack, generation_of[pack], everything=everything)
                        if done % SAVE_PACKS == 0:
                            self._save()
        finally:
            self._save()
        return blocks, plain, stored

    def _save(self) -> None:
        if self._state is not None:
            try:
                self._state.save()
            except BlockVaultError as error:
                self.monitor.note(f"{error.message}: what was verified now will be read again")

    def _expect(self, *, everything: bool) -> tuple[dict[PackName, int], dict[PackName, bytes]]:
        """Stored bytes needed of each pack, and the generation that is about to be read."""
        stored: dict[PackName, int] = {}
        generation: dict[PackName, bytes] = {}
        told = {}
        for pack, slots in self._to_read.items():
            try:
                generation[pack], table = self._table(pack)
            except CorruptionError:
                stored[pack], generation[pack] = 0, bytes(4)
                continue
            stored[pack] = int(table.lengths[slots].sum(dtype=np.int64))
            told[pack] = (generation[pack], slots, table.lengths)
        if everything and self._state is not None:
            self._state.expect(told, self._now)
        return stored, generation

    def _credit(self, pack: PackName, generation: bytes, *, everything: bool) -> None:
        """Note that what is needed of a pack was read: if it was the generation that was meant all the time."""
        if self._state is None:
            return
        try:
            reader = self.shelf.reader(pack)
        except CorruptionError:
            return
        if _suffix(reader.name) == generation:
            self._state.verified(
                pack, generation, self._to_read[pack], reader.table.lengths, now=self._now, all_needed=everything
            )

    def _name_ranges(self, points: list[tuple[str, Point]]) -> None:
        """Which ranges of which points the damaged blocks take with them."""
        bad = self.bad
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
                                ranges = ranges_of(rows, cell, disk)
                                touches = [
                                    TouchedRange(label, point.item_name, disk.name, at, length) for at, length in ranges
                                ]
                                self._note(names[pack], slot, bad[pack][slot], touches)
                manifest.close()
        self._pass_on_to_bases(names)

    def _pass_on_to_bases(self, names: dict[PackName, str]) -> None:
        """What a delta takes with it is what its damaged base takes, though no point may list the base itself."""
        orphan = STATUS_TEXT[STATUS_NO_BASE]
        todo = [(pack, slot) for pack, slots in self.bad.items() for slot, reason in slots.items() if reason == orphan]
        passed: dict[tuple[PackName, int], set[TouchedRange]] = defaultdict(set)
        for pack, slot in todo:
            touches = self._found[names[pack], slot][1]
            for _ in range(DEPTH_MAX):
                try:
                    table = self.shelf.reader(pack).table
                except CorruptionError:
                    break
                if table.codecs[slot] != Codec.DELTA:
                    break
                pack, slot = table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])
                if slot in self.bad.get(pack, {}):
                    passed[pack, slot].update(touches)
        for (pack, slot), taken in passed.items():
            self._note(names[pack], slot, self.bad[pack][slot], list(taken))


def _suffix(name: str) -> bytes:
    """The random suffix of a generation's name."""
    return bytes.fromhex(name.rsplit("-", 1)[1])


def _object_of(error: CorruptionError) -> str:
    """The object's name in an error's message: the word with a slash."""
    return next((word for word in error.message.split() if "/" in word), error.message)
