"""Extent maps: by made-up maps against a byte-by-byte oracle; real clones are in tests/properties."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blockvault.image import extent_map
from blockvault.image.extent_map import EXTENT, changed_ranges, differing

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
    for first, end in differing((old, new), 0, size):
        assert not told[first:end].any()
        told[first:end] = True
    before, after = states(old, size), states(new, size)
    assert told.tolist() == [a == "?" or b == "?" or a != b for a, b in zip(before, after, strict=True)]


@given(maps(), st.integers(0, 40))
def test_ranges_are_ascending_and_apart(extents: NDArray[np.void], size: int) -> None:
    ranges = differing((extents, made([])), 0, size)
    assert (ranges[:, 0] < ranges[:, 1]).all()
    assert (ranges[1:, 0] > ranges[:-1, 1]).all()


def test_the_same_place_in_other_pieces_is_equal() -> None:
    whole = made([(0, 1000, 100, LAST)])
    pieces = made([(0, 1000, 30, 0), (30, 1030, 20, SHARED), (50, 1050, 50, LAST)])
    assert len(differing((whole, pieces), 0, 100)) == 0


def test_data_that_became_a_hole_differs_and_a_hole_that_was_reserved_does_not() -> None:
    data, hole, reserved = made([(0, 1000, 100, 0)]), made([]), made([(0, 5000, 100, UNWRITTEN)])
    assert differing((data, hole), 0, 100).tolist() == [[0, 100]]
    assert differing((hole, data), 0, 100).tolist() == [[0, 100]]
    assert len(differing((hole, reserved), 0, 100)) == 0


def test_addresses_near_the_end_of_the_range_do_not_wrap() -> None:
    high = (1 << 63) + 5
    old, new = made([(0, high, 10, 0)]), made([(0, high, 5, 0), (5, high + 5, 5, 0)])
    assert len(differing((old, new), 0, 10)) == 0
    assert differing((old, new), 0, 0).tolist() == []


# --- what the file system says ---


class Teller:
    """Answers the ioctl of a file descriptor with a made-up map, from where it is asked."""

    def __init__(self, maps: dict[int, NDArray[np.void]]) -> None:
        self.maps = maps
        self.asked = 0
        self.is_stuck = False

    def __call__(self, fd: int, request: int, buffer: bytearray) -> int:
        start, _, flags, _, room, _ = struct.unpack_from("=QQLLLL", buffer)
        assert flags & 1, "dirty pages must be written first"
        self.asked += 1
        extents = self.maps[fd]
        asked_for = extents["logical"] + extents["length"] > start
        part = extents[asked_for | self.is_stuck][:room]
        struct.pack_into("=L", buffer, 20, len(part))
        buffer[32 : 32 + part.nbytes] = part.tobytes()
        return 0


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Two files that count as clones on xfs."""
    monkeypatch.setattr(extent_map, "file_system_type", lambda fd: extent_map.XFS_MAGIC)
    monkeypatch.setattr(extent_map, "is_realtime", lambda fd: False)
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        for file in (old, new):
            file.truncate(60)
        yield old, new


@given(maps(), maps(), st.integers(1, 60), st.integers(1, 4))
def test_maps_of_any_number_of_pieces_give_the_same(
    old: NDArray[np.void], new: NDArray[np.void], size: int, batch: int
) -> None:
    for extents in (old, new):
        extents["flags"] &= np.uint32(~LAST & 0xFFFFFFFF)
        extents["flags"][extents["flags"] & DOUBT != 0] = 0
        if len(extents):
            extents["flags"][-1] |= LAST
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extent_map, "_BATCH", batch)
        patch.setattr(extent_map.fcntl, "ioctl", Teller({3: old, 4: new}))
        found = extent_map._compare(3, 4, size)
    assert not isinstance(found, str)
    assert found.tolist() == differing((old, new), 0, size).tolist()


@pytest.mark.parametrize(
    ("extents", "why"),
    [
        ([(0, 10, 5, 0)], "it has no end"),
        ([(0, 10, 5, 0), (5, 50, 5, 0)], "round in circles"),
        ([(0, 10, 50, 0), (5, 500, 50, LAST)], "not in order"),
        ([(50, 10, 5, 0), (0, 500, 5, LAST)], "not in order"),
        ([(5, 10, 0, LAST)], "not in order"),
        ([((1 << 64) - 4096, 10, 4096, 0)], "not in order"),
        ([(0, (1 << 64) - 2, 5, LAST)], "beyond all devices"),
    ],
)
def test_what_is_no_map_is_refused(
    extents: list[tuple[int, int, int, int]],
    why: str,
    pair: tuple[IO[bytes], IO[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fds = [file.fileno() for file in pair]
    teller = Teller({fd: made(extents) for fd in fds})
    teller.is_stuck = True
    monkeypatch.setattr(extent_map.fcntl, "ioctl", teller)
    monkeypatch.setattr(extent_map, "_BATCH", 2)
    told = changed_ranges(*fds)
    assert isinstance(told, str)
    assert told.startswith("the file system's map makes no sense")
    assert why in told


def test_two_files_of_which_nothing_can_be_told(
    pair: tuple[IO[bytes], IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair[0].fileno(), pair[1].fileno()
    assert changed_ranges(old, old) == "the two snapshots are one file"
    monkeypatch.setattr(extent_map, "is_realtime", lambda fd: fd == new)
    assert changed_ranges(old, new) == "a snapshot lies on a realtime device"
    monkeypatch.setattr(extent_map, "file_system_type", lambda fd: 0xEF53)
    assert changed_ranges(old, new) == "the file system is neither xfs nor btrfs"
    pair[1].truncate(5)
    assert changed_ranges(old, new) == "the disk's size changed"


def _readings(
    old: int, new: int, second: list[tuple[int, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> list[list[int]]:
    """What is claimed of two files that lie at one place, of which the older is told as `second` when read again."""
    teller = Teller({old: made([(0, 8192, 60, LAST)]), new: made([(0, 8192, 60, LAST)])})

    def moving(fd: int, request: int, buffer: bytearray) -> int:
        if teller.asked == 2:
            teller.maps[old] = made(second)
        return teller(fd, request, buffer)

    monkeypatch.setattr(extent_map.fcntl, "ioctl", moving)
    told = changed_ranges(old, new)
    assert not isinstance(told, str)
    return told.tolist()


def test_what_moves_while_it_is_compared_is_claimed(
    pair: tuple[IO[bytes], IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balance moves the older clone's extents, and what was freed is used for the newer one's."""
    old, new = pair[0].fileno(), pair[1].fileno()
    second = [(0, 8192, 20, 0), (20, 40960, 10, 0), (30, 8222, 30, LAST)]
    assert _readings(old, new, second, monkeypatch) == [[20, 30]]


def test_extents_that_are_only_cut_anew_did_not_move(
    pair: tuple[IO[bytes], IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """xfs cuts what it tells where others share it: a clone that is removed just then is no reason to claim a thing."""
    old, new = pair[0].fileno(), pair[1].fileno()
    second = [(0, 8192, 20, SHARED), (20, 8212, 10, 0), (30, 8222, 30, SHARED | LAST)]
    assert _readings(old, new, second, monkeypatch) == []
