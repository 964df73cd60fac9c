"""The main job on real disks: a point, real churn, a second point, both restored and compared byte for byte.

The disks: an ext4 file system made from this machine's files, Debian's forensics samples (ext4; and a partitioned
disk of four file systems), a LUKS volume, a loop device, and images that lie on xfs and btrfs.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.program import Program

from blockvault.workload import Churn, apply_churn, build_image

MIB = 1 << 20
SAMPLES = Path("/usr/share/forensics-samples")


def need(tool: str) -> str:
    found = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def unpack_sample(name: str, target: Path) -> None:
    packed = SAMPLES / f"{name}.xz"
    if not packed.exists():
        pytest.skip(f"Debian's sample {name} is not installed")
    with lzma.open(packed) as source, target.open("wb") as image:
        while piece := source.read(MIB):
            if piece.count(0) == len(piece):
                image.seek(len(piece), os.SEEK_CUR)
            else:
                image.write(piece)
        image.truncate(image.tell())


def write_file_into(image: Path, content: Path, name: str) -> None:
    """Write a file into an ext file system without mounting it: churn as a guest makes it."""
    command = [need("debugfs"), "-w", "-R", f"write {content} {name}", str(image)]
    subprocess.run(command, check=True, capture_output=True)


def assert_sound(image: Path) -> None:
    ended = subprocess.run([need("e2fsck"), "-fn", str(image)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def assert_same(left: Path, right: Path) -> None:
    assert subprocess.run(["cmp", str(left), str(right)], capture_output=True).returncode == 0


def take_change_take(program: Program, image: Path, change: Callable[[], None]) -> tuple[Path, Path]:
    """Point 1, `change`, point 2, both restored from vault and snapshot and compared; returns the two copies."""
    first, second = program.folder / "copy-1", program.folder / "copy-2"
    shutil.copyfile(image, first)
    program.run("snapshot", image, code=0)
    change()
    shutil.copyfile(image, second)
    summary = program.run("snapshot", image, "--json", code=0).document
    assert summary["point"] == 2
    assert 0 < summary["stored_bytes"] < summary["changed_bytes"] + 256 * 1024
    for number, copy in ((1, first), (2, second)):
        for tier in ("vault", "snapshot"):
            target = program.folder / f"{number}-{tier}.img"
            program.run("restore", "--point", str(number), "--from", tier, "-o", target, code=0)
            assert_same(target, copy)
            target.unlink()
    program.run("verify", code=0)
    return first, second


def test_an_ext4_disk_made_from_this_machines_files(program: Program, tmp_path: Path) -> None:
    need("mkfs.ext4")
    image = program.folder / "server.img"
    build_image(str(image), 96 * MIB, seed=11)
    content = tmp_path / "new-file"
    content.write_bytes(Path(os.__file__).read_bytes() * 40)
    assert_sound(image)
    _, second = take_change_take(program, image, lambda: write_file_into(image, content, "new-file"))
    assert_sound(second)


@pytest.mark.slow
def test_debians_ext4_sample(program: Program) -> None:
    image = program.folder / "fs.ext4"
    unpack_sample("fs.ext4", image)

    def churn() -> None:
        apply_churn(str(image), Churn.RANDOM_PAGES, 5, 0.02)

    take_change_take(program, image, churn)


def test_debians_disk_of_four_file_systems(program: Program) -> None:
    image = program.folder / "fs.multiple"
    unpack_sample("fs.multiple", image)

    def churn() -> None:
        apply_churn(str(image), Churn.RANDOM_PAGES, 5, 0.02)

    take_change_take(program, image, churn)


def test_a_luks_disk_is_just_bytes(program: Program, disk: Path) -> None:
    tool = need("qemu-img")
    image = program.folder / "secret.luks"
    command = [tool, "convert", "--object", "secret,id=key,data=not-a-secret", "-O", "luks"]
    command += ["-o", "key-secret=key,iter-time=10", str(disk), str(image)]
    for _ in range(5):  # qemu-img times its key derivation, and refuses where a busy machine spoils the timing
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode == 0:
            break
    assert ended.returncode == 0, ended.stderr
    assert image.read_bytes()[:4] == b"LUKS"

    def churn() -> None:
        with image.open("r+b") as file:
            file.seek(6 * MIB + 8192)
            file.write(os.urandom(16384))

    take_change_take(program, image, churn)


@pytest.mark.root
def test_a_loop_device_and_back_onto_another(program: Program, loop_device: Callable[[int], Path], disk: Path) -> None:
    size = disk.stat().st_size
    source, target, small = loop_device(size), loop_device(size + MIB), loop_device(size // 2 // 4096 * 4096)
    shutil.copyfile(disk, program.folder / "copy-1")
    with source.open("r+b") as device:
        device.write(disk.read_bytes())
        os.fsync(device.fileno())
    program.run("snapshot", source, "--name", "device", code=0)
    apply_churn(str(disk), Churn.RUNS, 7, 0.05)
    with source.open("r+b") as device:
        device.write(disk.read_bytes())
        os.fsync(device.fileno())
    program.run("snapshot", source, code=0)

    with target.open("r+b") as device:  # what is on a reused target must not shine through
        device.write(b"\xa5" * size)
        os.fsync(device.fileno())
    assert program.run("restore", "--point", "1", "-o", target, code=2).kind == "target.device-needs-force"
    assert program.run("restore", "--point", "1", "-o", small, "--force", code=2).kind == "target.too-small"
    for number, copy in ((1, program.folder / "copy-1"), (2, disk)):
        for tier in ("vault", "snapshot"):
            program.run("restore", "--point", str(number), "--from", tier, "-o", target, "--force", code=0)
            with target.open("rb") as device:
                assert device.read(size) == copy.read_bytes()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_an_image_that_can_be_cloned(
    program: Program, mounted: Callable[[str, int], Path], disk: Path, kind: str
) -> None:
    image = mounted(kind, 400 * MIB) / "vm.img"
    shutil.copyfile(disk, image)

    def churn() -> None:
        apply_churn(str(image), Churn.SMALL_EDITS, 9, 0.05)

    take_change_take(program, image, churn)
    clones = list((image.parent / ".blockvault").rglob("*.img"))
    assert len(clones) == 2
    assert all(clone.stat().st_mode & 0o777 == 0o400 for clone in clones)


def test_several_disks_make_one_point(program: Program, make_disk: Callable[[str], Path]) -> None:
    system, data = make_disk("vda.img"), make_disk("vdb.img")
    apply_churn(str(data), Churn.REWRITE_20, 3)
    summary = program.run("snapshot", system, data, "--name", "web01", "--json", code=0).document
    assert summary["item"] == "web01"
    assert summary["unique_bytes"] < summary["changed_bytes"]  # what the two disks share is stored once
    program.run("restore", "--point", "1", code=0)
    assert_same(program.folder / "web01-point-1" / "vda.img", system)
    assert_same(program.folder / "web01-point-1" / "vdb.img", data)
    program.run("restore", "--point", "web01@latest", "--disk", "vdb", "-o", program.folder / "one.img", code=0)
    assert_same(program.folder / "one.img", data)
