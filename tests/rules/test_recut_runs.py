"""Merging keeps a segment bounded however many points were taken, and every chunk's block where it was (R1).

Runs that are almost wholly shadowed are cut down to what is live: the one place where a run's digest is made anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import forge
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import CorruptionError
from blockvault.format.layers import (
    SHADOWED_RUN,
    Segment,
    build_segment,
    decode_segment,
    encode_segment,
    merge_segments,
    recut_segment,
    run_digest,
)
from blockvault.format.tables import NO_BASE
from blockvault.ids import PackName
from blockvault.model import FillKind
from blockvault.model.geometry import CELL_CHUNKS

KEY = bytes(range(32))
CELL = 3
HOT = 1020  # chunks that change at every point: all but four of a run
Base = tuple[PackName, int]


class Points:
    """Points of one cell, one pack each, merged into one segment as they are taken; beside it what it must say."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tables: dict[PackName, np.ndarray] = {}
        self.says: dict[int, tuple[PackName, int]] = {}
        self.bases: dict[int, Base] = {}
        self.merged: Segment | None = None

    def take(self, chunks: np.ndarray, *, recut: bool = True) -> None:
        """A point that changed these chunks, every seventh of them as a delta."""
        chunks = np.unique(chunks).astype(np.uint32)
        pack = PackName(len(self.tables).to_bytes(16, "big"))
        self.tables[pack] = self.rng.integers(0, 256, (len(chunks), 32), dtype=np.uint8)
        slots = np.arange(len(chunks), dtype=np.uint32)
        delta = (slots % 7 == 3) & (len(self.tables) > 1)
        older = PackName(bytes(16))
        segment = build_segment(
            CELL,
            KEY,
            packs=[pack, older],
            chunks=chunks,
            pack=np.zeros(len(chunks), np.uint32),
            slot=slots,
            ids=self.tables[pack],
            base_pack=np.where(delta, 1, NO_BASE).astype(np.uint32),
            base_slot=np.where(delta, slots, 0).astype(np.uint32),
            fills=[],
        )
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            self.says[chunk] = (pack, slot)
            self.bases.pop(chunk, None)
            if delta[slot]:
                self.bases[chunk] = (older, slot)
        self.merged = segment if self.merged is None else merge_segments([segment, self.merged])
        if recut:
            self.merged = recut_segment(self.merged, CELL, KEY, self.tables.get)
        self.merged = decode_segment("main/layers/" + "0" * 32, encode_segment(self.merged))

    def check(self) -> None:
        """Every chunk at its block, every delta with its base, every run bound to what the packs hold."""
        segment = self.merged
        assert segment is not None
        run, slot, chunk, live = segment.slots()
        pack = [segment.packs[index] for index in segment.run_pack]
        found = {int(chunk[i]): (pack[run[i]], int(slot[i])) for i in np.flatnonzero(live)}
        assert found == self.says
        assert live[segment.base_ordinal].all()
        bases = zip(segment.base_ordinal.tolist(), segment.base_pack.tolist(), segment.base_slot.tolist(), strict=True)
        assert {int(chunk[i]): (segment.packs[index], at) for i, index, at in bases} == self.bases
        start = 0
        for index, count in enumerate(segment.run_count.tolist()):
            first = int(segment.run_first_slot[index])
            ids = self.tables[pack[index]][first : first + count]
            chunks = chunk[start : start + count].astype(np.uint64) + np.uint64(CELL * CELL_CHUNKS)
            assert run_digest(KEY, chunks, ids) == segment.run_digest[index].tobytes()
            start += count

    @property
    def slot_count(self) -> int:
        assert self.merged is not None
        return int(self.merged.run_count.sum())


def hot_and(points: Points, others: int) -> np.ndarray:
    """The hot chunks, scattered over the cell, and some that no other point is likely to change."""
    hot = np.arange(HOT) * 64
    return np.concatenate([hot, points.rng.choice(np.setdiff1d(np.arange(CELL_CHUNKS), hot), others, replace=False)])


def test_a_segment_of_many_points_is_bounded_by_its_live_chunks() -> None:
    points = Points(1)
    for _ in range(60):
        points.take(hot_and(points, 4))
        assert points.slot_count <= SHADOWED_RUN * len(points.says)
    points.check()
    assert points.slot_count < 3 * len(points.says), "a run of which four chunks are left holds these four"
    without = Points(1)
    for _ in range(60):
        without.take(hot_and(without, 4), recut=False)
    without.check()
    assert without.slot_count > 50_000, "what the bound is for"


