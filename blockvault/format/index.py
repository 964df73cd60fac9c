"""Index segments: the full blocks that one commit brought, for dedup by other transfers and other hosts.

An entry is the first 8 bytes of a block's id and its place. It is a hint: a hit counts only after the full id was
read equal in the pack's table (R2), so a lost, stale or colliding entry costs space and never correctness. Delta
blocks are left out: their plain bytes are seldom met again, and an entry would cost a tenth of what they store.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault.format.envelope import damaged
from blockvault.ids import PackName

INDEX_HEAD = struct.Struct("<II")  # packs, entries
PREFIX_BYTES = 8


def encode_index(
    packs: list[PackName], prefixes: NDArray[np.uint64], pack: NDArray[np.uint32], slot: NDArray[np.uint32]
) -> bytes:
    """Plain bytes of a segment; entries sorted by prefix (as big-endian bytes)."""
    order = np.argsort(prefixes, kind="stable")
    return b"".join(
        (
            INDEX_HEAD.pack(len(packs), len(prefixes)),
            *packs,
            prefixes[order].astype(">u8").tobytes(),
            pack[order].astype("<u4").tobytes(),
            slot[order].astype("<u4").tobytes(),
        )
    )


def decode_index(
    name: str, data: bytes
) -> tuple[list[PackName], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]:
    """The inverse of `encode_index`. Raises `CorruptionError`."""
    if len(data) < INDEX_HEAD.size:
        raise damaged(name, "the segment is too short")
    packs, entries = INDEX_HEAD.unpack_from(data)
    at = INDEX_HEAD.size
    if len(data) != at + 16 * packs + 16 * entries:
        raise damaged(name, "the segment has another length than it says")
    names = [PackName(data[at + 16 * i : at + 16 * i + 16]) for i in range(packs)]
    at += 16 * packs

    def column(dtype: str) -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(data, dtype=dtype, count=entries, offset=at)
        at += array.nbytes
        return array

    prefixes = column(">u8").astype(np.uint64)
    pack = column("<u4")
    slot = column("<u4")
    if entries and int(pack.max()) >= packs:
        raise damaged(name, "an entry names a pack that is not listed")
    return names, prefixes, pack, slot


def prefixes_of(ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(n, 32) ids -> (n,) prefixes, in the order of their bytes."""
    return np.ascontiguousarray(ids[:, :PREFIX_BYTES]).view(">u8").reshape(-1).astype(np.uint64)
