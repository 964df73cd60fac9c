"""From churn to a manifest: the new layer, merged with smaller neighbours.

A new point lists its own layer first and then its parent's. To keep the stack short, the new layer takes in the
parent's newest layers as long as each is no larger than what is gathered so far (sizes in pieces), so that sizes in a
stack at least double downwards; and beyond 16 layers it takes in more. Layers are immutable: older points keep
listing the ones that were merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import CorruptionError
from blockvault.format.envelope import damaged
from blockvault.format.layers import (
    ENTRY_HOLE,
    ENTRY_SEGMENT,
    SEGMENT_SLOTS_MAX,
    Segment,
    empty_segment,
    merge_segments,
    recut_segment,
)
from blockvault.format.records import LAYERS_MAX
from blockvault.ids import PackName
from blockvault.model import FillKind, LayerRef, VaultKeys
from blockvault.model.geometry import cell_bounds, cell_count
from blockvault.store.layers import LayerReader, LayerWriter
from blockvault.store.local import LocalStore
from blockvault.store.packs import PackShelf

Entry = Segment | int  # a segment, or ENTRY_HOLE / ENTRY_ZERO for a whole cell


def fill_segment(kind: int, length: int) -> Segment:
    """A whole cell of one fill, as a segment."""
    fill = FillKind.HOLE if kind == ENTRY_HOLE else FillKind.ZERO
    return replace(
        empty_segment(),
        fill_first=np.zeros(1, np.uint32),
        fill_length=np.full(1, length, np.uint32),
        fill_kind=np.full(1, int(fill), np.uint8),
    )


class LayerBuilder:
    """Gathers what a transfer says of each cell, in ascending order, and writes it as one layer.

    What it holds in memory is the segments of the new layer: about 5 bytes a scattered changed chunk, 30 bytes a
    run of a thousand.
    """

    def __init__(self, chunk_size: int, chunks: int) -> None:
        self.chunk_size = chunk_size
        self.chunks = chunks
        self.segments: dict[int, Segment] = {}
        self.spans: list[tuple[int, int]] = []  # whole cells of hole
        self.piece_count = 0

    def add_segment(self, cell: int, segment: Segment) -> None:
        """What the new layer says of one cell."""
        if segment.piece_count:
            self.segments[cell] = segment
            self.piece_count += segment.piece_count

    def add_hole(self, cell: int, span: int) -> None:
        """`span` whole cells of hole."""
        if self.spans and sum(self.spans[-1]) == cell:
            self.spans[-1] = (self.spans[-1][0], self.spans[-1][1] + span)
        else:
            self.spans.append((cell, span))
            self.piece_count += 1

    @property
    def is_empty(self) -> bool:
        """Whether the new layer would say nothing."""
        return not self.segments and not self.spans

    def merge_depth(self, older: tuple[LayerRef, ...]) -> int:
        """How many of the parent's newest layers the new one takes in."""
        gathered = self.piece_count
        depth = 0
        for ref in older:
            if ref.piece_count > gathered and len(older) - depth + 1 <= LAYERS_MAX:
                break
            gathered += ref.piece_count
            depth += 1
        return depth

    def finish(
        self, store: LocalStore, keys: VaultKeys, shelf: PackShelf, older: tuple[LayerRef, ...], made: list[str]
    ) -> tuple[tuple[LayerRef, ...], LayerWriter | None]:
        """Write the layer, durable; returns the new stack and the writer (for its size), if one was needed.

        `made` is told the layer's name before anything of it can be in the vault: a failure to make it durable may come
        after it has its name, and whoever cleans up must know it.
        """
        if self.is_empty:
            return older, None
        depth = self.merge_depth(older)
        try:
            return self._write(store, keys, shelf, older, depth, made)
        except CorruptionError:
            if not depth or len(older) >= LAYERS_MAX:
                raise
            # A damaged older layer is not merged: the new point then lists it as the older ones do.
            return self._write(store, keys, shelf, older, 0, made)

    def _write(
        self,
        store: LocalStore,
        keys: VaultKeys,
        shelf: PackShelf,
        older: tuple[LayerRef, ...],
        depth: int,
        made: list[str],
    ) -> tuple[tuple[LayerRef, ...], LayerWriter | None]:
        def table_ids(pack: PackName) -> NDArray[np.uint8] | None:
            try:
                return shelf.reader(pack).table.ids
            except CorruptionError:
                return None

        readers = [LayerReader(store, keys, ref, self.chunk_size) for ref in older[:depth]]
        writer = LayerWriter(store, keys, chunk_size=self.chunk_size, chunk_count=self.chunks)
        made.append(writer.name)
        try:
            for cell, span, entry in self._entries(readers):
                if isinstance(entry, int):
                    writer.add_fill(cell, span, entry)
                else:
                    writer.add_segment(cell, recut_segment(entry, cell, keys.run_key, table_ids))
            ref = writer.finish()
        finally:
            writer.abort()
            for reader in readers:
                reader.close()
        return (ref, *older[depth:]), writer

    def _entries(self, readers: list[LayerReader]) -> Iterator[tuple[int, int, Entry]]:
        """(cell, span, what is said of it) in ascending order, merged with the older layers."""
        own: list[tuple[int, int, Entry]] = [(cell, 1, segment) for cell, segment in self.segments.items()]
        own += [(cell, span, ENTRY_HOLE) for cell, span in self.spans]
        own.sort(key=lambda entry: entry[0])
        if not readers:
            yield from own
            return
        cells: dict[int, Entry | None] = {
            cell: entry for first, span, entry in own for cell in range(first, first + span)
        }
        total = cell_count(self.chunks)
        for reader in readers:
            for entry in reader.entries:
                first, span = int(entry["cell"]), int(entry["span"])
                cells.update({cell: None for cell in range(first, min(first + span, total)) if cell not in cells})
        for cell in sorted(cells):
            newest = cells[cell]
            parts: list[Entry] = [newest] if newest is not None else []
            slots = 0
            if not parts or not isinstance(parts[0], int):
                for reader in readers:
                    entry = reader.entry(cell)
                    if entry is None:
                        continue
                    if entry["kind"] != ENTRY_SEGMENT:
                        parts.append(int(entry["kind"]))
                        break
                    segment = reader.segment(entry)
                    slots += segment.slot_count
                    if slots > 2 * SEGMENT_SLOTS_MAX:
                        raise damaged(
                            reader.name, f"with those above it, it says more of cell {cell} than there can be"
                        )
                    parts.append(segment)
            if len(parts) == 1 and isinstance(parts[0], int):
                yield cell, 1, parts[0]
                continue
            _, count = cell_bounds(cell, self.chunks)
            segments = [part if not isinstance(part, int) else fill_segment(part, count) for part in parts]
            yield cell, 1, merge_segments(segments, count)
