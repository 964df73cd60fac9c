"""What a file is, told from its bytes: on real images of many tools, on damaged ones, and on any bytes at all."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.disks import FILE_SYSTEMS, GPT, MBR, MIB, convert, formatted, partitioned, run, sparse, with_file_system
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvault.errors import DeviceError
from blockvault.image.file_systems import Content
from blockvault.image.peek import NotThereError, Peek
from blockvault.image.recognise import ImageFormat, Recognised, recognise, recognise_bytes

SAMPLES = Path("/usr/share/forensics-samples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disks")


@pytest.fixture(scope="module")
def gpt(folder: Path) -> Path:
    return with_file_system(folder / "gpt.img")


def look(path: Path) -> Recognised:
    return recognise(str(path))


def test_a_gpt_with_what_its_partitions_hold(gpt: Path) -> None:
    found = look(gpt)
    assert (found.format, found.size, found.file_bytes) == (ImageFormat.RAW, 64 * MIB, 64 * MIB)
    assert found.certain
    assert found.table is not None
    assert found.table.kind == "gpt"
    assert found.faults == ()
    rows = [(each.number, each.offset, each.size, each.type, each.name) for each in found.table.partitions]
    assert rows == [
        (1, 1 * MIB, 1 * MIB, "BIOS boot", ""),
        (2, 2 * MIB, 33 * MIB, "EFI system", "esp"),
        (3, 35 * MIB, 28 * MIB, "Linux", "root data"),
    ]
    assert [each.holds for each in found.table.partitions] == [None, Content("vfat", "ESP"), None]
    assert found.contents == "gpt: BIOS boot, vfat 'ESP', Linux"


def test_an_mbr_with_logical_partitions(folder: Path) -> None:
    found = look(partitioned(folder / "mbr.img", MBR))
    assert found.table is not None
    assert found.table.kind == "mbr"
    rows = [(each.number, each.offset, each.size, each.type) for each in found.table.partitions]
    assert rows == [
        (1, 1 * MIB, 8 * MIB, "Linux"),
        (2, 9 * MIB, 8 * MIB, "Linux swap"),
        (5, 18 * MIB, 8 * MIB, "NTFS or exFAT"),
        (6, 27 * MIB, 8 * MIB, "Linux"),
    ]
    assert found.faults == ()


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_bare_file_system(folder: Path, kind: str) -> None:
    found = look(formatted(folder / f"{kind}.img", kind))
    assert found.holds is not None
    assert found.holds.kind == kind
    assert found.holds.label.lower() == ("label" if kind not in ("LUKS", "ntfs", "swap") else "")
    assert found.table is None
    assert found.encrypted == (kind == "LUKS")


def test_debians_disk_of_four_file_systems(folder: Path) -> None:
    packed = SAMPLES / "fs.multiple.xz"
    if not packed.exists():
        pytest.skip("Debian's sample fs.multiple is not installed")
    with lzma.open(packed) as source, (folder / "multiple").open("wb") as target:
        shutil.copyfileobj(source, target)
    found = look(folder / "multiple")
    assert found.table is not None
    assert [each.holds and each.holds.kind for each in found.table.partitions] == ["btrfs", "ext4", "exfat", "ntfs"]


def test_an_iso_is_told_from_a_disk(folder: Path) -> None:
    (folder / "tree").mkdir(exist_ok=True)
    (folder / "tree/file").write_text("x")
    run("xorriso", "-as", "mkisofs", "-V", "CD", "-o", folder / "cd.iso", folder / "tree")
    found = look(folder / "cd.iso")
    assert (found.format, found.holds, found.is_raw) == (ImageFormat.ISO, Content("iso9660", "CD"), True)


@pytest.mark.parametrize(
    ("image_format", "options", "expected", "detail"),
    [
        ("qcow2", (), ImageFormat.QCOW2, "version 3"),
        ("qcow2", ("-o", "compat=0.10,cluster_size=512"), ImageFormat.QCOW2, "version 2"),
        ("qcow2", ("-c",), ImageFormat.QCOW2, "version 3"),
        ("qcow", (), ImageFormat.QCOW, "version 1"),
        ("vmdk", (), ImageFormat.VMDK, "monolithicSparse"),
        ("vmdk", ("-o", "subformat=streamOptimized"), ImageFormat.VMDK, "streamOptimized"),
        ("vpc", ("-o", "force_size=on"), ImageFormat.VHD, "dynamic"),
        ("vpc", ("-o", "subformat=fixed,force_size=on"), ImageFormat.VHD, "fixed"),
        ("vhdx", (), ImageFormat.VHDX, "dynamic"),
        ("vhdx", ("-o", "subformat=fixed"), ImageFormat.VHDX, ""),
        ("vdi", (), ImageFormat.VDI, "dynamic"),
        ("qed", (), ImageFormat.QED, ""),
        ("parallels", (), ImageFormat.PARALLELS, ""),
    ],
)
def test_other_formats(
    folder: Path, gpt: Path, image_format: str, options: tuple[str, ...], expected: ImageFormat, detail: str
) -> None:
    name = folder / f"no-suffix-{image_format}-{len(str(options))}"
    found = look(convert(gpt, name, image_format, *options))
    assert (found.format, found.size, found.needs, found.faults) == (expected, 64 * MIB, (), ())
    assert not found.is_raw
    assert found.certain
    assert found.encrypted is False
    assert detail in found.detail
    if expected is ImageFormat.QCOW2 or found.detail == "fixed":
        inside = look(gpt).table
        assert expected is ImageFormat.VHDX or found.table == inside
    os.unlink(name)


def test_images_that_are_no_whole_disk_alone_name_what_they_need(folder: Path, gpt: Path) -> None:
    base = convert(gpt, folder / "base.qcow2", "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", folder / "over.qcow2")
    found = look(folder / "over.qcow2")
    assert (found.needs, found.contents, found.faults) == ((str(base),), "not looked into", ())
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={folder}/data.raw", folder / "ext.qcow2", "8M")
    assert look(folder / "ext.qcow2").needs == (f"{folder}/data.raw",)
    convert(gpt, folder / "flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    flat = look(folder / "flat.vmdk")
    assert (flat.format, flat.needs, flat.size) == (ImageFormat.VMDK, ("flat-flat.vmdk",), 64 * MIB)
    convert(gpt, folder / "base.vmdk", "vmdk")
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", folder / "base.vmdk", "-F", "vmdk", folder / "over.vmdk")
    assert look(folder / "over.vmdk").needs == (f"{folder}/base.vmdk",)


def test_an_encrypted_qcow2(folder: Path, gpt: Path) -> None:
    options = ("--object", "secret,id=key,data=not-a-secret", "-o", "encrypt.format=aes,encrypt.key-secret=key")
    found = look(convert(gpt, folder / "secret.qcow2", "qcow2", *options))
    assert (found.encrypted, found.contents) == (True, "not looked into")


def test_what_a_qcow2_says_of_itself(folder: Path, gpt: Path) -> None:
    image = convert(gpt, folder / "snap.qcow2", "qcow2")
    run("qemu-img", "snapshot", "-c", "before", image)
    assert "1 internal snapshots" in look(image).detail
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\x02")
    assert look(image).faults == ("the image is marked as damaged",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b"x" * 9999), "compressed by gzip"),
        (lzma.compress(b"x" * 9999), "compressed by xz"),
        (b"<domain>\n  <name>web</name>\n</domain>\n" * 300, "text"),
        ("Stück für Stück\n".encode() * 273, "text"),
        (b"", "an empty file"),
        (Path("/bin/sh").read_bytes(), "a program"),
    ],
    ids=["gzip", "xz", "xml", "utf-8", "empty", "elf"],
)
def test_what_is_no_disk(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    found = look(path)
    assert (found.not_a_disk, found.certain) == (told, False)
    assert found.contents == f"no disk: {told}"


def test_a_tar_is_no_disk(tmp_path: Path, gpt: Path) -> None:
    with tarfile.open(tmp_path / "appliance.ova", "w") as packed:
        packed.add(__file__, "test.py")
    assert "tar" in look(tmp_path / "appliance.ova").not_a_disk


def test_a_blank_disk_and_one_of_unknown_bytes_may_be_disks(tmp_path: Path) -> None:
    blank = look(sparse(tmp_path / "blank", MIB))
    assert (blank.contents, blank.blank, blank.not_a_disk, blank.certain) == ("blank", True, "", False)
    (tmp_path / "noise").write_bytes(os.urandom(65536))
    noise = look(tmp_path / "noise")
    assert (noise.contents, noise.blank, noise.not_a_disk) == ("nothing known", False, "")


def test_a_disk_that_was_cut_off_says_so(tmp_path: Path, gpt: Path) -> None:
    shutil.copyfile(gpt, tmp_path / "cut")
    os.truncate(tmp_path / "cut", 40 * MIB)
    assert look(tmp_path / "cut").faults == (
        "the disk is shorter than its GPT says: it was cut off",
        "partition 3 lies outside of the disk",
    )
    with (tmp_path / "cut").open("r+b") as file:
        file.seek(1024 + 60)
        file.write(b"X")
    assert "the GPT's entries are damaged: they do not fit their CRC" in look(tmp_path / "cut").faults


def test_an_image_that_was_cut_off_is_not_taken_for_a_raw_disk(tmp_path: Path, folder: Path, gpt: Path) -> None:
    for image_format in ("qcow2", "vhdx", "vdi", "vpc", "vmdk", "qed"):
        whole = convert(gpt, folder / "whole", image_format).read_bytes()
        for size in (8, 60, 100, 300, 513):
            if image_format == "vdi" and size < 100:
                continue  # its mark stands behind a text
            (tmp_path / "cut").write_bytes(whole[:size])
            found = look(tmp_path / "cut")
            assert found.format.value == {"vpc": "vhd"}.get(image_format, image_format)
            assert size > 60 or found.faults or image_format == "vmdk"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "missing", "image.not-found"), (tmp_path, "image.is-folder")):
        with pytest.raises(DeviceError) as raised:
            look(path)
        assert raised.value.kind == kind


@pytest.mark.root
def test_a_block_device(loop_device: Callable[[int], Path]) -> None:
    device = loop_device(64 * MIB)
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", device, given=GPT)
    found = look(device)
    assert (found.is_device, found.size, found.certain) == (True, 64 * MIB, True)
    assert found.table is not None
    assert len(found.table.partitions) == 3


def counting(data: bytes) -> tuple[Peek, list[int]]:
    reads: list[int] = []

    def read(offset: int, count: int) -> bytes:
        reads.append(count)
        return data[offset : offset + count]

    return Peek(read, len(data)), reads


MAGICS = [
    b"QFI\xfb\0\0\0\3",
    b"vhdxfile",
    b"KDMV",
    b"COWD",
    b"conectix",
    b"QED\0",
    b"# Disk DescriptorFile\n",
    b"EFI PART",
]


@settings(max_examples=150)
@given(st.sampled_from(MAGICS), st.integers(0, 2), st.binary(max_size=600), st.binary(max_size=2000))
def test_any_bytes_behind_a_mark_are_read_within_bounds(magic: bytes, where: int, head: bytes, rest: bytes) -> None:
    data = bytes(where * 512) + magic + head + bytes(600 - len(head)) + rest
    peek, reads = counting(data + b"\x55\xaa" * 512)
    found = recognise_bytes(peek)
    assert isinstance(found.contents, str)
    assert len(reads) <= 20_000
    assert sum(reads) <= 32 << 20


@pytest.fixture(scope="module")
def heads(folder: Path, gpt: Path) -> list[bytes]:
    """The first MiB of images of every format, and of a disk with logical partitions."""
    made = []
    for image_format in ("qcow2", "vhdx", "vdi", "vpc", "vmdk", "qed"):
        path = convert(gpt, folder / f"head.{image_format}", image_format)
        made.append(path.read_bytes()[:MIB])
    made += [gpt.read_bytes()[: 3 * MIB], partitioned(folder / "head.mbr", MBR).read_bytes()[: 30 * MIB]]
    return made


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_real_heads_with_flipped_bytes_never_lead_astray(heads: list[bytes], data: st.DataObject) -> None:
    head = bytearray(data.draw(st.sampled_from(heads), label="head")[:MIB])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, 2048), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=12), label="flips"
    ):
        head[at] = value
    peek, reads = counting(bytes(head[: data.draw(st.sampled_from([100, 600, 70_000, MIB]), label="size")]))
    assert isinstance(recognise_bytes(peek).contents, str)
    assert len(reads) <= 20_000


def test_a_chain_of_logical_partitions_that_bites_its_tail(heads: list[bytes]) -> None:
    disk = bytearray(heads[-1])
    extended = next(i for i in range(4) if disk[446 + 16 * i + 4] == 5)
    at = int.from_bytes(disk[446 + 16 * extended + 8 :][:4], "little") * 512
    following = at + int.from_bytes(disk[at + 446 + 16 + 8 :][:4], "little") * 512
    link = disk[at + 446 + 16 : at + 446 + 32]
    disk[following + 446 + 16 : following + 446 + 32] = link
    peek, reads = counting(bytes(disk))
    found = recognise_bytes(peek)
    assert any("no end" in fault for fault in found.faults)
    assert len(reads) < 500


def test_a_peek_gives_only_what_is_there() -> None:
    peek, _ = counting(b"0123456789")
    part = peek.part(4, 100)
    assert (part.size, part.some(2, 50), part.has(b"45", 0), part.some(6, 1)) == (6, b"6789", True, b"")
    for offset, count in ((5, 2), (-1, 1), (0, 1 << 21)):
        with pytest.raises(NotThereError):
            part.exact(offset, count)
