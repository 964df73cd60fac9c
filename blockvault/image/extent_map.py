"""Where a file's bytes lie on its file system (FIEMAP), and in which ranges two files lie at different places.

Two clones of one image that share a range at the same physical address hold the same bytes there, as long as neither
was touched: the file system never writes a shared extent in place. So what changed between two immutable clones is
what they do not share, found without reading a byte (`docs/decisions/0003-extent-maps.md` has the rules).

Invariants:
- A range is equal only if its address is known, settled and the same in both; what a flag puts in doubt differs.
- A hole and an extent that was never written both read as zeros, and equal each other; data that became a hole differs.
- Maps are compared by interval: how extents are cut does not matter.
- An address is never remembered: freed ones are used again. Both maps are read now, the older one twice.
- A map that is not what a map is (no end, out of order, overlapping) is refused, and so is one that says nothing: of
  compressed data, or of files on the realtime device of xfs, where an address names another device.
"""

from __future__ import annotations

import fcntl
import os
import struct

import numpy as np
from numpy.typing import NDArray

from blockvault.image.system import file_system_type, is_realtime

XFS_MAGIC = 0x58465342
BTRFS_MAGIC = 0x9123683E
TRUSTED_FILE_SYSTEMS = (XFS_MAGIC, BTRFS_MAGIC)

EXTENT = np.dtype(
    [
        ("logical", "<u8"),
        ("physical", "<u8"),
        ("length", "<u8"),
        ("reserved", "<u8", (2,)),
        ("flags", "<u4"),
        ("reserved_end", "<u4", (3,)),
    ]
)
_FS_IOC_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")
_FLAG_SYNC = 0x0001
_BATCH = 8192

_LAST = 0x0001
_UNWRITTEN = 0x0800
# UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL
_IN_DOUBT = 0x0002 | 0x0004 | 0x0008 | 0x0080 | 0x0100 | 0x0200 | 0x0400

Ranges = NDArray[np.int64]  # (n, 2): first byte and the one after the last, ascending, apart


def read_map(fd: int) -> NDArray[np.void]:
    """All extents of a file, its dirty pages written first: (n,) `EXTENT`, ascending.

    Raises `OSError`, or `ValueError` if what the file system says is no map.
    """
    parts: list[NDArray[np.void]] = []
    start = 0
    buffer = bytearray(_HEAD.size + _BATCH * EXTENT.itemsize)
    while True:
        _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _FLAG_SYNC, 0, _BATCH, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        if not mapped:
            break
        part = np.frombuffer(bytes(buffer), dtype=EXTENT, count=mapped, offset=_HEAD.size)
        parts.append(part)
        if part["flags"][-1] & _LAST:
            break
        end = int(part["logical"][-1]) + int(part["length"][-1])
        if not start < end < 1 << 64:
            raise ValueError("it goes round in circles")
        start = end
    found = np.concatenate(parts) if parts else np.zeros(0, dtype=EXTENT)
    _check_form(found)
    return found


def _check_form(extents: NDArray[np.void]) -> None:
    if not len(extents):
        return
    ends = extents["logical"] + extents["length"]
    if not extents["flags"][-1] & _LAST:
        raise ValueError("it has no end")
    if (ends <= extents["logical"]).any() or (ends[:-1] > extents["logical"][1:]).any():
        raise ValueError("its extents are not in order")
    if (extents["physical"] + extents["length"] < extents["physical"]).any():
        raise ValueError("an address is beyond all devices")


def differing(old: NDArray[np.void], new: NDArray[np.void], size: int) -> Ranges:
    """Byte ranges of [0, size) in which two maps do not prove the same bytes."""
    edges = [np.array([0, size], dtype=np.uint64)]
    for extents in (old, new):
        edges += [extents["logical"], extents["logical"] + extents["length"]]
    cuts = np.unique(np.minimum(np.concatenate(edges), np.uint64(size)))
    starts = cuts[:-1]
    reads_zero: list[NDArray[np.bool_]] = []
    settled: list[NDArray[np.bool_]] = []
    place: list[NDArray[np.uint64]] = []
    for extents in (old, new):
        mapped, at = _covering(extents, starts)
        flags = np.where(mapped, extents["flags"][at] if len(extents) else 0, 0)
        doubt = (flags & _IN_DOUBT) != 0
        unwritten = (flags & _UNWRITTEN) != 0
        reads_zero.append(~mapped | (unwritten & ~doubt))
        settled.append(mapped & ~doubt & ~unwritten)
        if len(extents):
            place.append(extents["physical"][at] + (starts - extents["logical"][at]))
        else:
            place.append(np.zeros(len(starts), dtype=np.uint64))
    same = (reads_zero[0] & reads_zero[1]) | (settled[0] & settled[1] & (place[0] == place[1]))
    edge = np.flatnonzero(np.diff(np.concatenate(([True], same, [True])).astype(np.int8)))
    return np.column_stack((cuts[edge[::2]], cuts[edge[1::2]])).astype(np.int64)


def _covering(extents: NDArray[np.void], starts: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For each position whether an extent covers it, and which."""
    if not len(extents):
        return np.zeros(len(starts), dtype=np.bool_), np.zeros(len(starts), dtype=np.int64)
    at = np.searchsorted(extents["logical"], starts, side="right").astype(np.int64) - 1
    found = at >= 0
    at = np.maximum(at, 0)
    ends = extents["logical"] + extents["length"]
    return found & (starts < ends[at]), at


def changed_ranges(old_fd: int, new_fd: int) -> Ranges | str:
    """Ranges in which two clones of one size differ, or the reason why their maps cannot be trusted.

    The caller answers for both being untouched since they were cut. Raises `OSError`.
    """
    old_status, new_status = os.fstat(old_fd), os.fstat(new_fd)
    if old_status.st_dev != new_status.st_dev:
        return "the two snapshots lie on different file systems"
    if old_status.st_ino == new_status.st_ino:
        return "the two snapshots are one file"
    if old_status.st_size != new_status.st_size:
        return "the disk's size changed"
    if any(file_system_type(fd) not in TRUSTED_FILE_SYSTEMS for fd in (old_fd, new_fd)):
        return "the file system is neither xfs nor btrfs"
    if any(is_realtime(fd) for fd in (old_fd, new_fd)):
        return "a snapshot lies on a realtime device"
    try:
        old = read_map(old_fd)
        new = read_map(new_fd)
        if not np.array_equal(old, read_map(old_fd)):
            return "the older snapshot's extents moved while they were compared"
    except ValueError as error:
        return f"the file system's map makes no sense: {error}"
    in_doubt = new["length"][(new["flags"] & _IN_DOUBT) != 0].sum()
    if 2 * int(in_doubt) > int(new["length"].sum()):
        # All of it would be claimed: a scan compares digests only, which is faster than what is done with claims.
        return "most of the disk is compressed, or its addresses are not told"
    return differing(old, new, new_status.st_size)
