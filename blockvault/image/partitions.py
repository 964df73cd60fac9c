"""Partition tables: MBR with its logical partitions, and GPT, each partition with what it holds.

Invariants:
- Offsets and sizes are bytes; a partition that lies outside of the disk is told as a fault, never read.
- However the bytes lie, the number of entries and steps is bounded.
"""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass

from blockvault.image.file_systems import Content, content_of
from blockvault.image.peek import READ_BYTES_MAX, NotThereError, Peek, text_of

PARTITIONS_MAX = 256
_LOGICAL_MAX = 128
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MBR_TYPES = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32",
    0x0E: "FAT16",
    0x27: "Windows recovery",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xA5: "FreeBSD",
    0xAF: "Apple HFS",
    0xEF: "EFI system",
    0xFD: "Linux RAID",
}
_GPT_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "LUKS",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft data",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "ZFS",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "Apple APFS",
    "48465300-0000-11aa-aa11-00306543ecac": "Apple HFS",
}
_UNUSED = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. `type` is what the table says, `holds` what its bytes say."""

    number: int
    offset: int
    size: int
    type: str
    name: str = ""
    holds: Content | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table: `mbr` or `gpt`. `faults` says where it does not fit the disk or itself."""

    kind: str
    partitions: tuple[Partition, ...]
    faults: tuple[str, ...] = ()


def table_of(peek: Peek) -> Table | None:
    """The partition table of a disk; None: it has none."""
    try:
        for sector_bytes in (512, 4096):
            if peek.has(b"EFI PART", sector_bytes):
                return _gpt(peek, sector_bytes)
        return _mbr(peek)
    except NotThereError:
        return None


def _entries(peek: Peek, offset: int) -> list[tuple[int, int, int]] | None:
    """The four entries of a boot record as (type, first sector, sectors); None: this is none."""
    if not peek.has(b"\x55\xaa", offset + 510):
        return None
    found = []
    for index in range(4):
        status, kind, first, count = peek.fields("<B3xB3xII", offset + 446 + 16 * index)
        if status not in (0, 0x80):
            return None
        found.append((kind, first, count))
    return found


def _mbr(peek: Peek) -> Table | None:
    entries = _entries(peek, 0)
    if not entries or not any(kind and count for kind, _, count in entries):
        return None
    faults: list[str] = []
    if any(kind == _PROTECTIVE for kind, _, _ in entries):
        faults.append("the MBR says that there is a GPT, and there is none at its beginning")
    partitions: list[Partition] = []
    for number, (kind, first, count) in enumerate(entries, 1):
        if not kind or not count:
            continue
        if kind in _EXTENDED:
            partitions += _logical(peek, first, faults)
        elif kind != _PROTECTIVE:
            name = _MBR_TYPES.get(kind, f"type {kind:#04x}")
            partitions.append(_partition(peek, number, first * 512, count * 512, name, "", faults))
    return Table("mbr", tuple(sorted(partitions, key=lambda each: each.number)), tuple(faults))


def _logical(peek: Peek, extended: int, faults: list[str]) -> list[Partition]:
    """The chain of logical partitions, each in a boot record of its own that names the next."""
    found: list[Partition] = []
    at, seen = extended, set[int]()
    while at not in seen and len(found) < _LOGICAL_MAX:
        seen.add(at)
        try:
            entries = _entries(peek, at * 512)
        except NotThereError:
            entries = None
        if not entries:
            faults.append("the chain of logical partitions is broken")
            break
        (kind, first, count), (link, following, _) = entries[:2]
        if kind and count:
            name = _MBR_TYPES.get(kind, f"type {kind:#04x}")
            found.append(_partition(peek, 5 + len(found), (at + first) * 512, count * 512, name, "", faults))
        if link not in _EXTENDED or not following:
            break
        at = extended + following
    else:
        faults.append("the chain of logical partitions has no end")
    return found


def _gpt(peek: Peek, sector_bytes: int) -> Table | None:
    header = peek.exact(sector_bytes, 92)
    head = Peek(lambda offset, count: header[offset : offset + count], len(header))
    head_bytes, head_crc = head.fields("<II", 12)
    alternate = head.number("<Q", 32)
    first_entry, entry_count, entry_bytes, entries_crc = head.fields("<QIII", 72)
    faults: list[str] = []
    if head_bytes < 92 or head_bytes > sector_bytes or _crc(peek, sector_bytes, head_bytes, 16) != head_crc:
        faults.append("the GPT's head is damaged: it does not fit its CRC")
    if entry_bytes < 128 or entry_bytes % 8 or entry_bytes * entry_count > READ_BYTES_MAX:
        return Table("gpt", (), (*faults, "the GPT's entries cannot be read: their number or size cannot be"))
    entries = peek.exact(first_entry * sector_bytes, entry_bytes * entry_count)
    if zlib.crc32(entries) != entries_crc:
        faults.append("the GPT's entries are damaged: they do not fit their CRC")
    if (alternate + 1) * sector_bytes > peek.size:
        faults.append("the disk is shorter than its GPT says: it was cut off")
    elif not peek.has(b"EFI PART", alternate * sector_bytes):
        faults.append("the second copy of the GPT is missing")
    partitions: list[Partition] = []
    for index in range(entry_count):
        entry = entries[index * entry_bytes : (index + 1) * entry_bytes]
        type_id = uuid.UUID(bytes_le=entry[:16])
        if type_id == _UNUSED:
            continue
        if len(partitions) == PARTITIONS_MAX:
            faults.append(f"it has more than {PARTITIONS_MAX} partitions")
            break
        first, last = (int.from_bytes(entry[at : at + 8], "little") for at in (32, 40))
        size = (last - first + 1) * sector_bytes
        name = text_of(entry[56:128], "utf-16-le")
        type_name = _GPT_TYPES.get(str(type_id), str(type_id))
        partitions.append(_partition(peek, index + 1, first * sector_bytes, size, type_name, name, faults))
    return Table("gpt", tuple(partitions), tuple(dict.fromkeys(faults)))


def _crc(peek: Peek, offset: int, count: int, field: int) -> int:
    """The CRC-32 of a structure, its own field taken as zeros."""
    data = bytearray(peek.exact(offset, count))
    data[field : field + 4] = bytes(4)
    return zlib.crc32(data)


def _partition(
    peek: Peek, number: int, offset: int, size: int, type_name: str, name: str, faults: list[str]
) -> Partition:
    holds = None
    if size <= 0 or offset + size > peek.size:
        faults.append(f"partition {number} lies outside of the disk")
    else:
        holds = content_of(peek.part(offset, size))
    return Partition(number, offset, max(0, size), type_name, name, holds)
