"""Snapshots by clone, on real xfs and btrfs: at once, of one moment, restored without copying."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.snapshot_world import CHUNK, DAY, NOW, Guest, World, assert_same

from blockvault import failpoints
from blockvault.errors import CorruptionError, DeviceError
from blockvault.image.system import FLAG_NOCOW, inode_flags, set_inode_flags, unshared_bytes
from blockvault.model import Consistency, SnapshotKind
from blockvault.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path: Path, reflink_path: Path) -> World:
    return World(tmp_path, images=reflink_path)


@pytest.fixture(autouse=True)
def _no_hook_left() -> Iterator[None]:
    yield
    failpoints.set_hook(None)


def clone_of(world: World, number: int, disk: str = "vda") -> Path:
    (path,) = (world.images / ".blockvault").rglob(f"{number}/{disk}.img")
    return path


@pytest.mark.parametrize("size", [0, 1, 4095, CHUNK, 200 * CHUNK + 7])
def test_a_clone_beside_the_image(world: World, size: int) -> None:
    guest = Guest(world.image(), size, 1)
    guest.fill(10)
    capture = world.capture()
    assert capture.record.kind is SnapshotKind.REFLINK
    assert capture.record.folder == str(world.images / ".blockvault")
    assert capture.read_bytes == 0
    guest.fill(10)
    guest.punch(0, max(1, size // 2))
    world.capture()
    os.truncate(world.image(), 2 * size + 100)
    world.capture()
    world.check_all()
    assert clone_of(world, 1).stat().st_mode & 0o777 == 0o400


def test_a_clone_costs_only_what_is_overwritten_later(world: World) -> None:
    guest = Guest(world.image(), 2000 * CHUNK, 2)
    for start in range(0, 2000, 100):  # each its own extent: btrfs counts whole ones
        guest.write(start * CHUNK, guest.random(100 * CHUNK))
        with world.image().open("rb") as file:
            os.fsync(file.fileno())
    world.capture()
    assert world.tier.bytes_used(world.record(1)) < 64 * 1024
    guest.write(100 * CHUNK, guest.random(300 * CHUNK))
    with world.image().open("rb") as file:
        os.fsync(file.fileno())
    assert world.tier.bytes_used(world.record(1)) >= 300 * CHUNK


def test_a_restore_beside_it_shares_the_bytes_and_changes_nothing(world: World) -> None:
    guest = Guest(world.image(), 500 * CHUNK + 9, 3)
    guest.write(0, guest.random(500 * CHUNK))
    world.capture()
    target = world.images / "restored.img"
    with target.open("w+b") as file:
        file.truncate(guest.size)
        world.tier.restore_disk(world.record(1), "vda", file.fileno(), monitor=Monitor())
        os.fsync(file.fileno())
        assert unshared_bytes(file.fileno()) < 64 * 1024
    assert_same(target, world.copy())
    with target.open("r+b") as file:
        file.write(b"booted")
    world.check(1)


def test_a_clone_is_of_one_moment_while_the_image_is_written(world: World) -> None:
    """Each round the guest writes its counter to the first page, then to the last: a clone has last >= first - 1."""
    guest = Guest(world.image(), 100 * CHUNK, 4)
    guest.write(0, bytes(100 * CHUNK))
    stop = threading.Event()

    def write() -> None:
        counter = 0
        with world.image().open("r+b", buffering=0) as file:
            while not stop.is_set():
                counter += 1
                os.pwrite(file.fileno(), counter.to_bytes(8, "little"), 0)
                os.pwrite(file.fileno(), counter.to_bytes(8, "little"), 99 * CHUNK)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            record = world.capture(keep_copy=False).record
            assert record.consistency is Consistency.CRASH
            data = clone_of(world, record.number).read_bytes()
            first = int.from_bytes(data[:8], "little")
            last = int.from_bytes(data[99 * CHUNK : 99 * CHUNK + 8], "little")
            assert first in (last, last + 1)
    finally:
        stop.set()
        thread.join()


def test_a_clone_reached_more_than_was_asked(world: World) -> None:
    Guest(world.image(), 10 * CHUNK, 4).fill(3)
    assert world.capture(consistency=Consistency.NONE).record.consistency is Consistency.CRASH


def test_several_disks(tmp_path: Path, reflink_path: Path) -> None:
    world = World(tmp_path, images=reflink_path, disks=3)
    for index, disk in enumerate(world.item.disks):
        Guest(world.image(disk.name), (index + 2) * CHUNK + index, index).fill(4)
    world.capture()
    world.check_all()
    assert len({Path(disk.file).parent for disk in world.record(1).disks}) == 1


def test_disks_on_different_file_systems_lie_each_beside_its_own(
    tmp_path: Path, mounted: Callable[[str, int], Path]
) -> None:
    folders = [mounted("xfs", 320 << 20), mounted("btrfs", 128 << 20)]
    images = tmp_path / "images"
    images.mkdir()
    world = World(tmp_path, images=images, disks=2)
    for folder, disk in zip(folders, world.item.disks, strict=True):
        (images / f"{disk.name}.img").symlink_to(folder / f"{disk.name}.img")
        Guest(world.image(disk.name), 30 * CHUNK, 1).fill(9)
    world.capture()
    world.check_all()
    for folder, disk in zip(folders, world.record(1).disks, strict=True):
        assert disk.file.startswith(str(folder / ".blockvault"))
    world.tier.remove(world.record(1))
    assert not [path for folder in folders for path in (folder / ".blockvault").rglob("*")]


def test_removal_and_expiry_leave_no_file(world: World) -> None:
    guest = Guest(world.image(), 30 * CHUNK, 5)
    for _ in range(4):
        guest.fill(3)
        world.capture(days=2)
    world.tier.remove(world.record(2))
    assert world.numbers() == [1, 3, 4]
    gone = world.tier.expire(NOW + 5 * DAY, keep_numbers={1})
    assert gone == [3]
    assert world.numbers() == [1, 4]
    world.check_all()
    assert world.tier.expire(NOW + 50 * DAY, keep_numbers=set()) == [1, 4]
    assert world.files() == []
    assert not list((world.images / ".blockvault").iterdir())


def test_a_touched_or_lost_clone_is_damage(world: World) -> None:
    Guest(world.image(), 30 * CHUNK, 6).fill(9)
    for _ in range(3):
        world.capture()
    path = clone_of(world, 1)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"x")
    clone_of(world, 2).unlink()
    for number in (1, 2):
        with pytest.raises(CorruptionError) as caught:
            world.open(number)
        assert caught.value.kind == "snapshot.damaged"
    world.check(3)


def test_an_image_replaced_under_the_clone(world: World) -> None:
    Guest(world.image(), 30 * CHUNK, 6).fill(9)
    other = world.images / "other.img"
    other.write_bytes(b"other")

    def replace(step: str) -> None:
        if step == "snapshot.reflink.begun":
            other.rename(world.image())

    failpoints.set_hook(replace)
    with pytest.raises(DeviceError) as caught:
        world.capture()
    assert caught.value.kind == "image.changed"
    assert world.files() == []


@pytest.mark.parametrize("step", ["begun", "cloned", "synced"])
def test_a_full_disk_leaves_nothing(world: World, step: str) -> None:
    Guest(world.image(), 30 * CHUNK, 6).fill(9)
    world.capture()
    files = world.files()

    def full(name: str) -> None:
        if name == f"snapshot.reflink.{step}":
            raise OSError(28, "No space left on device")

    failpoints.set_hook(full)
    with pytest.raises(DeviceError) as caught:
        world.capture()
    assert caught.value.kind == "snapshot.no-space"
    failpoints.set_hook(None)
    assert world.files() == files
    world.capture()
    world.check(1)
    world.check(3)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from helpers.snapshot_world import World
world = World(Path(sys.argv[1]), images=Path(sys.argv[2]))
world.number = 1
world.capture(keep_copy=False)
"""


