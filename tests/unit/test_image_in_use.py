"""Who is writing to an image is found out, and an image that nobody writes to is never refused."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockvault.errors import DeviceError
from blockvault.image.source import ImageSource

CHUNK = 65_536
QEMU_READ, QEMU_WRITE = 100, 101
FLOCK = struct.Struct("hhqqi4x")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Path, ImageSource]]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 * CHUNK))
    with ImageSource.open(str(path), CHUNK) as source:
        yield path, source


def ofd_lock(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def why_refused(source: ImageSource) -> str | None:
    try:
        source.check_no_writer()
    except DeviceError as error:
        kind, why = error.kind, error.why
    else:
        return None
    assert kind == "image.in-use"
    return why


def test_nobody(image: tuple[Path, ImageSource]) -> None:
    path, source = image
    with path.open("rb"):
        assert why_refused(source) is None


def test_qemu_holding_its_write_permission(image: tuple[Path, ImageSource]) -> None:
    path, source = image
    with path.open("rb") as file:  # QEMU takes its permission bytes as shared locks
        ofd_lock(file.fileno(), fcntl.F_RDLCK, QEMU_WRITE, 1)
        assert "QEMU" in str(why_refused(source))
    assert why_refused(source) is None


def test_qemu_only_reading(image: tuple[Path, ImageSource]) -> None:
    path, source = image
    with path.open("rb") as file:
        ofd_lock(file.fileno(), fcntl.F_RDLCK, QEMU_READ, 1)
        ofd_lock(file.fileno(), fcntl.F_RDLCK, 200 + 3, 1)
        assert why_refused(source) is None


def test_an_exclusive_lock_of_any_kind(image: tuple[Path, ImageSource]) -> None:
    path, source = image
    with path.open("r+b") as file:
        ofd_lock(file.fileno(), fcntl.F_WRLCK, 0, 1)  # as virtlockd does
        assert "exclusive lock" in str(why_refused(source))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert why_refused(source) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "exclusive lock" in str(why_refused(source))
    assert why_refused(source) is None


@pytest.mark.root
def test_a_mounted_device(loop_device: Callable[[int], Path], tmp_path: Path) -> None:
    device = loop_device(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(device)], check=True)
    folder = tmp_path / "a mount"
    folder.mkdir()
    with ImageSource.open(str(device), CHUNK) as source:
        assert why_refused(source) is None
        subprocess.run(["mount", str(device), str(folder)], check=True)
        try:
            assert why_refused(source) == f"it is mounted at {folder}"
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            assert why_refused(source) is None
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        assert why_refused(source) is None


@pytest.mark.root
def test_an_image_mounted_through_a_loop_device(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("ext4", 16 << 20)
    with ImageSource.open(str(folder.parent / "ext4.fs"), CHUNK) as source:
        why = str(why_refused(source))
    assert why.startswith("the loop device /dev/loop")
    assert why.endswith(f"it is mounted at {folder}")
