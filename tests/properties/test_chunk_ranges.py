"""Ranges of chunks against plain sets of numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blockvault.format.outlines import I64, cut, holds, united, without

pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12)


def as_ranges(drawn: list[tuple[int, int]]) -> I64:
    return np.array([(first, first + length) for first, length in drawn], dtype=np.int64).reshape(-1, 2)


def as_set(ranges: I64) -> set[int]:
    return {chunk for first, end in ranges.tolist() for chunk in range(first, end)}


def check(found: I64, expected: set[int]) -> None:
    """The same chunks, in ranges that rise and are apart."""
    assert as_set(found) == expected
    assert bool((found[:, 0] < found[:, 1]).all())
    assert bool((found[1:, 0] > found[:-1, 1]).all())


@given(pairs)
def test_united(drawn: list[tuple[int, int]]) -> None:
    check(united(as_ranges(drawn)), as_set(as_ranges(drawn)))


@given(pairs, pairs)
def test_without(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    ranges, taken = united(as_ranges(left)), united(as_ranges(right))
    check(without(ranges, taken), as_set(ranges) - as_set(taken))


@given(pairs, st.integers(-1, 70), st.integers(-1, 70))
def test_cut(drawn: list[tuple[int, int]], first: int, end: int) -> None:
    first, end = min(first, end), max(first, end)
    ranges = united(as_ranges(drawn))
    check(cut(ranges, first, end), {chunk for chunk in as_set(ranges) if first <= chunk < end})


@given(pairs)
def test_holds(drawn: list[tuple[int, int]]) -> None:
    ranges, chunks = united(as_ranges(drawn)), np.arange(-1, 75, dtype=np.int64)
    assert set(chunks[holds(ranges, chunks)].tolist()) == as_set(ranges)
