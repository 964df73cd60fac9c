"""Layers in the store: writing one segment by segment, and reading segments back by cell.

Invariants: a layer is written once under a random name and never changed; its root lists its segments with their
tags, and a point lists the root's tag, so a point's record binds every byte of its manifest.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import BlockVaultError, CorruptionError, InternalError, NotFoundError
from blockvault.failpoints import reach
from blockvault.format.envelope import (
    DIRECTORY_NUMBER,
    FOOTER_BYTES,
    HEAD_BYTES,
    TAG_BYTES,
    Kind,
    Sealer,
    damaged,
    directory_range,
    footer,
    new_sealer,
    open_sealer,
    pack_frame,
    unpack_frame,
)
from blockvault.format.layers import (
    ENTRY,
    ENTRY_SEGMENT,
    ROOT_PLAIN_MAX,
    SEGMENT_PLAIN_MAX,
    SEGMENT_SLOTS_MAX,
    Segment,
    decode_root,
    decode_segment,
    encode_root,
    encode_segment,
)
from blockvault.ids import LayerName, random_name
from blockvault.model import LayerRef, VaultKeys
from blockvault.store.local import LocalStore, device_error, read_at

LAYERS_FOLDER = "main/layers"
SEGMENT_CACHE = 2
SEGMENT_CACHE_BYTES = 4 << 20  # a larger one is read again: a manifest has 16 layers, each with its cache


def layer_object(name: LayerName) -> str:
    """The object's name of a layer."""
    return f"{LAYERS_FOLDER}/{name.hex()}"


class LayerWriter:
    """One layer being written; cells must come in ascending order."""

    def __init__(self, store: LocalStore, keys: VaultKeys, *, chunk_size: int, chunk_count: int) -> None:
        self.layer = LayerName(random_name())
        self.name = layer_object(self.layer)
        self.piece_count = 0
        self._chunk_size = chunk_size
        self._chunk_count = chunk_count
        self._sealer = new_sealer(keys, Kind.LAYER, self.name)
        self._object = store.new_object(self.name)
        self._object.write(self._sealer.head)
        self._entries: list[tuple[int, int, int, int, int, int, bytes]] = []

    def add_segment(self, cell: int, segment: Segment) -> None:
        """Say something of one cell."""
        plain = encode_segment(segment)
        if len(plain) > SEGMENT_PLAIN_MAX or segment.slot_count > SEGMENT_SLOTS_MAX:
            raise InternalError("vault.segment-too-large", f"the segment of cell {cell} has {len(plain)} bytes")
        stored = self._sealer.seal(cell, pack_frame(plain))
        self._entries.append(
            (cell, 1, ENTRY_SEGMENT, self._object.size, len(stored), segment.piece_count, stored[-TAG_BYTES:])
        )
        self._object.write(stored)
        self.piece_count += segment.piece_count

    def add_fill(self, cell: int, span: int, entry_kind: int) -> None:
        """Say that `span` whole cells from `cell` on are hole or zero; joins an equal neighbour."""
        if self._entries:
            last = self._entries[-1]
            if last[2] == entry_kind and last[0] + last[1] == cell:
                self._entries[-1] = (last[0], last[1] + span, *last[2:])
                return
        self._entries.append((cell, span, entry_kind, 0, 0, 1, bytes(16)))
        self.piece_count += 1

    def finish(self) -> LayerRef:
        """Write the root and put the layer in place, durable."""
        entries = np.zeros(len(self._entries), dtype=ENTRY)
        for i, (cell, span, kind, offset, length, pieces, tag) in enumerate(self._entries):
            entries[i] = (cell, span, kind, offset, length, pieces, np.frombuffer(tag, dtype=np.uint8))
        reach("layer.root")
        root = encode_root(self._chunk_size, self._chunk_count, entries)
        offset = self._object.size
        stored = self._sealer.seal(DIRECTORY_NUMBER, pack_frame(root))
        self._object.write(stored)
        self._object.write(footer(offset, len(stored)))
        self._object.commit()
        return LayerRef(self.layer, stored[-TAG_BYTES:], self.piece_count)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._object.size

    def abort(self) -> None:
        """Leave nothing behind."""
        self._object.abort()


