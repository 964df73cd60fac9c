"""A restore in place makes the disks what they were, writes only what differs, and can be undone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import forge
from helpers.damage import flip
from helpers.files import differing_chunks, first_difference, keep_copy, noise, punch, resize, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.errors import BlockVaultError, ConflictError, CorruptionError, DeviceError, NotFoundError
from blockvault.failpoints import Hook
from blockvault.model import RestoreResult
from blockvault.monitor import Monitor

CHUNKS = 40
SetHook = Callable[[Hook | None], None]


def prepared(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(text(30 * CHUNK, 1))
    resize(image, CHUNKS * CHUNK)  # ten chunks of hole at the end
    site.take(image)
    return image


def changed(image: Path) -> None:
    """Edits, new bytes, zeros, a hole where data was and data where a hole was."""
    write_at(image, 2 * CHUNK + 7, b"edited")
    write_at(image, 5 * CHUNK, noise(2 * CHUNK, 5))
    write_at(image, 10 * CHUNK, bytes(CHUNK))
    punch(image, 12 * CHUNK, 3 * CHUNK)
    write_at(image, 35 * CHUNK, noise(CHUNK, 6))


def back(site: Site, label: str = "1", **options: object) -> RestoreResult:
    return site.vault.restore_in_place(label, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", [None, KEY_FILE], ids=["plain", "encrypted"])
def test_only_what_differs_is_written(make_site: Callable[..., Site], secret: object) -> None:
    site = make_site(secret=secret)
    image = prepared(site)
    changed(image)
    copy = site.copies["1"]["disk"]
    expected = differing_chunks(image, copy, CHUNK)
    assert len(expected) == 8
    assert back(site, dry_run=True).differing_chunks == len(expected)
    assert first_difference(image, copy) is not None
    done = back(site, undo=False)
    assert done.differing_chunks == len(expected)
    assert done.undo_number is None
    assert first_difference(image, copy) is None
    assert back(site, undo=False).differing_chunks == 0


def compared(site: Site, **options: object) -> tuple[int, int | None]:
    """How many chunks of the disk a restore of point 1 reads, and how many it finds to differ."""
    monitor = Monitor()
    done = site.vault.restore_in_place("1", monitor=monitor, **options)  # type: ignore[arg-type]
    assert done.warnings == ()
    return monitor.counters.get("compared_chunks", 0), done.differing_chunks


def only_what_differs_is_read(site: Site) -> None:
    image = prepared(site)
    changed(image)
    read, differing = compared(site)
    assert differing == 8
    assert read <= 5, "four of the eight are holes or zeros now"
    assert first_difference(image, site.copies["1"]["disk"]) is None
    assert compared(site) == (0, 0)
    changed(image)
    read, differing = compared(site, undo=False)
    assert differing == 8
    assert read <= 5, "without it a scan by digests tells the same"
    assert first_difference(image, site.copies["1"]["disk"]) is None
    site.lose_digests()
    assert compared(site, undo=False) == (30, 0), "without digests everything is compared"


@pytest.mark.parametrize("keep", [True, False])
def test_the_undo_point_tells_what_to_read(make_site: Callable[..., Site], keep: bool) -> None:
    only_what_differs_is_read(make_site(keep=keep))


def test_the_undo_point_of_clones_tells_what_to_read(reflink_path: Path) -> None:
    with Site(reflink_path / "site", keep=True) as site:
        only_what_differs_is_read(site)


@pytest.mark.parametrize("how", ["written", "touched", "replaced"])
def test_a_disk_that_was_touched_since_is_compared_whole(site: Site, hook: SetHook, how: str) -> None:
    """Something writes to the disk while the undo point is being transferred: its word is worth nothing then."""
    image = prepared(site)
    changed(image)
    done: list[str] = []

    def meddle(name: str) -> None:
        if name != "transfer.committed" or done:
            return
        done.append(name)
        if how == "written":
            write_at(image, 20 * CHUNK, noise(CHUNK, 8))
        elif how == "touched":
            os.utime(image)
        else:
            keep_copy(image, image.with_suffix(".new"))
            write_at(image.with_suffix(".new"), 21 * CHUNK, noise(CHUNK, 9))
            os.replace(image.with_suffix(".new"), image)

    hook(meddle)
    monitor = Monitor()
    differing = site.vault.restore_in_place("1", monitor=monitor).differing_chunks
    hook(None)
    assert done
    data = site.vault.point("1").size_bytes - 10 * CHUNK
    assert monitor.counters["scan_bytes"] > 1.5 * data, "for the undo point, and again for what came after it"
    assert differing == (8 if how == "touched" else 9)
    assert first_difference(image, site.copies["1"]["disk"]) is None


def test_a_restore_that_goes_on_compares_everything(site: Site, hook: SetHook) -> None:
    image = prepared(site)
    changed(image)

    def fail(name: str) -> None:
        if name == "in-place.written":
            raise KeyboardInterrupt

    hook(fail)
    with pytest.raises(KeyboardInterrupt):
        back(site)
    hook(None)
    assert compared(site) == (30, 0)
    assert first_difference(image, site.copies["1"]["disk"]) is None


@pytest.mark.parametrize("size", [3 * CHUNK + 100, (CHUNKS + 9) * CHUNK + 17, 0], ids=["shorter", "longer", "empty"])
def test_a_disk_of_another_size_gets_its_own_again(site: Site, size: int) -> None:
    image = prepared(site)
    old = image.stat().st_size
    resize(image, size)
    if size > old:
        write_at(image, old, noise(size - old, 3))
    back(site)
    assert first_difference(image, site.copies["1"]["disk"]) is None
    site.remember("2")
    resize(image, old)


@pytest.mark.parametrize("keep", [False, True], ids=["vault", "snapshots"])
def test_the_undo_point_brings_back_what_was_there(make_site: Callable[..., Site], keep: bool) -> None:
    site = make_site(keep=keep)
    image = prepared(site)
    changed(image)
    before = keep_copy(image, site.root / "before")
    done = back(site)
    assert done.undo_number == 2
    assert site.vault.point("2").tags == {"undo-of": "1"}
    assert first_difference(image, site.copies["1"]["disk"]) is None
    back(site, "2", undo=False)
    assert first_difference(image, before) is None


def test_points_taken_afterwards_are_right(make_site: Callable[..., Site]) -> None:
    site = make_site(keep=True)
    image = prepared(site)
    changed(image)
    site.take(image)
    back(site, "1", undo=False)
    site.take(image)
    changed(image)
    site.take(image)
    site.sound()


def test_one_disk_of_two(site: Site) -> None:
    images = [site.image("system", seed=1), site.image("data", seed=2)]
    site.take(*images, name="web")
    for image in images:
        write_at(image, 100, b"changed")
    done = back(site, disk="data", undo=False)
    assert done.paths == (str(images[1]),)
    assert first_difference(images[1], site.copies["1"]["data"]) is None
    assert first_difference(images[0], site.copies["1"]["system"]) == 100
    with pytest.raises(NotFoundError, match="no disk 'other'"):
        back(site, disk="other")


def test_no_point_is_taken_of_a_half_restored_disk_and_the_restore_goes_on(site: Site, hook: SetHook) -> None:
    image = prepared(site)
    changed(image)
    before = keep_copy(image, site.root / "before")
    copy = site.copies["1"]["disk"]

    def fail(name: str) -> None:
        if name == "restore.mended":
            raise OSError(5, "Input/output error")

    hook(fail)
    with pytest.raises(BlockVaultError):
        back(site)
    hook(None)
    with pytest.raises(ConflictError) as refusal:
        site.vault.snapshot([str(image)])
    assert refusal.value.kind == "item.half-restored"
    assert "--point 1" in str(refusal.value.do)
    assert "--point 2" in str(refusal.value.do)
    done = back(site)
    assert done.undo_number == 2  # that of the first try: what lies there now is a mixture
    assert first_difference(image, copy) is None
    back(site, "2", undo=False)
    assert first_difference(image, before) is None
    site.vault.snapshot([str(image)])


def test_a_half_restored_disk_can_be_undone(site: Site, hook: SetHook) -> None:
    image = prepared(site)
    changed(image)
    before = keep_copy(image, site.root / "before")

    def fail(name: str) -> None:
        if name == "in-place.written":
            raise OSError(28, "No space left on device")

    hook(fail)
    with pytest.raises(OSError, match="No space"):
        back(site)
    hook(None)
    assert back(site, "2").undo_number == 2
    assert first_difference(image, before) is None
    site.vault.snapshot([str(image)])


def test_a_damaged_block_leaves_the_journal(site: Site) -> None:
    image = prepared(site)
    pack = site.objects("main/packs")[0]
    changed(image)
    for offset in range(64, pack.stat().st_size // 2, 100):
        flip(pack, offset)
    site.reopen()
    with pytest.raises(CorruptionError):
        back(site, undo=False)
    with pytest.raises(ConflictError, match="half restored"):
        site.vault.snapshot([str(image)])


def test_what_cannot_work_is_told_before_anything_is_done(site: Site) -> None:
    image = prepared(site)
    numbers = {info.number for info in site.vault.points()}
    image.rename(image.with_suffix(".away"))
    with pytest.raises(DeviceError) as error:
        back(site)
    assert error.value.kind == "image.not-found"
    assert {info.number for info in site.vault.points()} == numbers
    site.vault.snapshot([str(site.image("other"))], snapshot_only=True)
    with pytest.raises(NotFoundError) as missing:
        back(site, "2")
    assert missing.value.kind == "point.not-in-vault"


@pytest.mark.root
def test_a_device(site: Site, loop_device: Callable[[int], Path]) -> None:
    size = CHUNKS * CHUNK
    device = loop_device(size)
    write_at(device, 0, text(size, 4))
    site.vault.snapshot([str(device)], name="dev", keep=False)
    expected = device.read_bytes()
    write_at(device, 7 * CHUNK, noise(2 * CHUNK, 9))
    os.sync()
    done = back(site, undo=False)
    assert done.differing_chunks == 2
    subprocess.run(["blockdev", "--flushbufs", str(device)], check=True)
    assert device.read_bytes() == expected
    smaller = loop_device(size // 2)
    site.vault.set_item("dev", disks={forge.point(site, 1).disks[0].name: str(smaller)})
    with pytest.raises(BlockVaultError) as error:
        back(site, undo=False)
    assert error.value.kind == "target.too-small"


def test_an_image_that_is_in_use(site: Site) -> None:
    image = prepared(site)
    changed(image)
    before = keep_copy(image, site.root / "before")
    with image.open("r+b") as user:
        fcntl.flock(user, fcntl.LOCK_EX)
        with pytest.raises(DeviceError) as error:
            back(site)
    assert error.value.kind == "image.in-use"
    assert first_difference(image, before) is None
    assert len(site.vault.points()) == 1
