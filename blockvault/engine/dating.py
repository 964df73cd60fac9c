"""What order and age mean where clocks may have jumped: pure functions of dates and numbers.

A point's number is given once and rises; its date is what the host's clock said. So within an origin the numbers tell
the order, and dates only place one origin's points among another's. Nothing is removed on the word of a clock that has
just run far ahead of everything that was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar

from blockvault.model import PointBrief

JUMP_LEAST = timedelta(days=14)
JUMP_INTERVALS = 3
INTERVALS_SEEN = 8

T = TypeVar("T")


def in_order(
    entries: Iterable[T], *, origin: Callable[[T], str], number: Callable[[T], int], taken: Callable[[T], datetime]
) -> list[T]:
    """Oldest first: within an origin by number, and among origins by date.

    A point that is dated after a later one of its origin was taken by a clock that ran ahead: it counts as taken no
    later than that one.
    """
    rows = sorted(entries, key=number, reverse=True)
    earliest: dict[str, datetime] = {}
    dated: list[tuple[datetime, int, int, T]] = []
    for place, entry in enumerate(rows):
        moment = min(taken(entry), earliest.get(origin(entry), taken(entry)))
        earliest[origin(entry)] = moment
        dated.append((moment, number(entry), -place, entry))
    return [row[-1] for row in sorted(dated, key=lambda row: row[:3])]


def committed_last(points: list[PointBrief]) -> Iterator[PointBrief]:
    """Points of one origin and item, the one committed last first: it is no other's parent, whatever the dates say.

    Mostly the first is all that is asked for, so the others are put in order when they are.
    """
    parents = {point.parent[1] for point in points if point.parent is not None and point.parent[0] == point.origin}
    for is_parent in (False, True):
        some = [point for point in points if (point.number in parents) == is_parent]
        yield from sorted(some, key=lambda point: (point.committed, point.number), reverse=True)


def expiry_moment(now: datetime, recorded: Iterable[datetime]) -> datetime:
    """Up to which moment something may count as over: `now`, or the newest record if `now` lies too far past it.

    `recorded` are the moments of earlier points and snapshots. Too far is more than 14 days that are also more than
    three times the longest of the latest intervals: a clock that ran ahead, or a host that was off for long. In both
    cases the next run decides, and it has a newer record to go by.
    """
    moments = sorted({moment for moment in recorded if moment <= now})[-INTERVALS_SEEN:]
    if not moments:
        return now
    longest = max((later - earlier for earlier, later in pairwise(moments)), default=timedelta(0))
    return moments[-1] if now - moments[-1] > max(JUMP_LEAST, JUMP_INTERVALS * longest) else now
