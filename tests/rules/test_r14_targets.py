"""R14: on a target that was not freshly made, holes and zeros are written, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import forge
from helpers.files import MIB, first_difference, noise, punch, resize, write_at
from helpers.site import CHUNK, Site

from blockvault.engine.restore import DiskRestore
from blockvault.errors import InvalidInputError
from blockvault.model.geometry import CELL_CHUNKS
from blockvault.monitor import Monitor

CELL = CELL_CHUNKS * CHUNK


def spotted(site: Site) -> Path:
    """Data, written zeros and holes, changing within chunks and over their edges; the last chunk is short."""
    image = site.root / "disk.img"
    image.write_bytes(noise(5 * CHUNK, 1))
    resize(image, 40 * CHUNK - 77)
    write_at(image, 7 * CHUNK, bytes(3 * CHUNK))
    write_at(image, 20 * CHUNK + 5, noise(3 * CHUNK, 2))
    write_at(image, 39 * CHUNK + 5, b"the end")
    return image


def restore_onto(site: Site, label: str | int, target: Path, *, fresh: bool) -> None:
    session = forge.session(site)
    (disk,) = forge.point(site, label).disks
    restore = DiskRestore(session.store, session.keys, session.shelf, disk, Monitor(), quarantine=session.quarantine)
    try:
        with target.open("r+b") as file:
            restore.to_target(file.fileno(), fresh=fresh)
    finally:
        restore.close()


def test_a_stale_byte_never_stays(site: Site) -> None:
    image = spotted(site)
    site.take(image)
    punch(image, 0, 4 * CHUNK)
    write_at(image, 21 * CHUNK, bytes(2 * CHUNK))
    site.take(image)
    for label in ("1", "2"):
        target = site.root / f"stale-{label}.img"
        target.write_bytes(noise(image.stat().st_size, 9))
        restore_onto(site, label, target, fresh=False)
        (copy,) = site.copies[label].values()
        assert first_difference(target, copy) is None


def test_a_fresh_target_is_not_written_where_it_reads_as_zeros(site: Site) -> None:
    """The other side: what `fresh` saves, and that it would be wrong on a target that is not."""
    image = spotted(site)
    site.take(image)
    target = site.root / "fresh.img"
    target.write_bytes(b"")
    resize(target, image.stat().st_size)
    restore_onto(site, 1, target, fresh=True)
    assert first_difference(target, image) is None
    assert target.stat().st_blocks * 512 <= 12 * CHUNK
    stale = site.root / "stale.img"
    stale.write_bytes(noise(image.stat().st_size, 9))
    restore_onto(site, 1, stale, fresh=True)
    assert first_difference(stale, image) is not None


def test_cells_that_are_one_hole_are_cleared(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(b"")
    resize(image, 5 * CELL + 3 * CHUNK)
    write_at(image, 2 * CELL + 5, noise(CHUNK, 1))
    site.take(image)
    target = site.root / "stale.img"
    target.write_bytes(noise(CHUNK, 2))
    resize(target, image.stat().st_size)
    for offset in (CELL - CHUNK, CELL, 2 * CELL - 1, 2 * CELL, 3 * CELL - 9, 4 * CELL + CELL // 2, 5 * CELL + CHUNK):
        write_at(target, offset, noise(2 * CHUNK, offset))
    restore_onto(site, 1, target, fresh=False)
    assert first_difference(target, image) is None


@pytest.mark.root
def test_a_device_full_of_old_data(site: Site, loop_device: Callable[[int], Path]) -> None:
    """By the front door: a used device larger than the disk; beyond the disk's end it is left alone."""
    image = spotted(site)
    site.take(image)
    device = loop_device(2 * MIB)
    device.write_bytes(noise(2 * MIB, 9))
    with pytest.raises(InvalidInputError) as caught:
        site.vault.restore("1", output=str(device))
    assert caught.value.kind == "target.device-needs-force"
    site.vault.restore("1", output=str(device), force=True)
    size = image.stat().st_size
    with device.open("rb") as file:
        assert file.read(size) == image.read_bytes()
        file.seek(-(-size // 512) * 512)
        assert file.read() == noise(2 * MIB, 9)[-(-size // 512) * 512 :]


def test_a_file_that_is_overwritten_is_made_anew(site: Site) -> None:
    image = spotted(site)
    site.take(image)
    target = site.root / "used.img"
    target.write_bytes(noise(2 * MIB, 9))
    site.vault.restore("1", output=str(target), force=True)
    assert first_difference(target, image) is None
