"""Filling packs in chunk order, and telling the index of what they hold.

Invariants:
- A pack is sealed on a thread of its own while the next one is filled; at most two wait to become durable.
- The full blocks of this transfer are known at once for dedup within it; other hosts and processes learn of them by
  index segments, which name durable packs only. A segment is a hint (R2), so its place in the order is free.
- Until a segment is written nobody else knows the packs, so a transfer that fails may delete them again. Hence the last
  segment is written after the commit; a long transfer writes others before, and then its packs stay whatever happens.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.engine.blocks import Place
from blockvault.errors import AlreadyExistsError
from blockvault.format.envelope import FOOTER_BYTES, HEAD_BYTES, TAG_BYTES, Kind, pack_frame, seal_record
from blockvault.format.index import encode_index, prefixes_of
from blockvault.ids import OriginId, PackName
from blockvault.model import Codec, VaultKeys
from blockvault.store.catalog import check_number, highest_number
from blockvault.store.index import Index
from blockvault.store.local import LocalStore
from blockvault.store.packs import PACK_BYTES, PackWriter

PENDING_BLOCKS_MAX = 65_536
RECORD_OVERHEAD_BYTES = HEAD_BYTES + TAG_BYTES + FOOTER_BYTES
PACK_SLOTS = 65_536  # chunks that compress to next to nothing would else fill a pack with millions

Segment = tuple[list[PackName], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], str]
Base = tuple[PackName, int, int]  # pack, slot, depth


class PackFiller:
    """The packs of one transfer. `append` from one thread; `pending` may be asked from any."""

    def __init__(
        self, store: LocalStore, keys: VaultKeys, index: Index | None, origin: OriginId, *, now: datetime
    ) -> None:
        self._store = store
        self._keys = keys
        self._index = index
        self._origin = origin
        self._now = now
        self._pending: dict[bytes, Place] = {}
        self._feed: list[tuple[PackName, int, int]] = []  # pack, slot, prefix: not yet in an index segment
        self._late: Segment | None = None
        self._writer: PackWriter | None = None
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="blockvault-seal")
        # Its thread begins now: a thread that Ctrl-C meets while it is being started is one that nobody waits for, and
        # what it seals would stay after the clean-up.
        self._sealer.submit(int).result()
        self._sealing: list[tuple[Future[int], PackWriter]] = []
        self.made: list[str] = []  # objects made so far
        self.shared = False  # whether others may have learned of them
        self.stored_bytes = 0

    def pending(self, name: bytes) -> Place | None:
        """Where this transfer has put the full block of that id, if it has and no segment tells of it yet."""
        return self._pending.get(name)

    def append(
        self, blocks: kernel.BlockBatch, ids: NDArray[np.uint8], bases: list[Base | None], chunk_size: int
    ) -> tuple[PackName, int]:
        """Append a batch of blocks to the open pack. Returns the pack and the slot of the first block."""
        if self._writer is None:
            unix_ms = int(self._now.timestamp() * 1000)
            self._writer = PackWriter(self._store, self._keys, unix_ms=unix_ms, chunk_size=chunk_size)
        writer = self._writer
        codecs = np.asarray(blocks.codecs)
        first = writer.append(blocks, ids, bases)
        prefixes = prefixes_of(ids)
        for row in np.flatnonzero(codecs != Codec.DELTA).tolist():
            self._pending[ids[row].tobytes()] = (writer.pack, first + row)
            self._feed.append((writer.pack, first + row, int(prefixes[row])))
        if writer.size >= PACK_BYTES or writer.slot_count >= PACK_SLOTS:
            self._seal()
        return writer.pack, first

    def _seal(self) -> None:
        assert self._writer is not None
        writer, self._writer = self._writer, None
        self.made.append(writer.name)
        self._sealing.append((self._sealer.submit(_seal, writer), writer))
        while len(self._sealing) > 2:
            self._take_sealed()
        if len(self._pending) > PENDING_BLOCKS_MAX:
            self._wait()
            self.shared = True
            self.stored_bytes += self.index_bytes()
            self.write_index_segment()
            self.index_late_segment()
            self._pending.clear()

    def _wait(self) -> None:
        while self._sealing:
            self._take_sealed()

    def _take_sealed(self) -> None:
        self.stored_bytes += self._sealing[0][0].result()
        self._sealing.pop(0)

    def finish(self) -> None:
        """Seal the last pack and wait until all are durable."""
        if self._writer is not None:
            self._seal()
        self._wait()

    def _entries(self) -> tuple[list[PackName], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]:
        names = list(dict.fromkeys(pack for pack, _, _ in self._feed))
        position = {pack: i for i, pack in enumerate(names)}
        pack = np.array([position[entry[0]] for entry in self._feed], dtype=np.uint32)
        slot = np.array([entry[1] for entry in self._feed], dtype=np.uint32)
        prefixes = np.array([entry[2] for entry in self._feed], dtype=np.uint64)
        return names, prefixes, pack, slot

    def index_bytes(self) -> int:
        """What the index segment that is still to be written will take."""
        return len(pack_frame(encode_index(*self._entries()))) + RECORD_OVERHEAD_BYTES if self._feed else 0

    def write_index_segment(self) -> None:
        """Tell other hosts of the full blocks in durable packs."""
        if not self._feed:
            return
        names, prefixes, pack, slot = self._entries()
        body = encode_index(names, prefixes, pack, slot)
        folder = f"main/index/{self._origin}"
        sequence = highest_number(self._store, folder, 10) + 1
        while True:
            check_number(sequence, 10, folder)
            name = f"{folder}/{sequence:010d}"
            data, _ = seal_record(self._keys, Kind.INDEX, name, body)
            try:
                self._store.put_new(name, data)
                break
            except AlreadyExistsError:
                sequence += 1  # another process of this host took it
        self._late = (names, prefixes, pack, slot, f"{self._origin}/{sequence:010d}")
        self._feed.clear()

    def index_late_segment(self) -> None:
        """Take the last written segment into this host's LMDB index."""
        if self._late is not None and self._index is not None:
            self._index.add_blocks(*self._late)
        self._late = None

    def close(self) -> None:
        """Wait for the sealing thread and leave no open pack behind; sealed ones stay."""
        self._sealer.shutdown(wait=True, cancel_futures=True)
        for _, writer in self._sealing:
            writer.abort()
        self._sealing.clear()
        if self._writer is not None:
            self._writer.abort()
            self._writer = None


def _seal(writer: PackWriter) -> int:
    try:
        return writer.seal()
    finally:
        writer.abort()