@pytest.mark.parametrize("seed", range(4))
def test_any_points_say_the_same_after_merging_and_cutting(seed: int) -> None:
    points = Points(seed)
    for _ in range(40):
        area = int(points.rng.choice([200, 3000, CELL_CHUNKS]))
        points.take(points.rng.integers(0, area, int(points.rng.integers(1, 2500))))
        assert points.slot_count <= SHADOWED_RUN * len(points.says)
    points.check()


def thin(points: Points) -> Segment:
    """A segment with one run of 1,024 of which four chunks are live."""
    points.take(np.arange(1024), recut=False)
    points.take(np.setdiff1d(np.arange(1024), [5, 6, 700, 1023]), recut=False)
    assert points.merged is not None
    return points.merged


def test_neighbouring_live_slots_stay_one_run() -> None:
    points = Points(1)
    cut = recut_segment(thin(points), CELL, KEY, points.tables.get)
    assert cut.run_count.tolist() == [1020, 2, 1, 1]
    assert cut.run_first_slot.tolist() == [0, 5, 700, 1023]
    points.merged = cut
    points.check()


def test_a_run_just_thick_enough_is_left_alone() -> None:
    points = Points(1)
    points.take(np.arange(1024), recut=False)
    points.take(np.arange(64, 1024), recut=False)
    assert points.merged is not None
    assert recut_segment(points.merged, CELL, KEY, points.tables.get) is points.merged
    points.take(np.arange(63, 64), recut=False)
    assert recut_segment(points.merged, CELL, KEY, points.tables.get).run_count.max() == 960


@pytest.mark.parametrize("damage", ["no table", "fewer slots", "an id that is shadowed", "a digest", "another cell"])
def test_a_run_that_does_not_agree_with_its_pack_is_kept_for_the_reader_to_find(damage: str) -> None:
    """Else a wrong place would get a right digest."""
    points = Points(1)
    segment = thin(points)
    first = next(iter(points.tables))
    tables = dict(points.tables)
    cell = CELL
    if damage == "no table":
        del tables[first]
    elif damage == "fewer slots":
        tables[first] = tables[first][:1023]
    elif damage == "an id that is shadowed":
        tables[first] = tables[first].copy()
        tables[first][9, 0] ^= 1
    elif damage == "a digest":
        digests = segment.run_digest.copy()
        digests[1, 0] ^= 1
        segment = replace(segment, run_digest=digests)
    else:
        cell = CELL + 1
    cut = recut_segment(segment, cell, KEY, tables.get)
    assert encode_segment(cut) == encode_segment(segment)


def test_fills_and_runs_of_other_packs_stay_as_they_are() -> None:
    points = Points(1)
    segment = thin(points)
    filled = replace(
        segment,
        fill_first=np.array([5000], np.uint32),
        fill_length=np.array([60], np.uint32),
        fill_kind=np.array([int(FillKind.ZERO)], np.uint8),
    )
    cut = recut_segment(filled, CELL, KEY, points.tables.get)
    assert (cut.fill_first.tolist(), cut.fill_length.tolist(), cut.fill_kind.tolist()) == ([5000], [60], [2])
    assert cut.run_digest[0].tobytes() == segment.run_digest[0].tobytes()


@pytest.mark.parametrize("first", [0, 63, 1000])
def test_a_fill_over_a_live_piece_is_refused(first: int) -> None:
    """No chunk is stated twice, so that a reader's order of looking never decides."""
    points = Points(1)
    points.take(np.arange(64) if first < 64 else np.arange(1040, 1050))
    assert points.merged is not None
    fill = replace(
        points.merged,
        fill_first=np.array([first], np.uint32),
        fill_length=np.array([50], np.uint32),
        fill_kind=np.array([int(FillKind.HOLE)], np.uint8),
    )
    with pytest.raises(CorruptionError, match="damaged"):
        decode_segment("main/layers/" + "0" * 32, encode_segment(fill))


def test_points_with_cut_runs_restore(site: Site) -> None:
    """In a vault: a hot disk keeps one small layer, and every point of it restores, the old ones too."""
    image = site.root / "disk.img"
    image.write_bytes(noise(200 * CHUNK, 1))
    site.take(image)
    for number in range(6):
        for chunk in range(200):
            if chunk % 33 != number:
                write_at(image, chunk * CHUNK, noise(32, 1000 * number + chunk))
        site.take(image)
    (disk,) = forge.point(site, 7).disks
    for layer in range(len(disk.layers)):
        segment = forge.segments(site, disk, layer)[0]
        run, _, _, live = segment.slots()
        assert (SHADOWED_RUN * np.bincount(run[live]) >= segment.run_count).all()
    assert len(segment.run_count) > 6, "the oldest layer took others in"
    assert int(segment.run_count.sum()) < 400
    site.lose_index()
    site.sound()
