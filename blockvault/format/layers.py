"""Layers: the immutable pieces that manifests are stacked from.

A layer is cut into *segments*, one for each cell that it says something of; its root lists them. A segment holds

* *runs*: up to 1,024 neighbouring slots of one pack whose chunks ascend, bound by a 16-byte keyed digest over
  (chunk number, block id) of every slot, made once when the blocks are placed (R1);
* *pieces*: the chunks of each run, in slot order, as (first chunk, length), each live or shadowed by a newer layer;
* *fills*: stretches of hole or zero chunks;
* *bases*: for each live delta block the places of its base, of the base's base, and so on down to a full block.

Invariants:
- The pieces of a run together have exactly as many chunks as the run has slots; merging copies runs whole and
  only turns live pieces into shadowed ones, so the run's digest stays the one made at the beginning. Runs that are
  almost wholly shadowed are cut down, after their digest was compared with the pack's table (`recut_segment`).
- Live pieces and fills of a segment do not overlap.
- A chunk that no layer of a stack states does not occur: a new layer states every chunk that the disk grew by (R6).

Why runs may skip chunks: churn is scattered. With a digest for every stretch of neighbouring chunks, a lone changed
chunk would cost 28 bytes; bound together in one run it costs about 5. Why that is as safe: the digest covers the
chunk numbers one by one, so a block at a wrong chunk is found exactly as before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from blockvault.format.envelope import damaged
from blockvault.ids import PackName
from blockvault.model import FillKind
from blockvault.model.geometry import CELL_CHUNKS

RUN_SLOTS_MAX = 1024
ROOT_HEAD = struct.Struct("<IIQI")  # chunk size, cell chunks, chunk count, entries
SEGMENT_HEAD = struct.Struct("<IIIII")  # packs, runs, pieces, fills, bases
ENTRY = np.dtype(
    [
        ("cell", "<u4"),
        ("span", "<u4"),
        ("kind", "u1"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("pieces", "<u4"),
        ("tag", "u1", (16,)),
    ]
)
ENTRY_SEGMENT, ENTRY_HOLE, ENTRY_ZERO = 0, 1, 2
SEGMENT_PLAIN_MAX = 32 << 20
SEGMENT_SLOTS_MAX = 1 << 21  # twice what a whole vault's can have (`recut_segment`)
SEGMENT_STORED_MAX = SEGMENT_PLAIN_MAX + (1 << 20)  # a frame that saves nothing, and its tag
ROOT_PLAIN_MAX = 8 << 20
_BOUND = np.dtype([("chunk", "<u8"), ("id", "u1", (32,))])

U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Segment:
    """What one layer says of one cell. Chunk numbers are within the cell, 0 to 65,535."""

    packs: tuple[PackName, ...]
    run_pack: U32
    run_first_slot: U32
    run_count: U32
    run_digest: NDArray[np.uint8]  # (runs, 16)
    piece_run: U32
    piece_first: U32
    piece_length: U32
    piece_live: NDArray[np.bool_]
    fill_first: U32
    fill_length: U32
    fill_kind: NDArray[np.uint8]
    base_ordinal: U32  # which slot, counted over all runs of the segment
    base_pack: U32
    base_slot: U32

    @property
    def piece_count(self) -> int:
        """Pieces and fills: the measure by which layers are merged."""
        return len(self.piece_first) + len(self.fill_first)

    @property
    def slot_count(self) -> int:
        """Slots of all its runs, live and shadowed."""
        return int(self.run_count.sum(dtype=np.int64))

    @property
    def memory_bytes(self) -> int:
        """What its columns take in memory."""
        return 64 * len(self.packs) + 32 * len(self.run_count) + 13 * self.piece_count + 12 * len(self.base_ordinal)

    def slots(self) -> tuple[U32, U32, U32, NDArray[np.bool_]]:
        """Every slot of every run, in order: its run, slot number, chunk, and whether it is live."""
        run = np.repeat(np.arange(len(self.run_count), dtype=np.uint32), self.run_count)
        run_start = np.cumsum(self.run_count, dtype=np.int64) - self.run_count
        ordinal = np.arange(len(run), dtype=np.int64)
        slot = (self.run_first_slot[run] + (ordinal - run_start[run])).astype(np.uint32)
        piece_start = np.cumsum(self.piece_length, dtype=np.int64) - self.piece_length
        piece = np.repeat(np.arange(len(self.piece_first)), self.piece_length)
        chunk = (self.piece_first[piece] + (ordinal - piece_start[piece])).astype(np.uint32)
        return run, slot, chunk, self.piece_live[piece]


def empty_segment() -> Segment:
    """A segment that says nothing."""
    none = np.zeros(0, dtype=np.uint32)
    return Segment(
        (), none, none, none, np.zeros((0, 16), np.uint8), none, none, none, np.zeros(0, np.bool_),
        none, none, np.zeros(0, np.uint8), none, none, none,
    )  # fmt: skip


def run_digest(run_key: bytes, chunks: NDArray[np.uint64], ids: NDArray[np.uint8]) -> bytes:
    """The digest that binds a run: keyed BLAKE3 over (chunk number u64, id) of every slot, 16 bytes.

    `chunks` are numbers on the disk, not in the cell: a segment read for another cell does not verify.
    """
    bound = np.empty(len(chunks), dtype=_BOUND)
    bound["chunk"] = chunks
    bound["id"] = ids
    return blake3.blake3(bound.tobytes(), key=run_key).digest(length=16)


def build_segment(
    cell: int,
    run_key: bytes,
    *,
    packs: list[PackName],
    chunks: U32,  # ascending, in the cell
    pack: U32,
    slot: U32,
    ids: NDArray[np.uint8],
    base_pack: U32,  # (n,) or (n, steps): the base, what is below it, ...; NO_BASE from where a full block is reached
    base_slot: U32,
    fills: list[tuple[int, int, FillKind]],
) -> Segment:
    """A fresh segment: cuts the placed blocks into runs and binds each."""
    count = len(chunks)
    none = np.zeros(0, dtype=np.uint32)
    fill_first = np.array([fill[0] for fill in fills], dtype=np.uint32)
    fill_length = np.array([fill[1] for fill in fills], dtype=np.uint32)
    fill_kind = np.array([int(fill[2]) for fill in fills], dtype=np.uint8)
    if not count:
        return Segment(
            (), none, none, none, np.zeros((0, 16), np.uint8), none, none, none, np.zeros(0, np.bool_),
            fill_first, fill_length, fill_kind, none, none, none,
        )  # fmt: skip
    breaks = np.ones(count, dtype=np.bool_)
    breaks[1:] = (pack[1:] != pack[:-1]) | (slot[1:] != slot[:-1] + 1)
    starts = np.flatnonzero(breaks)
    lengths = np.diff(np.append(starts, count))
    long = np.flatnonzero(lengths > RUN_SLOTS_MAX)
    if len(long):
        extra = [np.arange(starts[i] + RUN_SLOTS_MAX, starts[i] + lengths[i], RUN_SLOTS_MAX) for i in long]
        starts = np.sort(np.concatenate([starts, *extra]))
        lengths = np.diff(np.append(starts, count))
    run_of = np.repeat(np.arange(len(starts), dtype=np.uint32), lengths)
    first_chunk = np.uint64(cell * CELL_CHUNKS)
    disk_chunks = chunks.astype(np.uint64) + first_chunk
    digests = np.empty((len(starts), 16), dtype=np.uint8)
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        end = start + length
        digests[i] = np.frombuffer(run_digest(run_key, disk_chunks[start:end], ids[start:end]), dtype=np.uint8)
    piece_run, piece_first, piece_length, piece_live = _pieces(run_of, chunks, np.ones(count, dtype=np.bool_))
    steps = base_pack.reshape(count, -1) != np.uint32(0xFFFF_FFFF)
    deltas, _ = np.nonzero(steps)
    return Segment(
        packs=tuple(packs),
        run_pack=pack[starts],
        run_first_slot=slot[starts],
        run_count=lengths.astype(np.uint32),
        run_digest=digests,
        piece_run=piece_run,
        piece_first=piece_first,
        piece_length=piece_length,
        piece_live=piece_live,
        fill_first=fill_first,
        fill_length=fill_length,
        fill_kind=fill_kind,
        base_ordinal=deltas.astype(np.uint32),
        base_pack=base_pack.reshape(count, -1)[steps],
        base_slot=base_slot.reshape(count, -1)[steps],
    )


def _pieces(run_of: U32, chunks: U32, live: NDArray[np.bool_]) -> tuple[U32, U32, U32, NDArray[np.bool_]]:
    """Cut slots (in run order) into pieces of neighbouring chunks in one state."""
    breaks = np.ones(len(chunks), dtype=np.bool_)
    breaks[1:] = (run_of[1:] != run_of[:-1]) | (chunks[1:] != chunks[:-1] + 1) | (live[1:] != live[:-1])
    starts = np.flatnonzero(breaks)
    lengths = np.diff(np.append(starts, len(chunks))).astype(np.uint32)
    return run_of[starts], chunks[starts], lengths, live[starts]


def merge_segments(segments: list[Segment], limit: int = CELL_CHUNKS) -> Segment:
    """One segment that says what the given ones say, newest first: runs are copied, never made anew.

    Chunks from `limit` on, beyond the end of a disk that shrank, are left out.
    """
    owner = np.full(CELL_CHUNKS, len(segments), dtype=np.int16)
    fill_kind = np.zeros(CELL_CHUNKS, dtype=np.uint8)
    parts: list[Any] = []
    for index, segment in enumerate(segments):
        run, _, chunk, live = segment.slots()
        wins = live & (owner[chunk] == len(segments)) & (chunk < limit)
        kept = np.zeros(CELL_CHUNKS, dtype=np.bool_)
        for first, length, kind in zip(
            segment.fill_first.tolist(), segment.fill_length.tolist(), segment.fill_kind.tolist(), strict=True
        ):
            span = slice(first, max(first, min(first + length, limit)))
            free = owner[span] == len(segments)
            kept[span] |= free
            fill_kind[span][free] = kind
        owner[chunk[wins]] = index
        owner[kept] = index
        parts.append((segment, run, chunk, wins))
    packs: dict[PackName, int] = {}
    columns: list[list[NDArray[Any]]] = [[] for _ in range(11)]
    run_base = ordinal_base = 0
    for segment, run, chunk, wins in parts:
        keep_run = np.zeros(len(segment.run_count), dtype=np.bool_)
        keep_run[run[wins]] = True
        if not keep_run.any():
            continue
        used = np.unique(np.concatenate([segment.run_pack[keep_run], segment.base_pack[wins[segment.base_ordinal]]]))
        pack_map = np.zeros(len(segment.packs), dtype=np.uint32)
        pack_map[used] = [packs.setdefault(segment.packs[i], len(packs)) for i in used.tolist()]
        run_map = np.cumsum(keep_run) - 1 + run_base
        keep_slot = keep_run[run]
        ordinal_map = np.cumsum(keep_slot) - 1 + ordinal_base
        pieces = _pieces(run_map[run[keep_slot]].astype(np.uint32), chunk[keep_slot], wins[keep_slot])
        base_live = wins[segment.base_ordinal]
        for column, values in zip(
            columns,
            (
                pack_map[segment.run_pack[keep_run]],
                segment.run_first_slot[keep_run],
                segment.run_count[keep_run],
                segment.run_digest[keep_run],
                *pieces,
                ordinal_map[segment.base_ordinal[base_live]].astype(np.uint32),
                pack_map[segment.base_pack[base_live]],
                segment.base_slot[base_live],
            ),
            strict=True,
        ):
            column.append(values)
        run_base += int(keep_run.sum())
        ordinal_base += int(keep_slot.sum())

    def joined(index: int, dtype: Any, shape: tuple[int, ...] = (0,)) -> NDArray[Any]:
        return np.concatenate(columns[index]).astype(dtype) if columns[index] else np.zeros(shape, dtype)

    fill_first, fill_length, kinds = _stretches(fill_kind)
    return Segment(
        packs=tuple(packs),
        run_pack=joined(0, np.uint32),
        run_first_slot=joined(1, np.uint32),
        run_count=joined(2, np.uint32),
        run_digest=joined(3, np.uint8, (0, 16)),
        piece_run=joined(4, np.uint32),
        piece_first=joined(5, np.uint32),
        piece_length=joined(6, np.uint32),
        piece_live=joined(7, np.bool_),
        fill_first=fill_first,
        fill_length=fill_length,
        fill_kind=kinds,
        base_ordinal=joined(8, np.uint32),
        base_pack=joined(9, np.uint32),
        base_slot=joined(10, np.uint32),
    )


SHADOWED_RUN = 16


def recut_segment(
    segment: Segment, cell: int, run_key: bytes, table_ids: Callable[[PackName], NDArray[np.uint8] | None]
) -> Segment:
    """Cut runs of which less than a sixteenth is live down to what is live, so that a segment stays bounded.

    Merging keeps whole runs; without this, a cell with a few chunks that change at every point would grow by a run a
    point. It is the one place where a digest is made anew, and only after the old one was compared with the ids in
    the pack's table: a run that does not agree is kept as it is, for the reader to find (R1). With it, a cell of
    65,536 live chunks has at most 16 times as many slots.

    Args:
        segment: of one cell.
        cell: its number.
        run_key: the vault's.
        table_ids: the (slots, 32) ids of a pack, or None if it cannot be read.
    """
    run, slot, chunk, live = segment.slots()
    live_count = np.bincount(run[live], minlength=len(segment.run_count))
    thin = (segment.run_count > SHADOWED_RUN) & (live_count * SHADOWED_RUN < segment.run_count)
    if not thin.any():
        return segment
    starts = np.cumsum(segment.run_count, dtype=np.int64) - segment.run_count
    disk_chunks = chunk.astype(np.uint64) + np.uint64(cell * CELL_CHUNKS)
    keep = np.ones(len(run), dtype=np.bool_)
    ids = np.zeros((len(run), 32), dtype=np.uint8)
    recut = np.zeros(len(segment.run_count), dtype=np.bool_)
    for index in np.flatnonzero(thin).tolist():
        span = slice(int(starts[index]), int(starts[index]) + int(segment.run_count[index]))
        table = table_ids(segment.packs[segment.run_pack[index]])
        last = int(segment.run_first_slot[index]) + int(segment.run_count[index])
        if table is None or last > len(table):
            continue
        ids[span] = table[slot[span].astype(np.int64)]
        if run_digest(run_key, disk_chunks[span], ids[span]) == segment.run_digest[index].tobytes():
            keep[span] = live[span]
            recut[index] = True
    # A recut run falls into rows of neighbouring live slots; all others stay one run.
    kept = np.flatnonzero(keep)
    breaks = np.ones(len(kept), dtype=np.bool_)
    same_run = run[kept][1:] == run[kept][:-1]
    breaks[1:] = ~same_run | (recut[run[kept][1:]] & (slot[kept][1:] != slot[kept][:-1] + 1))
    first = np.flatnonzero(breaks)
    lengths = np.diff(np.append(first, len(kept)))
    digests = np.empty((len(first), 16), dtype=np.uint8)
    for i, (begin, length) in enumerate(zip(first.tolist(), lengths.tolist(), strict=True)):
        rows = kept[begin : begin + length]
        old = int(run[rows[0]])
        digests[i] = (
            np.frombuffer(run_digest(run_key, disk_chunks[rows], ids[rows]), dtype=np.uint8)
            if recut[old]
            else segment.run_digest[old]
        )
    new_run = np.repeat(np.arange(len(first), dtype=np.uint32), lengths)
    pieces = _pieces(new_run, chunk[kept], live[kept])
    ordinal = np.full(len(run), -1, dtype=np.int64)
    ordinal[kept] = np.arange(len(kept))
    base_kept = ordinal[segment.base_ordinal] >= 0
    return replace(
        segment,
        run_pack=segment.run_pack[run[kept[first]]],
        run_first_slot=slot[kept[first]],
        run_count=lengths.astype(np.uint32),
        run_digest=digests,
        piece_run=pieces[0],
        piece_first=pieces[1],
        piece_length=pieces[2],
        piece_live=pieces[3],
        base_ordinal=ordinal[segment.base_ordinal[base_kept]].astype(np.uint32),
        base_pack=segment.base_pack[base_kept],
        base_slot=segment.base_slot[base_kept],
    )


def _stretches(kinds: NDArray[np.uint8]) -> tuple[U32, U32, NDArray[np.uint8]]:
    """Stretches of equal non-zero values."""
    breaks = np.ones(len(kinds), dtype=np.bool_)
    breaks[1:] = kinds[1:] != kinds[:-1]
    starts = np.flatnonzero(breaks)
    lengths = np.diff(np.append(starts, len(kinds)))
    stated = kinds[starts] != 0
    return starts[stated].astype(np.uint32), lengths[stated].astype(np.uint32), kinds[starts][stated]


def _differences(values: U32) -> bytes:
    """A column as differences modulo 2^32: rising columns become small numbers, which compress."""
    return np.diff(values.astype("<u4"), prepend=np.uint32(0)).astype("<u4").tobytes()


def encode_segment(segment: Segment) -> bytes:
    """Plain bytes of a segment."""
    run_pieces = np.bincount(segment.piece_run, minlength=len(segment.run_count))
    return b"".join(
        (
            SEGMENT_HEAD.pack(
                len(segment.packs),
                len(segment.run_count),
                len(segment.piece_first),
                len(segment.fill_first),
                len(segment.base_ordinal),
            ),
            *segment.packs,
            segment.run_pack.astype("<u4").tobytes(),
            segment.run_first_slot.astype("<u4").tobytes(),
            segment.run_count.astype("<u4").tobytes(),
            run_pieces.astype("<u4").tobytes(),
            segment.run_digest.tobytes(),
            _differences(segment.piece_first),
            segment.piece_length.astype("<u4").tobytes(),
            segment.piece_live.astype("u1").tobytes(),
            _differences(segment.fill_first),
            segment.fill_length.astype("<u4").tobytes(),
            segment.fill_kind.astype("u1").tobytes(),
            _differences(segment.base_ordinal),
            segment.base_pack.astype("<u4").tobytes(),
            _differences(segment.base_slot),
        )
    )


def decode_segment(name: str, data: bytes) -> Segment:
    """A segment from its plain bytes. Raises `CorruptionError` where it contradicts itself."""
    if len(data) < SEGMENT_HEAD.size:
        raise damaged(name, "a segment is too short")
    packs, runs, pieces, fills, bases = SEGMENT_HEAD.unpack_from(data)
    if len(data) != SEGMENT_HEAD.size + 16 * packs + runs * 32 + pieces * 9 + fills * 9 + bases * 12:
        raise damaged(name, "a segment has another length than it says")
    if packs > 2 * CELL_CHUNKS or fills > CELL_CHUNKS:  # a pack and a base's for each chunk
        raise damaged(name, "a segment has more than it can use")
    at = SEGMENT_HEAD.size
    names = tuple(PackName(data[at + 16 * i : at + 16 * i + 16]) for i in range(packs))
    at += 16 * packs

    def column(dtype: str, count: int, *, rising: bool = False) -> NDArray[Any]:
        nonlocal at
        array: NDArray[Any] = np.frombuffer(data, dtype=dtype, count=count, offset=at)
        at += array.nbytes
        return np.cumsum(array, dtype=np.uint32) if rising else array

    run_pack, run_first_slot, run_count, run_pieces = (column("<u4", runs) for _ in range(4))
    digests = column("u1", runs * 16).reshape(runs, 16)
    piece_first, piece_length, live = (
        column("<u4", pieces, rising=True),
        column("<u4", pieces),
        column("u1", pieces),
    )
    fill_first, fill_length, fill_kind = (
        column("<u4", fills, rising=True),
        column("<u4", fills),
        column("u1", fills),
    )
    ordinal, base_pack, base_slot = (
        column("<u4", bases, rising=True),
        column("<u4", bases),
        column("<u4", bases, rising=True),
    )
    total = int(run_count.sum(dtype=np.int64))
    piece_ends = piece_first.astype(np.int64) + piece_length
    fill_ends = fill_first.astype(np.int64) + fill_length
    if (
        int(run_pieces.sum(dtype=np.int64)) != pieces
        or int(piece_length.sum(dtype=np.int64)) != total
        or total > SEGMENT_SLOTS_MAX
        or int(fill_length.sum(dtype=np.int64)) > CELL_CHUNKS
        or bool((run_count < 1).any() or (run_count > RUN_SLOTS_MAX).any())
        or bool((run_pack >= packs).any() or (base_pack >= packs).any() or (ordinal >= total).any())
        or bool((piece_length < 1).any() or (piece_ends > CELL_CHUNKS).any() or (live > 1).any())
        or bool((fill_length < 1).any() or (fill_ends > CELL_CHUNKS).any())
        or bool(((fill_kind != FillKind.HOLE) & (fill_kind != FillKind.ZERO)).any())
    ):
        raise damaged(name, "a segment contradicts itself")
    piece_run = np.repeat(np.arange(runs, dtype=np.uint32), run_pieces)
    per_run = np.bincount(piece_run, weights=piece_length, minlength=runs)
    if bool((per_run != run_count).any()):
        raise damaged(name, "the pieces of a run are not as long as the run")
    segment = Segment(
        names, run_pack, run_first_slot, run_count, digests, piece_run, piece_first, piece_length,
        live.astype(np.bool_), fill_first, fill_length, fill_kind, ordinal, base_pack, base_slot,
    )  # fmt: skip
    # Live pieces alone: what is shadowed may be 32 times as much, and is not unrolled to be checked.
    starts, lengths = (
        piece_first[segment.piece_live].astype(np.int64),
        piece_length[segment.piece_live].astype(np.int64),
    )
    ends = np.cumsum(lengths)
    if len(ends) and int(ends[-1]) > CELL_CHUNKS:
        raise damaged(name, "a segment states a chunk twice")
    chunk = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    stated = np.bincount(chunk, minlength=CELL_CHUNKS)
    for first, length in zip(fill_first.tolist(), fill_length.tolist(), strict=True):
        stated[first : first + length] += 1
    if bool((stated > 1).any()):
        raise damaged(name, "a segment states a chunk twice")
    return segment


def encode_root(chunk_size: int, chunk_count: int, entries: NDArray[Any]) -> bytes:
    """Plain bytes of a layer's root (the directory of its envelope)."""
    return ROOT_HEAD.pack(chunk_size, CELL_CHUNKS, chunk_count, len(entries)) + entries.tobytes()


