"""Which day of a week, month or year a retention rule keeps the point of, as values and as text.

    weekly    a weekday                                   `sunday`
    monthly   the n-th or last of a weekday, or a date    `first sunday`, `last friday`, `day 15`, `last day`
    yearly    one of those in a month                     `first sunday of january`, `last day of june`

Invariants:
- Every selection names exactly one date of each of its periods: there is no fifth Sunday and no day 29, which some
  months do not have; `last` says what is meant by them.
- What `parse_*` reads `str` writes in one form, which reads as the same.
"""

from __future__ import annotations

import calendar
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from blockvault.errors import InvalidInputError
from blockvault.policy.periods import Weekday

LAST = -1
DAY_MAX = 28  # the last date that every month has
NTH_MAX = 4  # every month has four of each weekday
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": LAST}
MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
WEEKDAYS = {day.name.lower(): day for day in Weekday}
_NUMBERS = {number: word for word, number in ORDINALS.items()}


@dataclass(frozen=True, slots=True)
class MonthDay:
    """A day that every month has once: a date, or the n-th of a weekday.

    Args:
        number: with a weekday 1 to 4, without one 1 to 28; `LAST` in both cases.
        weekday: None: the number is a date.

    Raises:
        InvalidInputError: `policy.bad-selection`: not every month has such a day.
    """

    number: int
    weekday: Weekday | None = None

    def __post_init__(self) -> None:
        most = DAY_MAX if self.weekday is None else NTH_MAX
        if self.number == LAST or 1 <= self.number <= most:
            return
        if self.weekday is None:
            what, do = f"a day {self.number}", "choose day 1 to 28 or 'last day'"
        else:
            what = f"{self.number} of each weekday"
            do = f"choose 'first {self.weekday.name.lower()}' to 'fourth', or 'last'"
        raise InvalidInputError(
            "policy.bad-selection",
            f"not every month has {what}",
            why="a rule that keeps one point of each month needs a day that each has",
            do=do,
        )

    def in_month(self, year: int, month: int) -> date:
        """Its date in that month."""
        length = calendar.monthrange(year, month)[1]
        if self.weekday is None:
            return date(year, month, length if self.number == LAST else self.number)
        if self.number == LAST:
            last = date(year, month, length)
            return last - timedelta(days=(last.weekday() - self.weekday) % 7)
        first = date(year, month, 1)
        return first + timedelta(days=(self.weekday - first.weekday()) % 7 + 7 * (self.number - 1))

    def __str__(self) -> str:
        if self.weekday is not None:
            return f"{_NUMBERS[self.number]} {self.weekday.name.lower()}"
        return "last day" if self.number == LAST else f"day {self.number}"


@dataclass(frozen=True, slots=True)
class YearDay:
    """A day that every year has once: one of a month, which is 1 to 12."""

    month: int
    day: MonthDay

    def __post_init__(self) -> None:
        if not 1 <= self.month <= len(MONTHS):
            raise InvalidInputError(
                "policy.bad-selection", f"there is no month {self.month}", do="months are 1 (january) to 12 (december)"
            )

    def in_year(self, year: int) -> date:
        """Its date in that year."""
        return self.day.in_month(year, self.month)

    def __str__(self) -> str:
        return f"{self.day} of {MONTHS[self.month - 1]}"


def parse_weekday(text: str) -> Weekday:
    """`sunday` or `sun`. Raises `InvalidInputError` (`policy.bad-selection`)."""
    word = text.strip().lower()
    for name, day in WEEKDAYS.items():
        if word in (name, name[:3]):
            return day
    raise bad_selection(f"'{text}' is not a weekday", word, WEEKDAYS, "write it like sunday")


def parse_month_day(text: str) -> MonthDay:
    """`first sunday`, `last friday`, `day 15` or `last day`. Raises `InvalidInputError` (`policy.bad-selection`)."""
    words = text.lower().split()
    if len(words) == 2 and words[0] == "day" and words[1].isascii() and words[1].isdigit() and len(words[1]) <= 3:
        return MonthDay(int(words[1]))
    if words == ["last", "day"]:
        return MonthDay(LAST)
    example = "write it like 'first sunday', 'last friday', 'day 15' or 'last day'"
    if len(words) == 1 and words[0][:3] in {name[:3] for name in WEEKDAYS}:
        raise bad_selection(f"'{text}' does not say which one of a month", words[0], (), example)
    if len(words) != 2:
        raise bad_selection(f"'{text}' is not a day of a month", text, (), example)
    if words[0] == "fifth":
        raise bad_selection(f"not every month has a {' '.join(words)}", "", (), f"did you mean 'last {words[1]}'?")
    if words[0] not in ORDINALS:
        raise bad_selection(f"'{text}' is not a day of a month", words[0], [*ORDINALS, "day"], example)
    return MonthDay(ORDINALS[words[0]], parse_weekday(words[1]))


def parse_year_day(text: str) -> YearDay:
    """`first sunday of january` or `day 1 of jan`. Raises `InvalidInputError` (`policy.bad-selection`)."""
    day, of, month = text.lower().rpartition(" of ")
    if not of:
        example = "write it like 'first sunday of january' or 'last day of june'"
        raise bad_selection(f"'{text}' does not say of which month", text, (), example)
    word = month.strip()
    for number, name in enumerate(MONTHS, 1):
        if word in (name, name[:3]):
            return YearDay(number, parse_month_day(day))
    raise bad_selection(f"'{month.strip()}' is not a month", word, MONTHS, "write it like january")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant, if one is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return near[0] if near else None


def bad_selection(message: str, word: str, known: Iterable[str], do: str) -> InvalidInputError:
    """The error for a selection that is none, with the nearest known word."""
    near = nearest(word, known)
    return InvalidInputError(
        "policy.bad-selection",
        message,
        why="a rule that keeps one point of each period needs one day in it",
        do=f"did you mean '{near}'?" if near else do,
    )
