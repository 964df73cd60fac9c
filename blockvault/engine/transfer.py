"""Transfer: phase 2 of a job. Moves churn from a disk reader into the vault and commits the point.

The way of a batch: read (once: digest, id and block come from one buffer, R4) -> compare with the parent by identity
-> look up in the index (a hit counts after the full id was read equal, R2) -> delta against the parent's full block
where that pays (R3), else full -> pack. Batches run on all cores; packs are filled in chunk order, so runs stay long.

The order of the commit (R7), each durable before the next:
    packs, layers, [R8: look at everything again], point record, [fence], index segment, LMDB, digest states.
A crash before the point record leaves only objects that nothing names; after it, LMDB and digest states are brought
up at the next opening. `docs/format.md` has the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.engine.churn import CellChurn, ChurnFinder, FillSpan
from blockvault.engine.claims import Claims
from blockvault.engine.encoding import DELTA_DEPTH, Batch, BatchWorker, Outcome, TransferContext
from blockvault.engine.layering import LayerBuilder
from blockvault.engine.packing import PackFiller
from blockvault.errors import AlreadyExistsError, BlockVaultError, ConflictError, CorruptionError
from blockvault.failpoints import reach
from blockvault.format.layers import build_segment
from blockvault.format.records import LAYERS_MAX
from blockvault.format.tables import NO_BASE
from blockvault.ids import PackName
from blockvault.image.reader import DiskReader
from blockvault.model import (
    ChurnSource,
    Codec,
    FillKind,
    LayerRef,
    Mark,
    MarkKind,
    Point,
    PointDisk,
    PointStatistics,
)
from blockvault.model.geometry import chunk_count
from blockvault.pipeline import batch_chunks, in_order
from blockvault.store import condemned
from blockvault.store.catalog import point_object
from blockvault.store.digests import DigestState, DigestWriter
from blockvault.store.layers import layer_object
from blockvault.store.local import device_error
from blockvault.store.manifest import Manifest

U32 = NDArray[np.uint32]
_Placed = tuple[U32, U32, U32, NDArray[np.uint8], U32, U32]  # chunk, pack, slot, id, base pack, base slot

GRACE_SECONDS = 48 * 3600  # G: how long a condemned object waits


@dataclass(slots=True)
class DiskTransfer:
    """One disk to be transferred."""

    name: str
    path: str
    reader: DiskReader
    parent: PointDisk | None
    digests: DigestState | None  # of the parent; None: compare by identity
    digests_folder: str
    claims: Claims | None = None  # of an audited changed-block map


@dataclass(slots=True)
class _CellBuild:
    """Where the chunks of the cell in hand lie, batch by batch; `packs` numbers the packs met."""

    packs: dict[PackName, int] = field(default_factory=dict)
    columns: list[_Placed] = field(default_factory=list)

    def number(self, pack: PackName) -> int:
        """The number of a pack in this cell."""
        return self.packs.setdefault(pack, len(self.packs))


class Transfer:
    """One transfer of one item: build with the context, `run` it once."""

    def __init__(self, context: TransferContext, *, now: datetime) -> None:
        self.context = context
        self.now = now
        self._packs = PackFiller(context.store, context.keys, context.index, context.origin, now=now)
        self._made: list[str] = []  # layers made so far, or begun
        self._layer_bytes = 0
        self._changed_chunks = 0
        self._changed_bytes = 0
        self._unique_bytes = 0
        self._digest_writers: list[DigestWriter] = []
        self._committed = False

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
            self._tell_unsound()
            self._packs.finish()
            reach("transfer.packs")
            for disk, builder in zip(disks, builders, strict=True):
                done.append(self._write_layer(disk, builder))
            reach("transfer.layers")
            for digest_writer in self._digest_writers:
                digest_writer.finish()
            if before_commit is not None:
                before_commit()
            self.context.monitor.check()
            point = replace(point, disks=tuple(done), churn_source=_weakest(sources))
            point = self._commit(point, builders)
            self._after_commit(point)
            return point
        except OSError as error:
            self._clean_up(point)
            raise _told(error, f"transferring item '{point.item_name}'") from error
        except BaseException:
            self._clean_up(point)
            raise
        finally:
            self._packs.close()

    # --- reading, comparing, encoding -------------------------------------------------------------------------

    def _transfer_disk(self, disk: DiskTransfer) -> tuple[LayerBuilder, ChurnSource]:
        context = self.context
        reader = disk.reader
        manifest = self._open_manifest(disk)
        worker = BatchWorker(context, self._packs, reader)
        finder = ChurnFinder(
            reader,
            parent=disk.parent,
            manifest=manifest,
            digests=disk.digests,
            seed=context.keys.digest_seed,
            monitor=context.monitor,
            claims=disk.claims,
            suspects=None if context.quarantine.is_empty else worker.suspects,
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
            batches = self._batches(finder, builder, reader.chunk_size)
            with in_order(worker.work, batches) as outcomes:
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

    def _tell_unsound(self) -> None:
        count = int(self.context.monitor.counters["chunks_unsound"])
        if count:
            self.context.monitor.warn(
                "vault.block-damaged",
                f"{count} chunks have damaged or missing blocks at an earlier point: this point holds them anew, older "
                "points keep the damage unless `blockvault vault repair` heals it",
            )

    def _open_manifest(self, disk: DiskTransfer) -> Manifest | None:
        """The parent's manifest; one that cannot be opened is no parent: everything is stored anew."""
        if disk.parent is None:
            return None
        try:
            manifest = Manifest(self.context.store, self.context.keys, disk.parent)
            if len(disk.parent.layers) >= LAYERS_MAX:
                manifest.read_all()  # a full stack must be merged, and so must be readable
            return manifest
        except CorruptionError as error:
            self.context.monitor.warn(error.kind, f"{error.message}: disk '{disk.name}' is transferred in full")
            disk.parent = disk.digests = disk.claims = None
            return None

    def _batches(self, finder: ChurnFinder, builder: LayerBuilder, chunk_size: int) -> Iterator[Batch]:
        size = batch_chunks(chunk_size)
        for part in finder:
            if isinstance(part, FillSpan):
                builder.add_hole(part.cell, part.span)
                continue
            starts = range(0, len(part.candidates), size) or range(1)
            for start in starts:
                rows = part.candidates[start : start + size]
                yield Batch(part, rows, last=start + size >= len(part.candidates))

    # --- placing, in order -------------------------------------------------------------------------------------

    def _place(self, outcome: Outcome, cell: _CellBuild, chunk_size: int) -> None:
        """On the main thread: append the blocks of a batch and note where every chunk lies."""
        batch = outcome.batch
        count = len(batch.rows)
        if not count:
            return
        if batch.churn.digests is not None:
            batch.churn.digests[batch.rows] = outcome.digests
        batch.churn.fills[batch.rows[outcome.zero]] = self._zero_fills(batch, outcome.zero)
        pack = np.full(count, NO_BASE, dtype=np.uint32)
        slot = np.zeros(count, dtype=np.uint32)
        base_pack = np.full((count, DELTA_DEPTH), NO_BASE, dtype=np.uint32)
        base_slot = np.zeros((count, DELTA_DEPTH), dtype=np.uint32)
        for row, place in outcome.known.items():
            pack[row], slot[row] = cell.number(place[0]), place[1]
        if outcome.blocks is not None:
            ids = np.ascontiguousarray(outcome.ids[outcome.encoded])
            deltas = np.flatnonzero(np.asarray(outcome.blocks.codecs) == int(Codec.DELTA))
            name, first = self._packs.append(outcome.blocks, ids, outcome.bases, chunk_size)
            pack[outcome.encoded] = cell.number(name)
            slot[outcome.encoded] = np.arange(first, first + len(outcome.encoded), dtype=np.uint32)
            for i, row in zip(deltas.tolist(), outcome.encoded[deltas].tolist(), strict=True):
                for step, below in enumerate(outcome.below[i]):
                    base_pack[row, step], base_slot[row, step] = cell.number(below[0]), below[1]
            self._unique_bytes += len(outcome.encoded) * chunk_size
            self.context.monitor.count("blocks_stored", len(outcome.encoded))
            self.context.monitor.sent(len(outcome.blocks.payload))
            self.context.monitor.count("delta_blocks", len(deltas))
        for row, twin in outcome.copies.items():
            pack[row], slot[row], base_pack[row], base_slot[row] = (
                pack[twin],
                slot[twin],
                base_pack[twin],
                base_slot[twin],
            )
        placed = pack != NO_BASE
        changed = int(np.count_nonzero(placed))
        self._changed_chunks += changed
        self._changed_bytes += changed * chunk_size
        self.context.monitor.count("blocks_known", len(outcome.known) + len(outcome.copies))
        cell.columns.append(
            (batch.rows[placed], pack[placed], slot[placed], outcome.ids[placed], base_pack[placed], base_slot[placed])
        )

    def _zero_fills(self, batch: Batch, zero: NDArray[np.bool_]) -> NDArray[np.uint8]:
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
        cleared = int(np.count_nonzero(churn.fills[: churn.must_state]))
        self._changed_chunks += cleared
        self._changed_bytes += cleared * builder.chunk_size
        if fills or any(len(column[0]) for column in cell.columns):
            none, no_bases = np.zeros(0, np.uint32), np.zeros((0, DELTA_DEPTH), np.uint32)
            columns = cell.columns or [(none, none, none, np.zeros((0, 32), np.uint8), no_bases, no_bases)]
            chunks, pack, slot, ids, base_pack, base_slot = (
                np.concatenate(parts) for parts in zip(*columns, strict=True)
            )
            segment = build_segment(
                churn.cell,
                self.context.keys.run_key,
                packs=list(cell.packs),
                chunks=chunks,
                pack=pack,
                slot=slot,
                ids=ids,
                base_pack=base_pack,
                base_slot=base_slot,
                fills=fills,
            )
            builder.add_segment(churn.cell, segment)
        if churn.digests is not None:
            digests.put(churn.cell, churn.digests)

    # --- index, layers, commit -----------------------------------------------------------------------------------

    def _write_layer(self, disk: DiskTransfer, builder: LayerBuilder) -> PointDisk:
        context = self.context
        older: tuple[LayerRef, ...] = disk.parent.layers if disk.parent else ()
        layers, writer = builder.finish(context.store, context.keys, context.shelf, older, self._made)
        if writer is not None:
            self._layer_bytes += writer.size
        return PointDisk(disk.name, disk.path, disk.reader.size, disk.reader.chunk_size, layers)

    def _commit(self, point: Point, builders: list[LayerBuilder]) -> Point:
        context = self.context
        refreshed = context.store.now()
        self._look_again(point, builders)
        stored = self._packs.stored_bytes + self._packs.index_bytes() + self._layer_bytes
        figures = PointStatistics(
            read_bytes=int(context.monitor.counters["read_bytes"]),
            changed_bytes=min(self._changed_bytes, point.size),
            unique_bytes=self._unique_bytes,
            stored_bytes=stored,
            sent_bytes=stored,
            changed_chunks=self._changed_chunks,
        )
        point = replace(point, statistics=figures, refreshed_at=refreshed, committed=context.clock())
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
                point.ref,
                Mark(MarkKind.VOID, point.committed, reason="the commit took too long"),
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
        marked = condemned.look(context.store, context.keys)
        for ref in [ref for disk in point.disks for ref in disk.layers]:
            if not context.store.exists(layer_object(ref.name)):
                problem = f"layer {ref.name.hex()} is no longer there"
            if ref.name.hex() in marked.whole:
                problem = f"layer {ref.name.hex()} is condemned"
        for pack, slots in _needed_slots(builders).items():
            if marked.hits(pack, slots):
                problem = f"pack {pack.hex()} is condemned, or slots of it are"
            try:
                table = context.shelf.newest_reader(pack).table
            except CorruptionError as error:
                problem = error.message
                continue
            if table.slot_count <= int(slots.max()):
                problem = f"pack {pack.hex()} has no slot {int(slots.max())}"
            elif bool((table.codecs[slots] == Codec.EMPTY).any()):
                problem = f"slots of pack {pack.hex()} were emptied"
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
        try:
            if context.index is not None:
                self._packs.write_index_segment()
                reach("transfer.index")
                self._packs.index_late_segment()
                context.catalog.remember(point)
            reach("transfer.indexed")
        except (BlockVaultError, OSError) as error:
            told = _told(error, "writing the vault's index")
            context.monitor.warn(told.kind, f"{told.message}: it is brought up at the next opening")
        try:
            for writer in self._digest_writers:
                writer.switch("point", point.digest)
            reach("transfer.switched")
        except (BlockVaultError, OSError) as error:
            told = _told(error, "writing the digest state")
            context.monitor.warn(told.kind, f"{told.message}: the next transfer compares by identity")

    def _clean_up(self, point: Point) -> None:
        """Leave nothing half done: what only this transfer knows is deleted."""
        for writer in self._digest_writers:
            writer.abort()
        self._packs.close()
        store = self.context.store
        try:
            if self._committed or self._packs.shared:
                return
            if store.exists(point_object(point.ref)):
                self.context.monitor.warn(
                    "transfer.commit-unknown",
                    f"point {point.number} is in the vault and whole, but the error that ended its job may mean that "
                    "its record does not outlive a power cut",
                )
                return
        except BlockVaultError:
            return  # perhaps the point is there, and needs them
        for name in reversed([*self._packs.made, *self._made]):
            try:
                store.delete(name)
            except (BlockVaultError, OSError):
                continue


def _told(error: BlockVaultError | OSError, what: str) -> BlockVaultError:
    """An error in the user's nouns, if it is not in them already."""
    if isinstance(error, BlockVaultError):
        return error
    return device_error(error, what)


def _needed_slots(builders: list[LayerBuilder]) -> dict[PackName, NDArray[np.int64]]:
    """Every (pack, slot) that the new layers refer to, as a block or as a base."""
    found: dict[PackName, list[NDArray[np.int64]]] = {}
    for builder in builders:
        for segment in builder.segments.values():
            run, slots, _, _ = segment.slots()
            for packs, at in ((segment.run_pack[run], slots), (segment.base_pack, segment.base_slot)):
                for index in np.unique(packs).tolist():
                    needed = np.unique(at[packs == index]).astype(np.int64)
                    found.setdefault(segment.packs[index], []).append(needed)
    return {pack: np.unique(np.concatenate(parts)) for pack, parts in found.items()}


def _weakest(sources: list[ChurnSource]) -> ChurnSource:
    """What told the churn of a point with several disks: the one that says least of trust in digests."""
    for source in (ChurnSource.REFLINK, ChurnSource.IDENTITY, ChurnSource.SCAN):
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
