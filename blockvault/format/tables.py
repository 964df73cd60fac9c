"""A pack's table: what lies in each slot. It is the directory of the pack's envelope.

Invariants:
- Slots keep their numbers for the pack's life, in every generation; an emptied slot (`Codec.EMPTY`, length 0) keeps
  its id, because runs are bound to the ids of all their slots.
- Blocks lie back to back from byte 64: an offset is a sum of lengths, so a table cannot point outside its pack.
- A delta's base lies in a pack that was durable before this one was sealed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.format.envelope import HEAD_BYTES, damaged
from blockvault.ids import PackName
from blockvault.model import Codec

TABLE_HEAD = struct.Struct("<IIIII")  # slots, base packs, chunk size, generation, reserved
NO_BASE = 0xFFFF_FFFF
DEPTH_MAX = 8
SLOTS_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class PackTable:
    """Columns over slots. `base_pack` indexes `base_packs` (`NO_BASE`: none); `offsets` has one entry more."""

    chunk_size: int
    generation: int
    base_packs: tuple[PackName, ...]
    ids: NDArray[np.uint8]  # (n, 32)
    lengths: NDArray[np.uint32]
    codecs: NDArray[np.uint8]
    depths: NDArray[np.uint8]
    base_pack: NDArray[np.uint32]
    base_slot: NDArray[np.uint32]
    offsets: NDArray[np.uint64]

    @property
    def slot_count(self) -> int:
        """Slots of the pack, emptied ones too."""
        return len(self.lengths)

    @property
    def memory_bytes(self) -> int:
        """What the table takes in memory."""
        return 54 * len(self.lengths) + 200


def encode_table(
    *,
    chunk_size: int,
    generation: int,
    base_packs: list[PackName],
    ids: NDArray[np.uint8],
    lengths: NDArray[np.uint32],
    codecs: NDArray[np.uint8],
    depths: NDArray[np.uint8],
    base_pack: NDArray[np.uint32],
    base_slot: NDArray[np.uint32],
) -> bytes:
    """The plain bytes of a table."""
    parts: list[Any] = [
        TABLE_HEAD.pack(len(lengths), len(base_packs), chunk_size, generation, 0),
        *base_packs,
        np.ascontiguousarray(ids).tobytes(),
        lengths.astype("<u4").tobytes(),
        codecs.astype("u1").tobytes(),
        depths.astype("u1").tobytes(),
        base_pack.astype("<u4").tobytes(),
        base_slot.astype("<u4").tobytes(),
    ]
    return b"".join(parts)


_IS_CODEC = np.isin(np.arange(256), [int(codec) for codec in Codec])  # asked of every slot of every pack


def decode_table(name: str, data: bytes, directory_offset: int) -> PackTable:
    """A table from its plain bytes. Raises `CorruptionError` where it contradicts itself or the pack's size."""
    if len(data) < TABLE_HEAD.size:
        raise damaged(name, "its table is too short")
    slots, base_count, chunk_size, generation, reserved = TABLE_HEAD.unpack_from(data)
    expected = TABLE_HEAD.size + base_count * 16 + slots * (32 + 4 + 1 + 1 + 4 + 4)
    if reserved or slots > SLOTS_MAX or base_count > slots or len(data) != expected:
        raise damaged(name, "its table has another length than it says")
    at = TABLE_HEAD.size
    base_packs = tuple(PackName(data[at + 16 * i : at + 16 * i + 16]) for i in range(base_count))
    at += 16 * base_count

    def column(dtype: str, width: int = 1) -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(data, dtype=dtype, count=slots * width, offset=at)
        at += array.nbytes
        return array

    ids = column("u1", 32).reshape(slots, 32)
    lengths, codecs, depths, base_pack, base_slot = (
        column("<u4"),
        column("u1"),
        column("u1"),
        column("<u4"),
        column("<u4"),
    )
    offsets = np.empty(slots + 1, dtype=np.uint64)
    offsets[0] = HEAD_BYTES
    np.cumsum(lengths, dtype=np.uint64, out=offsets[1:])
    offsets[1:] += np.uint64(HEAD_BYTES)
    is_delta = codecs == Codec.DELTA
    if int(offsets[-1]) != directory_offset:
        raise damaged(name, "its blocks do not fill it")
    if (
        not bool(_IS_CODEC[codecs].all())
        or bool((is_delta != (base_pack != NO_BASE)).any())
        or bool((base_pack[is_delta] >= base_count).any())
        or bool((depths[is_delta] < 1).any())
        or bool((depths > DEPTH_MAX).any())
        or bool((depths[~is_delta] != 0).any())
    ):
        raise damaged(name, "its table contradicts itself")
    return PackTable(chunk_size, generation, base_packs, ids, lengths, codecs, depths, base_pack, base_slot, offsets)
