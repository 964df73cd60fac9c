"""The zone in which time is cut, and its days, ISO weeks, months and years.

Invariants:
- The day of a moment is the date on a wall clock in the zone at that moment. Days are not 24 hours long: Berlin has
  days of 23 and 25, Lord Howe of 23.5 and 24.5, and Apia has no 2011-12-30 at all.
- Nothing relies on days following each other: where clocks go back over midnight (St. John's, at 00:01, until 2011) a
  day goes on after the next one has begun. A period is known by its name alone.
- Every moment that a `datetime` can hold has a day, at the very ends of its range too.

Not promised: what a zone's clocks show is what this machine's time zone database says, which on another may be older.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from datetime import UTC, date, datetime, tzinfo
from enum import IntEnum

from blockvault.errors import InvalidInputError

# The shape of a name. Nothing else reaches the file system, nor zoneinfo's own search, which a long path exhausts.
_SHAPE = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,3}")
# What a system's database holds beside the zones: other readings of the same names, and this host's own choice.
_NOT_NAMES = ("posix", "right", "localtime", "posixrules")


class Weekday(IntEnum):
    """Days of the week, numbered as `date.weekday` does."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


def zone_named(name: str) -> tzinfo:
    """The zone of that IANA name. `UTC` needs no time zone database.

    Raises:
        InvalidInputError: `policy.unknown-zone`.
    """
    if name == "UTC":
        return UTC
    try:
        if _SHAPE.fullmatch(name) and name.partition("/")[0] not in _NOT_NAMES:
            return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # what zoneinfo makes of no file, a file of something else, and a folder
        pass
    known = zoneinfo.available_timezones()
    if not known:
        raise InvalidInputError(
            "policy.unknown-zone",
            f"the time zone '{name}' is not known",
            why="this machine has no time zone database",
            do="install the package tzdata, or use UTC",
        )
    by_lower = {other.lower(): other for other in known if other not in _NOT_NAMES}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    raise InvalidInputError(
        "policy.unknown-zone",
        f"the time zone '{name}' is not known",
        why="the time zone database of this machine has no zone of that name",
        do=f"did you mean '{by_lower[near[0]]}'?" if near else "use an IANA name like Europe/Berlin, or UTC",
    )


def day_of(moment: datetime, zone: tzinfo) -> date:
    """The date on a wall clock in the zone."""
    try:
        return moment.astimezone(zone).date()
    except OverflowError:  # the first or last hours that a datetime can hold, seen from a zone beyond them
        return moment.astimezone(UTC).date()


def day_name(day: date) -> str:
    """`2026-11-20`."""
    return day.isoformat()


def week_name(day: date) -> str:
    """The ISO week, Monday first: `2026-W47`. Its year is that of its Thursday: 2027-01-03 lies in `2026-W53`."""
    year, week, _ = day.isocalendar()
    return f"{year:04d}-W{week:02d}"


def month_name(day: date) -> str:
    """`2026-11`."""
    return f"{day.year:04d}-{day.month:02d}"


def year_name(day: date) -> str:
    """`2026`."""
    return f"{day.year:04d}"