class LayerReader:
    """A layer open for reading, bound to the tag that a point lists for it."""

    def __init__(self, store: LocalStore, keys: VaultKeys, ref: LayerRef, chunk_size: int) -> None:
        self.ref = ref
        self.name = layer_object(ref.name)
        self._store = store
        self._fd = self._open()
        try:
            size = os.fstat(self._fd).st_size
            offset, length = directory_range(
                self.name, size, read_at(self._fd, FOOTER_BYTES, max(0, size - FOOTER_BYTES))
            )
            self._sealer: Sealer = open_sealer(keys, Kind.LAYER, self.name, read_at(self._fd, HEAD_BYTES, 0))
            stored = read_at(self._fd, length, offset)
            if stored[-TAG_BYTES:] != ref.tag:
                raise damaged(self.name, "its root is not the one that the point's record names")
            plain = unpack_frame(self.name, self._sealer.unseal(DIRECTORY_NUMBER, stored), ROOT_PLAIN_MAX)
            own_chunk_size, self.chunk_count, self.entries = decode_root(self.name, plain, offset)
            if own_chunk_size != chunk_size:
                raise damaged(self.name, "it has another chunk size than the disk")
        except BlockVaultError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise device_error(error, f"reading {self.name} of the vault") from error
        self._cells: NDArray[np.int64] = self.entries["cell"].astype(np.int64)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Segment] = OrderedDict()

    def _open(self) -> int:
        try:
            return self._store.open(self.name)
        except NotFoundError:
            raise CorruptionError(
                "vault.layer-missing",
                f"the vault's layer {self.name} is missing",
                why="a point's manifest lists it but no such object is there",
                do="put it back from a copy of the vault, or run `blockvault verify` to see what it touches",
            ) from None

    def entry(self, cell: int) -> Any | None:
        """The root's entry that covers `cell`, or None if the layer says nothing of it."""
        at = int(np.searchsorted(self._cells, cell, side="right")) - 1
        if at < 0:
            return None
        entry = self.entries[at]
        return entry if cell < int(entry["cell"]) + int(entry["span"]) else None

    def segment_cells(self) -> NDArray[np.int64]:
        """The cells that have a segment, ascending."""
        cells: NDArray[np.int64] = self._cells[self.entries["kind"] == ENTRY_SEGMENT]
        return cells

    def segment(self, entry: Any) -> Segment:
        """The segment of an entry, from the few last read or from the vault. Raises `CorruptionError`."""
        cell = int(entry["cell"])
        with self._lock:
            cached = self._cache.get(cell)
        if cached is not None:
            return cached
        segment = self.read_segment(entry)
        with self._lock:
            self._cache[cell] = segment
            while len(self._cache) > SEGMENT_CACHE:
                self._cache.popitem(last=False)
        return segment

    def read_segment(self, entry: Any) -> Segment:
        """Read the segment of an entry from the vault. Raises `CorruptionError`."""
        cell = int(entry["cell"])
        if self._fd < 0:
            self._fd = self._open()
        try:
            stored = read_at(self._fd, int(entry["length"]), int(entry["offset"]))
        except OSError as error:
            raise device_error(error, f"reading {self.name} of the vault") from error
        if stored[-TAG_BYTES:] != entry["tag"].tobytes():
            raise damaged(self.name, f"the segment of cell {cell} is not the one that its root names")
        plain = unpack_frame(self.name, self._sealer.unseal(cell, stored), SEGMENT_PLAIN_MAX)
        return decode_segment(self.name, plain)

    def close(self) -> None:
        """Give the descriptor back; reading a segment later opens the layer again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()
