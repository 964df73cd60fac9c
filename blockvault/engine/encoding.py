"""What is done with a batch of candidates on a worker thread: read, compare, look up, encode.

Invariants:
- Digest, id and block of a chunk come from one read of one buffer (R4).
- A dedup hit counts only after the full id was read equal in the pack's table (R2).
- A delta is made against a block that decoded to its id (R3); the native core decodes every delta again before it is
  returned. With the base go the places of all blocks below it: a layer lists them all (R9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.blocks import STATUS_TEXT, Place, fetch
from blockvault.engine.churn import CellChurn
from blockvault.engine.packing import Base, PackFiller
from blockvault.engine.suspects import Suspects
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.ids import OriginId
from blockvault.image.reader import DiskReader
from blockvault.model import ChunkState, Codec, FillKind, VaultKeys
from blockvault.monitor import Monitor
from blockvault.store.catalog import Catalog
from blockvault.store.condemned import Condemned
from blockvault.store.index import Index
from blockvault.store.local import LocalStore
from blockvault.store.manifest import CellMap
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine

# How deep a delta may lie. With 1 each holds all that changed since the chunk's last full block; a greater depth stores
# less and reads more for a restore. Measured by `benchmarks/daily.py`: docs/decisions/0005-delta-depth.md.
DELTA_DEPTH = 4


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
    clock: Callable[[], datetime]
    condemned: Condemned  # as it was after the lease was taken
    quarantine: Quarantine
    level: int = 1


@dataclass(slots=True)
class Batch:
    """Candidates of one cell; `last` ends the cell."""

    churn: CellChurn
    rows: NDArray[np.uint32]  # chunks in the cell
    last: bool


@dataclass(slots=True)
class Outcome:
    """What a worker found and made of a batch."""

    batch: Batch
    digests: NDArray[np.uint8]
    zero: NDArray[np.bool_]
    ids: NDArray[np.uint8]
    encoded: NDArray[np.uint32]  # rows of the batch that became blocks
    blocks: kernel.BlockBatch | None
    bases: list[Base | None]
    below: list[tuple[Place, ...]]  # for each block the places that its base is made of, the base's own first
    known: dict[int, Place]  # rows whose block is in the vault already
    copies: dict[int, int]  # rows that equal an encoded row of this batch


class BatchWorker:
    """Works on the batches of one disk; `work` may run on several threads at once."""

    def __init__(self, context: TransferContext, packs: PackFiller, reader: DiskReader) -> None:
        self.context = context
        self.suspects = Suspects(context.shelf, context.quarantine, context.monitor)
        self._packs = packs
        self._reader = reader

    def work(self, batch: Batch) -> Outcome:
        """On a worker thread: everything of a batch that needs no order."""
        context = self.context
        churn, rows = batch.churn, batch.rows
        if not len(rows):
            none = np.zeros(0, np.uint32)
            return Outcome(
                batch,
                np.zeros((0, 16), np.uint8),
                np.zeros(0, np.bool_),
                np.zeros((0, 32), np.uint8),
                none,
                None,
                [],
                [],
                {},
                {},
            )
        chunks = rows.astype(np.uint64) + np.uint64(churn.first_chunk)
        reach("image.read")
        plain = self._reader.identify(chunks, seed=context.keys.digest_seed, id_key=context.keys.id_key, cancel=None)
        context.monitor.count("read_bytes", plain.read_bytes)
        context.monitor.count("chunks_identified", len(rows))
        zero = np.asarray(plain.states) != ChunkState.CHANGED
        ids = np.asarray(plain.ids)
        parent_place, parent_ids = self._parent_blocks(churn, rows)
        same = ~zero & (ids == parent_ids).all(axis=1) & (parent_place >= 0)
        wanted = np.flatnonzero(~zero & ~same)
        known, copies, encode_rows = self._deduplicate(ids, wanted)
        blocks, bases, below = self._encode(plain, encode_rows, churn.parent, rows)
        # A chunk that reads as at the parent needs no entry: it is told apart from `zero` by having no place.
        digests = np.array(plain.digests)
        return Outcome(batch, digests, zero, ids, encode_rows, blocks, bases, below, known, copies)

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
            slots = parent.slot[rows[at]].astype(np.int64)
            present = self.suspects.sound(parent.packs[index], slots)
            place[at[~present]] = -1
            self.context.monitor.count("chunks_unsound", int(np.count_nonzero(~present)))
            if present.any():
                ids[at[present]] = self.context.shelf.reader(parent.packs[index]).table.ids[slots[present]]
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
            pending = self._packs.pending(name)
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
        """R2: a hit counts only after the full id was read equal in the pack's table; and only full blocks count."""
        pack, slot = place
        if self.context.condemned.hits(pack, np.array([slot])):
            return False  # it is about to be deleted
        if self.context.quarantine.holds(pack, slot):
            return False  # R15
        try:
            table = self.context.shelf.reader(pack).table
        except CorruptionError:
            return False
        full = slot < table.slot_count and table.codecs[slot] in (Codec.RAW, Codec.ZSTD)
        return bool(full and table.ids[slot].tobytes() == name)

    def _encode(
        self,
        plain: kernel.PlainBatch,
        encode_rows: NDArray[np.uint32],
        parent: CellMap | None,
        rows: NDArray[np.uint32],
    ) -> tuple[kernel.BlockBatch | None, list[Base | None], list[tuple[Place, ...]]]:
        """Encode rows of a batch: as deltas against the parent's blocks where there are any, else full."""
        count = len(encode_rows)
        if not count:
            return None, [], []
        chosen: list[Base | None] = [None] * count
        below: list[tuple[Place, ...]] = [()] * count
        wanted: dict[Place, int] = {}
        limits = np.zeros(count, dtype=np.uint32)
        base_rows = np.full(count, -1, dtype=np.int32)
        if parent is not None:
            for i, row in enumerate(rows[encode_rows].tolist()):
                base = self._base_of(parent, row)
                if base is not None:
                    below[i], depth, full_bytes = base
                    chosen[i] = (*below[i][0], depth)
                    base_rows[i] = wanted.setdefault(below[i][0], len(wanted))
                    limits[i] = full_bytes // 2
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
                places = list(wanted)
                for row in bad.tolist():
                    pack, slot = places[row]
                    self.context.quarantine.note(pack, slot, STATUS_TEXT[int(fetched.status[row])])
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
        return blocks, chosen, below

    def _base_of(self, parent: CellMap, row: int) -> tuple[tuple[Place, ...], int, int] | None:
        """What a delta of this chunk is made against: the parent's block, or the full block that it rests on.

        The full block where a delta of the parent's would lie too deep.

        Returns:
            The places of the base and of all below it, the base's depth, and the stored length of the full block.
        """
        if row >= parent.chunk_count or parent.kind[row] != FillKind.DATA:
            return None
        pack, slot = parent.packs[parent.pack[row]], int(parent.slot[row])
        places: list[Place] = []
        depths: list[int] = []
        while True:
            if self.context.condemned and self.context.condemned.hits(pack, np.array([slot])):
                return None  # the parent needs it, so it will not go; but what is condemned is not built on (R8)
            try:
                table = self.context.shelf.reader(pack).table
            except CorruptionError:
                return None
            if slot >= table.slot_count or table.codecs[slot] == Codec.EMPTY:
                return None
            if self.context.quarantine.holds(pack, slot):
                return None  # R15
            depth = int(table.depths[slot])
            if depths and depth >= depths[-1]:
                return None  # a table that lies: no chain would end
            places.append((pack, slot))
            depths.append(depth)
            if table.codecs[slot] != Codec.DELTA:
                break
            pack, slot = table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])
        if depths[0] >= DELTA_DEPTH:
            del places[:-1], depths[:-1]
        return tuple(places), depths[0], int(table.lengths[slot])
