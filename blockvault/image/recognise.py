"""What a file or device is, from its bytes and never from its name: which format, how large a disk, what is on it.

    found = recognise("/var/lib/libvirt/images/web01.qcow2")
    found.format, found.size, found.table, found.needs

A raw disk has no mark of its own: what is none of the known formats is raw, and `table`, `holds` and `not_a_disk` say
how sure that is. What bears a format's mark is never taken for raw, however damaged it is. Read are some MiB at most,
whatever the bytes say (`peek.py`). A disk within a qcow2 image is looked at through its tables; that of other formats
is not.
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.errors import DeviceError
from blockvault.image.file_systems import Content, content_of
from blockvault.image.partitions import Table, table_of
from blockvault.image.peek import NotThereError, Peek, text_of
from blockvault.image.qcow2 import Qcow2Disk
from blockvault.image.source import ImageSource, next_data
from blockvault.units import CHUNK_BYTES_DEFAULT, KIB

if TYPE_CHECKING:
    from collections.abc import Callable

_SECTOR = 512
_NAME_BYTES_MAX = 4096
_CUT_OFF = "it is cut off, or its head leads beyond its end"


class ImageFormat(StrEnum):
    """How a file holds a disk."""

    RAW = "raw"
    ISO = "iso"
    QCOW = "qcow"
    QCOW2 = "qcow2"
    QED = "qed"
    VMDK = "vmdk"
    VHD = "vhd"
    VHDX = "vhdx"
    VDI = "vdi"
    PARALLELS = "parallels"


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was found of a file or device.

    Args:
        format: how it holds the disk.
        size: bytes of the disk; of a format that cannot be read so far, 0.
        file_bytes: bytes of the file or device.
        data_bytes: what it takes up where it lies.
        is_device: it is a block device.
        detail: of the format: its version or kind.
        table: the partition table.
        holds: what a disk without one holds as a whole.
        needs: other files without which this one is no whole disk, as it names them.
        encrypted: the image, or all of what it holds, is encrypted.
        blank: it is a raw disk without any data.
        not_a_disk: what it is instead of a disk, as far as its bytes tell: "compressed by gzip". Empty: it may be one.
        faults: where it contradicts itself: cut off, damaged.
    """

    format: ImageFormat
    size: int
    file_bytes: int = 0
    data_bytes: int = 0
    is_device: bool = False
    detail: str = ""
    table: Table | None = None
    holds: Content | None = None
    needs: tuple[str, ...] = ()
    encrypted: bool = False
    blank: bool = False
    not_a_disk: str = ""
    faults: tuple[str, ...] = ()

    @property
    def is_raw(self) -> bool:
        """Whether the file's bytes are the disk's."""
        return self.format in (ImageFormat.RAW, ImageFormat.ISO)

    @property
    def certain(self) -> bool:
        """Whether the bytes show that it is a disk: a format's mark, a partition table, a file system."""
        return not self.is_raw or self.is_device or self.table is not None or self.holds is not None

    @property
    def contents(self) -> str:
        """What is on it, in a few words: `gpt: vfat, ext4 'root'`."""
        if self.not_a_disk:
            return f"no disk: {self.not_a_disk}"
        if self.table is not None:
            parts = [str(each.holds or each.type) for each in self.table.partitions]
            return f"{self.table.kind}: {', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''}".rstrip(": ")
        if self.holds is not None:
            return str(self.holds)
        if self.blank:
            return "blank"
        looked = self.is_raw or (self.format is ImageFormat.QCOW2 and not (self.needs or self.encrypted or self.faults))
        return "nothing known" if looked else "not looked into"


def recognise(path: str) -> Recognised:
    """What the file or device at `path` is.

    Raises:
        DeviceError: it is not there, no file or device, or cannot be read (`image.*`).
    """
    with ImageSource.open(path, CHUNK_BYTES_DEFAULT) as source:
        try:
            found = recognise_bytes(Peek.of_file(source.fd, source.size))
            blank = source.size > 0 and _has_no_data(source)
        except OSError as error:
            raise DeviceError(
                "image.unreadable",
                f"the disk image {path} cannot be read",
                why=error.strerror,
                do="check the disk that it lies on",
                errno=error.errno,
                filename=path,
            ) from None
        return replace(
            found,
            file_bytes=source.size,
            data_bytes=source.data_bytes(),
            is_device=source.is_device,
            blank=found.blank or (found.is_raw and blank),
        )


