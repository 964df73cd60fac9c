"""Fetching blocks by their places: from packs, decoded, bases first, each checked against its id.

Invariant: bytes are handed out as good only if their keyed BLAKE3 equals the id in the pack's table; a delta only if
its base was good by the same measure (R3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.errors import CorruptionError
from blockvault.failpoints import reach
from blockvault.format.tables import PackTable
from blockvault.ids import PackName
from blockvault.model import Codec, VaultKeys
from blockvault.store.packs import PackReader, PackShelf, pack_folder

STATUS_GOOD, STATUS_UNREADABLE, STATUS_UNDECODABLE, STATUS_WRONG_IDENTITY, STATUS_NO_BASE = range(5)
STATUS_TEXT = {
    STATUS_UNREADABLE: "it cannot be read",
    STATUS_UNDECODABLE: "it does not decode",
    STATUS_WRONG_IDENTITY: "its bytes are not those that its id names",
    STATUS_NO_BASE: "the block that it is a delta of is damaged or missing",
}
Place = tuple[PackName, int]


@dataclass(slots=True)
class Fetched:
    """Decoded blocks in the order asked for; `status` is 0 where good."""

    plain: kernel.PlainBatch
    status: NDArray[np.uint8]

    @property
    def all_good(self) -> bool:
        """Whether every block is good."""
        return not self.status.any()


def block_name(shelf: PackShelf, pack: PackName) -> str:
    """The object's name of a pack, for messages."""
    return next(iter(shelf.names(pack)), f"{pack_folder(pack)}/{pack.hex()}")


def fetch(
    shelf: PackShelf,
    keys: VaultKeys,
    packs: list[PackName],
    pack_index: NDArray[np.integer],
    slots: NDArray[np.integer],
    chunk_size: int,
    *,
    under: NDArray[np.uint8] | None = None,
) -> Fetched:
    """Fetch n blocks and what they rest on in one call of the kernel, as long as all their packs can be open.

    Where the process may have fewer files open, it takes half of the blocks at a time, and half of these.

    Args:
        shelf: where packs are found.
        keys: the vault's keys.
        packs: names of packs.
        pack_index: (n,) index into `packs`.
        slots: (n,) slot in that pack.
        chunk_size: plain bytes of every block.
        under: (n,) the depths that these blocks must stay under, as bases of deltas; None: any depth will do. So a
            chain of deltas ends after as many steps as its first table says, also where bases go round in a circle.
    """
    gathered = gather(shelf, packs, pack_index, slots, chunk_size, under=under)
    if gathered is not None:
        return gathered.fetch(keys, np.arange(len(slots), dtype=np.uint32))
    parts = []
    for rows in np.array_split(np.argsort(pack_index, kind="stable"), 2):
        part = None if under is None else under[rows]
        parts.append((rows, fetch(shelf, keys, packs, pack_index[rows], slots[rows], chunk_size, under=part)))
    return _joined(parts, len(slots), chunk_size)


def _joined(parts: list[tuple[NDArray[np.int64], Fetched]], count: int, chunk_size: int) -> Fetched:
    """Parts that were fetched one after the other, as one batch."""
    plain = bytearray(count * chunk_size)
    status = np.zeros(count, dtype=np.uint8)
    for rows, part in parts:
        status[rows] = part.status
        for i, row in enumerate(rows.tolist()):
            plain[row * chunk_size : (row + 1) * chunk_size] = part.plain.chunk(i)
    return Fetched(kernel.identify_plain(memoryview(plain), chunk_size=chunk_size, seed=0, id_key=None), status)


