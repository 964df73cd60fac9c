"""Transfer: phase 2 of a job. Moves churn from a disk reader into the vault and commits the point.

The way of a batch: read (once: digest, id and block come from one buffer, R4) -> compare with the parent by identity
-> look up in the index (a hit counts after the full id was read equal, R2) -> delta against the parent's full block
where that pays (R3), else full -> pack. Batches run on all cores; packs are filled in chunk order, so runs stay long.

The order of the commit (R7), each durable before the next:
    packs, layers, index segment, [R8: look at everything again], point record, [fence], LMDB, digest states.
A crash before the point record leaves only objects that nothing names; after it, LMDB and digest states are brought
up at the next opening. `docs/format.md` has the argument.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.blocks import Place, fetch
from blockvault.engine.churn import CellChurn, ChurnFinder, FillSpan
from blockvault.engine.layering import LayerBuilder
from blockvault.engine.pipeline import batch_chunks, in_order
from blockvault.errors import AlreadyExistsError, BlockVaultError, ConflictError, CorruptionError
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record
from blockvault.format.index import encode_index, prefixes_of
from blockvault.format.layers import build_segment
from blockvault.format.tables import NO_BASE
from blockvault.ids import OriginId, PackName
from blockvault.image.reader import DiskReader
from blockvault.model import (
    ChunkState,
    ChurnSource,
    Codec,
    FillKind,
    LayerRef,
    Point,
    PointDisk,
    PointStatistics,
    VaultKeys,
)
from blockvault.model.geometry import chunk_count
from blockvault.monitor import Monitor
from blockvault.store.catalog import Catalog, point_object
from blockvault.store.digests import DigestState, DigestWriter
from blockvault.store.index import Index
from blockvault.store.layers import LayerWriter, layer_object
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap, Manifest
from blockvault.store.packs import PACK_BYTES, PackShelf, PackWriter

GRACE_SECONDS = 48 * 3600  # G: how long a condemned object waits
PENDING_BLOCKS_MAX = 65_536


@dataclass(slots=True)
class DiskTransfer:
    """One disk to be transferred."""

    name: str
    path: str
    reader: DiskReader
    parent: PointDisk | None
    digests: DigestState | None  # of the parent; None: compare by identity
    digests_folder: str


@dataclass(slots=True)
class TransferContext:
    """What a transfer works with."""

    store: LocalStore
    keys: VaultKeys
    shelf: PackShelf
    catalog: Catalog
    index: Index | None
    origin: OriginId
    monitor: Monitor
    level: int = 1


@dataclass(slots=True)
class _Batch:
    churn: CellChurn
    rows: NDArray[np.uint32]  # chunks in the cell
    last: bool


@dataclass(slots=True)
class _Outcome:
    """What a worker found and made of a batch."""

    batch: _Batch
    digests: NDArray[np.uint8]
    zero: NDArray[np.bool_]
    ids: NDArray[np.uint8]
    encoded: NDArray[np.uint32]  # rows of the batch that became blocks
    blocks: kernel.BlockBatch | None
    bases: list[tuple[PackName, int, int] | None]
    known: dict[int, Place]  # rows whose block is in the vault already
    copies: dict[int, int]  # rows that equal an encoded row of this batch


@dataclass(slots=True)
class _CellBuild:
    packs: dict[PackName, int] = field(default_factory=dict)
    chunks: list[int] = field(default_factory=list)
    pack: list[int] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    ids: list[NDArray[np.uint8]] = field(default_factory=list)
    base_pack: list[int] = field(default_factory=list)
    base_slot: list[int] = field(default_factory=list)


class Transfer:
    """One transfer of one item: build with the context, `run` it once."""

    def __init__(self, context: TransferContext, *, now: datetime) -> None:
        self.context = context
        self.now = now
        self._pending: dict[bytes, Place] = {}
        self._segments: list[str] = []
        self._feed: list[tuple[PackName, int, int]] = []  # (pack, slot, prefix) of full blocks not yet in an index segment
        self._writer: PackWriter | None = None
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="blockvault-seal")
        self._sealing: list[Future[int]] = []
        self._made: list[str] = []  # objects made so far that only this transfer knows
        self._shared = False  # whether others may have learned of our packs
        self._stored_bytes = 0
        self._changed_chunks = 0
        self._changed_bytes = 0
        self._unique_bytes = 0
        self._own_slots: dict[PackName, int] = {}
        self._digest_writers: list[DigestWriter] = []
        self._committed = False
        self.churn_source = ChurnSource.SCAN

    def run(
        self,
        point: Point,
        disks: list[DiskTransfer],
        *,
        before_commit: Callable[[], None] | None = None,
    ) -> Point:
        """Transfer all disks and commit `point` (its disks and statistics are filled in here).

        `before_commit` is asked last before the commit; what it raises ends the transfer (a source that changed).

        Raises:
            ConflictError: the parent or a needed object went away meanwhile (`transfer.conflict`), or the transfer
                took so long that reclaim may have (`transfer.fenced`): run it again.
            DeviceError, CorruptionError, CancelledError: nothing of this transfer stays; every point is as before.
        """
        try:
            done: list[PointDisk] = []
            builders: list[LayerBuilder] = []
            sources: list[ChurnSource] = []
            for disk in disks:
                builder, source = self._transfer_disk(disk)
                builders.append(builder)
                sources.append(source)
            self._finish_packs()
            reach("transfer.packs")
            for disk, builder in zip(disks, builders, strict=True):
                done.append(self._write_layer(disk, builder))
            reach("transfer.layers")
            self._write_index_segment()
            reach("transfer.index")
            for digest_writer in self._digest_writers:
                digest_writer.finish()
            if before_commit is not None:
                before_commit()
            self.context.monitor.check()
            point = replace(point, disks=tuple(done), churn_source=_weakest(sources))
            point = self._commit(point, builders)
            self._after_commit(point)
            return point
        except BaseException:
            self._clean_up(point)
            raise
        finally:
            self._sealer.shutdown(wait=True, cancel_futures=True)

    # --- reading, comparing, encoding -------------------------------------------------------------------------

    def _transfer_disk(self, disk: DiskTransfer) -> tuple[LayerBuilder, ChurnSource]:
        context = self.context
        reader = disk.reader
        manifest = self._open_manifest(disk)
        finder = ChurnFinder(
            reader,
            parent=disk.parent,
            manifest=manifest,
            digests=disk.digests,
            seed=context.keys.digest_seed,
            monitor=context.monitor,
        )
        builder = LayerBuilder(reader.chunk_size, chunk_count(reader.size, reader.chunk_size))
        digest_writer = DigestWriter(
            disk.digests_folder,
            vault_id=context.keys.vault_id.hex(),
            disk=disk.name,
            size=reader.size,
            chunk_size=reader.chunk_size,
            seed=context.keys.digest_seed,
            base=disk.digests,
        )
        self._digest_writers.append(digest_writer)
        cell = _CellBuild()
        try:
            outcomes = in_order(
                lambda batch: self._work(batch, reader), self._batches(finder, builder, reader.chunk_size)
            )
            for outcome in outcomes:
                context.monitor.check()
                self._place(outcome, cell, reader.chunk_size)
                if outcome.batch.last:
                    self._finish_cell(outcome.batch.churn, cell, builder, digest_writer)
                    cell = _CellBuild()
        finally:
            if manifest is not None:
                manifest.close()
        return builder, finder.source

    def _open_manifest(self, disk: DiskTransfer) -> Manifest | None:
        """The parent's manifest; one that cannot be opened is no parent: everything is stored anew, and that is told."""
        if disk.parent is None:
            return None
        try:
            return Manifest(self.context.store, self.context.keys, disk.parent)
        except CorruptionError as error:
            self.context.monitor.warn(error.kind, f"{error.message}: disk '{disk.name}' is transferred in full")
            disk.parent = disk.digests = None
            return None

    def _batches(self, finder: ChurnFinder, builder: LayerBuilder, chunk_size: int) -> Iterator[_Batch]:
        size = batch_chunks(chunk_size)
        for part in finder:
            if isinstance(part, FillSpan):
                builder.add_hole(part.cell, part.span)
                continue
            starts = range(0, len(part.candidates), size) or range(1)
            for start in starts:
                rows = part.candidates[start : start + size]
                yield _Batch(part, rows, last=start + size >= len(part.candidates))

    def _work(self, batch: _Batch, reader: DiskReader) -> _Outcome:
        """On a worker thread: everything of a batch that needs no order."""
        context = self.context
        churn, rows = batch.churn, batch.rows
        if not len(rows):
            none = np.zeros(0, np.uint32)
            return _Outcome(
                batch, np.zeros((0, 16), np.uint8), np.zeros(0, np.bool_), np.zeros((0, 32), np.uint8), none, None, [], {}, {}
            )
        chunks = rows.astype(np.uint64) + np.uint64(churn.first_chunk)
        plain = reader.identify(chunks, seed=context.keys.digest_seed, id_key=context.keys.id_key, cancel=None)
        context.monitor.count("read_bytes", plain.read_bytes)
        context.monitor.count("chunks_identified", len(rows))
        zero = np.asarray(plain.states) != ChunkState.CHANGED
        ids = np.asarray(plain.ids)
        parent_place, parent_ids = self._parent_blocks(churn, rows)
        same = ~zero & (ids == parent_ids).all(axis=1) & (parent_place >= 0)
        wanted = np.flatnonzero(~zero & ~same)
        known, copies, encode_rows = self._deduplicate(ids, wanted)
        blocks, bases = self._encode(plain, encode_rows, churn.parent, rows)
        # A chunk that reads as at the parent needs no entry: it is told apart from `zero` by having no place.
        digests = np.array(plain.digests)
        return _Outcome(batch, digests, zero, ids, encode_rows, blocks, bases, known, copies)

    def _parent_blocks(self, churn: CellChurn, rows: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """For each row the parent's pack (index in its cell map, -1: none) and the id of its block there."""
        place = np.full(len(rows), -1, dtype=np.int64)
        ids = np.zeros((len(rows), 32), dtype=np.uint8)
        parent = churn.parent
        if parent is None:
            return place, ids
        inside = rows < parent.chunk_count
        held = np.zeros(len(rows), dtype=np.bool_)
        held[inside] = parent.kind[rows[inside]] == FillKind.DATA
        place[held] = parent.pack[rows[held]]
        for index in np.unique(place[held]).tolist():
            at = np.flatnonzero(place == index)
            try:
                table = self.context.shelf.reader(parent.packs[index]).table
            except CorruptionError as error:
                self.context.monitor.warn(error.kind, f"{error.message}: the chunks that need it are stored again in full")
                place[at] = -1
                continue
            slots = parent.slot[rows[at]].astype(np.int64)
            good = (slots < table.slot_count) & (table.codecs[np.minimum(slots, table.slot_count - 1)] != Codec.EMPTY)
            place[at[~good]] = -1
            ids[at[good]] = table.ids[slots[good]]
        return place, ids

    def _deduplicate(
        self, ids: NDArray[np.uint8], wanted: NDArray[np.int64]
    ) -> tuple[dict[int, Place], dict[int, int], NDArray[np.uint32]]:
        """Which wanted rows are in the vault already, which equal another row of the batch, which must be encoded."""
        known: dict[int, Place] = {}
        copies: dict[int, int] = {}
        fresh: list[int] = []
        first: dict[bytes, int] = {}
        asked: list[int] = []
        for row in wanted.tolist():
            name = ids[row].tobytes()
            pending = self._pending.get(name)
            if pending is not None:
                known[row] = pending
            elif name in first:
                copies[row] = first[name]
            else:
                first[name] = row
                asked.append(row)
        found = self.context.index.find_blocks(ids[asked]) if self.context.index and asked else [None] * len(asked)
        for row, place in zip(asked, found, strict=True):
            if place is not None and self._holds(place, ids[row].tobytes()):
                known[row] = place
            else:
                fresh.append(row)
        for row, twin in list(copies.items()):
            if twin in known:
                known[row] = known[twin]
                del copies[row]
        return known, copies, np.array(fresh, dtype=np.uint32)

    def _holds(self, place: Place, name: bytes) -> bool:
        """R2: a hit counts only after the full id was read equal in the pack's table."""
        pack, slot = place
        try:
            table = self.context.shelf.reader(pack).table
        except CorruptionError:
            return False
        return slot < table.slot_count and table.codecs[slot] != Codec.EMPTY and table.ids[slot].tobytes() == name

    def _encode(
        self, plain: kernel.PlainBatch, encode_rows: NDArray[np.uint32], parent: CellMap | None, rows: NDArray[np.uint32]
    ) -> tuple[kernel.BlockBatch | None, list[tuple[PackName, int, int] | None]]:
        """Encode rows of a batch: as deltas against the parent's full block where there is one, else full."""
        count = len(encode_rows)
        if not count:
            return None, []
        chosen: list[tuple[PackName, int, int] | None] = [None] * count
        wanted: dict[Place, int] = {}
        limits = np.zeros(count, dtype=np.uint32)
        base_rows = np.full(count, -1, dtype=np.int32)
        if parent is not None:
            for i, row in enumerate(rows[encode_rows].tolist()):
                base = self._base_of(parent, row)
                if base is not None:
                    chosen[i] = (base[0], base[1], 0)
                    base_rows[i] = wanted.setdefault((base[0], base[1]), len(wanted))
                    limits[i] = base[2] // 2
        base_batch: kernel.PlainBatch | None = None
        if wanted:
            names = list(dict.fromkeys(pack for pack, _ in wanted))
            position = {pack: i for i, pack in enumerate(names)}
            fetched = fetch(
                self.context.shelf,
                self.context.keys,
                names,
                np.array([position[pack] for pack, _ in wanted], dtype=np.int64),
                np.array([slot for _, slot in wanted], dtype=np.int64),
                plain.chunk_size,
            )
            base_batch = fetched.plain
            self.context.monitor.count("bases_decoded", len(wanted))
            if not fetched.all_good:
                # A base that is damaged is no base: its chunks are stored full (R15), and that is told.
                bad = np.flatnonzero(fetched.status)
                self.context.monitor.warn(
                    "vault.block-damaged",
                    f"{len(bad)} blocks of earlier points are damaged in the vault: run `blockvault verify --all`",
                )
                base_rows[np.isin(base_rows, bad)] = -1
        blocks = kernel.encode(
            plain,
            encode_rows,
            level=self.context.level,
            bases=base_batch,
            base_rows=base_rows if base_batch is not None else None,
            delta_limits=limits if base_batch is not None else None,
            cancel=None,
        )
        return blocks, chosen

    def _base_of(self, parent: CellMap, row: int) -> tuple[PackName, int, int] | None:
        """The full block that a delta of this chunk is made against: place and stored length.

        The parent's block if it is full, else the full block that the parent's is a delta of: depth stays 1.
        """
        if row >= parent.chunk_count or parent.kind[row] != FillKind.DATA:
            return None
        pack, slot = parent.packs[parent.pack[row]], int(parent.slot[row])
        for _ in range(2):
            try:
                table = self.context.shelf.reader(pack).table
            except CorruptionError:
                return None
            if slot >= table.slot_count or table.codecs[slot] == Codec.EMPTY:
                return None
            if table.codecs[slot] != Codec.DELTA:
                return pack, slot, int(table.lengths[slot])
            pack, slot = table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])
        return None

    # --- placing, in order -------------------------------------------------------------------------------------

    def _place(self, outcome: _Outcome, cell: _CellBuild, chunk_size: int) -> None:
        """On the main thread: append the blocks of a batch and note where every chunk lies."""
        batch = outcome.batch
        count = len(batch.rows)
        if not count:
            return
        if batch.churn.digests is not None:
            batch.churn.digests[batch.rows] = outcome.digests
        batch.churn.fills[batch.rows[outcome.zero]] = self._zero_fills(batch, outcome.zero)
        places: dict[int, Place] = dict(outcome.known)
        base_of: dict[int, tuple[PackName, int]] = {}
        if outcome.blocks is not None:
            writer = self._open_pack(chunk_size)
            ids = np.ascontiguousarray(outcome.ids[outcome.encoded])
            codecs = np.asarray(outcome.blocks.codecs)
            first = writer.append(outcome.blocks, ids, outcome.bases)
            prefixes = prefixes_of(ids)
            for i, row in enumerate(outcome.encoded.tolist()):
                place = (writer.pack, first + i)
                places[row] = place
                base = outcome.bases[i]
                if codecs[i] == Codec.DELTA and base is not None:
                    base_of[row] = (base[0], base[1])
                else:
                    self._pending[ids[i].tobytes()] = place
                    self._feed.append((writer.pack, first + i, int(prefixes[i])))
            self._unique_bytes += len(outcome.encoded) * chunk_size
            self.context.monitor.count("blocks_stored", len(outcome.encoded))
            self.context.monitor.count("delta_blocks", int(np.count_nonzero(codecs == Codec.DELTA)))
            self._own_slots[writer.pack] = writer.slot_count
            if writer.size >= PACK_BYTES:
                self._seal_pack()
        for row, twin in outcome.copies.items():
            places[row] = places[twin]
            if twin in base_of:
                base_of[row] = base_of[twin]
        changed = len(places)
        self._changed_chunks += changed
        self._changed_bytes += changed * chunk_size
        self.context.monitor.count("blocks_known", len(outcome.known) + len(outcome.copies))
        for row in sorted(places):
            pack, slot = places[row]
            cell.chunks.append(int(batch.rows[row]))
            cell.pack.append(cell.packs.setdefault(pack, len(cell.packs)))
            cell.slot.append(slot)
            cell.ids.append(outcome.ids[row])
            base = base_of.get(row)
            if base is None and row in outcome.known:
                base = self._base_of_known(pack, slot)
            cell.base_pack.append(NO_BASE if base is None else cell.packs.setdefault(base[0], len(cell.packs)))
            cell.base_slot.append(0 if base is None else base[1])

    def _base_of_known(self, pack: PackName, slot: int) -> tuple[PackName, int] | None:
        """The base of a block that was already there, so that the layer's list of bases stays closed (R3)."""
        if pack in self._own_slots:
            return None  # only full blocks of this transfer are ever found again
        table = self.context.shelf.reader(pack).table
        if table.codecs[slot] != Codec.DELTA:
            return None
        return table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])

    def _zero_fills(self, batch: _Batch, zero: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """What to state of candidates that turned out to be zeros: nothing if the parent reads the same."""
        rows = batch.rows[zero]
        fills = np.full(len(rows), int(FillKind.ZERO), dtype=np.uint8)
        parent = batch.churn.parent
        if parent is not None:
            known = rows < min(parent.chunk_count, batch.churn.must_state)
            same = np.zeros(len(rows), dtype=np.bool_)
            same[known] = parent.kind[rows[known]] != FillKind.DATA
            fills[same] = FillKind.UNSTATED
        return fills

    def _finish_cell(self, churn: CellChurn, cell: _CellBuild, builder: LayerBuilder, digests: DigestWriter) -> None:
        fills = _stretches(churn.fills)
        count = len(cell.chunks)
        cleared = int(np.count_nonzero(churn.fills[: churn.must_state]))
        self._changed_chunks += cleared
        self._changed_bytes += cleared * builder.chunk_size
        if count or fills:
            segment = build_segment(
                churn.cell,
                self.context.keys.run_key,
                packs=list(cell.packs),
                chunks=np.array(cell.chunks, dtype=np.uint32),
                pack=np.array(cell.pack, dtype=np.uint32),
                slot=np.array(cell.slot, dtype=np.uint32),
                ids=np.array(cell.ids, dtype=np.uint8).reshape(count, 32),
                base_pack=np.array(cell.base_pack, dtype=np.uint32),
                base_slot=np.array(cell.base_slot, dtype=np.uint32),
                fills=fills,
            )
            builder.add_segment(churn.cell, segment)
        if churn.digests is not None:
            digests.put(churn.cell, churn.digests)

    # --- packs ---------------------------------------------------------------------------------------------------

    def _open_pack(self, chunk_size: int) -> PackWriter:
        if self._writer is None:
            self._writer = PackWriter(
                self.context.store,
                self.context.keys,
                unix_ms=int(self.now.timestamp() * 1000),
                chunk_size=chunk_size,
            )
        return self._writer

    def _seal_pack(self) -> None:
        """Seal the full pack on its own thread while the next one is filled; at most two wait."""
        assert self._writer is not None
        writer, self._writer = self._writer, None
        self._made.append(writer.name)
        self._sealing.append(self._sealer.submit(_seal, writer))
        while len(self._sealing) > 2:
            self._stored_bytes += self._sealing.pop(0).result()
        if len(self._pending) > PENDING_BLOCKS_MAX:
            self._wait_for_packs()
            self._write_index_segment()
            self._shared = True
            self._pending.clear()

    def _wait_for_packs(self) -> None:
        while self._sealing:
            self._stored_bytes += self._sealing.pop(0).result()

    def _finish_packs(self) -> None:
        if self._writer is not None:
            self._seal_pack()
        self._wait_for_packs()

    # --- index, layers, commit -----------------------------------------------------------------------------------

    def _write_index_segment(self) -> None:
        """Tell other hosts of the full blocks in durable packs. Only hints (R2), so they may come before the commit."""
        if not self._feed:
            return
        context = self.context
        names = list(dict.fromkeys(pack for pack, _, _ in self._feed))
        position = {pack: i for i, pack in enumerate(names)}
        pack = np.array([position[entry[0]] for entry in self._feed], dtype=np.uint32)
        slot = np.array([entry[1] for entry in self._feed], dtype=np.uint32)
        prefixes = np.array([entry[2] for entry in self._feed], dtype=np.uint64)
        body = encode_index(names, prefixes, pack, slot)
        folder = f"main/index/{context.origin}"
        sequence = max([int(entry) for entry in context.store.entries(folder) if entry.isdigit()], default=0) + 1
        while True:
            name = f"{folder}/{sequence:010d}"
            data, _ = seal_record(context.keys, Kind.INDEX, name, body)
            try:
                context.store.put_new(name, data)
                break
            except AlreadyExistsError:
                sequence += 1  # another process of this host took it
        self._stored_bytes += len(data)
        self._made.append(name)
        self._segments.append(name)
        if len(self._pending) > PENDING_BLOCKS_MAX and context.index is not None:
            context.index.add_blocks(names, prefixes, pack, slot, f"{context.origin}/{sequence:010d}")
        else:
            self._late = (names, prefixes, pack, slot, f"{context.origin}/{sequence:010d}")
        self._feed.clear()

    _late: tuple[list[PackName], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], str] | None = None

    def _write_layer(self, disk: DiskTransfer, builder: LayerBuilder) -> PointDisk:
        context = self.context
        older: tuple[LayerRef, ...] = disk.parent.layers if disk.parent else ()
        layers, writer = builder.finish(context.store, context.keys, older)
        if writer is not None:
            self._made.append(writer.name)
            self._stored_bytes += _layer_size(writer)
        return PointDisk(disk.name, disk.path, disk.reader.size, disk.reader.chunk_size, layers)

    def _commit(self, point: Point, builders: list[LayerBuilder]) -> Point:
        context = self.context
        refreshed = context.store.now()
        self._look_again(point, builders)
        figures = PointStatistics(
            read_bytes=int(context.monitor.counters["read_bytes"]),
            changed_bytes=min(self._changed_bytes, point.size),
            unique_bytes=self._unique_bytes,
            stored_bytes=self._stored_bytes,
            sent_bytes=self._stored_bytes,
            changed_chunks=self._changed_chunks,
        )
        point = replace(point, statistics=figures, refreshed_at=refreshed)
        reach("transfer.commit")
        try:
            digest = context.catalog.commit_point(point)
        except AlreadyExistsError as error:
            raise ConflictError(
                "point.exists",
                f"point {point.number} is already in the vault",
                why="this host's state was copied or put back, and another process used the number",
                do="run the command again: it takes the next number",
            ) from error
        self._committed = True
        point = replace(point, digest=digest)
        # R8, the fence: had this taken longer than half the grace time, reclaim might have taken what we refer to.
        elapsed = context.store.now() - refreshed
        if not 0 <= elapsed <= GRACE_SECONDS / 2:
            context.catalog.put_mark(
                point.ref, records.MarkBody(kind="void", at=point.committed.isoformat(), reason="the commit took too long")
            )
            raise ConflictError(
                "transfer.fenced",
                f"point {point.number} was taken back",
                why=f"{elapsed:.0f} s passed between the last look at the vault and the commit",
                do="run the command again",
            )
        return point

    def _look_again(self, point: Point, builders: list[LayerBuilder]) -> None:
        """R8: everything that the point refers to is still there, and nothing of it is condemned."""
        context = self.context
        problem = ""
        if point.parent is not None and not context.catalog.check_parent(point.parent, point.parent_digest or b""):
            problem = f"its parent, point {point.parent.number}, is no longer there"
        condemned = [entry.split(".")[0] for entry in context.store.entries("main/condemned")]
        for ref in [ref for disk in point.disks for ref in disk.layers]:
            if not context.store.exists(layer_object(ref.name)):
                problem = f"layer {ref.name.hex()} is no longer there"
            if ref.name.hex() in condemned:
                problem = f"layer {ref.name.hex()} is condemned"
        highest: dict[PackName, int] = {}
        for builder in builders:
            for segment in builder.segments.values():
                last = segment.run_first_slot.astype(np.int64) + segment.run_count - 1
                for packs, slots in ((segment.run_pack, last), (segment.base_pack, segment.base_slot)):
                    for index in np.unique(packs).tolist():
                        name = segment.packs[index]
                        highest[name] = max(highest.get(name, -1), int(slots[packs == index].max()))
        for pack, slot in highest.items():
            if pack.hex() in condemned:
                problem = f"pack {pack.hex()} is condemned"
            try:
                if not context.shelf.names(pack, refresh=pack not in self._own_slots):
                    problem = f"pack {pack.hex()} is no longer there"
                elif context.shelf.reader(pack).table.slot_count <= slot:
                    problem = f"pack {pack.hex()} has no slot {slot}"
            except CorruptionError as error:
                problem = error.message
        if problem:
            raise ConflictError(
                "transfer.conflict",
                f"the transfer of item '{point.item_name}' cannot be committed",
                why=problem,
                do="run the command again: it takes the newest point as its parent",
            )

    def _after_commit(self, point: Point) -> None:
        """The point is safe; what follows only makes the next run faster, and is made up for if it is lost."""
        context = self.context
        if context.index is not None:
            try:
                if self._late is not None:
                    context.index.add_blocks(*self._late)
                context.catalog.remember([point_object(point.ref)])
            except BlockVaultError as error:
                context.monitor.warn(error.kind, f"{error.message}: it is brought up at the next opening")
        reach("transfer.indexed")
        for writer in self._digest_writers:
            try:
                writer.switch("point", point.digest)
            except BlockVaultError as error:
                context.monitor.warn(error.kind, f"{error.message}: the next transfer compares by identity")
        reach("transfer.switched")

    def _clean_up(self, point: Point) -> None:
        """Leave nothing half done: what only this transfer knows is deleted."""
        for writer in self._digest_writers:
            writer.abort()
        for future in self._sealing:
            future.cancel()
        self._sealer.shutdown(wait=True, cancel_futures=True)
        if self._writer is not None:
            self._writer.abort()
        store = self.context.store
        if self._committed or self._shared or store.exists(point_object(point.ref)):
            return
        for name in reversed(self._made):
            try:
                store.delete(name)
            except (BlockVaultError, OSError):
                continue


def _seal(writer: PackWriter) -> int:
    try:
        return writer.seal()
    finally:
        writer.abort()


def _layer_size(writer: LayerWriter) -> int:
    return writer.size


def _weakest(sources: list[ChurnSource]) -> ChurnSource:
    """What told the churn of a point with several disks: the one that says least of trust in digests."""
    for source in (ChurnSource.IDENTITY, ChurnSource.SCAN):
        if source in sources:
            return source
    return ChurnSource.INITIAL


def _stretches(fills: NDArray[np.uint8]) -> list[tuple[int, int, FillKind]]:
    """Stretches of equal fills, unstated ones left out."""
    breaks = np.flatnonzero(np.diff(fills, prepend=255, append=255))
    found = []
    for start, end in zip(breaks[:-1].tolist(), breaks[1:].tolist(), strict=True):
        if fills[start] != FillKind.UNSTATED:
            found.append((start, end - start, FillKind(int(fills[start]))))
    return found


