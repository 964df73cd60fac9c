"""R6: disks grow, shrink and have any size; what lay beyond an end never comes back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import forge
from helpers.files import GIB, noise, punch, resize, write_at
from helpers.site import CHUNK, Site

from blockvault.model.geometry import CELL_CHUNKS

CELL = CELL_CHUNKS * CHUNK
WAYS = ["scan", "identity"]


def take(site: Site, image: object, way: str) -> None:
    if way == "identity":
        site.lose_digests() if (site.host / "digests").exists() else None
    site.take(str(image))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 4095])
def test_any_size_restores(site: Site, size: int, way: str) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(size, 1))
    take(site, image, way)
    take(site, image, way)
    resize(image, size + 3)
    take(site, image, way)
    resize(image, size)
    take(site, image, way)
    site.sound()


SEQUENCES = {
    "grow": [3, 6, 9],
    "shrink": [9, 6, 3, 0],
    "shrink-and-grow": [9, 2, 9],
    "to-nothing-and-back": [5, 0, 5],
    "inside-a-chunk": [2.5, 2.25, 2.75, 3, 2.75],
    "over-an-edge": [3, 3.1, 2.9, 3],
    "one-byte": [1 / CHUNK, 1, 1 / CHUNK],
    "back-and-forth": [4, 8, 3.5, 8, 3, 7.25, 1, 9],
}


@pytest.mark.parametrize("data", ["holes", "data", "zeros"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_growing_and_shrinking(site: Site, sequence: list[float], way: str, data: str) -> None:
    """A disk that lost its end and got it back reads as zeros there, whatever lies in older layers."""
    image = site.root / "disk.img"
    image.write_bytes(b"")
    size = 0
    for step, chunks in enumerate(sequence):
        before, size = size, round(chunks * CHUNK)
        resize(image, size)
        if step == 0 or (data == "data" and size > before):
            write_at(image, before, noise(size - before, step))
        elif data == "zeros" and size > before:
            write_at(image, before, bytes(size - before))
        take(site, image, way)
    site.sound()


def test_what_lay_beyond_the_end_does_not_come_back_through_a_merge(site: Site) -> None:
    """Merges of layers of a longer and a shorter disk clip to the shorter."""
    image = site.root / "disk.img"
    image.write_bytes(noise(20 * CHUNK, 1))
    site.take(image)
    rng = np.random.default_rng(3)
    for step in range(24):
        chunks = int(rng.integers(1, 30))
        resize(image, chunks * CHUNK - int(rng.integers(0, CHUNK)))
        for _ in range(2):
            write_at(image, int(rng.integers(chunks)) * CHUNK, noise(100, step))
        site.take(image)
    assert max(len(forge.point(site, info.label).disks[0].layers) for info in site.vault.points()) > 1
    site.sound()


def test_merges_clip_to_the_end_of_the_disk(site: Site) -> None:
    """Blocks, holes and whole cells of the longer disk are left out of the layer that takes them in."""
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    resize(image, 2 * CELL)
    write_at(image, 20 * CHUNK, noise(4 * CHUNK, 2))
    site.take(image)
    resize(image, 22 * CHUNK)
    for chunk in range(0, 14, 2):
        write_at(image, chunk * CHUNK, noise(100, chunk))
    result = site.take(image)
    (disk,) = forge.point(site, result.number).disks
    assert len(disk.layers) == 1, "the two layers were merged"
    (segment,) = forge.segments(site, disk).values()
    _, _, chunk, live = segment.slots()
    assert chunk[live].max() == 21
    assert (segment.fill_first + segment.fill_length).max() <= 20
    assert forge.last_cell(site, disk) == 0
    site.sound()


def test_a_block_beyond_the_end_is_not_needed(site: Site) -> None:
    """A point of a disk that shrank shares layers with longer ones, and needs only what lies on it."""
    image = site.root / "disk.img"
    image.write_bytes(noise(12 * CHUNK, 1))
    site.take(image)
    write_at(image, 10 * CHUNK, noise(CHUNK, 2))
    site.take(image)
    ((pack, _),) = forge.places(site, 2, [10])
    resize(image, 8 * CHUNK)
    result = site.take(image)
    assert forge.point(site, result.number).disks[0].layers == forge.point(site, 2).disks[0].layers
    forge.pack_path(site, pack).unlink()
    site.reopen()
    site.check(result.number)
    assert site.vault.verify(str(result.number)).damage == ()
    assert site.outcome(2) is not None


def test_the_last_chunk_is_read_again_when_the_size_changes(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(3 * CHUNK + 100, 1))
    site.take(image)
    resize(image, 3 * CHUNK + 200)
    site.take(image)
    assert site.counters["chunks_identified"] == 1
    site.sound()


@pytest.mark.parametrize("way", WAYS)
def test_disks_of_several_cells(site: Site, way: str) -> None:
    """Cells that are one hole, cells that end in the middle, growth over a cell's edge and back."""
    image = site.root / "disk.img"
    image.write_bytes(b"")
    for size in (CELL - CHUNK, 2 * CELL + 3 * CHUNK + 77, CELL + 5, 4 * CELL, CELL // 2, 3 * CELL):
        before = image.stat().st_size
        resize(image, size)
        write_at(image, max(0, min(before, size) - 2 * CHUNK), noise(3 * CHUNK, size))
        resize(image, size)
        take(site, image, way)
    site.sound()


def test_holes_and_zeros_in_other_cells(site: Site) -> None:
    image = site.root / "disk.img"
    resize_to = 3 * CELL + 100
    image.write_bytes(b"")
    resize(image, resize_to)
    write_at(image, CELL + 7, noise(4 * CHUNK, 1))
    site.take(image)
    punch(image, CELL, 8 * CHUNK)
    site.take(image)
    write_at(image, CELL, bytes(3 * CHUNK))
    write_at(image, 2 * CELL, bytes(3 * CHUNK))
    site.take(image)
    assert site.counters.get("blocks_stored", 0) == 0
    site.sound()


def test_a_16_tib_disk_costs_what_its_data_costs(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNK, 1))
    try:
        resize(image, 15 << 40)
    except OSError:
        pytest.skip("this file system cannot hold a file of 15 TiB")
    write_at(image, (15 << 40) - CHUNK, noise(CHUNK, 2))
    write_at(image, 7 << 40, noise(CHUNK, 3))
    result = site.take(image)
    assert site.counters["read_bytes"] == 3 * CHUNK
    assert sum(path.stat().st_size for path in site.objects("main/layers")) < 64 * 1024
    write_at(image, GIB, noise(CHUNK, 4))
    site.take(image)
    assert site.counters["chunks_identified"] == 1
    target = site.restore(str(result.number))
    assert target.stat().st_blocks * 512 < 1 << 20
    site.check_all()
