"""Disks that really fail, systems that give less than was asked for, leases of the dead, an LMDB file that is full.

A loop device whose backing file was cut off reads as a dying disk does: the kernel says EIO beyond the cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer
from helpers.files import noise, text, write_at
from helpers.program import Program
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.errors import BlockVaultError, DeviceError
from blockvault.store import index
from blockvault.vault import Vault

MIB = 1 << 20
Loop = Callable[[int], Path]


@pytest.fixture
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def backing_of(device: Path) -> Path:
    out = subprocess.run(["losetup", "--noheadings", "-O", "BACK-FILE", str(device)], capture_output=True, check=True)
    return Path(out.stdout.decode().strip().removesuffix(" (deleted)"))


def forget_cached(*paths: Path) -> None:
    """Have the kernel read them from the disk again."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


# -- the image ------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("keep", [False, True], ids=["vault-only", "with-snapshot"])
@pytest.mark.parametrize("cut", [0, 5 * CHUNK, 40 * CHUNK + 4096], ids=["all", "early", "in-mid-chunk"])
def test_an_image_that_cannot_be_read(make_site: Callable[..., Site], loop_device: Loop, keep: bool, cut: int) -> None:
    """The job names device and byte, ends with the source's code, and nothing of it stays."""
    site = make_site(keep=keep)
    device = loop_device(64 * CHUNK)
    content = text(32 * CHUNK, 1).ljust(32 * CHUNK) + noise(32 * CHUNK, 2)
    device.write_bytes(content)
    forget_cached(device)
    site.take(device)
    backing = backing_of(device)
    os.truncate(backing, cut)
    forget_cached(device)
    before = {*site.objects("main/packs"), *site.objects("main/layers"), *site.objects("points")}
    with pytest.raises(DeviceError) as caught:
        site.vault.snapshot([str(device)], keep=keep)
    assert caught.value.kind == "image.read-error"
    assert caught.value.errno == 5
    assert str(device) in caught.value.message
    assert "at byte" in caught.value.message
    assert {*site.objects("main/packs"), *site.objects("main/layers"), *site.objects("points")} == before
    assert [info.number for info in site.vault.points()] == [1]
    site.reopen()
    site.check("1")
    os.truncate(backing, len(content))
    forget_cached(device)
    device.write_bytes(content)
    write_at(device, 3 * CHUNK, noise(CHUNK, 9))
    forget_cached(device)
    site.take(device)
    site.sound()


@pytest.mark.root
def test_the_command_line_ends_with_15(tmp_path: Path, loop_device: Loop) -> None:
    program = Program(tmp_path)
    device = loop_device(64 * CHUNK)
    os.truncate(backing_of(device), 7 * CHUNK)
    ended = program.run("snapshot", device, "--no-keep", code=15)
    assert ended.kind == "image.read-error"
    assert str(device) in ended.err


# -- the vault ------------------------------------------------------------------------------------------------


def last_byte_on_disk(path: Path) -> int:
    """Where a file's last extent ends on its device."""
    out = subprocess.run(["filefrag", "-v", "-b1", str(path)], capture_output=True, check=True, text=True).stdout
    ends = [line.split(":")[2].split("..")[1].strip() for line in out.splitlines() if line.strip()[:1].isdigit()]
    return max(int(end) for end in ends) + 1


