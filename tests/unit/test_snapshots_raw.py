"""Raw snapshots: whatever a guest does between captures, every snapshot keeps reading as its image did."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.snapshot_world import CHUNK, Guest, World

from blockvault.model import Consistency, SnapshotKind


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def chain_file(world: World, suffix: str) -> Path:
    return next(world.kept.rglob(f"*{suffix}"))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 5000])
def test_any_size(tmp_path: Path, size: int) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), size, seed=size)
    guest.fill(6)
    capture = world.capture()
    assert capture.record.kind is SnapshotKind.RAW
    assert capture.record.disks[0].size == size
    world.check(1)
    guest.fill(2)
    world.capture()
    world.check_all()


def test_a_guest_of_many_days(tmp_path: Path) -> None:
    for seed in range(6):
        world = World(tmp_path / str(seed))
        guest = Guest(world.image(), 60 * CHUNK + 777, seed)
        guest.fill(30)
        for _ in range(9):
            world.capture(days=100)
            guest.live()
        assert world.numbers() == list(range(1, 10))
        assert not world.monitor.warnings
        world.check_all()


def test_removal_in_any_order_leaves_the_others_readable(tmp_path: Path) -> None:
    for seed in range(6):
        world = World(tmp_path / str(seed))
        guest = Guest(world.image(), 40 * CHUNK, 100 + seed)
        guest.fill(20)
        rng = np.random.default_rng(seed)
        for _ in range(14):
            world.capture(days=100)
            guest.live()
            while world.numbers() and rng.integers(0, 3) == 0:
                world.tier.remove(world.record(int(rng.choice(world.numbers()))))
                world.check_all(thorough=False)
        assert not world.monitor.warnings
        world.check_all()
        for number in world.numbers():
            world.tier.remove(world.record(number))
        assert world.files() == []


def test_an_unchanged_disk_costs_one_scan_and_no_copy(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 200 * CHUNK, seed=1)
    guest.fill(40)
    first = world.capture()
    data = first.read_bytes
    before = chain_file(world, ".newest").stat()
    time.sleep(1.1)
    second = world.capture()
    assert second.read_bytes == data
    after = chain_file(world, ".newest").stat()
    assert (after.st_mtime_ns, after.st_ino, after.st_blocks) == (before.st_mtime_ns, before.st_ino, before.st_blocks)
    assert allocated(chain_file(world, ".1.delta")) == 0
    world.check_all()


def test_a_change_is_stored_once_and_only_as_old_bytes(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 400 * CHUNK, seed=2)
    guest.write(0, guest.random(300 * CHUNK))
    world.capture()
    newest = chain_file(world, ".newest")
    assert allocated(newest) == 300 * CHUNK
    guest.write(7 * CHUNK + 100, b"seven")
    guest.write(90 * CHUNK, guest.random(3 * CHUNK))
    world.capture()
    assert allocated(chain_file(world, ".1.delta")) == 4 * CHUNK
    assert allocated(newest) == 300 * CHUNK
    assert world.tier.bytes_used(world.record(1)) <= 4 * CHUNK + 8192
    assert world.tier.bytes_used(world.record(2)) == allocated(newest)
    world.check_all()


def test_what_becomes_zero_gives_its_space_back_after_the_commit(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 100 * CHUNK, seed=3)
    guest.write(0, guest.random(100 * CHUNK))
    world.capture()
    guest.punch(10 * CHUNK, 20 * CHUNK)
    guest.write(50 * CHUNK, bytes(10 * CHUNK))
    world.capture()
    assert allocated(chain_file(world, ".newest")) <= 71 * CHUNK  # with the tree of extents
    assert allocated(chain_file(world, ".1.delta")) <= 31 * CHUNK
    world.check_all()
    guest.write(12 * CHUNK, guest.random(CHUNK))
    world.capture()
    world.check_all()
    assert not world.monitor.warnings


def test_shrinking_and_growing_again_shows_neither_the_old_end_nor_the_new(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 50 * CHUNK, seed=4)
    guest.write(0, guest.random(50 * CHUNK))
    world.capture(days=50)
    os.truncate(world.image(), 20 * CHUNK + 100)
    world.capture(days=50)
    os.truncate(world.image(), 60 * CHUNK)
    world.capture(days=50)
    guest.write(20 * CHUNK + 90, guest.random(CHUNK))
    guest.write(59 * CHUNK, guest.random(CHUNK))
    world.capture(days=50)
    os.truncate(world.image(), 0)
    world.capture(days=50)
    os.truncate(world.image(), 3)
    world.capture(days=50)
    world.check_all()


def test_a_large_sparse_disk_over_many_cells(tmp_path: Path) -> None:
    cell = 65_536 * CHUNK  # 1 GiB
    world = World(tmp_path)
    guest = Guest(world.image(), 40 * cell + 12_345, seed=5)
    for place in (0, 3 * cell - CHUNK, 7 * cell + 5 * CHUNK, 39 * cell, 40 * cell + 10_000):
        guest.write(place, guest.random(2 * CHUNK if place < 40 * cell else 2000))
    world.capture(days=50)
    guest.write(3 * cell - 100, guest.random(200))  # across a border of cells
    guest.punch(7 * cell, 10 * CHUNK)
    guest.write(20 * cell + 17, b"new")
    world.capture(days=50)
    os.truncate(world.image(), 8 * cell + 1)
    world.capture(days=50)
    os.truncate(world.image(), 30 * cell)
    guest.write(29 * cell + 1, b"again")
    world.capture(days=50)
    world.check_all()


def test_time_and_space_follow_the_data_of_a_disk_of_many_tib(tmp_path: Path) -> None:
    size = 15 << 40  # ext4 ends at 16 TiB
    world = World(tmp_path, chunk_size=65_536)
    guest = Guest(world.image(), size, seed=6)
    for place in range(0, size, size // 16):
        guest.write(place, b"data")
    guest.write(size - 4, b"last")
    first = world.capture()
    guest.write(size // 2 + 12, b"more")
    second = world.capture()
    assert first.read_bytes == second.read_bytes - 65_536 <= 18 * 65_536
    assert first.seconds < 5
    assert second.seconds < 5
    assert sum(allocated(path) for path in world.kept.rglob("*") if path.is_file()) < 40 * 65_536
    for number in (1, 2):
        world.check(number, thorough=False)


def test_several_disks_are_one_snapshot(tmp_path: Path) -> None:
    world = World(tmp_path, disks=3)
    guests = [Guest(world.image(disk.name), 20 * CHUNK + index, index) for index, disk in enumerate(world.item.disks)]
    for _ in range(3):
        for guest in guests:
            guest.live()
            guest.fill(3)
        world.capture(days=9)
    assert [disk.name for disk in world.record(3).disks] == ["vda", "vdb", "vdc"]
    world.check_all()


def test_a_disk_that_joins_later_begins_its_own_chain(tmp_path: Path) -> None:
    alone = World(tmp_path, disks=1)
    guest = Guest(alone.image(), 20 * CHUNK, 1)
    guest.fill(9)
    alone.capture(days=9)
    both = World(tmp_path, disks=2)
    Guest(both.image("vdb"), 9 * CHUNK, 2).fill(9)
    guest.fill(2)
    both.capture(days=9)
    guest.fill(2)
    alone.number = 2
    alone.capture(days=9)
    both.number = 3
    guest.fill(2)
    both.capture(days=9)
    both.check_all()
    assert [len(both.record(number).disks) for number in (1, 2, 3, 4)] == [1, 2, 1, 2]


def test_lost_digests_are_made_from_the_snapshot_never_the_image(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 80 * CHUNK, 7)
    guest.fill(40)
    world.capture(days=9)
    guest.fill(5)
    guest.punch(0, 9 * CHUNK)
    for path in world.digests_dir.rglob("*"):
        if path.is_file():
            path.unlink()
    world.capture(days=9)
    guest.fill(5)
    head = world.digests_dir / "vda" / "snapshot.head"
    head.write_bytes(head.read_bytes()[:-1] + b"?")
    world.capture(days=9)
    assert not world.monitor.warnings
    world.check_all()


def test_another_chunk_size_begins_a_new_chain(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 80 * CHUNK, 8)
    guest.fill(30)
    world.capture(days=9)
    guest.fill(5)
    larger = World(tmp_path, chunk_size=2 * CHUNK)
    larger.capture(days=9)
    guest.fill(5)
    larger.capture(days=9)
    world.check_all(thorough=False)
    for number in (2, 3):
        larger.check(number)


def test_another_folder_begins_a_new_chain_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 80 * CHUNK, 9)
    guest.fill(30)
    world.capture(days=9)
    for folder in (tmp_path / "elsewhere", tmp_path / "elsewhere", world.kept, tmp_path / "elsewhere"):
        guest.fill(4)
        world.capture(days=9, place=world.place(folder))
    world.check_all()
    assert not world.monitor.warnings
    assert len(list((tmp_path / "elsewhere").rglob("*.newest"))) == 1


def test_two_items_of_one_name_do_not_meet(tmp_path: Path) -> None:
    world = World(tmp_path)
    Guest(world.image(), 8 * CHUNK, 1).fill(8)
    world.capture()
    (folder,) = list(world.kept.iterdir())
    assert folder.name == f"web01-{world.item.id[:8]}"


def test_a_host_that_lost_its_records_again_and_again_leaves_what_it_finds(tmp_path: Path) -> None:
    """It gives the same numbers anew, so even a name with the number in it may be taken."""
    world = World(tmp_path)
    guest = Guest(world.image(), 20 * CHUNK, 10)
    left: dict[Path, bytes] = {}
    for _ in range(4):
        guest.fill(4)
        world.number = 0
        world.capture()
        world.check(1)
        assert all(path.read_bytes() == before for path, before in left.items())
        assert world.record(1).disks[0].file not in {str(path) for path in left}
        left = {path: path.read_bytes() for path in world.kept.rglob("*.newest")}
        shutil.rmtree(world.host / "snapshots")
    assert len(left) == 4


def test_the_newest_reader_knows_all_digests_without_reading(tmp_path: Path) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 100 * CHUNK, 11)
    guest.fill(60)
    world.capture(days=9)
    guest.fill(9)
    world.capture(days=9)
    for number, reads in ((2, False), (1, True)):
        reader = world.open(number)
        scan = reader.scan(0, 100, None, seed=0x1234_5678_9ABC_DEF0, threads=1, cancel=None)
        assert (scan.read_bytes > 0) is reads
        reader.close()


def test_what_consistency_none_takes_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    Guest(world.image(), 9 * CHUNK, 1).fill(3)
    assert world.capture(consistency=Consistency.NONE).record.consistency is Consistency.NONE
    assert world.capture().record.consistency is Consistency.CRASH
    record = world.record(2)
    assert record.tags == {"k": "v"}
    assert record.comment == "a comment"