def decode_root(name: str, data: bytes, directory_offset: int) -> tuple[int, int, NDArray[Any]]:
    """Chunk size, chunk count and entries of a layer. Raises `CorruptionError`."""
    if len(data) < ROOT_HEAD.size:
        raise damaged(name, "its root is too short")
    chunk_size, cell_chunks, chunk_count, count = ROOT_HEAD.unpack_from(data)
    if cell_chunks != CELL_CHUNKS or len(data) != ROOT_HEAD.size + count * ENTRY.itemsize:
        raise damaged(name, "its root has another length than it says")
    entries = np.frombuffer(data, dtype=ENTRY, count=count, offset=ROOT_HEAD.size)
    if count:
        cells = entries["cell"].astype(np.int64)
        spans = entries["span"].astype(np.int64)
        is_segment = entries["kind"] == ENTRY_SEGMENT
        offsets, lengths = entries["offset"], entries["length"].astype(np.uint64)
        behind = (offsets > directory_offset) | (lengths > np.uint64(directory_offset) - offsets)
        if (
            bool((cells[1:] < cells[:-1] + spans[:-1]).any())
            or bool((spans < 1).any() or (spans[is_segment] != 1).any() or (entries["kind"] > ENTRY_ZERO).any())
            or bool(behind.any() or (lengths > SEGMENT_STORED_MAX).any())
        ):
            raise damaged(name, "its root contradicts itself")
    return chunk_size, chunk_count, entries
