"""Verify proves structure layer by layer, and names damage as it does walking every point's manifest cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip, swap, truncate
from helpers.files import noise, resize, text, write_at
from helpers.site import CHUNK, Site

from blockvault.engine import structure
from blockvault.engine.structure import Structure
from blockvault.format.layers import Segment
from blockvault.model.geometry import CELL_CHUNKS
from blockvault.store.layers import layer_object

POINTS = 5


def every_disk(self: Structure, points: Any) -> list[Any]:
    return [(label, point, disk) for label, point in points for disk in point.disks]


def same_either_way(site: Site) -> set[str]:
    """The objects that verify names: by layers, in the smallest windows, as too large to be held, and cell by cell."""
    site.reopen()
    vault = site.vault
    quick, full = vault.verify(quick=True).damage, vault.verify().damage
    for where, name, value in ((structure, "WINDOW_PIECES", 1), (structure, "ROWS_MAX", 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, value)
            assert vault.verify(quick=True).damage == quick, name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Structure, "doubtful", every_disk)
        assert vault.verify(quick=True).damage == quick
        assert vault.verify().damage == full
    for info in vault.points():
        one = vault.verify(info.label, quick=True).damage
        touched = {touch for each in quick for touch in each.touches if touch.label == info.label}
        assert {touch for each in one for touch in each.touches} == touched
    return {each.object for each in full}


@pytest.fixture
def history(site: Site) -> Site:
    """An item over two cells, each point with a changed chunk here and there; another item that shares its blocks."""
    image, other = site.root / "disk.img", site.root / "other.img"
    image.write_bytes(text(12 * CHUNK, 1))
    other.write_bytes(image.read_bytes())
    resize(image, CELL_CHUNKS * CHUNK + 5 * CHUNK)
    write_at(image, CELL_CHUNKS * CHUNK, noise(5 * CHUNK, 2))
    for turn in range(POINTS):
        write_at(image, turn * CHUNK, noise(CHUNK, 10 + turn))
        if turn == 1:
            write_at(image, CELL_CHUNKS * CHUNK + 7, b"an edit")
        if turn == 3:
            resize(image, 40 * CHUNK + 9)
        if turn == 4:
            resize(image, CELL_CHUNKS * CHUNK + 2 * CHUNK)
        site.take(image)
        if turn % 3 == 0:
            write_at(other, 3 * CHUNK, noise(CHUNK, 10 + turn))
            site.take(other)
    return site


def layer_paths(site: Site, label: str) -> list[Path]:
    (disk,) = forge.point(site, label).disks
    return [site.folder / layer_object(ref.name) for ref in disk.layers]


def a_segment(site: Site) -> None:
    flip(layer_paths(site, "5")[0], 80)


def a_root(site: Site) -> None:
    path = layer_paths(site, "5")[0]
    flip(path, path.stat().st_size - 30)


def the_oldest_layer(site: Site) -> None:
    truncate(layer_paths(site, "1")[-1], 100)


def a_missing_layer(site: Site) -> None:
    layer_paths(site, "6")[0].unlink()


def two_layers_swapped(site: Site) -> None:
    swap(layer_paths(site, "4")[0], layer_paths(site, "7")[0])


def a_table(site: Site) -> None:
    path = forge.pack_path(site, forge.packs(site)[1])
    flip(path, path.stat().st_size - 30)


def a_missing_pack(site: Site) -> None:
    forge.pack_path(site, forge.packs(site)[0]).unlink()


def a_block(site: Site) -> None:
    flip(forge.pack_path(site, forge.packs(site)[0]), 70)


def a_gap_of_a_chunk(site: Site) -> None:
    def change(cells: dict[int, Segment]) -> dict[int, Segment]:
        lengths = cells[0].fill_length.copy()
        lengths[-1] -= 1
        return {**cells, 0: replace(cells[0], fill_length=lengths)}

    forge.point_with(site, 1, change)


def a_gap_of_a_cell(site: Site) -> None:
    forge.point_with(site, 1, lambda cells: {0: cells[0]})


def a_run_of_other_slots(site: Site) -> None:
    def change(cells: dict[int, Segment]) -> dict[int, Segment]:
        first = cells[0].run_first_slot.copy()
        first[0] += 1
        return {**cells, 0: replace(cells[0], run_first_slot=first)}

    forge.point_with(site, 1, change)


def a_run_of_more_slots_than_there_are(site: Site) -> None:
    def change(cells: dict[int, Segment]) -> dict[int, Segment]:
        return {**cells, 0: replace(cells[0], run_first_slot=cells[0].run_first_slot + 100_000)}

    forge.point_with(site, 1, change)


DAMAGES = [
    a_segment,
    a_root,
    the_oldest_layer,
    a_missing_layer,
    two_layers_swapped,
    a_table,
    a_missing_pack,
    a_block,
    a_gap_of_a_chunk,
    a_gap_of_a_cell,
    a_run_of_other_slots,
    a_run_of_more_slots_than_there_are,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_as_it_is_cell_by_cell(history: Site, damage: Callable[[Site], None]) -> None:
    assert not same_either_way(history)
    damage(history)
    assert same_either_way(history)


def test_what_no_point_sees_is_no_damage(history: Site) -> None:
    """A run that binds other slots lies below a layer that states all of its chunks; then a point has it on top."""
    (disk,) = forge.point(history, "1").disks
    cells = forge.segments(history, disk)
    wrong = forge.write_layer(
        history, disk, {**cells, 0: replace(cells[0], run_first_slot=cells[0].run_first_slot + np.uint32(1))}
    )
    model = forge.point(history, "1")
    below = replace(disk, layers=(*disk.layers, wrong))
    forge.commit_as_next(history, model, (below,))
    assert not same_either_way(history)
    forge.commit_as_next(history, model, (replace(disk, layers=(wrong, *disk.layers)),))
    assert same_either_way(history)
