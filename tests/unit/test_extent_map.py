"""Extent maps: by made-up maps against a byte-by-byte oracle; real clones are in tests/properties."""

from __future__ import annotations

import struct
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blockvault.image import extent_map
from blockvault.image.extent_map import EXTENT, changed_ranges, differing, read_map

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


# --- what the file system says ---


class Teller:
    """Answers the ioctl with a made-up map, in pieces of at most `batch` extents."""

    def __init__(self, extents: NDArray[np.void], batch: int = 100) -> None:
        self.extents = extents
        self.batch = batch
        self.asked: list[int] = []
        self.is_stuck = False

    def __call__(self, fd: int, request: int, buffer: bytearray) -> int:
        start, _, flags, _, room, _ = struct.unpack_from("=QQLLLL", buffer)
        assert flags & 1, "dirty pages must be written first"
        self.asked.append(start)
        asked_for = self.extents["logical"] + self.extents["length"] > start
        part = self.extents[asked_for | self.is_stuck][: min(self.batch, room)]
        struct.pack_into("=L", buffer, 20, len(part))
        buffer[32 : 32 + part.nbytes] = part.tobytes()
        return 0


def test_a_map_in_pieces_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made([(10 * i, 1000 + 20 * i, 5, LAST if i == 6 else 0) for i in range(7)])
    teller = Teller(whole, batch=2)
    monkeypatch.setattr(extent_map.fcntl, "ioctl", teller)
    assert np.array_equal(read_map(0), whole)
    assert teller.asked == [0, 15, 35, 55]


@pytest.mark.parametrize(
    ("extents", "why"),
    [
        ([(0, 10, 5, 0), (5, 50, 5, 0)], "it has no end"),
        ([(0, 10, 5, 0)], "round in circles"),
        ([(0, 10, 0, 0)], "round in circles"),
        ([((1 << 64) - 4096, 10, 4096, 0)], "round in circles"),
        ([(0, 10, 50, 0), (5, 500, 50, LAST)], "not in order"),
        ([(50, 10, 5, 0), (0, 500, 5, LAST)], "not in order"),
        ([(5, 10, 0, LAST)], "not in order"),
        ([(0, (1 << 64) - 2, 5, LAST)], "beyond all devices"),
    ],
)
def test_what_is_no_map_is_refused(
    extents: list[tuple[int, int, int, int]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = Teller(made(extents))
    teller.is_stuck = "circles" in why
    monkeypatch.setattr(extent_map.fcntl, "ioctl", teller)
    with pytest.raises(ValueError, match=why):
        read_map(0)
    monkeypatch.setattr(extent_map, "file_system_type", lambda fd: extent_map.XFS_MAGIC)
    monkeypatch.setattr(extent_map, "is_realtime", lambda fd: False)
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        told = changed_ranges(old.fileno(), new.fileno())
    assert isinstance(told, str)
    assert "makes no sense" in told


def test_two_files_of_which_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        fds = old.fileno(), new.fileno()
        monkeypatch.setattr(extent_map, "file_system_type", lambda fd: 0xEF53)
        assert changed_ranges(*fds) == "the file system is neither xfs nor btrfs"
        monkeypatch.setattr(extent_map, "file_system_type", lambda fd: extent_map.XFS_MAGIC)
        monkeypatch.setattr(extent_map, "is_realtime", lambda fd: fd == fds[1])
        assert changed_ranges(*fds) == "a snapshot lies on a realtime device"
        assert changed_ranges(fds[0], fds[0]) == "the two snapshots are one file"
        new.truncate(5)
        assert changed_ranges(*fds) == "the disk's size changed"


def test_a_map_that_moves_while_it_is_compared_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A balance moves the older clone's extents, and what was freed is used for the newer one's."""
    maps = [made([(0, place, 4096, LAST)]) for place in (8192, 8192, 40960)]
    monkeypatch.setattr(extent_map, "read_map", lambda fd: maps.pop(0))
    monkeypatch.setattr(extent_map, "file_system_type", lambda fd: extent_map.BTRFS_MAGIC)
    monkeypatch.setattr(extent_map, "is_realtime", lambda fd: False)
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        told = changed_ranges(old.fileno(), new.fileno())
    assert told == "the older snapshot's extents moved while they were compared"
