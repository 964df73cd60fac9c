"""What a partition or a bare disk holds, by its magic numbers: a file system, a part of LVM, an encrypted volume, swap.

Nothing is mounted and no structure is followed: one or two small reads each. The order is that of certainty: long magic
numbers in places of their own come first, and those that any bytes may show by chance last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.image.peek import NotThereError, Peek, text_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Content:
    """What was recognised: `ext4`, `LUKS`, `LVM`, ..., and its label."""

    kind: str
    label: str = ""
    encrypted: bool = False

    def __str__(self) -> str:
        return f"{self.kind} '{self.label}'" if self.label else self.kind


def content_of(peek: Peek) -> Content | None:
    """What these bytes hold; None: nothing that is known."""
    for look in _LOOKS:
        try:
            found = look(peek)
        except NotThereError:
            continue
        if found is not None:
            return found
    return None


def _luks(peek: Peek) -> Content | None:
    if not peek.has(b"LUKS\xba\xbe", 0):
        return None
    label = text_of(peek.exact(24, 48)) if peek.number(">H", 6) == 2 else ""
    return Content("LUKS", label, encrypted=True)


def _lvm(peek: Peek) -> Content | None:
    for sector in range(4):
        if peek.has(b"LABELONE", sector * 512) and peek.has(b"LVM2 001", sector * 512 + 24):
            return Content("LVM")
    return None


def _btrfs(peek: Peek) -> Content | None:
    if not peek.has(b"_BHRfS_M", 0x10040):
        return None
    return Content("btrfs", text_of(peek.exact(0x1012B, 256)))


def _xfs(peek: Peek) -> Content | None:
    return Content("xfs", text_of(peek.exact(108, 12))) if peek.has(b"XFSB", 0) else None


def _iso9660(peek: Peek) -> Content | None:
    return Content("iso9660", text_of(peek.exact(0x8028, 32), "latin-1")) if peek.has(b"\x01CD001", 0x8000) else None


def _boot_sector(peek: Peek) -> Content | None:
    """File systems that a PC can be started from: they say so in the first sector."""
    named = {b"NTFS    ": "ntfs", b"EXFAT   ": "exfat", b"-FVE-FS-": "BitLocker", b"ReFS\0\0\0\0": "refs"}
    name = named.get(peek.exact(3, 8))
    if name is not None:
        return Content(name, encrypted=name == "BitLocker")
    if not peek.has(b"\x55\xaa", 510):
        return None
    sector_bytes, cluster_sectors = peek.fields("<HB", 11)
    if sector_bytes not in (512, 1024, 2048, 4096) or not cluster_sectors or cluster_sectors & (cluster_sectors - 1):
        return None
    for kind, offset, label in ((b"FAT32   ", 82, 71), (b"FAT16   ", 54, 43), (b"FAT12   ", 54, 43)):
        if peek.has(kind, offset):
            name = text_of(peek.exact(label, 11), "latin-1")
            return Content("vfat", "" if name == "NO NAME" else name)
    return None


def _swap(peek: Peek) -> Content | None:
    return Content("swap") if peek.has(b"SWAPSPACE2", 4086) else None


def _others(peek: Peek) -> Content | None:
    for kind, magic, offset in (
        ("squashfs", b"hsqs", 0),
        ("apfs", b"NXSB", 32),
        ("bcache", b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", 4096 + 24),
        ("bcachefs", b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", 4096 + 24),
        ("reiserfs", b"ReIsErFs", 0x10034),
        ("reiserfs", b"ReIsEr2Fs", 0x10034),
        ("reiserfs", b"ReIsEr3Fs", 0x10034),
        ("vmfs", b"\x0d\xd0\x01\xc0", 0x100000),
        ("RAID", b"\xfc\x4e\x2b\xa9", 0),
        ("RAID", b"\xfc\x4e\x2b\xa9", 4096),
        ("f2fs", b"\x10\x20\xf5\xf2", 1024),
        ("hfsplus", b"H+\x00\x04", 1024),
        ("hfsplus", b"HX\x00\x05", 1024),
    ):
        if peek.has(magic, offset):
            return Content(kind)
    return None


def _zfs(peek: Peek) -> Content | None:
    """One of the uberblocks of the first label, whichever was written."""
    ring = peek.some(128 << 10, 128 << 10)
    for magic in (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C)):
        at = ring.find(magic)
        while at >= 0:
            if at % 1024 == 0:
                return Content("zfs")
            at = ring.find(magic, at + 1)
    return None


def _ext(peek: Peek) -> Content | None:
    if not peek.has(b"\x53\xef", 0x438):
        return None
    compatible, incompatible, read_only = peek.fields("<III", 0x45C)
    block_bits = peek.number("<I", 0x418)
    if block_bits > 6:  # 64 KiB at most: two bytes of magic alone are met by chance
        return None
    if incompatible & 0x08:
        return Content("ext journal")
    new = incompatible & 0x2C0 or read_only & 0x78  # extents, 64 bit, flexible groups; huge files and later
    kind = "ext4" if new else "ext3" if compatible & 0x04 else "ext2"
    return Content(kind, text_of(peek.exact(0x478, 16)), encrypted=False)


_LOOKS: tuple[Callable[[Peek], Content | None], ...] = (
    _luks,
    _lvm,
    _btrfs,
    _xfs,
    _iso9660,
    _boot_sector,
    _swap,
    _others,
    _ext,
    _zfs,
)
