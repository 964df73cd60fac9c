"""When points are taken by themselves: the moments of a schedule, the missed ones, and how starts are spread.

    schedule = Schedule.daily("02:00", zone="Europe/Berlin")
    schedule.next_after(now)                  the next moment
    schedule.due(last, now)                   the moment to make up for, if one passed since `last`
    parse_schedule("weekly sun,wed 02:00", zone="UTC")      the text form, which `str(schedule)` writes
    start_of(moment, item_id, window)         when an item really starts: a stable part of the window later

A daily or weekly schedule runs when the wall clock of its zone first shows the time on that date, or a later one. That
one sentence is the whole daylight-saving rule: a time that is skipped runs at the first moment after the gap; one that
comes twice runs once, the first; a date that a zone leaves out (Apia had no 2011-12-30) runs when the next one begins.

An hourly schedule runs every so many hours that really elapse, whatever wall clocks do: its moments are counted from
midnight UTC, so they are the same in every zone and every year.

Invariants:
- The moments of a schedule depend on nothing but the schedule: not on when a program started, nor on what ran before.
- Moments rise, are whole seconds of UTC, and no moment comes twice.
- However many moments were missed, one run makes up for all of them.
- `now` is an argument. After a `last` that lies beyond `now` (a clock was set back) nothing is due until then.

Not promised: what a zone's clocks show is what this machine's time zone database says.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.errors import InvalidInputError
from blockvault.policy.periods import Weekday, zone_named
from blockvault.policy.selection import WEEKDAYS, nearest, parse_weekday

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import tzinfo

HOURS = (1, 2, 4, 6, 8, 12)  # they divide a day, so a day's moments are those of the day before
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# No zone's clock is further from UTC than this, so what a date's moment can be is known within it.
_FURTHEST = timedelta(hours=26)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class Frequency(StrEnum):
    """How often a schedule runs."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When points are taken. Made by `hourly`, `daily` or `weekly`.

    Args:
        frequency: how often.
        at: the time on a wall clock in the zone, to the minute; midnight for an hourly schedule.
        hours: of an hourly schedule: how many hours lie between two moments; else 0.
        weekdays: of a weekly schedule: its days, at least one; else empty.
        zone: IANA name of the zone.

    Raises:
        InvalidInputError: `policy.bad-schedule`, `policy.unknown-zone`.
    """

    frequency: Frequency
    at: time = time(0)
    hours: int = 0
    weekdays: frozenset[Weekday] = frozenset()
    zone: str = "UTC"

    def __post_init__(self) -> None:
        zone_named(self.zone)
        if self.frequency is Frequency.HOURLY and self.hours not in HOURS:
            raise _bad(
                f"every {self.hours} hours is not a schedule",
                "the hours between two points must divide a day",
                f"choose one of {', '.join(map(str, HOURS))}",
            )
        if self.frequency is Frequency.WEEKLY and not self.weekdays:
            raise _bad("a weekly schedule has no day", "it would never run", "name one weekday or several")
        if (self.frequency is Frequency.HOURLY) != bool(self.hours):
            raise _bad("only an hourly schedule has hours", "a day's time is given as HH:MM", "leave the hours out")
        if self.weekdays and self.frequency is not Frequency.WEEKLY:
            raise _bad("only a weekly schedule has weekdays", f"this one is {self.frequency}", "make it weekly")
        if self.at.tzinfo is not None or self.at.second or self.at.microsecond:
            raise _bad(f"{self.at} is not a schedule's time", "it is a time in the zone, to the minute", "use HH:MM")

    @classmethod
    def hourly(cls, hours: int) -> Schedule:
        """Every so many elapsed hours, counted from midnight UTC."""
        return cls(Frequency.HOURLY, hours=hours)

    @classmethod
    def daily(cls, at: str, *, zone: str) -> Schedule:
        """Every day at a time, `HH:MM`."""
        return cls(Frequency.DAILY, at=_clock(at), zone=zone)

    @classmethod
    def weekly(cls, weekdays: Iterable[Weekday], at: str, *, zone: str) -> Schedule:
        """On some days of each week at a time, `HH:MM`."""
        return cls(Frequency.WEEKLY, at=_clock(at), weekdays=frozenset(weekdays), zone=zone)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments after `moment`, in UTC, without end but that of what a `datetime` can be."""
        last = moment.astimezone(UTC)
        try:
            for found in self._from(last):
                if found > last:
                    yield found
                    last = found
        except OverflowError:
            return

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after `moment`; None where no `datetime` is left."""
        return next(self.after(moment), None)

    def due(self, last: datetime, now: datetime) -> datetime | None:
        """The newest moment after `last` and not after `now`: what a run at `now` makes up for. None: there is none."""
        step = timedelta(hours=self.hours) if self.frequency is Frequency.HOURLY else 8 * _DAY
        start = max(last, now - step - _FURTHEST)  # however long it was down, only the newest is wanted
        found = None
        for moment in self.after(start):
            if moment > now:
                break
            found = moment
        return found

    def oddity(self, moment: datetime) -> str | None:
        """What daylight saving does to that moment of the schedule, for people; None: nothing."""
        if self.frequency is Frequency.HOURLY:
            return None
        zone = zone_named(self.zone)
        wall = moment.astimezone(zone)
        if wall.time().replace(tzinfo=None) != self.at:
            return f"{self.at:%H:%M} does not exist on that day: it runs at the first moment after"
        if wall.replace(fold=1).utcoffset() != wall.replace(fold=0).utcoffset():
            return f"{self.at:%H:%M} comes twice on that day: it runs once, the first time"
        return None

    def __str__(self) -> str:
        if self.frequency is Frequency.HOURLY:
            return f"hourly {self.hours}"
        if self.frequency is Frequency.DAILY:
            return f"daily {self.at:%H:%M}"
        return f"weekly {','.join(day.name.lower()[:3] for day in sorted(self.weekdays))} {self.at:%H:%M}"

    def _from(self, moment: datetime) -> Iterator[datetime]:
        """Moments that rise (one may come twice), the first of them at `moment` or before."""
        if self.frequency is Frequency.HOURLY:
            step = timedelta(hours=self.hours)
            found = moment.replace(hour=0, minute=0, second=0, microsecond=0)
            while True:
                yield found
                found += step
        zone = zone_named(self.zone)
        day = (moment - _FURTHEST).date()
        while True:
            if not self.weekdays or Weekday(day.weekday()) in self.weekdays:
                yield first_shown(day, self.at, zone)
            day += _DAY


def parse_schedule(text: str, *, zone: str) -> Schedule:
    """`hourly 4`, `daily 02:00` or `weekly sun,wed 02:00`, in that zone; an hourly one is the same in every zone.

    Raises:
        InvalidInputError: `policy.bad-schedule`, `policy.unknown-zone`.
    """
    words = text.lower().split()
    example = "write it like 'hourly 4', 'daily 02:00' or 'weekly sun,wed 02:00'"
    if not words or words[0] not in list(Frequency):
        near = nearest(words[0], Frequency) if words else None
        raise _bad(
            f"'{text}' is not a schedule", "it begins with how often", f"did you mean '{near}'?" if near else example
        )
    match words:
        case ["hourly", hours] if hours.isascii() and hours.isdigit() and len(hours) <= 4:
            return Schedule(Frequency.HOURLY, hours=int(hours), zone=zone)
        case ["daily", at]:
            return Schedule.daily(at, zone=zone)
        case ["weekly", days, at]:
            return Schedule.weekly(map(_weekday, filter(None, days.split(","))), at, zone=zone)
    raise _bad(f"'{text}' is not a schedule", f"so an {words[0]} one is not written" if words[0] == "hourly"
               else f"so a {words[0]} one is not written", example)  # fmt: skip


def _weekday(text: str) -> Weekday:
    try:
        return parse_weekday(text)
    except InvalidInputError as error:
        near = nearest(text, WEEKDAYS)
        do = f"did you mean '{near}'?" if near else "write it like sun"
        raise _bad(error.message, "a weekly schedule names its days", do) from None


def first_shown(day: date, at: time, zone: tzinfo) -> datetime:
    """The first moment at which the wall clock of the zone shows that time on that date, or a later one.

    Raises:
        OverflowError: it lies outside of what a `datetime` can be.
    """
    wall = datetime.combine(day, at)
    # Where a time comes twice fold 0 is the first of them. Where it is left out fold 0 reckons as before the gap, and
    # so comes out behind its end by as much as the time lies behind its beginning; fold 1 comes out before the gap.
    earlier, later = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    if later.astimezone(zone).replace(tzinfo=None) == wall:
        return later
    while later - earlier > _SECOND:
        middle = earlier + timedelta(seconds=(later - earlier) // _SECOND // 2)
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            earlier = middle
        else:
            later = middle
    return later


def start_of(moment: datetime, item_id: str, window: timedelta) -> datetime:
    """When an item starts that is scheduled for `moment`: later by a part of the window that is the item's own.

    The part is a hash of the item's id, so it stays the same from day to day and over the life of the vault, and a
    thousand items of one schedule do not start in one second.
    """
    seconds = int(window / _SECOND)
    if seconds <= 0:
        return moment
    part = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8, person=b"bv-start").digest(), "big")
    return moment + timedelta(seconds=part % seconds)


def _clock(text: str) -> time:
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise _bad(f"'{text}' is not a time of day", "it is written in hours and minutes", "write it like 02:00")
    return time(int(found[1]), int(found[2]))


def _bad(message: str, why: str, do: str) -> InvalidInputError:
    return InvalidInputError("policy.bad-schedule", message, why=why, do=do)
