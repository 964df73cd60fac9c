"""Outlines of layers in LMDB, and how many blocks each pack has: what reclaim needs to know of what does not change.

A cache and no more: what is not in it is read from the objects, and what cannot be kept in it is read again next time.
A layer that is missing, or has another size than when it was read, is not answered for: whoever asks reads it then,
and finds out.

Invariants: an outline counts only if it unseals under the layer's name and has the tag that the point lists for the
layer. The number of a pack's blocks is not sealed: a wrong one makes reclaim read the table, or leave what it could
free.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockvault.errors import BlockVaultError
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.format.outlines import Outline, decode_outline, encode_outline
from blockvault.ids import LayerName
from blockvault.model import LayerRef, VaultKeys
from blockvault.store.index import Index
from blockvault.store.layers import layer_object
from blockvault.store.local import LocalStore

ROWS_MAX = 1 << 15  # a larger one is as soon read from the layer
HELD_MAX = 256  # that many at once wait to be written


class OutlineShelf:
    """The outlines of one vault. Without an index nothing is known, and nothing is kept."""

    def __init__(self, store: LocalStore, keys: VaultKeys, index: Index | None) -> None:
        self._store = store
        self._keys = keys
        self._index = index
        self._fresh: dict[LayerName, bytes] = {}
        self._counts: dict[str, int] = {}

    def get(self, ref: LayerRef) -> Outline | None:
        """The outline of a layer, if it is kept and the layer still lies there."""
        data = self._fresh.get(ref.name) or (self._index.outline(ref.name) if self._index is not None else None)
        if data is None:
            return None
        name = layer_object(ref.name)
        try:
            body, _ = unseal_record(self._keys, Kind.OUTLINE, name, data)
            outline, tag, layer_bytes = decode_outline(name, body)
            return outline if tag == ref.tag and self._store.size(name) == layer_bytes else None
        except BlockVaultError:
            return None

    def put(self, ref: LayerRef, outline: Outline) -> None:
        """Keep the outline of a whole layer, unless it is too large."""
        if self._index is None or outline.rows > ROWS_MAX:
            return
        name = layer_object(ref.name)
        try:
            body = encode_outline(outline, ref.tag, self._store.size(name))
            self._fresh[ref.name] = seal_record(self._keys, Kind.OUTLINE, name, body)[0]
        except BlockVaultError:
            return
        if len(self._fresh) >= HELD_MAX:
            self.save()

    def block_count(self, pack_object: str) -> int | None:
        """How many blocks a generation of a pack has, if that is known."""
        if pack_object in self._counts or self._index is None:
            return self._counts.get(pack_object)
        return self._index.block_count(pack_object)

    def put_block_count(self, pack_object: str, count: int) -> None:
        """Keep how many blocks a generation has."""
        self._counts[pack_object] = count

    def save(self) -> None:
        """Write what is new, durable; it is no harm if it cannot be."""
        fresh, counts = self._fresh, self._counts
        self._fresh, self._counts = {}, {}
        if self._index is None or not (fresh or counts):
            return
        try:
            self._index.add_outlines(fresh, counts)
        except BlockVaultError:
            return

    def keep_only(self, layers: Iterable[LayerName], pack_objects: Iterable[str]) -> None:
        """Forget all others: they are gone from the vault."""
        if self._index is not None:
            self._index.keep_outlines(set(layers), set(pack_objects))
