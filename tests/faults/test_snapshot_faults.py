"""Full disks, failing disks, locked folders, writers, readers in the way: each is told, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xxhash
from helpers.snapshot_world import CHUNK, DAY, NOW, SEED, Guest, World

from blockvault import failpoints
from blockvault.errors import CancelledError, ConflictError, CorruptionError, DeviceError
from blockvault.model import Consistency
from blockvault.monitor import Monitor
from blockvault.snapshots import raw_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = [
    "snapshot.record.making",
    "snapshot.raw.making",
    "snapshot.raw.begun",
    "snapshot.raw.saved",
    "snapshot.raw.append",
    "snapshot.raw.listed",
    "snapshot.raw.writing",
    "snapshot.raw.written",
    "snapshot.raw.synced",
    "digests.sync",
    "snapshot.raw.sealed",
    "snapshot.raw.commit",
    "snapshot.record.kept",
]


@pytest.fixture(autouse=True)
def _no_hook_left() -> Iterator[None]:
    before = failpoints.set_hook(None)
    yield
    failpoints.set_hook(before)


def at(step: str, action: Callable[[], object], visit: int = 1) -> None:
    """Do something when a step is reached for the `visit`-th time."""
    left = visit

    def hook(name: str) -> None:
        nonlocal left
        if name == step:
            left -= 1
            if left == 0:
                action()

    failpoints.set_hook(hook)


def refuse(number: int) -> Callable[[], None]:
    def action() -> None:
        raise OSError(number, os.strerror(number))

    return action


def a_world(tmp_path: Path, disks: int = 1) -> tuple[World, list[Guest]]:
    world = World(tmp_path, disks=disks)
    guests = [Guest(world.image(disk.name), 300 * CHUNK + 7, index) for index, disk in enumerate(world.item.disks)]
    for guest in guests:
        guest.fill(100)
    world.capture(days=90)
    change(guests)
    world.capture(days=90)
    change(guests)
    return world, guests


def change(guests: list[Guest]) -> None:
    for guest in guests:
        guest.fill(6)
        guest.punch(int(guest.rng.integers(0, 250)) * CHUNK, 5 * CHUNK)


def kind_of(world: World, expected: type[Exception], **options: object) -> str:
    number = world.number
    with pytest.raises(expected) as caught:
        world.capture(**options)  # type: ignore[arg-type]
    world.number = number
    return getattr(caught.value, "kind", "")


def assert_as_before(world: World, guests: list[Guest], files: list[str]) -> None:
    """A failed capture has left nothing, and its parent's digest state is still the one in force."""
    assert world.files() == files
    assert world.numbers() == [1, 2]
    world.check_all()
    change(guests)
    capture = world.capture(days=90)
    assert capture.record.number == 3
    world.check_all()
    assert not world.monitor.warnings


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails_or_is_full_at_any_step(tmp_path: Path, step: str, number: int) -> None:
    world, guests = a_world(tmp_path)
    files = world.files()
    at(step, refuse(number))
    failed = "store.failed" if step == "digests.sync" else "snapshot.failed"
    assert kind_of(world, DeviceError) == ("snapshot.no-space" if number == errno.ENOSPC else failed)
    failpoints.set_hook(None)
    assert_as_before(world, guests, files)


@pytest.mark.parametrize("step", STEPS[1:])
def test_interrupted_at_any_step(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path, disks=2)
    files = world.files()

    def interrupt() -> None:
        raise KeyboardInterrupt

    at(
        step,
        interrupt,
        visit=2 if step not in {"snapshot.raw.making", "snapshot.raw.commit", "snapshot.record.kept"} else 1,
    )
    kind_of(world, KeyboardInterrupt)
    failpoints.set_hook(None)
    assert_as_before(world, guests, files)


def test_cancelled_by_the_monitor(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    files = world.files()
    at("snapshot.raw.listed", world.monitor.cancel)
    assert kind_of(world, CancelledError) == "job.cancelled"
    failpoints.set_hook(None)
    world.monitor = Monitor()
    assert_as_before(world, guests, files)


def test_a_failed_first_copy_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, disks=2)
    for disk in world.item.disks:
        Guest(world.image(disk.name), 100 * CHUNK, 3).fill(50)
    for step, visit in (("snapshot.raw.created", 2), ("snapshot.raw.writing", 1), ("snapshot.raw.commit", 1)):
        at(step, refuse(errno.ENOSPC), visit)
        assert kind_of(world, DeviceError) == "snapshot.no-space"
        assert world.files() == []
        assert not [path for path in world.kept.rglob("*") if path.is_file()]
    failpoints.set_hook(None)
    world.capture()
    world.check_all()