def _has_no_data(source: ImageSource) -> bool:
    return not source.is_device and next_data(source.fd, 0, source.size) is None


def recognise_bytes(peek: Peek) -> Recognised:
    """The same of bytes: `file_bytes`, `data_bytes` and `is_device` are left as they are."""
    for image_format, look in _FORMATS.items():
        try:
            found = look(peek)
        except NotThereError:
            found = Recognised(image_format, 0, faults=(_CUT_OFF,))
        if found is not None:
            return found
    return _raw(peek)


def _raw(peek: Peek) -> Recognised:
    table, holds = _look_at_disk(peek)
    is_iso = holds is not None and holds.kind == "iso9660"
    not_a_disk = "" if table or holds else _other(peek)
    return Recognised(
        ImageFormat.ISO if is_iso else ImageFormat.RAW,
        peek.size,
        table=table,
        holds=holds,
        encrypted=holds is not None and holds.encrypted,
        not_a_disk=not_a_disk,
        faults=table.faults if table else (),
    )


def _look_at_disk(peek: Peek) -> tuple[Table | None, Content | None]:
    """The partition table and what the disk holds as a whole. A boot sector of a file system is no table."""
    holds = content_of(peek)
    if holds is not None and holds.kind in ("vfat", "ntfs", "exfat", "BitLocker", "refs"):
        return None, holds
    table = table_of(peek)
    if table is not None and (holds is None or holds.kind != "iso9660"):
        holds = None  # a table that is in force is younger than what else left its magic there
    return table, holds


# --- formats


def _qcow(peek: Peek) -> Recognised | None:
    if not peek.has(b"QFI\xfb", 0):
        return None
    version = peek.number(">I", 4)
    if version == 1:
        name_at, name_bytes, size = peek.fields(">QI4xQ", 8)
        crypt = peek.number(">I", 36)
        needs = _named(peek, name_at, name_bytes)
        return Recognised(ImageFormat.QCOW, size, detail="version 1", needs=needs, encrypted=crypt != 0)
    name_at, name_bytes, cluster_bits, size, crypt, l1_count, l1_at = peek.fields(">QIIQIIQ", 8)
    snapshots = peek.number(">I", 60)
    features = peek.number(">Q", 72) if version >= 3 else 0
    needs = _named(peek, name_at, name_bytes)
    if features & 4:
        needs += (_extension(peek, 0x44415441) or "an external data file",)
    faults: tuple[str, ...] = ("the image is marked as damaged",) if features & 2 else ()
    detail = f"version {version}" + (f", {snapshots} internal snapshots" if snapshots else "")
    found = Recognised(ImageFormat.QCOW2, size, detail=detail, needs=needs, encrypted=crypt != 0, faults=faults)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        return replace(found, faults=(*faults, "its head cannot be: unknown version or cluster size"))
    if l1_at + 8 * l1_count > peek.size:
        return replace(found, faults=(*faults, _CUT_OFF))
    if needs or crypt or features & 0x18:  # what is on it stands elsewhere, or is packed in another way
        return found
    disk = Qcow2Disk(peek, cluster_bits=cluster_bits, l1_count=l1_count, l1_at=l1_at)
    table, holds = _look_at_disk(Peek(disk.read, size))
    return replace(found, table=table, holds=holds, faults=faults + (table.faults if table else ()))


def _named(peek: Peek, offset: int, count: int) -> tuple[str, ...]:
    if not offset or not count:
        return ()
    return (os.fsdecode(peek.exact(offset, min(count, _NAME_BYTES_MAX))),)