@pytest.mark.root
def test_a_vault_whose_disk_fails_to_read(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    """Blocks that cannot be read are damage, named; the rest restores; a full compare stores them again."""
    mount = mounted("ext4", 64 * MIB)
    site_root = tmp_path / "host"
    site_root.mkdir()
    images = [site_root / "good.img", site_root / "bad.img"]
    vault_folder = mount / "vault"
    Vault.create("home", path=str(vault_folder), state_dir=str(site_root / "state"), chunk_size=CHUNK).close()

    def open_vault() -> Vault:
        return Vault.open(str(vault_folder), state_dir=str(site_root / "state"))

    with open_vault() as vault:
        for seed, image in enumerate(images):
            image.write_bytes(noise(64 * CHUNK, seed))
            vault.snapshot([str(image)], keep=False)
            subprocess.run(["sync", "-f", str(mount)], check=True)
    packs = sorted((vault_folder / "main" / "packs").rglob("*.0-*"), key=last_byte_on_disk)
    pack = packs[-1]
    stops = last_byte_on_disk(pack)
    others = [path for path in vault_folder.rglob("*") if path.is_file() and path.stat().st_blocks]
    beyond = {path for path in others if last_byte_on_disk(path) > stops - 600 * 1024} - {pack}
    (backing,) = tmp_path.rglob("ext4.fs")
    tail_begins = stops - 600 * 1024  # the table, which lies at the end, goes too
    with backing.open("rb") as file:
        file.seek(tail_begins)
        tail = file.read()
    size = backing.stat().st_size
    os.truncate(backing, tail_begins)
    forget_cached(pack, *beyond)
    owner = 1 if packs.index(pack) == 0 else 2
    if owner == 1 or beyond:
        os.truncate(backing, size)
        pytest.skip("this file system placed other files behind the second point's pack")
    try:
        with open_vault() as vault:
            vault.restore("1", output=str(site_root / "one.img"))
            assert (site_root / "one.img").read_bytes() == images[0].read_bytes()
            with pytest.raises(BlockVaultError) as caught:
                vault.restore("2", output=str(site_root / "two.img"))
            assert pack.name in f"{caught.value.message}"
            assert not (site_root / "two.img").exists()
            report = vault.verify()
            assert pack.name in {Path(damage.object).name for damage in report.damage}
            assert {touch.label for damage in report.damage for touch in damage.touches} == {"2"}
            write_at(images[1], 0, noise(CHUNK, 77))
            result = vault.snapshot([str(images[1])], keep=False, full=True)
            assert result.job_state == "completed-with-warning"
            vault.restore(str(result.number), output=str(site_root / "three.img"))
            assert (site_root / "three.img").read_bytes() == images[1].read_bytes()
    finally:
        with backing.open("r+b") as file:
            file.truncate(size)
            file.seek(tail_begins)
            file.write(tail)


# -- the target -----------------------------------------------------------------------------------------------


@pytest.fixture
def dying_device(tmp_path: Path) -> Iterator[Callable[[int, int], Path]]:
    """`dying_device(size, holds)`: a device of that size whose writes fail once it holds so much."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts and loop devices")
    folder = tmp_path / "small"
    folder.mkdir()
    devices: list[str] = []

    def make(size: int, holds: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={holds}", "none", str(folder)], check=True)
        (folder / "backing").touch()
        os.truncate(folder / "backing", size)
        done = subprocess.run(["losetup", "--find", "--show", str(folder / "backing")], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr}")
        devices.append(done.stdout.strip())
        return Path(devices[-1])

    yield make
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.root
@pytest.mark.parametrize("source", ["vault", "snapshot"])
def test_a_device_that_fails_while_it_is_written(
    make_site: Callable[..., Site], dying_device: Callable[[int, int], Path], source: str
) -> None:
    """The system takes the bytes and fails at the sync: no restore is called done that is not on the device."""
    site = make_site(keep=True)
    image = site.root / "disk.img"
    image.write_bytes(noise(512 * CHUNK, 1))
    site.take(image)
    device = dying_device(512 * CHUNK, 2 * MIB)
    with pytest.raises(DeviceError) as caught:
        site.vault.restore("1", output=str(device), force=True, source=source)
    assert caught.value.errno in (5, 28)
    assert str(device) in caught.value.message
    site.sound()


# -- short reads and writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_system_that_gives_and_takes_little_at_a_time(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, most: int, encrypted: bool
) -> None:
    """Nothing is damage, and nothing is lost, because a call moved less than was asked for."""
    site = make_site(keep=True, secret=KEY_FILE if encrypted else None)
    image = site.root / "disk.img"
    image.write_bytes(text(8 * CHUNK, 1).ljust(8 * CHUNK) + noise(2 * CHUNK, 2))
    pread, pwrite, write = os.pread, os.pwrite, os.write
    large = 1 << 16  # the payload of a pack in pieces of one byte would take all day
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "pread", lambda fd, length, at: pread(fd, min(length, most) if length < large else length, at)
        )
        patch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:most] if len(data) < large else data, at))
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:most] if len(data) < large else data))
        for seed in range(3):
            write_at(image, seed * CHUNK, noise(100, 10 + seed))
            site.take(image)
            assert site.monitor.warnings == []
            site.reopen()
        site.sound()
        site.check("3", source="snapshot")
    site.lose_index()
    site.sound()


# -- LMDB -----------------------------------------------------------------------------------------------------


def test_an_lmdb_file_that_is_full_grows_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of a few pages: opening, committing, listing go on over any number of its ends."""
    monkeypatch.setattr(index, "MAP_BYTES_START", 1 << 17)
    site.lose_index()
    image = site.root / "disk.img"
    image.write_bytes(noise(600 * CHUNK, 1))
    for seed in range(4):
        write_at(image, seed * 150 * CHUNK, noise(150 * CHUNK, 10 + seed))
        site.take(image, comment="x" * 2000)
        assert site.monitor.warnings == []
    opened = site.vault._session.index
    assert opened is not None
    assert opened._environment.info()["map_size"] > 1 << 17
    assert opened.size > 1 << 17
    site.reopen()
    image.rename(site.root / "moved.img")
    (site.root / "moved.img").rename(site.root / "other.img")
    result = site.take(site.root / "other.img")
    assert result.statistics.unique_bytes == 0, "the index has every block"
    site.sound()


# -- leases ---------------------------------------------------------------------------------------------------

TAKE = """
from blockvault import vault

def work(state, image):
    with vault.Vault.open(state_dir=state) as opened:
        return opened.snapshot([image], keep=False).number
"""


def test_a_lease_whose_owner_died_is_removed_and_one_of_the_living_stays(
    site: Site, children: ForkServer, hook: Callable[..., None]
) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    site.close()
    for step in ("lease.sync", "transfer.packs", "transfer.commit"):
        write_at(image, 0, noise(CHUNK, len(step)))
        died = children.run(TAKE, site.state, image, spec=f"{step}:kill")
        assert died["status"] == -signal.SIGKILL
        (dead,) = site.objects("leases")
        if step == "transfer.packs":
            dead.chmod(0o600)
            dead.write_bytes(b"")  # its owner died before it said anything
        seen: list[int] = []

        def look(name: str, gone: Path = dead, seen: list[int] = seen) -> None:
            if name == "transfer.commit":
                assert not gone.exists()
                seen.append(len(site.objects("leases")))

        hook(look)
        site.take(image)
        hook(None)
        assert seen == [1], "only that of the job that runs"
        assert site.objects("leases") == []
        site.close()
    site.sound()
