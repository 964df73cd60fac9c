"""Healing damaged blocks: find their plain bytes again, write the pack's next generation, then delete the older one.

Where bytes are looked for, in this order: another block of the same id in the vault (another pack, or an older
generation of this one), a kept snapshot of the item, the live image. What counts is the keyed BLAKE3: bytes of
another identity are never taken.

The order for each pack, so that a crash anywhere loses nothing:

    next generation durable -> every slot that points need read back from it -> older generations deleted

Invariants:
- A slot keeps its number and its id; a healed one gets a full block.
- A damaged block that cannot be healed is carried over as it is. Where it cannot even be copied (encrypted, it does not
  unseal; the disk does not give it) its slot is emptied, and the older generation stays if a point needs the slot.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.blocks import STATUS_GOOD, STATUS_NO_BASE, STATUS_TEXT, Place, fetch
from blockvault.engine.session import Session
from blockvault.engine.spare import SpareCopies
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.failpoints import reach
from blockvault.format.index import prefixes_of
from blockvault.format.tables import DEPTH_MAX, PackTable
from blockvault.ids import PackName
from blockvault.model import Codec, FillKind, HealedBlock, Point
from blockvault.monitor import Monitor
from blockvault.pipeline import batch_chunks
from blockvault.store.generations import FullBlock, write_generation
from blockvault.store.manifest import Manifest
from blockvault.store.packs import PackReader, block_columns, generation_of, read_table

HEAL_LEVEL = 3
Bad = dict[PackName, dict[int, str]]  # reasons by pack and slot
StoredAt = tuple[str, int]  # a generation's name and a slot


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a chunk with that block lies."""

    item_id: str
    disk: str
    chunk_size: int
    chunk: int