def _extension(peek: Peek, wanted: int) -> str:
    """The bytes of a header extension of qcow2, as text."""
    at = peek.number(">I", 100)
    for _ in range(64):
        kind, count = peek.fields(">II", at)
        if kind == 0:
            break
        if kind == wanted:
            return os.fsdecode(peek.exact(at + 8, min(count, _NAME_BYTES_MAX)))
        at += 8 + (count + 7) // 8 * 8
    return ""


def _vhdx(peek: Peek) -> Recognised | None:
    if not peek.has(b"vhdxfile", 0):
        return None
    metadata = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
    size_item = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
    parameters = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
    unreadable = Recognised(ImageFormat.VHDX, 0, faults=("its tables cannot be read",))
    try:
        for copy_at in (192 * KIB, 256 * KIB):
            if not peek.has(b"regi", copy_at):
                continue
            for index in range(min(peek.number("<I", copy_at + 8), 2047)):
                entry = copy_at + 16 + 32 * index
                if uuid.UUID(bytes_le=peek.exact(entry, 16)) != metadata:
                    continue
                at = peek.number("<Q", entry + 16)
                items = {
                    uuid.UUID(bytes_le=peek.exact(at + 32 + 32 * i, 16)): at + peek.number("<I", at + 48 + 32 * i)
                    for i in range(min(peek.number("<H", at + 10), 2047))
                }
                if not peek.has(b"metadata", at) or size_item not in items or parameters not in items:
                    return unreadable
                flags = peek.number("<I", items[parameters] + 4)
                needs = ("a parent image",) if flags & 2 else ()
                detail = "differencing" if flags & 2 else "fixed" if flags & 1 else "dynamic"
                return Recognised(ImageFormat.VHDX, peek.number("<Q", items[size_item]), detail=detail, needs=needs)
    except NotThereError:
        pass
    return unreadable


def _vmdk(peek: Peek) -> Recognised | None:
    if peek.has(b"KDMV", 0):
        capacity = peek.number("<Q", 12)
        text_at, text_sectors = peek.fields("<QQ", 28)
        text = peek.some(text_at * _SECTOR, min(text_sectors * _SECTOR, 64 * KIB)) if text_at else b""
        kind, needs, _ = _descriptor(text)
        return Recognised(ImageFormat.VMDK, capacity * _SECTOR, detail=kind, needs=needs)
    if peek.has(b"COWD", 0):
        return Recognised(ImageFormat.VMDK, peek.number("<I", 12) * _SECTOR, detail="ESX sparse")
    text = peek.some(0, 64 * KIB)
    if text[:21].lower() == b"# disk descriptorfile":
        kind, needs, sectors = _descriptor(text, alone=True)
        return Recognised(ImageFormat.VMDK, sectors * _SECTOR, detail=kind, needs=needs)
    return None


_EXTENT = re.compile(r'^(?:RW|RDONLY|NOACCESS) ([0-9]{1,19}) [A-Z0-9]{1,20}(?: "([^"\n]{1,1000})")?', re.MULTILINE)


def _descriptor(data: bytes, *, alone: bool = False) -> tuple[str, tuple[str, ...], int]:
    """Kind, files that are needed, and sectors, of a VMDK's descriptor; `alone`: it is a file of its own."""
    text = data.decode("utf-8", "replace")
    kind = re.search(r'^createType\s*=\s*"([A-Za-z0-9]{1,40})"', text, re.MULTILINE)
    needs: list[str] = []
    parent = re.search(r"^parentCID\s*=\s*([0-9a-fA-F]{1,8})\s*$", text, re.MULTILINE)
    if parent and int(parent[1], 16) != 0xFFFFFFFF:
        hint = re.search(r'^parentFileNameHint\s*=\s*"([^"\n]{1,1000})"', text, re.MULTILINE)
        needs.append(hint[1] if hint else "a parent image")
    extents = _EXTENT.findall(text)
    if alone or len(extents) > 1:
        needs += [name for _, name in extents if name]
    return kind[1] if kind else "", tuple(needs), sum(int(count) for count, _ in extents)


