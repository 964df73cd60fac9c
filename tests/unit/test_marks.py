"""What the marks of a point come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvault.model import Mark, MarkKind, PointState, state_of

DAY = timedelta(days=1)
START = datetime(2026, 11, 1, tzinfo=UTC)


def mark(kind: str, day: int, *, days: int | None = None, reason: str = "") -> Mark:
    at = START + day * DAY
    return Mark(kind, at, reason, until=at + days * DAY if days is not None else None)


def test_a_point_without_marks_is_a_root_and_listed() -> None:
    assert state_of([]) == PointState()
    assert PointState().is_root
    assert PointState().is_listed


def test_delete_and_undelete() -> None:
    deleted = state_of([mark("delete", 1, days=14, reason="old")])
    assert deleted.is_root
    assert not deleted.is_listed
    assert deleted.deleted == START + DAY
    assert deleted.deleted_reason == "old"
    assert deleted.purge_after == START + 15 * DAY
    assert state_of([mark("delete", 1, days=14), mark("undelete", 2)]) == PointState()


def test_a_delete_without_days_may_be_purged_at_once() -> None:
    assert state_of([mark("delete", 3)]).purge_after == START + 3 * DAY


def test_hold_and_unhold() -> None:
    held = state_of([mark("hold", 1, reason="audit")])
    assert held.held
    assert held.held_reason == "audit"
    assert state_of([mark("hold", 1), mark("unhold", 2)]) == PointState()


def test_an_unhold_starts_the_days_of_a_deleted_point_again() -> None:
    state = state_of([mark("delete", 0, days=14), mark("hold", 5), mark("unhold", 30)])
    assert state.purge_after == START + 44 * DAY
    assert not state.held


def test_an_unhold_of_what_is_not_held_changes_nothing() -> None:
    state = state_of([mark("delete", 0, days=14), mark("unhold", 30)])
    assert state.purge_after == START + 14 * DAY


@pytest.mark.parametrize("kind", ["void", "purge"])
def test_nothing_follows_the_end(kind: str) -> None:
    state = state_of([mark(kind, 1), mark("hold", 2), mark("undelete", 3), mark("void", 4)])
    assert state.ended is MarkKind(kind)
    assert not state.is_root
    assert not state.held


def test_what_is_missing_makes_it_uncertain_and_what_follows_counts() -> None:
    state = state_of([None, mark("delete", 1, days=1)])
    assert state.uncertain
    assert state.deleted is not None
    assert state_of([mark("purge", 1), None]).uncertain


def test_kinds_of_a_later_version_are_passed_over() -> None:
    assert state_of([mark("colour", 1), mark("hold", 2)]) == state_of([mark("hold", 2)])


KINDS = st.sampled_from([*MarkKind, "unknown"])


@given(st.lists(st.builds(mark, KINDS, st.integers(0, 100), days=st.none() | st.integers(0, 30)), max_size=12))
def test_the_state_is_consistent(marks: list[Mark]) -> None:
    state = state_of(marks)
    assert (state.deleted is None) == (state.purge_after is None)
    if state.deleted is not None and state.purge_after is not None:
        assert state.purge_after >= state.deleted
    ends = [i for i, each in enumerate(marks) if each.kind in (MarkKind.VOID, MarkKind.PURGE)]
    assert state.is_root == (not ends)
    if ends:
        assert state == state_of(marks[: ends[0] + 1])
    elif MarkKind.HOLD not in [each.kind for each in marks]:
        assert not state.held