def test_a_failure_after_the_commit_is_no_failure(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    at("digests.head", refuse(errno.ENOSPC))
    world.capture(days=90)
    failpoints.set_hook(None)
    assert world.numbers() == [1, 2, 3]
    change(guests)
    world.capture(days=90)
    world.check_all()
    assert not world.monitor.warnings


@pytest.mark.root
def test_a_file_system_that_fills_up_in_mid_copy(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    mount = mounted("ext4", 24 << 20)
    world = World(tmp_path)
    world.kept = mount / "kept"
    guest = Guest(world.image(), 1300 * CHUNK, 5)
    guest.write(0, guest.random(550 * CHUNK))
    place = world.place()
    world.capture(days=90, place=place)
    guest.write(100 * CHUNK, bytes(200 * CHUNK))  # frees space in the newest state, if it were let go at once
    guest.write(0, guest.random(50 * CHUNK))
    guest.write(550 * CHUNK, guest.random(750 * CHUNK))  # more than there is room for
    files = sorted(path.relative_to(mount) for path in mount.rglob("*") if path.is_file())
    group_bytes, raw_disk.GROUP_BYTES = raw_disk.GROUP_BYTES, 1
    try:
        assert kind_of(world, DeviceError, place=place) == "snapshot.no-space"
    finally:
        raw_disk.GROUP_BYTES = group_bytes
    assert sorted(path.relative_to(mount) for path in mount.rglob("*") if path.is_file()) == files
    assert world.numbers() == [1]
    world.check(1)

    def others_take_the_room() -> None:
        with (mount / "others").open("wb", buffering=0) as file:
            while True:  # ends by the error that the capture then has
                file.write(bytes(1 << 20))

    # What was zeroed has kept its space: putting it back does not need what others have taken meanwhile.
    os.truncate(world.image(), 600 * CHUNK)
    at("snapshot.raw.written", others_take_the_room)
    assert kind_of(world, DeviceError, place=place) == "snapshot.no-space"
    failpoints.set_hook(None)
    (mount / "others").unlink()
    assert sorted(path.relative_to(mount) for path in mount.rglob("*") if path.is_file()) == files
    world.check(1)
    os.truncate(world.image(), 600 * CHUNK)
    world.capture(days=90, place=place)
    world.check_all()
    assert not world.monitor.warnings


# -- the image ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "grow", "shrink", "delete", "replace"])
def test_an_image_that_changes_during_the_capture(tmp_path: Path, how: str) -> None:
    world, guests = a_world(tmp_path)
    files = world.files()
    image, saved = world.image(), tmp_path / "saved.img"

    def disturb() -> None:
        if how == "write":
            guests[0].write(5, b"now")
        elif how in {"grow", "shrink"}:
            os.truncate(image, guests[0].size + (5 if how == "grow" else -5 * CHUNK))
        else:
            image.rename(saved)
            if how == "replace":
                image.write_bytes(b"other")

    at("snapshot.raw.listed", disturb)
    assert kind_of(world, DeviceError) == "image.changed"
    failpoints.set_hook(None)
    if saved.exists():
        saved.rename(image)
    assert_as_before(world, guests, files)


def test_an_image_that_is_written_may_be_taken_fuzzy_and_says_so(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    at("snapshot.raw.listed", lambda: guests[0].write(200 * CHUNK, b"now"))
    record = world.capture(consistency=Consistency.NONE, days=90).record
    failpoints.set_hook(None)
    assert record.consistency is Consistency.NONE
    world.check(1)
    world.check(2)
    world.capture(days=90)
    world.check(4)


def test_an_image_that_someone_has_locked(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    with world.image().open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert kind_of(world, DeviceError) == "image.in-use"
        world.capture(consistency=Consistency.NONE, days=90)
    change(guests)
    world.capture(days=90)
    world.check_all()


@pytest.mark.root
def test_a_read_error_in_the_image_is_told_with_its_place(tmp_path: Path, loop_device: Callable[[int], Path]) -> None:
    device = loop_device(64 * CHUNK)
    (backing,) = tmp_path.glob("loop-*.img")
    os.truncate(backing, 40 * CHUNK)  # the device does not know: reads beyond fail as those of a dying disk do
    world = World(tmp_path)
    world.image().symlink_to(device)
    with pytest.raises(DeviceError) as caught:
        world.capture(keep_copy=False)
    assert caught.value.kind == "image.read-error"
    assert caught.value.errno == errno.EIO
    assert "at byte" in caught.value.message
    assert world.files() == []


# -- folders ------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_an_immutable_folder_has_its_own_error(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    folder = tmp_path / "locked"
    folder.mkdir()
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode != 0:
        pytest.skip("no immutable flag here")
    try:
        with pytest.raises(DeviceError) as caught:
            world.place(folder)
        assert caught.value.kind == "snapshot.folder-locked"
        assert "immutable" in str(caught.value.why)
        with pytest.raises(DeviceError) as caught:
            world.place(folder / "deeper")
        assert caught.value.kind == "snapshot.folder-locked"
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    # the folder of a chain locked after its first snapshots
    own = next(world.kept.iterdir())
    place = world.place()
    subprocess.run(["chattr", "+i", str(own)], check=True)
    try:
        assert kind_of(world, DeviceError, place=place) == "snapshot.folder-locked"
        world.check(1, thorough=False)
        world.tier.remove(world.record(1))
        assert world.numbers() == [2]
    finally:
        subprocess.run(["chattr", "-i", str(own)], check=True)
    change(guests)
    world.capture(days=90)
    world.check_all()
    assert not [name for name in world.files() if "vda.1." in name]


@pytest.mark.root
def test_a_read_only_file_system_has_it_too(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    mount = mounted("ext4", 16 << 20)
    world = World(tmp_path)
    Guest(world.image(), 10 * CHUNK, 1).fill(3)
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    with pytest.raises(DeviceError) as caught:
        world.place(mount / "kept")
    assert caught.value.kind == "snapshot.folder-locked"
    assert caught.value.why == "its file system is mounted read-only"


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    Guest(world.image(), 10 * CHUNK, 1).fill(3)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceError) as caught:
        world.place(tmp_path / "file")
    assert caught.value.kind == "snapshot.folder-locked"


# -- two at once --------------------------------------------------------------------------------------------


def test_two_captures_of_one_item(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    kinds = []

    def second() -> None:
        other = World(tmp_path)
        kinds.append(kind_of(other, ConflictError, keep_copy=False))
        with pytest.raises(ConflictError):
            other.tier.remove(other.record(1))
        assert other.tier.expire(NOW + 1000 * DAY, keep_numbers=set()) == []
        other.tier.mark_transferred(other.record(2))
        other.tier.set_keep_until(other.record(2), NOW + 7 * DAY)

    at("snapshot.raw.listed", second)
    world.capture(days=90)
    failpoints.set_hook(None)
    assert kinds == ["snapshot.locked"]
    assert [record.transferred for record in world.tier.records()] == [False, True, False]
    assert world.record(2).keep_until == NOW + 7 * DAY
    world.check_all()


def test_every_reader_is_right_at_every_step_of_a_capture(tmp_path: Path) -> None:
    """R18, step by step: readers opened before the capture, and new ones, see their snapshots only."""
    world, guests = a_world(tmp_path)
    world.capture(days=90)
    change(guests)
    before = [world.open(number) for number in (1, 2, 3)]
    steps: list[str] = []

    def look(step: str) -> None:
        if step in {"digests.head", "digests.switched"}:
            return  # heads change under a lock that this very thread holds
        hook = failpoints.set_hook(None)
        steps.append(step)
        other = World(tmp_path)
        for number, reader in zip((1, 2, 3), before, strict=True):
            other.check_reader(number)
            other.check(number, thorough=False)
            check_opened(other, number, reader)
        failpoints.set_hook(hook)

    failpoints.set_hook(look)
    world.capture(days=90)
    failpoints.set_hook(None)
    assert set(steps) >= set(STEPS)
    look("after")
    for reader in before:
        reader.close()
    world.check_all()


@pytest.mark.parametrize("how", ["identify", "scan", "data_runs", "restore", "restore over other bytes"])
def test_a_capture_between_the_look_and_the_read_is_found_out(tmp_path: Path, how: str) -> None:
    """R18: what was read from the newest state counts only if no list names it afterwards."""
    world = World(tmp_path)
    guest = Guest(world.image(), 100 * CHUNK, 1)
    guest.write(0, guest.random(50 * CHUNK))
    world.capture(days=90)
    guest.write(0, guest.random(100 * CHUNK))
    guest.punch(10 * CHUNK, 30 * CHUNK)
    world.number += 1
    truth = [world.copy(number=1).read_bytes()[at : at + CHUNK] for at in range(0, 100 * CHUNK, CHUNK)]
    # Without its digest state the reader has to read.
    (world.digests_dir / "vda" / "snapshot.head").unlink()
    reader = world.open(1)
    other = World(tmp_path)
    at("snapshot.raw.looked", lambda: other.capture(days=90, keep_copy=False))
    if how == "identify":
        batch = reader.identify(np.arange(100, dtype=np.uint64), seed=SEED, id_key=None, cancel=None)
        assert [batch.chunk(row) for row in range(100)] == truth
    elif how == "scan":
        scan = reader.scan(0, 100, None, seed=SEED, threads=1, cancel=None)
        digests = [xxhash.xxh3_128(chunk, SEED).digest() if any(chunk) else bytes(16) for chunk in truth]
        assert [row.tobytes() for row in scan.digests] == digests
        assert scan.states.tolist() == [3] * 50 + scan.states[50:].tolist()
        assert set(scan.states[50:].tolist()) <= {0, 1}
    elif how == "data_runs":
        assert list(reader.data_runs(0, 100)) == [(0, 50)]
    else:
        assert world.restored(1, fresh=how == "restore").read_bytes() == world.copy(number=1).read_bytes()
    failpoints.set_hook(None)
    reader.close()
    assert world.numbers() == [1, 2]


def check_opened(world: World, number: int, reader: object) -> None:
    """Run the world's reader check on a reader that is open already."""
    original = world.open
    world.open = lambda *_: _Kept(reader)  # type: ignore[method-assign,assignment,return-value]
    try:
        world.check_reader(number)
    finally:
        world.open = original  # type: ignore[method-assign]


class _Kept:
    """A reader that stays open when it is closed."""

    def __init__(self, reader: object) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("step", ["snapshot.raw.written", "snapshot.raw.sealed"])
def test_a_failed_capture_takes_nothing_from_a_reader_and_the_next_goes_on(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path)
    readers = [world.open(1), world.open(2)]
    for _ in range(2):
        at(step, refuse(errno.ENOSPC))
        assert kind_of(world, DeviceError) == "snapshot.no-space"
        failpoints.set_hook(None)
        for number, reader in zip((1, 2), readers, strict=True):
            check_opened(world, number, reader)
        change(guests)
    # the list that the readers hold is kept, and built upon
    assert [name for name in world.files() if name.endswith("vda.2.chunks")]
    world.capture(days=90)
    for number, reader in zip((1, 2), readers, strict=True):
        check_opened(world, number, reader)
        reader.close()
    change(guests)
    world.capture(days=90)
    world.check_all()
    assert not world.monitor.warnings


def test_a_snapshot_removed_while_it_is_read_stays_readable(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    reader = world.open(1)
    for number in (1, 2):
        world.tier.remove(world.record(number))
    assert world.numbers() == []
    check_opened(world, 1, reader)
    reader.close()
    change(guests)
    world.capture(days=90)
    world.check_all()
    assert not [name for name in world.files() if ".1." in name or name.endswith("/1.json")]


def test_readers_and_captures_at_full_speed(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    stop = threading.Event()
    failures: list[BaseException] = []
    rounds = [0]

    def read(number: int) -> None:
        other = World(tmp_path)
        reader = other.open(number)
        try:
            while not stop.is_set():
                check_opened(other, number, reader)
                other.check_reader(number)
                rounds[0] += 1
        except BaseException as error:  # noqa: BLE001 - told by the test below
            failures.append(error)
        finally:
            reader.close()

    threads = [threading.Thread(target=read, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        for round_index in range(12):
            change(guests)
            if round_index % 3 == 2:
                at("snapshot.raw.sealed", refuse(errno.ENOSPC))
                kind_of(world, DeviceError)
                failpoints.set_hook(None)
            else:
                world.capture(days=90)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]
    assert rounds[0] > 4
    world.check_all()


# -- damage -------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    mode = path.stat().st_mode
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    os.chmod(path, 0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))
    os.utime(path, ns=times)  # as rot does, which leaves no trace
    os.chmod(path, mode)


def chain_file(world: World, suffix: str) -> Path:
    return next(world.kept.rglob(f"*{suffix}"))


def first_data(path: Path) -> int:
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA)


def test_rot_in_an_old_chunk_is_told_when_it_is_read(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    delta = chain_file(world, "vda.1.delta")
    flip(delta, first_data(delta) + 9)
    with pytest.raises(CorruptionError) as caught:
        world.check_reader(1)
    assert caught.value.kind == "snapshot.damaged"
    assert "vda.1.delta" in caught.value.message
    world.check(2)


def test_rot_in_the_newest_state_is_told_and_the_next_capture_begins_anew(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    newest = chain_file(world, ".newest")
    flip(newest, first_data(newest) + 9)
    with pytest.raises(CorruptionError) as caught:
        world.check_reader(2)
    assert caught.value.kind == "snapshot.damaged"
    world.capture(days=90)
    assert [warning.kind for warning in world.monitor.warnings] == ["snapshot.begun-anew"]
    world.check(3)
    change(guests)
    world.capture(days=90)
    assert len(world.monitor.warnings) == 1
    world.check(3)
    world.check(4)


def test_a_newest_state_that_something_else_has_written_to(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    newest = chain_file(world, ".newest")
    os.chmod(newest, 0o600)
    with newest.open("r+b") as file:
        file.seek(first_data(newest))
        file.write(b"booted by mistake")
    with pytest.raises(CorruptionError) as caught:
        world.open(2)
    assert caught.value.kind == "snapshot.damaged"
    assert "something else has written to it" in str(caught.value.why)
    world.capture(days=90)
    assert [warning.kind for warning in world.monitor.warnings] == ["snapshot.begun-anew"]
    world.check(3)


def test_a_newest_state_only_touched_is_proven_and_built_upon(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    os.utime(chain_file(world, ".newest"))
    world.capture(days=90)
    assert not world.monitor.warnings
    world.check_all()


@pytest.mark.parametrize("what", ["gone", "cut", "cut to its head", "flipped", "another's"])
def test_a_list_that_is_not_whole_is_damage_never_an_answer(tmp_path: Path, what: str) -> None:
    world, guests = a_world(tmp_path)
    world.capture(days=90)
    path = chain_file(world, "vda.1.chunks")
    if what == "gone":
        path.unlink()
    elif what == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif what == "cut to its head":
        os.truncate(path, 48)
    elif what == "flipped":
        flip(path, 60)
    else:
        path.write_bytes(chain_file(world, "vda.2.chunks").read_bytes())
    with pytest.raises(CorruptionError) as caught:
        world.open(1)
    assert caught.value.kind == "snapshot.damaged"
    world.check(2)
    world.check(3)
    change(guests)
    world.capture(days=90)
    world.check(4)


def test_a_missing_newest_state_begins_anew(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    chain_file(world, ".newest").unlink()
    with pytest.raises(CorruptionError):
        world.open(1)
    world.capture(days=90)
    assert [warning.kind for warning in world.monitor.warnings] == ["snapshot.begun-anew"]
    world.check(3)
    for number in (1, 2, 3):
        world.tier.remove(world.record(number))
    assert world.files() == []


def test_a_damaged_record_is_told_and_never_built_past(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    path = next((world.host / "snapshots").rglob("2.json"))
    flip(path, path.read_bytes().index(b"a comment"))
    assert world.numbers() == [1]
    assert world.tier.damaged == {str(path): "its checksum does not match its text"}
    world.check(1)
    world.capture(days=90)
    assert [warning.kind for warning in world.monitor.warnings] == ["snapshot.begun-anew"]
    world.check(1)
    world.check(3)


def test_a_lost_record_is_noticed_by_the_seal(tmp_path: Path) -> None:
    world, _guests = a_world(tmp_path)
    next((world.host / "snapshots").rglob("2.json")).unlink()
    world.check(1)
    world.capture(days=90)
    assert [warning.kind for warning in world.monitor.warnings] == ["snapshot.begun-anew"]
    world.check(1)
    world.check(3)