def _vdi(peek: Peek) -> Recognised | None:
    if not peek.has(b"\x7f\x10\xda\xbe", 0x40):
        return None
    kind, size = peek.number("<I", 0x4C), peek.number("<Q", 0x170)
    detail = {1: "dynamic", 2: "fixed", 3: "undo", 4: "differencing"}.get(kind, f"kind {kind}")
    return Recognised(ImageFormat.VDI, size, detail=detail, needs=("a parent image",) if kind in (3, 4) else ())


def _vhd(peek: Peek) -> Recognised | None:
    at = 0 if peek.has(b"conectix", 0) else peek.size - _SECTOR
    if at < 0 or not peek.has(b"conectix", at):
        return None
    data_at, size, kind = peek.number(">Q", at + 16), peek.number(">Q", at + 48), peek.number(">I", at + 60)
    footer = bytearray(peek.exact(at, _SECTOR))
    told = int.from_bytes(footer[64:68], "big")
    footer[64:68] = bytes(4)
    fits = ~sum(footer) & 0xFFFFFFFF == told
    if not fits and at:
        return None  # bytes at the end of a raw disk that happen to look like one
    needs: tuple[str, ...] = ()
    if kind == 4:
        name = text_of(peek.some(data_at + 64, 512), "utf-16-be") if peek.has(b"cxsparse", data_at) else ""
        needs = (name or "a parent image",)
    detail = {2: "fixed", 3: "dynamic", 4: "differencing"}.get(kind, f"kind {kind}")
    faults = () if fits else ("its head is damaged",)
    found = Recognised(ImageFormat.VHD, size, detail=detail, needs=needs, faults=faults)
    if kind == 2:
        table, holds = _look_at_disk(peek.part(0, at or peek.size))
        return replace(found, table=table, holds=holds, faults=faults + (table.faults if table else ()))
    return found


def _qed(peek: Peek) -> Recognised | None:
    if not peek.has(b"QED\0", 0):
        return None
    features, size = peek.number("<Q", 16), peek.number("<Q", 48)
    name_at, name_bytes = peek.fields("<II", 56)
    needs = _named(peek, name_at, name_bytes) if features & 1 else ()
    return Recognised(ImageFormat.QED, size, needs=needs)


def _parallels(peek: Peek) -> Recognised | None:
    if peek.has(b"WithoutFreeSpace", 0) or peek.has(b"WithouFreSpacExt", 0):
        return Recognised(ImageFormat.PARALLELS, peek.number("<Q", 36) * _SECTOR)
    return None


_FORMATS: dict[ImageFormat, Callable[[Peek], Recognised | None]] = {
    ImageFormat.QCOW2: _qcow,
    ImageFormat.VHDX: _vhdx,
    ImageFormat.VMDK: _vmdk,
    ImageFormat.VDI: _vdi,
    ImageFormat.VHD: _vhd,
    ImageFormat.QED: _qed,
    ImageFormat.PARALLELS: _parallels,
}
_OTHERS = (
    (b"\x1f\x8b\x08", 0, "compressed by gzip"),
    (b"\xfd7zXZ\0", 0, "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", 0, "compressed by zstd"),
    (b"BZh", 0, "compressed by bzip2"),
    (b"\x04\x22\x4d\x18", 0, "compressed by lz4"),
    (b"7z\xbc\xaf\x27\x1c", 0, "packed by 7-Zip"),
    (b"PK\x03\x04", 0, "packed by zip"),
    (b"ustar", 257, "packed by tar (an OVA is such a file)"),
    (b"\x7fELF", 0, "a program"),
    (b"%PDF-", 0, "a PDF"),
    (b"SQLite format 3\0", 0, "an SQLite database"),
    (b"BVLT", 0, "a file of a vault"),
)


def _other(peek: Peek) -> str:
    """What else the bytes are, if that is plain."""
    for magic, offset, name in _OTHERS:
        if peek.has(magic, offset):
            return name
    start = peek.some(0, 4096)
    if not start:
        return "an empty file"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start) - 3:
            return ""
        text = start[: error.start].decode("utf-8")
    return "" if any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text) else "text"
