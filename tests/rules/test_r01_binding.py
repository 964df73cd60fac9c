"""R1: a wrong place is never a right-looking restore.

Every object here is sealed as it must be, as a writer with a bug would leave it: no tag fails. Only the digest that
binds a run of slots to its chunks can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.files import GIB, noise, resize, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import CorruptionError
from blockvault.format.layers import Segment

CHUNKS = 12


def scattered(site: Site, name: str = "disk", seed: int = 1) -> Path:
    """An image whose point has several runs of equal length: two passes of churn over every second chunk."""
    path = site.root / f"{name}.img"
    path.write_bytes(noise(CHUNKS * CHUNK, seed))
    return path


def swapped(values: np.ndarray, i: int = 0, j: int = 1) -> np.ndarray:
    out = values.copy()
    out[i], out[j] = values[j], values[i]
    return out


def two_runs(site: Site) -> str:
    """A point whose newest layer holds two runs of three chunks, in one pack."""
    image = scattered(site)
    site.take(image)
    write_at(image, 2 * CHUNK, noise(3 * CHUNK, 2))
    known = scattered(site, "other", 3)
    write_at(image, 5 * CHUNK, known.read_bytes()[: 3 * CHUNK])
    site.take(known)
    label = str(site.take(image).number)
    (disk,) = forge.point(site, label).disks
    assert len(forge.segments(site, disk)[0].run_count) >= 2
    return label


def slots_swapped(segment: Segment) -> Segment:
    return replace(segment, run_first_slot=swapped(segment.run_first_slot), run_pack=swapped(segment.run_pack))


def slots_shifted(segment: Segment) -> Segment:
    first = segment.run_first_slot.copy()
    first[0] = first[0] + 1 if first[0] == 0 else first[0] - 1
    return replace(segment, run_first_slot=first)


def other_pack(segment: Segment) -> Segment:
    pack = segment.run_pack.copy()
    pack[0] = (pack[0] + 1) % len(segment.packs)
    return replace(segment, run_pack=pack)


def chunks_swapped(segment: Segment) -> Segment:
    assert segment.piece_length[0] == segment.piece_length[1]
    return replace(segment, piece_first=swapped(segment.piece_first))


def chunk_shifted(segment: Segment) -> Segment:
    return replace(segment, piece_first=segment.piece_first + np.uint32(1))


def digests_swapped(segment: Segment) -> Segment:
    return replace(segment, run_digest=swapped(segment.run_digest))


@pytest.mark.parametrize(
    "bug", [slots_swapped, slots_shifted, other_pack, chunks_swapped, chunk_shifted, digests_swapped]
)
def test_a_layer_that_names_wrong_places_does_not_restore(site: Site, bug: Callable[[Segment], Segment]) -> None:
    label = two_runs(site)
    model = forge.point(site, label)
    (disk,) = model.disks
    forged = forge.write_layer(site, disk, {0: bug(forge.segments(site, disk)[0])})
    wrong = forge.commit_as_next(site, model, (replace(disk, layers=(forged, *disk.layers[1:])),))
    site.copies[wrong] = site.copies[label]

    error = site.outcome(wrong)

    assert isinstance(error, CorruptionError)
    assert site.outcome(label) is None, "the point that the forged one was made of still restores"
    damage = site.vault.verify(wrong).damage
    assert damage
    assert all(touch.label == wrong for found in damage for touch in found.touches)


def test_a_segment_of_another_cell_does_not_restore(site: Site) -> None:
    """The digest covers chunk numbers of the disk: what is right in one cell is wrong in the next."""
    image = scattered(site)
    resize(image, GIB + CHUNKS * CHUNK)
    first = site.take(image)
    write_at(image, GIB, noise(CHUNKS * CHUNK, 5))
    second = site.take(image)
    model = forge.point(site, second.number)
    (disk,) = model.disks
    cells = forge.segments(site, forge.point(site, first.number).disks[0]) | forge.segments(site, disk)
    assert sorted(cells) == [0, 1]
    forged = forge.write_layer(site, disk, {0: cells[1], 1: cells[0]})
    wrong = forge.commit_as_next(site, model, (replace(disk, layers=(forged, *disk.layers)),))
    site.copies[wrong] = site.copies[str(second.number)]
    assert isinstance(site.outcome(wrong), CorruptionError)
    site.check(first.number)
    site.check(second.number)


@pytest.mark.parametrize("bug", ["order", "content"])
def test_a_generation_with_other_blocks_in_its_slots_does_not_restore(site: Site, bug: str) -> None:
    """Each block of it is whole and equals its id; only its slot is not the one that the layer bound."""
    image, other = scattered(site), scattered(site, "other", 9)
    label = str(site.take(image).number)
    (pack,) = forge.packs(site)
    site.take(other)
    (source,) = set(forge.packs(site)) - {pack}
    if bug == "order":
        forge.write_generation(site, pack, order=[1, 0, *range(2, CHUNKS)])
    else:
        forge.write_generation(site, pack, source=source)
    site.reopen()

    error = site.outcome(label)

    assert isinstance(error, CorruptionError)
    assert pack.hex() in error.message
    assert site.outcome("2") is None
    touched = {touch.label for found in site.vault.verify().damage for touch in found.touches}
    assert touched == {label}


@pytest.mark.parametrize("bug", ["order", "content"])
def test_comparing_points_does_not_believe_a_wrong_place(site: Site, bug: str) -> None:
    image, other = scattered(site), scattered(site, "other", 9)
    site.take(image)
    (pack,) = forge.packs(site)
    site.take(other)
    (source,) = set(forge.packs(site)) - {pack}
    write_at(image, 0, noise(CHUNK, 4))
    site.take(image)
    if bug == "order":
        forge.write_generation(site, pack, order=[1, 0, *range(2, CHUNKS)])
    else:
        forge.write_generation(site, pack, source=source)
    site.reopen()
    with pytest.raises(CorruptionError, match=pack.hex()):
        site.vault.diff("1", "3")


def test_a_good_next_generation_is_read(site: Site) -> None:
    """The other side of the rule: a generation that keeps its slots is as good as the first."""
    label = str(site.take(scattered(site)).number)
    (pack,) = forge.packs(site)
    name = forge.write_generation(site, pack)
    for path in site.objects("main/packs"):
        if not str(path).endswith(name.rsplit("/", 1)[1]):
            path.unlink()
    site.reopen()
    site.check(label)
    assert site.vault.verify().damage == ()
