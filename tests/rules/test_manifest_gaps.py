"""R6: what no layer states is damage, whether it is a chunk or a whole cell; it is never read as a hole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import forge
from helpers.files import first_difference, noise, resize, write_at
from helpers.site import CHUNK, Site

from blockvault.engine.layering import fill_segment
from blockvault.errors import CorruptionError
from blockvault.format.layers import ENTRY_HOLE, Segment
from blockvault.model.geometry import CELL_CHUNKS

CELL = CELL_CHUNKS * CHUNK
Gap = Callable[[dict[int, Segment]], dict[int, Segment]]


def whole_cell(cells: dict[int, Segment]) -> dict[int, Segment]:
    """The hole of the cell in the middle is an entry of the root, which the forger leaves out; all else is stated."""
    return cells


def last_cell(cells: dict[int, Segment]) -> dict[int, Segment]:
    return {0: cells[0]}


def one_chunk(cells: dict[int, Segment]) -> dict[int, Segment]:
    """Each cell has something, but a chunk of the first one's hole is left out."""
    lengths = cells[0].fill_length.copy()
    lengths[-1] -= 1
    middle = fill_segment(ENTRY_HOLE, CELL_CHUNKS)
    return {0: replace(cells[0], fill_length=lengths), 1: middle, 2: cells[2]}


@pytest.fixture
def image(site: Site) -> Path:
    """Data in the first and the last of three cells, and a point of it."""
    path = site.root / "disk.img"
    path.write_bytes(noise(4 * CHUNK, 1))
    resize(path, 2 * CELL + 5 * CHUNK)
    write_at(path, 2 * CELL, noise(5 * CHUNK, 2))
    site.take(path)
    return path


@pytest.mark.parametrize("gap", [whole_cell, last_cell, one_chunk])
def test_a_gap_is_damage_for_whatever_reads_it(site: Site, image: Path, gap: Gap) -> None:
    label = forge.point_with(site, 1, gap)
    site.reopen()
    output = site.root / "restored.img"
    with pytest.raises(CorruptionError) as caught:
        site.vault.restore(label, output=str(output), source="vault")
    assert caught.value.kind == "vault.manifest-gap"
    assert not output.exists()
    with pytest.raises(CorruptionError):
        site.vault.restore(label, output=str(image), source="vault", force=True)
    assert first_difference(image, site.copies["1"]["disk"]) is None, "a file is replaced whole, or not at all"
    with pytest.raises(CorruptionError), (site.root / "stream").open("wb") as stream:
        site.vault.restore(label, stream=stream.fileno(), source="vault")
    for left, right in ((label, "1"), ("1", label), (label, str(image))):
        with pytest.raises(CorruptionError) as caught:
            site.vault.diff(left, right)
        assert caught.value.kind == "vault.manifest-gap"
    for quick in (True, False):
        report = site.vault.verify(quick=quick)
        assert {touch.label for damage in report.damage for touch in damage.touches} == {label}
    assert site.vault.verify("1").damage == ()
    site.check(1)


@pytest.mark.parametrize("way", ["scan", "identity"])
@pytest.mark.parametrize("gap", [whole_cell, last_cell, one_chunk])
def test_a_parent_with_a_gap_is_not_passed_on(site: Site, image: Path, gap: Gap, way: str) -> None:
    """A transfer that meets it says so, and its own point is whole, unless what is missing was never looked at."""
    forge.point_with(site, 1, gap)
    if way == "identity":
        site.lose_digests()
    site.reopen()
    for at in (0, CELL, 2 * CELL):
        write_at(image, at, noise(CHUNK, 9))
    result = site.take(image)
    assert result.warnings
    assert site.vault.verify(str(result.number)).damage == ()
    site.check(result.number)


def test_a_layer_with_no_cell_at_all_is_a_gap(site: Site, image: Path) -> None:
    label = forge.point_with(site, 1, lambda _: {})
    assert site.reopen().verify(label).damage
    with pytest.raises(CorruptionError, match="cell 0"):
        site.restore(label)


def test_a_disk_of_no_bytes_has_no_gap(site: Site) -> None:
    empty = site.root / "empty.img"
    empty.write_bytes(b"")
    site.take(empty)
    site.sound()
