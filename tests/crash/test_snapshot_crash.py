"""A capture may be killed, or the power may fail, at every named step: every snapshot before it reads as before.

Killed: a child of this process ends by SIGKILL. Power cut: the tier lies on a file system of its own in a
file, and that file is copied at the step; what the file system had not yet been made to write is not in the
copy.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.snapshot_world import CHUNK, Guest, World

from blockvault import failpoints
from blockvault.snapshots import raw_disk

if TYPE_CHECKING:
    from collections.abc import Callable

CELL = 65_536 * CHUNK  # 1 GiB
HELPERS = str(Path(__file__).parents[1])

FIRST_STEPS = ["snapshot.record.making", "snapshot.raw.making", "snapshot.raw.created", "snapshot.raw.writing"]
CHANGE_STEPS = [
    "snapshot.raw.begun",
    "snapshot.raw.saved",
    "snapshot.raw.append",
    "snapshot.raw.listed",
    "snapshot.raw.writing",
    "snapshot.raw.written",
]
END_STEPS = [
    "snapshot.raw.synced",
    "digests.sync",
    "snapshot.raw.sealed",
    "snapshot.raw.commit",
    "snapshot.record.kept",
    "snapshot.raw.committed",
    "digests.head",
    "digests.switched",
]
STEPS = FIRST_STEPS[:2] + CHANGE_STEPS + END_STEPS
COMMITTED = {"snapshot.raw.committed", "digests.head", "digests.switched"}

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from blockvault.snapshots import raw_disk
raw_disk.GROUP_BYTES = 1
from helpers.snapshot_world import World
World(Path(sys.argv[1]), disks=int(sys.argv[2])).capture(days=90, keep_copy=False)
"""


def run_capture(world: World, step: str, visit: int = 1) -> subprocess.CompletedProcess[str]:
    """Capture in a child that is killed at a step; the child finds its number from the copies made here."""
    for disk in world.item.disks:
        world.number += 1
        world.keep_copy(disk.name)
        world.number -= 1
    environment = {**os.environ, "BLOCKVAULT_FAILPOINT": f"{step}:kill:{visit}"}
    command = [sys.executable, "-c", CHILD, str(world.root), str(len(world.item.disks)), HELPERS]
    # The child counts the copies: it must find one less than its own number.
    made = [world.copies / f"{world.number + 1}-{disk.name}.img" for disk in world.item.disks]
    aside = world.root / "aside"
    aside.mkdir(exist_ok=True)
    hidden = [path.rename(aside / path.name) for path in made]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    for path, place in zip(hidden, made, strict=True):
        path.rename(place)
    world.number += 1
    return result


def a_world(tmp_path: Path, disks: int = 1, seed: int = 1) -> tuple[World, list[Guest]]:
    """An item whose data lies in three cells, with two snapshots."""
    world = World(tmp_path, disks=disks)
    guests = []
    for index, disk in enumerate(world.item.disks):
        guest = Guest(world.image(disk.name), 2 * CELL + 30 * CHUNK, seed + index)
        for cell in range(3):
            guest.write(cell * CELL + 3 * CHUNK, guest.random(20 * CHUNK))
        guests.append(guest)
    world.capture(days=90)
    change(guests)
    world.capture(days=90)
    change(guests)
    return world, guests


def change(guests: list[Guest]) -> None:
    for guest in guests:
        for cell in range(3):
            at = cell * CELL + int(guest.rng.integers(0, 20)) * CHUNK
            guest.write(at + 50, guest.random(2 * CHUNK))
            guest.punch(cell * CELL + int(guest.rng.integers(3, 20)) * CHUNK, 2 * CHUNK)


def assert_alright(world: World, guests: list[Guest], last: int) -> None:
    """After a crash: all snapshots read right as they are; the next captures work; nothing is left over."""
    assert world.numbers() == list(range(1, last + 1))
    world.check_all(thorough=False)
    for number in world.numbers():
        world.check_reader(number)
    change(guests)
    world.capture(days=90)
    change(guests)
    world.capture(days=90)
    world.check_all(thorough=False)
    assert not world.monitor.warnings
    for number in world.numbers():
        world.tier.remove(world.record(number))
    assert world.files() == []


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_building_upon_a_snapshot(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path)
    result = run_capture(world, step)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_alright(world, guests, 3 if step in COMMITTED else 2)