class Healer:
    """Heals blocks of one vault. The caller holds the lock that keeps a second one, and reclaim, away."""

    def __init__(self, session: Session, needed: dict[PackName, NDArray[np.bool_]], monitor: Monitor) -> None:
        self._session = session
        self._needed = needed
        self._monitor = monitor
        self._same: dict[bytes, list[StoredAt]] = {}
        self.healed: list[HealedBlock] = []
        self.resolved: set[Place] = set()  # damaged blocks that are good now

    def heal(self, bad: Bad, points: list[Point], spare: SpareCopies, *, dry_run: bool) -> None:
        """Heal what can be healed; bases before the deltas that need them."""
        positions = self._positions(bad, points)
        self._same = self._twins(bad)
        orphan = STATUS_TEXT[STATUS_NO_BASE]
        own = {pack: [slot for slot, reason in sorted(bad[pack].items()) if reason != orphan] for pack in bad}
        orphans: dict[int, list[Place]] = defaultdict(list)  # by depth, as it is before anything is healed
        for pack in sorted(bad):
            for slot, reason in sorted(bad[pack].items()):
                if reason == orphan:
                    orphans[self._depth(pack, slot)].append((pack, slot))
        for pack in sorted(own):
            self._monitor.check()
            if own[pack]:
                self._heal_pack(pack, own[pack], positions, spare, dry_run=dry_run)
        # A delta without its base is good again with it. What rests on few blocks comes before what rests on many.
        for depth in sorted(orphans):
            lost: dict[PackName, list[int]] = defaultdict(list)
            for place in orphans[depth]:
                if self._base(*place) in self.resolved and dry_run:
                    self.resolved.add(place)
                else:
                    lost[place[0]].append(place[1])
            for pack, found in lost.items():
                self._monitor.check()
                slots = found if dry_run else self.damaged(pack, found)
                if slots:
                    self._heal_pack(pack, slots, positions, spare, dry_run=dry_run)

    # --- where the chunks lie ---

    def _table_with(self, pack: PackName, slot: int) -> PackTable | None:
        """The pack's table, if it can be read and has the slot."""
        try:
            table = self._session.shelf.reader(pack).table
        except CorruptionError:
            return None
        return table if slot < table.slot_count else None

    def _base(self, pack: PackName, slot: int) -> Place | None:
        table = self._table_with(pack, slot)
        if table is None or table.codecs[slot] != Codec.DELTA:
            return None
        return table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])

    def _depth(self, pack: PackName, slot: int) -> int:
        table = self._table_with(pack, slot)
        return int(table.depths[slot]) if table is not None else 0

    def _positions(self, bad: Bad, points: list[Point]) -> dict[Place, list[_Position]]:
        """The chunks of points that have these blocks; those of a delta count for all below it too (the same chunk).

        The newest point comes first: its chunk is the likeliest to be found elsewhere.
        """
        found: dict[Place, dict[_Position, None]] = defaultdict(dict)
        for point in sorted(points, key=lambda point: point.taken, reverse=True):
            for disk in point.disks:
                try:
                    manifest = Manifest(self._session.store, self._session.keys, disk)
                except CorruptionError:
                    continue
                try:
                    for index in manifest.cells_with_segments():
                        self._monitor.check()
                        try:
                            cell = manifest.cell(index)
                        except CorruptionError:
                            continue
                        for number, pack in enumerate(cell.packs):
                            if pack not in bad:
                                continue
                            here = (cell.kind == FillKind.DATA) & (cell.pack == number)
                            for row in np.flatnonzero(here & np.isin(cell.slot, list(bad[pack]))).tolist():
                                at = _Position(point.item_id, disk.name, disk.chunk_size, cell.first_chunk + row)
                                found[pack, int(cell.slot[row])][at] = None
                finally:
                    manifest.close()
        for place in list(found):
            base = self._base(*place)
            for _ in range(DEPTH_MAX):
                if base is None:
                    break
                if base[1] in bad.get(base[0], {}):
                    found[base].update(found[place])
                base = self._base(*base)
        return {place: list(where) for place, where in found.items()}

    # --- one pack ---

    def _heal_pack(
        self,
        pack: PackName,
        slots: list[int],
        positions: dict[Place, list[_Position]],
        spare: SpareCopies,
        *,
        dry_run: bool,
    ) -> None:
        try:
            reader = self._session.shelf.newest_reader(pack)
        except CorruptionError:
            return  # the table is gone: nothing tells what the slots held
        slots = [slot for slot in slots if slot < reader.table.slot_count]
        plain: dict[int, bytes] = {}
        source: dict[int, str] = {}
        for slot in slots:
            found = self._from_vault(reader, slot)
            for at in positions.get((pack, slot), ()) if found is None else ():
                found = spare.find(at.item_id, at.disk, at.chunk_size, at.chunk, reader.table.ids[slot].tobytes())
                if found is not None:
                    break
            if found is not None:
                plain[slot], source[slot] = found
        if not plain:
            return
        self.resolved |= {(pack, slot) for slot in plain}
        if not dry_run:
            self._write(pack, reader, self._encode(plain, reader.table.chunk_size))
        name = reader.name
        self.healed += [HealedBlock(name, slot, source[slot]) for slot in plain]
        self._monitor.count("blocks_healed", len(plain))

    def _encode(self, plain: dict[int, bytes], chunk_size: int) -> dict[int, FullBlock]:
        blocks: dict[int, FullBlock] = {}
        slots = sorted(plain)
        for start in range(0, len(slots), batch_chunks(chunk_size)):
            part = slots[start : start + batch_chunks(chunk_size)]
            batch = kernel.identify_plain(
                b"".join(plain[slot] for slot in part), chunk_size=chunk_size, seed=0, id_key=None
            )
            made = kernel.encode(
                batch,
                np.arange(len(part), dtype=np.uint32),
                level=HEAL_LEVEL,
                bases=None,
                base_rows=None,
                delta_limits=None,
                cancel=None,
            )
            offsets, payload = np.asarray(made.offsets).tolist(), bytes(made.payload)
            for i, slot in enumerate(part):
                blocks[slot] = FullBlock(Codec(int(made.codecs[i])), payload[offsets[i] : offsets[i + 1]])
        return blocks

    def _write(self, pack: PackName, reader: PackReader, blocks: dict[int, FullBlock]) -> None:
        """The next generation, read back, then the end of the older ones."""
        session = self._session
        keep = np.asarray(reader.table.codecs != Codec.EMPTY, dtype=np.bool_)
        needed = np.array(self._needed.get(pack, np.zeros(reader.table.slot_count, dtype=np.bool_)))
        # All of them, not only those that somebody has met: what does not unseal cannot be copied.
        unhealed = [slot for slot in self._bad_of(pack, np.flatnonzero(keep).tolist()) if slot not in blocks]
        lost = [slot for slot in unhealed if not _can_be_copied(reader, slot)]
        keep[lost] = False
        name = write_generation(session.store, session.keys, reader, keep=keep, replace=blocks)
        reach("repair.written")
        needed[list(blocks)] = True
        needed_and_lost = [slot for slot in lost if needed[slot]]
        needed[unhealed] = False
        fresh = session.shelf.newest_reader(pack)
        if fresh.name != name or self._bad_of(pack, np.flatnonzero(needed).tolist()):
            session.store.delete(name)
            session.shelf.newest_reader(pack)
            raise CorruptionError(
                "vault.object-damaged",
                f"the vault's object {name} did not read back as it was written",
                why="what was just written is damaged: the disk or the memory of this machine is failing",
                do="check the disk and memory; nothing was deleted",
            )
        reach("repair.checked")
        if needed_and_lost:
            self._monitor.note(f"{reader.name} stays: {len(needed_and_lost)} of its blocks could not be copied")
            return
        for old in session.shelf.names(pack, refresh=True):
            if generation_of(old) < generation_of(name):
                session.store.delete(old)
                reach("repair.deleted")
        session.shelf.newest_reader(pack)

    def _status(self, reader: PackReader, slots: list[int]) -> list[int]:
        pack = PackName(bytes.fromhex(os.path.basename(reader.name).split(".")[0]))
        got = fetch(
            self._session.shelf,
            self._session.keys,
            [pack],
            np.zeros(len(slots), np.int64),
            np.array(slots, dtype=np.int64),
            reader.table.chunk_size,
        )
        return [int(status) for status in got.status]

    def damaged(self, pack: PackName, slots: list[int]) -> list[int]:
        """Which slots do not decode from what lies in the vault now; the others are resolved."""
        bad = self._bad_of(pack, slots)
        self.resolved |= {(pack, slot) for slot in slots} - {(pack, slot) for slot in bad}
        return bad

    def _bad_of(self, pack: PackName, slots: list[int]) -> list[int]:
        try:
            reader = self._session.shelf.newest_reader(pack)
        except CorruptionError:
            return slots
        bad: list[int] = []
        size = batch_chunks(reader.table.chunk_size)
        for start in range(0, len(slots), size):
            self._monitor.check()
            part = slots[start : start + size]
            bad += [
                slot for slot, status in zip(part, self._status(reader, part), strict=True) if status != STATUS_GOOD
            ]
        return bad

    def tidy(self, *, dry_run: bool) -> int:
        """Delete older generations that a crash left: where every needed slot reads back from the newest."""
        removed = 0
        for pack, names in self._session.shelf.all_packs():
            needed = self._needed.get(pack)
            if len(names) < 2 or dry_run or needed is None:
                continue
            self._monitor.check()
            if self.damaged(pack, np.flatnonzero(needed).tolist()):
                continue
            newest = self._session.shelf.newest_reader(pack).name
            for name in names:
                if generation_of(name) < generation_of(newest):
                    self._session.store.delete(name)
                    removed += 1
        return removed

    # --- the same block elsewhere in the vault ---

    def _twins(self, bad: Bad) -> dict[bytes, list[StoredAt]]:
        """Full blocks of the damaged ones' ids, by id. Every table of the vault is read, once."""
        wanted: dict[bytes, set[StoredAt]] = defaultdict(set)
        for pack, reasons in bad.items():
            try:
                reader = self._session.shelf.newest_reader(pack)
            except CorruptionError:
                continue
            for slot in reasons:
                if slot < reader.table.slot_count:
                    wanted[reader.table.ids[slot].tobytes()].add((reader.name, slot))
        found: dict[bytes, list[StoredAt]] = defaultdict(list)
        if not wanted:
            return found
        ids = np.frombuffer(b"".join(wanted), dtype=np.uint8).reshape(-1, 32)
        prefixes = prefixes_of(ids)
        for name, other in self._tables():
            table = other.table
            full = np.isin(table.codecs, (int(Codec.RAW), int(Codec.ZSTD)))
            for slot in np.flatnonzero(full & np.isin(prefixes_of(table.ids), prefixes)).tolist():
                block_id = table.ids[slot].tobytes()
                if block_id in wanted and (name, slot) not in wanted[block_id]:
                    found[block_id].append((name, slot))
            other.close()
        return found

    def _tables(self) -> Iterator[tuple[str, PackReader]]:
        for _, names in self._session.shelf.all_packs():
            for name in names:
                self._monitor.check()
                try:
                    yield name, read_table(self._session.store, self._session.keys, name)
                except BlockVaultError:
                    continue

    def _from_vault(self, reader: PackReader, slot: int) -> tuple[bytes, str] | None:
        keys = self._session.keys
        for name, other_slot in self._same.get(reader.table.ids[slot].tobytes(), ()):
            try:
                other = read_table(self._session.store, keys, name)
            except BlockVaultError:
                continue
            at = np.array([other_slot], dtype=np.int64)
            offsets, lengths, codecs, ids = block_columns(other, at)
            plain, status = kernel.decode(
                [other.handle],
                np.zeros(1, np.uint32),
                at.astype(np.uint32),
                np.ascontiguousarray(offsets),
                np.ascontiguousarray(lengths),
                np.ascontiguousarray(codecs),
                np.ascontiguousarray(ids),
                base_rows=None,
                wanted=np.zeros(1, np.uint32),
                chunk_size=other.table.chunk_size,
                id_key=keys.id_key,
                threads=1,
                cancel=None,
            )
            good = int(np.asarray(status)[0]) == STATUS_GOOD
            fits = other.table.chunk_size == reader.table.chunk_size
            chunk = bytes(plain.chunk(0)) if good and fits else None
            other.close()
            if chunk is not None:
                return chunk, f"slot {other_slot} of {name}"
        return None


def _can_be_copied(reader: PackReader, slot: int) -> bool:
    """Whether a block's stored bytes can be read, and unsealed where they are encrypted."""
    length = int(reader.table.lengths[slot])
    try:
        data = os.pread(reader.fd, length, int(reader.table.offsets[slot]))
        return len(data) == length and bool(reader.unseal(slot, data) is not None)
    except (OSError, BlockVaultError):
        return False
