"""A restored disk appears whole or not at all, and never in the place of something unasked."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blockvault import failpoints
from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    DeviceError,
    InvalidInputError,
)
from blockvault.image import target as target_module
from blockvault.image.target import open_target

MIB = 1 << 20


def kind_of(call: Callable[[], object], expected: type[BlockVaultError]) -> str:
    with pytest.raises(expected) as caught:
        call()
    return caught.value.kind


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of building a file: with O_TMPFILE, and where the file system does not have it."""
    if request.param == "named":
        real = os.open

        def without_tmpfile(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return real(path, flags, mode)

        monkeypatch.setattr(target_module.os, "open", without_tmpfile)
    return str(request.param)


def test_a_new_file_appears_at_commit_and_not_before(tmp_path: Path, way: str) -> None:
    path = tmp_path / "disk.img"
    with open_target(str(path), 3 * MIB + 1, force=False) as target:
        assert target.fresh
        os.pwrite(target.fd, b"bytes", MIB)
        assert not path.exists()
        assert len(os.listdir(tmp_path)) == (0 if way == "unnamed" else 1)
        target.commit()
    assert os.listdir(tmp_path) == ["disk.img"]
    data = path.read_bytes()
    assert len(data) == 3 * MIB + 1
    assert data[MIB : MIB + 5] == b"bytes"
    assert path.stat().st_mode & 0o777 == 0o600


def test_abort_leaves_nothing(tmp_path: Path, way: str) -> None:
    target = open_target(str(tmp_path / "disk.img"), MIB, force=False)
    target.abort()
    target.abort()
    with open_target(str(tmp_path / "disk.img"), MIB, force=True):
        pass
    assert os.listdir(tmp_path) == []


def test_what_exists_is_never_overwritten_unasked(tmp_path: Path, way: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"precious")
    assert kind_of(lambda: open_target(str(path), 1, force=False), AlreadyExistsError) == "target.exists"
    path.unlink()
    target = open_target(str(path), 1, force=False)
    path.write_bytes(b"came meanwhile")
    assert kind_of(target.commit, AlreadyExistsError) == "target.exists"
    assert path.read_bytes() == b"came meanwhile"
    assert os.listdir(tmp_path) == ["disk.img"]


def test_force_replaces_in_one_step(tmp_path: Path, way: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"old")
    link = tmp_path / "link.img"
    link.symlink_to(path)
    with open_target(str(link), 4, force=True) as target:
        os.pwrite(target.fd, b"new!", 0)
        assert path.read_bytes() == b"old"
        target.commit()
    assert path.read_bytes() == b"new!"
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "link.img"]


@pytest.mark.parametrize("step", ["target.sync", "target.link", "target.linked"])
def test_a_disk_that_fails_at_commit_leaves_no_half(tmp_path: Path, way: str, step: str) -> None:
    path = tmp_path / "disk.img"

    def fail(name: str) -> None:
        if name == step:
            raise OSError(errno.ENOSPC, "No space left on device")

    before = failpoints.set_hook(fail)
    try:
        target = open_target(str(path), 4, force=False)
        assert kind_of(target.commit, DeviceError) == "target.no-space"
    finally:
        failpoints.set_hook(before)
    assert os.listdir(tmp_path) == (["disk.img"] if step == "target.linked" else [])


def test_bad_places(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cases = {
        str(tmp_path): "target.is-folder",
        str(tmp_path / "a" / "b"): "target.no-folder",
        str(fifo): "target.not-a-disk",
    }
    for path, kind in cases.items():
        assert kind_of(lambda path=path: open_target(path, 1, force=True), InvalidInputError) == kind
    assert kind_of(lambda: open_target("/proc/disk.img", 1, force=False), DeviceError) == "target.cannot-create"


def test_a_size_that_the_file_system_cannot_hold(tmp_path: Path) -> None:
    assert kind_of(lambda: open_target(str(tmp_path / "x"), 1 << 62, force=False), DeviceError) == "target.too-large"
    assert os.listdir(tmp_path) == []


def test_room_is_asked_for_before_a_byte_is_written(tmp_path: Path) -> None:
    with open_target(str(tmp_path / "disk.img"), 1 << 40, force=False) as target:
        target.reserve(MIB)
        with pytest.raises(DeviceError) as caught:
            target.reserve(1 << 50)
    assert caught.value.kind == "target.no-space"
    assert "1.00 PiB" in str(caught.value.why)


@pytest.mark.root
def test_a_device_needs_force_and_room(loop_device: Callable[[int], Path], tmp_path: Path) -> None:
    device = str(loop_device(4 * MIB))
    assert kind_of(lambda: open_target(device, MIB, force=False), InvalidInputError) == "target.device-needs-force"
    assert kind_of(lambda: open_target(device, 4 * MIB + 1, force=True), InvalidInputError) == "target.too-small"
    with open_target(device, 4 * MIB, force=True) as target:
        assert not target.fresh
        target.reserve(1 << 60)  # its room is its size
        os.pwrite(target.fd, b"new", 0)
        assert kind_of(lambda: open_target(device, MIB, force=True), ConflictError) == "target.in-use"
        target.commit()
    with open(device, "rb") as file:
        assert file.read(3) == b"new"
