"""Where a file's bytes lie on its file system (FIEMAP), and in which ranges two files lie at different places.

Two clones of one image that share a range at the same physical address hold the same bytes there, as long as neither
was touched: the file system never writes a shared extent in place. So what changed between two immutable clones is
what they do not share, found without reading a byte (`docs/decisions/0003-extent-maps.md` has the rules).

Invariants:
- A range is equal only if its address is known, settled and the same in both; what a flag puts in doubt differs.
- A hole and an extent that was never written both read as zeros, and equal each other; data that became a hole differs.
- Maps are compared by interval: how extents are cut does not matter.
- An address is never remembered: freed ones are used again. Both maps are read now, the older one twice.
- Maps are read and compared piece by piece: memory is a few pieces, whatever the number of extents.
- A map that is not what a map is (no end, out of order, overlapping) is refused, and so is one that says nothing: of
  compressed data, or of files on the realtime device of xfs, where an address names another device.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence

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
_BATCH = 16_384
_FILE_END = (1 << 63) - 1

_LAST = 0x0001
_UNWRITTEN = 0x0800
# UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL
_IN_DOUBT = 0x0002 | 0x0004 | 0x0008 | 0x0080 | 0x0100 | 0x0200 | 0x0400

Ranges = NDArray[np.int64]  # (n, 2): first byte and the one after the last, ascending, apart


def read_map(fd: int, start: int = 0) -> tuple[NDArray[np.void], int]:
    """Extents of a file that lie at `start` or after it, its dirty pages written first, and up to where these are all.

    One call: (n,) `EXTENT`, ascending, at most `_BATCH`. Raises `OSError`, or `ValueError` if that is no map.
    """
    buffer = bytearray(_HEAD.size + _BATCH * EXTENT.itemsize)
    _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _FLAG_SYNC, 0, _BATCH, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
    count = _HEAD.unpack_from(buffer)[3]
    extents = np.frombuffer(buffer, dtype=EXTENT, count=count, offset=_HEAD.size)
    if not count:
        return extents, _FILE_END
    _check_form(extents)
    if extents["flags"][-1] & _LAST:
        return extents, _FILE_END
    if count < _BATCH:
        raise ValueError("it has no end")
    end = int(extents["logical"][-1]) + int(extents["length"][-1])
    if end <= start:
        raise ValueError("it goes round in circles")
    return extents, end


def _check_form(extents: NDArray[np.void]) -> None:
    ends = extents["logical"] + extents["length"]
    if (ends <= extents["logical"]).any() or (ends[:-1] > extents["logical"][1:]).any():
        raise ValueError("its extents are not in order")
    if (extents["physical"] + extents["length"] < extents["physical"]).any():
        raise ValueError("an address is beyond all devices")


def differing(maps: Sequence[NDArray[np.void]], start: int, end: int) -> Ranges:
    """Byte ranges of [start, end) in which two or more maps do not prove the same bytes."""
    edges = [np.array([start, end], dtype=np.uint64)]
    for extents in maps:
        edges += [extents["logical"], extents["logical"] + extents["length"]]
    cuts = np.unique(np.clip(np.concatenate(edges), np.uint64(start), np.uint64(end)))
    starts = cuts[:-1]
    all_zero = np.ones(len(starts), dtype=np.bool_)
    one_place = np.ones(len(starts), dtype=np.bool_)
    first_place: NDArray[np.uint64] | None = None
    for extents in maps:
        mapped, at = _covering(extents, starts)
        flags = np.where(mapped, extents["flags"][at] if len(extents) else 0, 0)
        doubt = (flags & _IN_DOUBT) != 0
        unwritten = (flags & _UNWRITTEN) != 0
        all_zero &= ~mapped | (unwritten & ~doubt)
        one_place &= mapped & ~doubt & ~unwritten
        if len(extents):
            place = extents["physical"][at] + (starts - extents["logical"][at])
            first_place = place if first_place is None else first_place
            one_place &= place == first_place
    edge = np.flatnonzero(np.diff(np.concatenate(([True], all_zero | one_place, [True])).astype(np.int8)))
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
        return _compare(old_fd, new_fd, new_status.st_size)
    except ValueError as error:
        return f"the file system's map makes no sense: {error}"


def _compare(old_fd: int, new_fd: int, size: int) -> Ranges | str:
    found: list[Ranges] = [np.zeros((0, 2), dtype=np.int64)]
    mapped = in_doubt = start = 0
    while start < size:
        old, old_end = read_map(old_fd, start)
        new, new_end = read_map(new_fd, start)
        again, again_end = read_map(old_fd, start)
        # By interval, all three: where the older one's extents moved in between, what the newer one has is claimed.
        # As lists the two readings may well differ: xfs cuts extents where others stop or begin to share them.
        end = min(old_end, new_end, again_end, size)
        found.append(differing((old, new, again), start, end))
        here = new[(new["logical"] >= start) & (new["logical"] < end)]
        mapped += int(here["length"].sum())
        in_doubt += int(here["length"][(here["flags"] & _IN_DOUBT) != 0].sum())
        start = end
    if 2 * in_doubt > mapped:
        # All of it would be claimed: a scan compares digests only, which is faster than what is done with claims.
        return "most of the disk is compressed, or its addresses are not told"
    return _joined(np.concatenate(found))


def _joined(ranges: Ranges) -> Ranges:
    """The same ranges, those that meet made one."""
    if not len(ranges):
        return ranges
    apart = ranges[1:, 0] > ranges[:-1, 1]
    first = np.concatenate(([True], apart))
    last = np.concatenate((apart, [True]))
    return np.column_stack((ranges[first, 0], ranges[last, 1]))
