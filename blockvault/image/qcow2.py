"""The disk within a qcow2 image, as far as it takes to look at its partition table.

    L1 table -> L2 table -> cluster, each an offset in the file; a cluster may be compressed, all zeros, or not there

Not for restoring or backing up a disk: backing files, external data, sub-clusters and encryption are not followed, and
whoever calls this has made sure that there are none.
"""

from __future__ import annotations

import zlib

from blockvault.image.peek import NotThereError, Peek

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1


class Qcow2Disk:
    """Reads a disk out of an image; what is not there, or cannot be uncompressed, reads as zeros."""

    def __init__(self, peek: Peek, *, cluster_bits: int, l1_count: int, l1_at: int) -> None:
        self._peek = peek
        self._cluster_bits = cluster_bits
        self._l1_count = l1_count
        self._l1_at = l1_at
        self._plain: tuple[int, bytes] = (-1, b"")  # the cluster that was uncompressed last

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the disk. Raises `NotThereError` where the tables lead beyond the file's end."""
        cluster = 1 << self._cluster_bits
        pieces = []
        while count:
            skip = offset % cluster
            piece = min(count, cluster - skip)
            pieces.append(self._read_cluster(offset // cluster, skip, piece))
            offset += piece
            count -= piece
        return b"".join(pieces)

    def _read_cluster(self, index: int, skip: int, count: int) -> bytes:
        l2_bits = self._cluster_bits - 3
        l1_index, l2_index = index >> l2_bits, index & ((1 << l2_bits) - 1)
        if l1_index >= self._l1_count:
            return bytes(count)
        l2_at = self._peek.number(">Q", self._l1_at + 8 * l1_index) & _OFFSET
        entry = self._peek.number(">Q", l2_at + 8 * l2_index) if l2_at else 0
        if entry & _COMPRESSED:
            plain = self._uncompressed(entry)[skip : skip + count]
            return plain + bytes(count - len(plain))
        if not entry & _OFFSET or entry & _ZERO:
            return bytes(count)
        return self._peek.exact((entry & _OFFSET) + skip, count)

    def _uncompressed(self, entry: int) -> bytes:
        """One cluster that is stored as raw deflate; its entry tells where, and in how many sectors."""
        at_bits = 62 - (self._cluster_bits - 8)
        at = entry & ((1 << at_bits) - 1)
        if self._plain[0] != at:
            sectors = ((entry & (_COMPRESSED - 1)) >> at_bits) + 1
            packed = self._peek.some(at, sectors * 512 - at % 512)
            try:
                plain = zlib.decompressobj(-15).decompress(packed, 1 << self._cluster_bits)
            except zlib.error:
                raise NotThereError from None
            self._plain = (at, plain)
        return self._plain[1]
