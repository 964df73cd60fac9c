"""Extent maps: by made-up maps against a byte-by-byte oracle; real clones are in tests/properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blockvault.image.extent_map import EXTENT, differing

UNWRITTEN, UNKNOWN, ENCODED, INLINE, SHARED, LAST = 0x800, 0x2, 0x8, 0x200, 0x2000, 0x1
FLAGS = st.sampled_from([0, 0, 0, SHARED, LAST, UNWRITTEN, UNKNOWN, ENCODED, INLINE, SHARED | ENCODED])
DOUBT = UNKNOWN | ENCODED | INLINE


def made(extents: list[tuple[int, int, int, int]]) -> NDArray[np.void]:
    out = np.zeros(len(extents), dtype=EXTENT)
    for row, (logical, physical, length, flags) in enumerate(extents):
        out[row]["logical"], out[row]["physical"] = logical, physical
        out[row]["length"], out[row]["flags"] = length, flags
    return out


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.void]:
    at, extents = 0, []
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 4))
        length = draw(st.integers(1, 5))
        extents.append((at, draw(st.integers(0, 3)) * 100 + at, length, draw(FLAGS)))
        at += length
    return made(extents)


def states(extents: NDArray[np.void], size: int) -> list[object]:
    """What is known of each byte: None zeros, a number its place, "?" nothing."""
    out: list[object] = [None] * size
    for extent in extents:
        for i in range(int(extent["length"])):
            at = int(extent["logical"]) + i
            if at < size:
                flags = int(extent["flags"])
                known = None if flags & UNWRITTEN else int(extent["physical"]) + i
                out[at] = "?" if flags & DOUBT else known
    return out


@given(maps(), maps(), st.integers(0, 40))
def test_exactly_what_is_not_proven_equal_is_told(old: NDArray[np.void], new: NDArray[np.void], size: int) -> None:
    told = np.zeros(size, dtype=np.bool_)
    for first, end in differing(old, new, size):
        assert not told[first:end].any()
        told[first:end] = True
    before, after = states(old, size), states(new, size)
    assert told.tolist() == [a == "?" or b == "?" or a != b for a, b in zip(before, after, strict=True)]


@given(maps(), st.integers(0, 40))
def test_ranges_are_ascending_and_apart(extents: NDArray[np.void], size: int) -> None:
    ranges = differing(extents, made([]), size)
    assert (ranges[:, 0] < ranges[:, 1]).all()
    assert (ranges[1:, 0] > ranges[:-1, 1]).all()


def test_the_same_place_in_other_pieces_is_equal() -> None:
    whole = made([(0, 1000, 100, LAST)])
    pieces = made([(0, 1000, 30, 0), (30, 1030, 20, SHARED), (50, 1050, 50, LAST)])
    assert len(differing(whole, pieces, 100)) == 0


def test_data_that_became_a_hole_differs_and_a_hole_that_was_reserved_does_not() -> None:
    data, hole, reserved = made([(0, 1000, 100, 0)]), made([]), made([(0, 5000, 100, UNWRITTEN)])
    assert differing(data, hole, 100).tolist() == [[0, 100]]
    assert differing(hole, data, 100).tolist() == [[0, 100]]
    assert len(differing(hole, reserved, 100)) == 0


def test_addresses_near_the_end_of_the_range_do_not_wrap() -> None:
    high = (1 << 63) + 5
    old, new = made([(0, high, 10, 0)]), made([(0, high, 5, 0), (5, high + 5, 5, 0)])
    assert len(differing(old, new, 10)) == 0
    assert differing(old, new, 0).tolist() == []
