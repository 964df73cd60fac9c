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
    """Fetch n blocks: in one call of the kernel, and one for their bases, as long as their packs can all be open.

    Where the process may have fewer files open, it takes as many packs at a time as it may.

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
    parts: list[tuple[NDArray[np.int64], Fetched]] = []
    left = np.unique(pack_index).tolist()
    while True:
        opened = _open_some(shelf, packs, left)
        left = left[len(opened) :]
        if not left and not parts:
            return _fetch_opened(shelf, keys, opened, pack_index, slots, chunk_size, under)
        rows = np.flatnonzero(np.isin(pack_index, list(opened)))
        below = None if under is None else under[rows]
        parts.append((rows, _fetch_opened(shelf, keys, opened, pack_index[rows], slots[rows], chunk_size, below)))
        if not left:
            return _joined(parts, len(slots), chunk_size)


def _open_some(shelf: PackShelf, packs: list[PackName], wanted: list[int]) -> dict[int, PackReader | None]:
    """The first of the wanted packs that may be open at once, at least one; None for one that cannot be read."""
    opened: dict[int, PackReader | None] = {}
    for index in wanted:
        try:
            reader = shelf.spare_reader(packs[index]) if opened else shelf.reader(packs[index])
            if reader is None:
                break
            opened[index] = reader
        except CorruptionError:
            opened[index] = None
    return opened


def _joined(parts: list[tuple[NDArray[np.int64], Fetched]], count: int, chunk_size: int) -> Fetched:
    """Parts that were fetched one after the other, as one batch."""
    plain = bytearray(count * chunk_size)
    status = np.zeros(count, dtype=np.uint8)
    for rows, part in parts:
        status[rows] = part.status
        for i, row in enumerate(rows.tolist()):
            plain[row * chunk_size : (row + 1) * chunk_size] = part.plain.chunk(i)
    return Fetched(kernel.identify_plain(memoryview(plain), chunk_size=chunk_size, seed=0, id_key=None), status)


def _fetch_opened(
    shelf: PackShelf,
    keys: VaultKeys,
    opened: dict[int, PackReader | None],
    pack_index: NDArray[np.integer],
    slots: NDArray[np.integer],
    chunk_size: int,
    under: NDArray[np.uint8] | None,
) -> Fetched:
    count = len(slots)
    offsets = np.zeros(count, dtype=np.uint64)
    lengths = np.zeros(count, dtype=np.uint32)
    codecs = np.zeros(count, dtype=np.uint8)
    ids = np.zeros((count, 32), dtype=np.uint8)
    rows = np.zeros(count, dtype=np.uint32)
    lost = np.zeros(count, dtype=np.bool_)
    orphaned = np.zeros(count, dtype=np.bool_)
    readers: list[PackReader] = []
    bases: dict[tuple[PackName, int, int], int] = {}
    base_rows = np.full(count, -1, dtype=np.int32)
    for index, reader in opened.items():
        at = np.flatnonzero(pack_index == index)
        if reader is None:
            lost[at] = True
            continue
        table = reader.table
        here = slots[at].astype(np.int64)
        good = here < table.slot_count
        if table.chunk_size != chunk_size:
            good[:] = False
        lost[at[~good]] = True
        at, here = at[good], here[good]
        unusable = table.codecs[here] == Codec.EMPTY
        if under is not None:
            unusable |= table.depths[here] >= under[at]
        lost[at[unusable]] = True
        at, here = at[~unusable], here[~unusable]
        offsets[at], lengths[at] = table.offsets[here], table.lengths[here]
        codecs[at], ids[at] = table.codecs[here], table.ids[here]
        rows[at] = len(readers)
        readers.append(reader)
        for row, slot in zip(
            at[codecs[at] == Codec.DELTA].tolist(), here[codecs[at] == Codec.DELTA].tolist(), strict=True
        ):
            # Deltas of one base share it only where they say the same of its depth: one that lies spoils no other.
            place = (table.base_packs[table.base_pack[slot]], int(table.base_slot[slot]), int(table.depths[slot]))
            base_rows[row] = bases.setdefault(place, len(bases))
    fetched_bases: kernel.PlainBatch | None = None
    if bases:
        names = list(dict.fromkeys(pack for pack, _, _ in bases))
        position = {pack: i for i, pack in enumerate(names)}
        below = fetch(
            shelf,
            keys,
            names,
            np.array([position[pack] for pack, _, _ in bases], dtype=np.int64),
            np.array([slot for _, slot, _ in bases], dtype=np.int64),
            chunk_size,
            under=np.array([depth for _, _, depth in bases], dtype=np.uint8),
        )
        fetched_bases = below.plain
        orphaned |= (base_rows >= 0) & (below.status[np.maximum(base_rows, 0)] != STATUS_GOOD)
    reach("blocks.read")
    # Rows that have no block go through the core as empty raw blocks, so that rows stay in step; their status is
    # set afterwards.
    out = lost | orphaned
    codecs[out], lengths[out], offsets[out], rows[out], base_rows[out] = Codec.RAW, 0, 0, 0, -1
    handles = [reader.handle for reader in readers] or [(0, None, b"")]
    plain, status = kernel.decode(
        handles,
        rows,
        np.ascontiguousarray(slots, dtype=np.uint32),
        offsets,
        lengths,
        codecs,
        ids,
        bases=fetched_bases,
        base_rows=base_rows if fetched_bases is not None else None,
        chunk_size=chunk_size,
        id_key=keys.id_key,
        threads=1,
        cancel=None,
    )
    status = np.array(status, dtype=np.uint8)
    status[lost] = STATUS_UNREADABLE
    status[orphaned] = STATUS_NO_BASE
    return Fetched(plain, status)
