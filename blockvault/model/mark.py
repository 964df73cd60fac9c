"""What is said of a point after its commit, and what it comes to.

Marks are create-only and in a sequence of their own for each point; the state is their fold, in order:

    hold, unhold        kept whatever the rules say, until it is lifted
    delete, undelete    soft delete: out of the lists, recoverable until `until`; an unhold starts the days again
    purge, void         the end: the point is no root any more (by retention; by its own writer, R8)

Nothing after a `purge` or `void` counts. What cannot be read, or is missing in the sequence, may have been a hold: the
state is then `uncertain`, and such a point is never deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class MarkKind(StrEnum):
    """The kinds that this version knows; others are passed over."""

    VOID = "void"
    HOLD = "hold"
    UNHOLD = "unhold"
    DELETE = "delete"
    UNDELETE = "undelete"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark. `until`: of a `delete`, the moment from which the point may be purged."""

    kind: str
    at: datetime
    reason: str = ""
    by: str = ""  # the host that made it, for people
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class PointState:
    """What the marks of a point come to."""

    held: bool = False
    held_reason: str = ""
    deleted: datetime | None = None  # since when; None: not deleted
    deleted_reason: str = ""
    purge_after: datetime | None = None  # of a deleted point
    ended: MarkKind | None = None  # PURGE or VOID: no root any more
    uncertain: bool = False  # a mark is missing or cannot be read

    @property
    def is_root(self) -> bool:
        """Whether what the point needs must stay (R9)."""
        return self.ended is None

    @property
    def is_listed(self) -> bool:
        """Whether it is among the points that are offered: neither ended nor deleted."""
        return self.ended is None and self.deleted is None


def state_of(marks: Iterable[Mark | None]) -> PointState:
    """Fold marks, in order of sequence; None stands for one that is missing or cannot be read."""
    state = PointState()
    for mark in marks:
        if mark is None:
            state = replace(state, uncertain=True)
        elif state.ended is None:
            state = _after(state, mark)
    return state


def _after(state: PointState, mark: Mark) -> PointState:
    match mark.kind:
        case MarkKind.VOID | MarkKind.PURGE:
            return replace(state, ended=MarkKind(mark.kind))
        case MarkKind.HOLD:
            return replace(state, held=True, held_reason=mark.reason)
        case MarkKind.UNHOLD:
            after = state.purge_after
            if state.deleted is not None and after is not None and state.held:
                after = max(after, mark.at + (after - state.deleted))
            return replace(state, held=False, held_reason="", purge_after=after)
        case MarkKind.DELETE:
            return replace(state, deleted=mark.at, deleted_reason=mark.reason, purge_after=mark.until or mark.at)
        case MarkKind.UNDELETE:
            return replace(state, deleted=None, deleted_reason="", purge_after=None)
    return state
