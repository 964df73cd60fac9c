"""Where snapshots go, and how: asked of the file systems themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.snapshot_world import CHUNK, Guest, World

from blockvault.model import SnapshotKind

if TYPE_CHECKING:
    from collections.abc import Callable


def test_without_reflink_it_is_copied_to_the_default_folder(tmp_path: Path) -> None:
    world = World(tmp_path)
    Guest(world.image(), 10 * CHUNK, 1).fill(3)
    place = world.place()
    assert (place.folder, place.kind, place.reason) == (str(world.kept), SnapshotKind.RAW, "")
    assert not (world.images / ".blockvault").exists()
    assert list(world.kept.iterdir()) == []


@pytest.mark.root
def test_with_reflink_it_is_cloned_beside_the_image(tmp_path: Path, reflink_path: Path) -> None:
    world = World(tmp_path, images=reflink_path)
    Guest(world.image(), 10 * CHUNK, 1).fill(3)
    place = world.place()
    assert (place.folder, place.kind) == (str(reflink_path / ".blockvault"), SnapshotKind.REFLINK)
    assert os.listdir(reflink_path) == ["vda.img"]  # only looked at


@pytest.mark.root
def test_a_chosen_folder_wins_and_is_cloned_to_if_it_can_be(tmp_path: Path, reflink_path: Path) -> None:
    world = World(tmp_path, images=reflink_path)
    Guest(world.image(), 10 * CHUNK, 1).fill(3)
    place = world.place(reflink_path / "mine" / "deeper")
    assert (place.folder, place.kind) == (str(reflink_path / "mine" / "deeper"), SnapshotKind.REFLINK)
    place = world.place(tmp_path / "other fs")
    assert (place.folder, place.kind) == (str(tmp_path / "other fs"), SnapshotKind.RAW)
    world.capture(place=place)
    world.check_all()


@pytest.mark.root
def test_disks_that_cannot_all_be_cloned_are_copied(
    tmp_path: Path, reflink_path: Path, loop_device: Callable[[int], Path]
) -> None:
    world = World(tmp_path, disks=2)
    world.image("vda").symlink_to(reflink_path / "vda.img")
    Guest(world.image("vda"), 10 * CHUNK, 1).fill(3)
    device = loop_device(20 * CHUNK)
    world.image("vdb").symlink_to(device)
    with device.open("r+b") as file:
        file.write(os.urandom(3 * CHUNK))
    place = world.place()
    assert (place.folder, place.kind) == (str(world.kept), SnapshotKind.RAW)
    world.capture(place=place)
    with device.open("r+b") as file:
        file.write(os.urandom(CHUNK))
    world.capture(place=place)
    world.check_all()


@pytest.mark.root
def test_no_room_for_a_copy_is_said_and_none_is_needed_again(
    tmp_path: Path, mounted: Callable[[str, int], Path]
) -> None:
    mount = mounted("ext4", 24 << 20)
    world = World(tmp_path)
    guest = Guest(world.image(), 4000 * CHUNK, 1)
    guest.write(0, guest.random(1300 * CHUNK))
    world.kept = mount / "kept"
    place = world.place()
    assert (place.folder, place.kind) == (None, None)
    assert "20.3 MiB" in place.reason
    guest.punch(0, 400 * CHUNK)
    place = world.place()
    assert place.kind is SnapshotKind.RAW
    world.capture(place=place)
    # what is left would not take another whole copy, but a chain is there to be built upon
    guest.write(0, b"a little")
    world.capture(place=world.place())
    world.check_all()


@pytest.mark.root
def test_a_disk_larger_than_the_file_system_takes(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    """64 TiB, sparse, on xfs: cloned there; ext4 ends at 16 TiB, and a copy to it is not tried."""
    size = 64 << 40
    images = mounted("xfs", 320 << 20)
    guest = Guest(images / "vda.img", size, 1)
    for place in (0, 9 << 40, size - 5):
        guest.write(place, b"data.")
    world = World(tmp_path, images=images, chunk_size=65_536)
    place = world.place(tmp_path / "on ext4")
    assert place.folder is None
    assert place.reason.endswith("cannot hold a file of 64.0 TiB")
    capture = world.capture(keep_copy=False)
    assert capture.record.kind is SnapshotKind.REFLINK
    reader = world.open(1)
    runs = list(reader.data_runs(0, size // 65_536))
    assert runs == [(0, 1), ((9 << 40) // 65_536, 1), (size // 65_536 - 1, 1)]
    batch = reader.identify(np.array([run[0] for run in runs], np.uint64), seed=1, id_key=None, cancel=None)
    assert [batch.chunk(row).strip(b"\0") for row in range(3)] == [b"data."] * 3
    reader.close()


@pytest.mark.root
def test_a_read_only_home_of_the_image_falls_back(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    import subprocess

    mount = mounted("xfs", 320 << 20)
    images = mount / "images"
    images.mkdir()
    Guest(images / "vda.img", 10 * CHUNK, 1).fill(3)
    world = World(tmp_path, images=images)
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    place = world.place()
    assert (place.folder, place.kind) == (str(world.kept), SnapshotKind.RAW)
    world.capture(place=place)
    world.check_all()