@pytest.mark.parametrize(
    "step",
    ["snapshot.record.making", "snapshot.reflink.begun", "snapshot.reflink.cloned", "snapshot.reflink.synced",
     "snapshot.record.kept"],
)  # fmt: skip
def test_a_kill_at_any_step(world: World, step: str) -> None:
    guest = Guest(world.image(), 30 * CHUNK, 6)
    guest.fill(9)
    world.capture()
    guest.fill(3)
    environment = {**os.environ, "BLOCKVAULT_FAILPOINT": step + (":kill:1" if "kept" not in step else "")}
    command = [sys.executable, "-c", CHILD, str(world.root), str(world.images), str(Path(__file__).parents[1])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert world.numbers() == [1]
    world.check(1)
    world.number = 2
    world.capture()
    assert world.numbers() == [1, 3]
    world.check_all()
    assert not list((world.images / ".blockvault").rglob("2"))
    for number in world.numbers():
        world.tier.remove(world.record(number))
    assert world.files() == []


def test_a_folder_left_by_a_host_that_lost_its_records_is_not_touched(world: World) -> None:
    guest = Guest(world.image(), 30 * CHUNK, 7)
    guest.fill(9)
    world.capture()
    left = clone_of(world, 1)
    bytes_left = left.read_bytes()
    next((world.host / "snapshots").rglob("1.json")).unlink()
    guest.fill(3)
    world.number = 0
    world.capture()
    world.check(1)
    assert left.read_bytes() == bytes_left
    assert world.record(1).disks[0].file != str(left)


def test_a_target_that_is_full_is_told(world: World, mounted: Callable[[str, int], Path]) -> None:
    guest = Guest(world.image(), 1500 * CHUNK, 8)
    guest.write(0, guest.random(1500 * CHUNK))
    world.capture()
    small = mounted("ext4", 16 << 20)
    with (small / "t.img").open("w+b") as file:
        file.truncate(guest.size)
        with pytest.raises(DeviceError) as caught:
            world.tier.restore_disk(world.record(1), "vda", file.fileno(), monitor=Monitor())
    assert caught.value.kind == "target.no-space"


def test_a_nocow_image_on_btrfs(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    images = mounted("btrfs", 128 << 20) / "images"
    images.mkdir()
    with (images / "vda.img").open("wb") as file:
        set_inode_flags(file.fileno(), inode_flags(file.fileno()) | FLAG_NOCOW)
    world = World(tmp_path, images=images)
    with world.image().open("r+b") as file:
        file.truncate(50 * CHUNK)
        file.write(os.urandom(9 * CHUNK))
    record = world.capture().record
    assert record.kind is SnapshotKind.REFLINK
    with clone_of(world, 1).open("rb") as file:
        assert inode_flags(file.fileno()) & FLAG_NOCOW
    world.check(1)
    target = images / "restored.img"
    with target.open("w+b") as file:
        file.truncate(50 * CHUNK)
        world.tier.restore_disk(record, "vda", file.fileno(), monitor=Monitor())
        os.fsync(file.fileno())
        assert unshared_bytes(file.fileno()) < 64 * 1024
    assert_same(target, world.copy())