class _Level:
    """Blocks as the kernel asks for them: those wanted, or the bases of the level before."""

    def __init__(self, slots: NDArray[np.integer]) -> None:
        count = len(slots)
        self.slots = np.ascontiguousarray(slots, dtype=np.uint32)
        self.packs = np.zeros(count, dtype=np.uint32)
        self.offsets = np.zeros(count, dtype=np.uint64)
        self.lengths = np.zeros(count, dtype=np.uint32)
        # What is lost goes through the kernel as an empty raw block, which none is, so that rows stay in step.
        self.codecs = np.full(count, Codec.RAW, dtype=np.uint8)
        self.ids = np.zeros((count, 32), dtype=np.uint8)
        self.base_rows = np.full(count, -1, dtype=np.int32)
        self.lost = np.ones(count, dtype=np.bool_)

    def fill(self, at: NDArray[np.int64], pack: int, table: PackTable, under: NDArray[np.uint8] | None) -> None:
        """What the table of a pack says of the rows `at`."""
        here = self.slots[at].astype(np.int64)
        known = here < table.slot_count
        at, here = at[known], here[known]
        usable = table.codecs[here] != Codec.EMPTY
        if under is not None:
            usable &= table.depths[here] < under[at]
        at, here = at[usable], here[usable]
        self.packs[at] = pack
        self.offsets[at], self.lengths[at] = table.offsets[here], table.lengths[here]
        self.codecs[at], self.ids[at] = table.codecs[here], table.ids[here]
        self.lost[at] = False


class Gathered:
    """n blocks and all that they rest on: where they lie, by the tables of packs that are held open."""

    def __init__(self, readers: list[PackReader], levels: list[_Level], chunk_size: int) -> None:
        self._readers = readers
        self._chunk_size = chunk_size
        self._lost = levels[0].lost
        self._columns = [
            np.concatenate([getattr(level, name) for level in levels])
            for name in ("packs", "slots", "offsets", "lengths", "codecs", "ids")
        ]
        self._base_rows = np.concatenate([level.base_rows for level in levels])

    def fetch(self, keys: VaultKeys, rows: NDArray[np.uint32]) -> Fetched:
        """Fetch some of the n blocks, each with what it rests on, in one call of the kernel."""
        reach("blocks.read")
        plain, status = kernel.decode(
            [reader.handle for reader in self._readers] or [(0, None, b"")],
            *self._columns,
            base_rows=self._base_rows,
            wanted=rows,
            chunk_size=self._chunk_size,
            id_key=keys.id_key,
            threads=1,
            cancel=None,
        )
        status = np.array(status, dtype=np.uint8)
        status[self._lost[rows]] = STATUS_UNREADABLE
        return Fetched(plain, status)


def gather(
    shelf: PackShelf,
    packs: list[PackName],
    pack_index: NDArray[np.integer],
    slots: NDArray[np.integer],
    chunk_size: int,
    *,
    under: NDArray[np.uint8] | None = None,
) -> Gathered | None:
    """Look up n blocks and what they rest on; see `fetch`. None where not all their packs may be open at once.

    A single block is waited for.
    """
    alone = len(slots) <= 1
    readers: list[PackReader] = []
    opened: dict[PackName, int | None] = {}  # its number among the readers; None: it cannot be read
    levels: list[_Level] = []
    rows = 0
    while len(slots) or not levels:
        level = _Level(slots)
        levels.append(level)
        rows += len(slots)
        bases: dict[tuple[PackName, int, int], int] = {}
        for index in np.unique(pack_index).tolist():
            name = packs[index]
            if name not in opened:
                try:
                    reader = shelf.reader(name) if alone or not readers else shelf.spare_reader(name)
                except CorruptionError:
                    opened[name] = None
                    continue
                if reader is None:
                    return None
                opened[name] = len(readers)
                readers.append(reader)
            number = opened[name]
            if number is None or readers[number].table.chunk_size != chunk_size:
                continue
            table = readers[number].table
            at = np.flatnonzero(pack_index == index)
            level.fill(at, number, table, under)
            for row in at[level.codecs[at] == Codec.DELTA].tolist():
                # Deltas of one base share it only where they say the same of its depth: one that lies spoils no other.
                slot = int(level.slots[row])
                base = (table.base_packs[table.base_pack[slot]], int(table.base_slot[slot]), int(table.depths[slot]))
                level.base_rows[row] = rows + bases.setdefault(base, len(bases))
        packs = list(dict.fromkeys(pack for pack, _, _ in bases))
        position = {pack: i for i, pack in enumerate(packs)}
        pack_index = np.array([position[pack] for pack, _, _ in bases], dtype=np.int64)
        slots = np.array([slot for _, slot, _ in bases], dtype=np.int64)
        under = np.array([depth for _, _, depth in bases], dtype=np.uint8)
    return Gathered(readers, levels, chunk_size)
