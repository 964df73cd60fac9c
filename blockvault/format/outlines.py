"""Outlines: what a layer says, without what binds it: which chunks it states, and where their live blocks lie.

Reclaim asks every layer of the vault which slots it needs (`engine/marking.py`). Read from the layers themselves that
is a segment for each cell that was touched; a small layer's outline is one value of LMDB. Layers never change, so
neither do outlines. Chunk numbers are those of the disk.

Invariants:
- An outline is sealed as an object is, under the layer's name, and holds the root's tag and the layer's size: one of
  another layer, or of a vault of other keys, does not unseal. Nothing in it is the only copy.
- Ranges of chunks that are stated rise and are apart; so do those of any set that the functions here return.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.format.envelope import damaged
from blockvault.format.layers import Segment
from blockvault.ids import PackName
from blockvault.model.geometry import CELL_CHUNKS

OUTLINE_HEAD = struct.Struct("<16sQIIII")  # root's tag, bytes of the layer, packs, stated ranges, extents, bases

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


def no_ranges() -> I64:
    """(0, 2) no chunk."""
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a layer says of some chunks, or of all."""

    packs: tuple[PackName, ...]
    stated: I64  # (n, 2) first chunk and the one after the last: what it hides from older layers
    first: I64  # extents: neighbouring chunks whose blocks lie in neighbouring slots
    length: U32
    pack: U32
    slot: U32
    base_chunk: I64  # for each delta block that is live its chunk, and where its base lies
    base_pack: U32
    base_slot: U32

    @property
    def rows(self) -> int:
        """What it takes to hold."""
        return len(self.stated) + len(self.first) + len(self.base_chunk)

    @property
    def live(self) -> I64:
        """(n, 2) the chunks of its extents."""
        return united(np.stack([self.first, self.first + self.length], axis=1))


def outline_of_segment(cell: int, segment: Segment) -> Outline:
    """What one segment says."""
    origin = cell * CELL_CHUNKS
    lengths = segment.piece_length.astype(np.int64)
    starts = np.cumsum(lengths) - lengths  # of the piece, counted in slots of the segment
    counts = segment.run_count.astype(np.int64)
    run_starts = np.cumsum(counts) - counts
    slots = segment.run_first_slot.astype(np.int64)[segment.piece_run] + starts - run_starts[segment.piece_run]
    chunks = segment.piece_first.astype(np.int64) + origin
    live = segment.piece_live
    piece = np.searchsorted(starts, segment.base_ordinal.astype(np.int64), side="right") - 1
    of_live = live[piece]
    ordinal = segment.base_ordinal.astype(np.int64)[of_live]
    fills = segment.fill_first.astype(np.int64) + origin
    return Outline(
        packs=segment.packs,
        stated=united(
            np.concatenate(
                [
                    np.stack([chunks[live], chunks[live] + lengths[live]], axis=1),
                    np.stack([fills, fills + segment.fill_length], axis=1),
                ]
            )
        ),
        first=chunks[live],
        length=segment.piece_length[live],
        pack=segment.run_pack[segment.piece_run[live]],
        slot=slots[live].astype(np.uint32),
        base_chunk=chunks[piece[of_live]] + ordinal - starts[piece[of_live]],
        base_pack=segment.base_pack[of_live],
        base_slot=segment.base_slot[of_live],
    )