@pytest.mark.parametrize("step", CHANGE_STEPS[1:])
def test_killed_in_a_later_group(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path)
    result = run_capture(world, step, visit=3)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_alright(world, guests, 2)


@pytest.mark.parametrize("step", [*FIRST_STEPS, *END_STEPS])
def test_killed_during_the_first_copy(tmp_path: Path, step: str) -> None:
    world = World(tmp_path)
    guest = Guest(world.image(), 2 * CELL + 30 * CHUNK, 5)
    for cell in range(3):
        guest.write(cell * CELL + 3 * CHUNK, guest.random(20 * CHUNK))
    result = run_capture(world, step)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_alright(world, [guest], 1 if step in COMMITTED else 0)


@pytest.mark.parametrize("step", ["snapshot.raw.synced", "snapshot.raw.sealed", "snapshot.raw.written"])
def test_killed_between_the_disks_of_an_item(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path, disks=2)
    visit = {"snapshot.raw.written": 4}.get(step, 2)
    result = run_capture(world, step, visit=visit)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_alright(world, guests, 2)


@pytest.mark.parametrize("step", ["snapshot.raw.rolling-back", "snapshot.raw.rolled-back"])
def test_killed_again_while_it_is_put_back(tmp_path: Path, step: str) -> None:
    world, guests = a_world(tmp_path)
    assert run_capture(world, "snapshot.raw.sealed").returncode == -signal.SIGKILL
    world.number -= 1
    result = run_capture(world, step)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_alright(world, guests, 2)


def test_killed_while_removing(tmp_path: Path) -> None:
    world, guests = a_world(tmp_path)
    world.capture(days=90)
    program = CHILD.replace(".capture(days=90, keep_copy=False)", ".remove(1)").replace(
        "World(Path", "class Remover(World):\n    def remove(self, n): self.tier.remove(self.record(n))\nRemover(Path"
    )
    environment = {**os.environ, "BLOCKVAULT_FAILPOINT": "snapshot.removing"}
    command = [sys.executable, "-c", program, str(world.root), "1", HELPERS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert world.numbers() == [2, 3]
    assert [name for name in world.files() if name.endswith("/1.json")]
    world.check_all(thorough=False)
    change(guests)
    world.capture(days=90)
    assert not [name for name in world.files() if "vda.1." in name or name.endswith("/1.json")]
    world.check_all(thorough=False)


# -- the power fails ----------------------------------------------------------------------------------------


@pytest.mark.root
def test_the_power_fails_at_every_step(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    mount = mounted("ext4", 96 << 20)
    disk_file = mount.parent / "ext4.fs"
    world = World(tmp_path / "w")
    for name in ("host", "kept"):
        shutil.rmtree(world.root / name, ignore_errors=True)
        (mount / name).mkdir()
        (world.root / name).symlink_to(mount / name)
    guest = Guest(world.image(), 2 * CELL + 30 * CHUNK, 9)
    for cell in range(3):
        guest.write(cell * CELL + 3 * CHUNK, guest.random(20 * CHUNK))
    world.capture(days=90)
    change([guest])
    world.capture(days=90)
    change([guest])
    subprocess.run(["sync", "-f", str(mount)], check=True)

    cuts: list[tuple[str, Path]] = []

    def cut(step: str) -> None:
        path = tmp_path / f"cut-{len(cuts)}.fs"
        subprocess.run(["cp", "--sparse=always", str(disk_file), str(path)], check=True)
        cuts.append((step, path))

    group_bytes, raw_disk.GROUP_BYTES = raw_disk.GROUP_BYTES, 1
    before = failpoints.set_hook(cut)
    try:
        world.capture(days=90)
    finally:
        failpoints.set_hook(before)
        raw_disk.GROUP_BYTES = group_bytes
    assert {step for step, _ in cuts} >= set(STEPS)
    committed = False
    for step, path in cuts:
        committed = committed or step in COMMITTED
        subprocess.run(["umount", str(mount)], check=True)
        subprocess.run(["mount", "-o", "loop", str(path), str(mount)], check=True)
        after = World(tmp_path / "w")
        # The rename of the record may or may not have reached the disk at the step before the commit returns.
        assert after.numbers() in ([[1, 2, 3]] if committed else [[1, 2]]), step
        after.check_all(thorough=False)
        for number in after.numbers():
            after.check_reader(number)
        after.number = 3
        after.capture(days=90)
        after.check_all(thorough=False)
        assert not after.monitor.warnings, step
        path.unlink()