def joined(parts: Iterable[Outline], fills: I64) -> Outline:
    """One outline of several of one layer, and of ranges that it fills."""
    rows = list(parts)
    packs: dict[PackName, int] = {}
    maps = [np.array([packs.setdefault(name, len(packs)) for name in one.packs], dtype=np.uint32) for one in rows]

    def column(values: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
        return np.concatenate(values).astype(dtype, copy=False) if values else np.zeros(0, dtype=dtype)

    return Outline(
        packs=tuple(packs),
        stated=united(np.concatenate([*(one.stated for one in rows), fills])),
        first=column([one.first for one in rows], np.int64),
        length=column([one.length for one in rows], np.uint32),
        pack=column([index[one.pack] for index, one in zip(maps, rows, strict=True)], np.uint32),
        slot=column([one.slot for one in rows], np.uint32),
        base_chunk=column([one.base_chunk for one in rows], np.int64),
        base_pack=column([index[one.base_pack] for index, one in zip(maps, rows, strict=True)], np.uint32),
        base_slot=column([one.base_slot for one in rows], np.uint32),
    )


def encode_outline(outline: Outline, tag: bytes, layer_bytes: int) -> bytes:
    """Plain bytes of an outline."""
    return b"".join(
        (
            OUTLINE_HEAD.pack(
                tag,
                layer_bytes,
                len(outline.packs),
                len(outline.stated),
                len(outline.first),
                len(outline.base_chunk),
            ),
            *outline.packs,
            *(
                column.astype(dtype).tobytes()
                for column, dtype in (
                    (outline.stated, "<i8"),
                    (outline.first, "<i8"),
                    (outline.length, "<u4"),
                    (outline.pack, "<u4"),
                    (outline.slot, "<u4"),
                    (outline.base_chunk, "<i8"),
                    (outline.base_pack, "<u4"),
                    (outline.base_slot, "<u4"),
                )
            ),
        )
    )


def decode_outline(name: str, data: bytes) -> tuple[Outline, bytes, int]:
    """The inverse of `encode_outline`: outline, tag, bytes of the layer. Raises `CorruptionError`."""
    if len(data) < OUTLINE_HEAD.size:
        raise damaged(name, "its outline is too short")
    tag, layer_bytes, packs, stated, extents, bases = OUTLINE_HEAD.unpack_from(data)
    at = OUTLINE_HEAD.size
    if len(data) != at + 16 * packs + 16 * stated + 20 * extents + 16 * bases:
        raise damaged(name, "its outline has another length than it says")
    names = tuple(PackName(data[at + 16 * i : at + 16 * i + 16]) for i in range(packs))
    at += 16 * packs

    def column(dtype: str, count: int) -> NDArray[Any]:
        nonlocal at
        array: NDArray[Any] = np.frombuffer(data, dtype=dtype, count=count, offset=at)
        at += array.nbytes
        return array

    outline = Outline(
        names,
        column("<i8", 2 * stated).reshape(stated, 2),
        column("<i8", extents),
        column("<u4", extents),
        column("<u4", extents),
        column("<u4", extents),
        column("<i8", bases),
        column("<u4", bases),
        column("<u4", bases),
    )
    if (
        bool((outline.pack >= packs).any() or (outline.base_pack >= packs).any())
        or bool((outline.length < 1).any() or (outline.length > CELL_CHUNKS).any())
        or bool((outline.stated[:, 0] >= outline.stated[:, 1]).any())
        or bool((outline.stated[1:, 0] <= outline.stated[:-1, 1]).any())
    ):
        raise damaged(name, "its outline contradicts itself")
    return outline, tag, layer_bytes


# --- ranges of chunks ------------------------------------------------------------------------------------------


def united(ranges: I64) -> I64:
    """The same chunks as ranges that rise and are apart."""
    return _sweep(ranges, no_ranges())


def without(ranges: I64, taken: I64) -> I64:
    """The chunks of `ranges` that are not in `taken`, which rises and is apart."""
    if not len(ranges) or not len(taken):
        return ranges
    # Only what is near: a small set against a large one is the common case.
    low = int(np.searchsorted(taken[:, 1], ranges[0, 0], side="right"))
    high = int(np.searchsorted(taken[:, 0], ranges[-1, 1], side="left"))
    return _sweep(ranges, taken[low:high]) if low < high else ranges


def cut(ranges: I64, first: int, end: int) -> I64:
    """The chunks of `ranges` from `first` up to before `end`."""
    kept = np.clip(ranges, first, end)
    return kept[kept[:, 0] < kept[:, 1]]


def holds(ranges: I64, chunks: I64) -> NDArray[np.bool_]:
    """Which chunks are in `ranges`."""
    at = np.searchsorted(ranges[:, 0], chunks, side="right") - 1
    inside = at >= 0
    inside[inside] = chunks[inside] < ranges[at[inside], 1]
    return inside


def _sweep(ranges: I64, taken: I64) -> I64:
    edges = np.concatenate([ranges[:, 0], ranges[:, 1], taken[:, 0], taken[:, 1]])
    count, other = len(ranges), len(taken)
    steps = np.zeros((2, len(edges)), dtype=np.int32)
    steps[0, :count], steps[0, count : 2 * count] = 1, -1
    steps[1, 2 * count : 2 * count + other], steps[1, 2 * count + other :] = 1, -1
    order = np.argsort(edges, kind="stable")
    edges, (here, hidden) = edges[order], np.cumsum(steps[:, order], axis=1)
    keep = (here[:-1] > 0) & (hidden[:-1] == 0) & (edges[1:] > edges[:-1])
    first, end = edges[:-1][keep], edges[1:][keep]
    apart = np.ones(len(first) + 1, dtype=np.bool_)
    apart[1:-1] = first[1:] != end[:-1]
    return np.stack([first[apart[:-1]], end[apart[1:]]], axis=1)
