"""Histories of points, years long, each with rules and a moment: what the golden files are made of.

Every history is here for a reason, which its first line says. `render` makes the text of its golden file, in which
runs of points that expire for one reason are one line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from blockvault.ids import OriginId
from blockvault.model import PointRef
from blockvault.policy import Decision, RetentionPoint, RetentionRules, plan
from blockvault.policy.periods import Weekday
from blockvault.policy.selection import parse_month_day, parse_year_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOST = OriginId("a" * 32)
OTHER_HOST = OriginId("b" * 32)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def utc(text: str) -> datetime:
    """`2026-11-20 02:00`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def point(number: int, taken: datetime | str, *, held: bool = False, until: str | None = None) -> RetentionPoint:
    """A point of this host."""
    moment = utc(taken) if isinstance(taken, str) else taken
    return RetentionPoint(PointRef(HOST, number), moment, held, None if until is None else utc(until))


def numbered(moments: Iterable[datetime], first: int = 1) -> list[RetentionPoint]:
    """A point at each of the moments."""
    return [point(number, moment) for number, moment in enumerate(moments, first)]


def every(step: timedelta, first: str, last: str) -> Iterator[datetime]:
    """Moments of elapsed time, whatever clocks on walls do."""
    moment = utc(first)
    while moment <= utc(last):
        yield moment
        moment += step


def at(zone: str, clock: str, first: str, last: str, weekday: int | None = None) -> Iterator[datetime]:
    """Each day, or each of one weekday (Monday is 0), at a time on a wall clock in the zone."""
    hour, minute = map(int, clock.split(":"))
    day = date.fromisoformat(first)
    while day <= date.fromisoformat(last):
        if weekday is None or day.weekday() == weekday:
            yield datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        day += DAY


def without(moments: Iterable[datetime], *gaps: tuple[str, str]) -> Iterator[datetime]:
    """What is left when the machine is off from the first to before the second of each gap."""
    for moment in moments:
        if not any(utc(first) <= moment < utc(last) for first, last in gaps):
            yield moment


@dataclass(frozen=True)
class History:
    """Points of an item, and what retention is asked about them."""

    name: str
    why: str
    points: list[RetentionPoint]
    rules: RetentionRules
    now: datetime


def render(history: History) -> str:
    """The golden file of a history."""
    made = plan(history.points, history.rules, history.now)
    counts = [
        f"{name.removeprefix('keep_')} {count}{_on(history.rules, name)}"
        for name, count in history.rules.counts()
        if count is not None
    ]
    lines = [
        f"# {history.why}",
        f"rules   {', '.join(counts) or 'none'}; cut in {history.rules.zone}",
        f"now     {_wall(history.now, history.rules.zone)}",
        f"points  {len(made.decisions)}: {len(made.kept)} stay, {len(made.expired)} expire"
        + (" - all" if made.expires_all else ""),
        "",
    ]
    for (keep, reasons), run in groupby(made.decisions, lambda decision: (decision.keep, decision.reasons)):
        # "no rules" may keep thousands in a row, other reasons to keep are a point's own
        decisions = list(run)
        text = "; ".join(str(reason) for reason in reasons)
        pieces = [decisions] if not keep or len(decisions) > 3 else [[decision] for decision in decisions]
        for piece in pieces:
            lines.append(f"{'keep  ' if keep else 'expire'}  {_span(piece, history.rules.zone)}  {text}")
    return "\n".join(lines) + "\n"


def _on(rules: RetentionRules, rule: str) -> str:
    chosen = getattr(rules, f"{rule.removeprefix('keep_')}_on", None)
    return "" if chosen is None else f" on {chosen.name.lower() if isinstance(chosen, Weekday) else chosen}"


def _span(decisions: list[Decision], zone: str) -> str:
    newest, oldest = decisions[0].point, decisions[-1].point
    if len(decisions) == 1:
        return f"{_number(newest):<7} {_wall(newest.taken, zone)}"
    return (
        f"{len(decisions)} points, {_number(newest)} {_wall(newest.taken, zone)} "
        f"back to {_number(oldest)} {_wall(oldest.taken, zone)}"
    )


def _number(point: RetentionPoint) -> str:
    return f"#{point.number}" if point.ref.origin == HOST else f"#{point.number} of another host"


def _wall(moment: datetime, zone: str) -> str:
    fraction = ".%f" if moment.microsecond else ""
    return moment.astimezone(ZoneInfo(zone)).strftime(f"%a %Y-%m-%d %H:%M:%S{fraction} %z")


def _marked(points: list[RetentionPoint], held: set[int], until: dict[int, str]) -> list[RetentionPoint]:
    return [
        replace(
            each,
            held=each.number in held,
            retain_until=utc(until[each.number]) if each.number in until else None,
        )
        for each in points
    ]


GFS = RetentionRules(keep_last=3, keep_daily=7, keep_weekly=5, keep_monthly=12, keep_yearly=5)


def histories() -> list[History]:
    """All of them; the name is that of the golden file."""
    berlin, new_york, lord_howe = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
    return [
        History(
            "hourly-two-years",
            "an hourly schedule over two years, a leap day in it",
            numbered(every(HOUR, "2023-07-01 00:30", "2025-06-30 23:30")),
            GFS,
            utc("2025-07-01 00:00"),
        ),
        History(
            "hourly-with-gaps",
            "an hourly schedule; off over the new year, for all of March and from 10 May 07:00 to 29 May 20:00",
            numbered(
                without(
                    every(HOUR, "2023-11-01 00:10", "2024-06-02 10:10"),
                    ("2023-12-30 05:00", "2024-01-02 18:00"),
                    ("2024-03-01 00:00", "2024-04-01 00:00"),
                    ("2024-05-10 07:00", "2024-05-29 20:00"),
                )
            ),
            GFS,
            utc("2024-06-02 10:30"),
        ),
        History(
            "daily-ten-years",
            "each day at 02:30 in Berlin for ten years, a time that one day a year does not have and one has twice",
            numbered(at(berlin, "02:30", "2016-01-01", "2025-12-31")),
            RetentionRules(keep_daily=30, keep_weekly=12, keep_monthly=24, keep_yearly=20, zone=berlin),
            utc("2026-01-01 00:00"),
        ),
        History(
            "daily-off-for-a-month",
            "each day at 20:00, then off for a month: everything that was there when it went off is still wanted",
            numbered(at("UTC", "20:00", "2026-08-01", "2026-10-15")),
            RetentionRules(keep_daily=7, keep_weekly=4, keep_monthly=3),
            utc("2026-11-15 21:00"),
        ),
        History(
            "weekly-ten-years",
            "each Sunday at 23:30 in New York, which is Monday in UTC: weeks are those of New York",
            numbered(at(new_york, "23:30", "2016-01-01", "2026-01-31", weekday=6)),
            RetentionRules(keep_weekly=10, keep_monthly=18, keep_yearly=7, zone=new_york),
            utc("2026-02-01 12:00"),
        ),
        History(
            "weekly-ten-years-in-utc",
            "the same Sundays of New York, cut in UTC: each is the Monday of the week after",
            numbered(at(new_york, "23:30", "2016-01-01", "2026-01-31", weekday=6)),
            RetentionRules(keep_weekly=10, keep_monthly=18, keep_yearly=7),
            utc("2026-02-01 12:00"),
        ),
        History(
            "week-53-of-2020",
            "2020 has an ISO week 53, which ends on Sunday 2021-01-03",
            numbered(at("UTC", "12:00", "2020-12-10", "2021-01-20")),
            RetentionRules(keep_weekly=6, keep_yearly=2),
            utc("2021-01-20 13:00"),
        ),
        History(
            "week-53-of-2026",
            "2026 has an ISO week 53, which ends on Sunday 2027-01-03; hourly",
            numbered(every(HOUR, "2026-12-10 00:00", "2027-01-06 09:00")),
            RetentionRules(keep_weekly=4, keep_monthly=2, keep_yearly=2),
            utc("2027-01-06 10:00"),
        ),
        History(
            "week-1-in-december",
            "the last days of 2024 lie in 2025-W01, the first of 2022 in 2021-W52",
            numbered(
                [
                    *at("UTC", "12:00", "2021-12-25", "2022-01-05"),
                    *at("UTC", "12:00", "2024-12-25", "2025-01-07"),
                ]
            ),
            RetentionRules(keep_weekly=20, keep_yearly=4),
            utc("2025-01-07 13:00"),
        ),
        History(
            "leap-days",
            "the days around the end of February of 2023 to 2028, twice a day, and of 2100, which has no leap day",
            numbered(
                moment
                for year in (2023, 2024, 2025, 2026, 2027, 2028, 2100)
                for moment in every(12 * HOUR, f"{year}-02-27 06:00", f"{year}-03-01 18:00")
            ),
            RetentionRules(keep_daily=14, keep_monthly=10, keep_yearly=6),
            utc("2100-03-02 00:00"),
        ),
        History(
            "last-days-of-february",
            "one point on each last day of February, the leap day where there is one",
            numbered(utc(f"{year}-03-01 00:00") - MINUTE for year in range(2019, 2030)),
            RetentionRules(keep_last=1, keep_monthly=4, keep_yearly=8),
            utc("2029-03-01 00:00"),
        ),
        History(
            "berlin-clocks-go-forward",
            "hourly over 29 March 2026 in Berlin, a day of 23 hours; midnight is 23:00 UTC before and 22:00 after",
            numbered(every(HOUR, "2026-03-27 12:00", "2026-03-30 23:00")),
            RetentionRules(keep_last=2, keep_daily=5, keep_weekly=2, zone=berlin),
            utc("2026-03-30 23:00"),
        ),
        History(
            "berlin-clocks-go-back",
            "every half hour over 25 October 2026 in Berlin, a day of 25 hours with 02:00 to 03:00 twice",
            numbered(every(30 * MINUTE, "2026-10-24 20:00", "2026-10-25 02:30")),
            RetentionRules(keep_last=6, keep_daily=3, zone=berlin),
            utc("2026-10-25 02:30"),
        ),
        History(
            "new-york-clocks",
            "every two hours over both changes of 2026 in New York, 8 March and 1 November",
            numbered(
                [
                    *every(2 * HOUR, "2026-03-06 01:00", "2026-03-10 05:00"),
                    *every(2 * HOUR, "2026-10-30 01:00", "2026-11-03 05:00"),
                ]
            ),
            RetentionRules(keep_daily=12, keep_weekly=3, keep_monthly=4, zone=new_york),
            utc("2026-11-03 05:00"),
        ),
        History(
            "lord-howe-half-hours",
            "every 15 minutes over both changes of 2026 on Lord Howe, of half an hour: +10:30 and +11:00",
            numbered(
                [
                    *every(15 * MINUTE, "2026-04-03 12:00", "2026-04-05 14:00"),
                    *every(15 * MINUTE, "2026-10-02 13:00", "2026-10-04 13:30"),
                ]
            ),
            RetentionRules(keep_daily=9, keep_weekly=4, zone=lord_howe),
            utc("2026-10-04 13:30"),
        ),
        History(
            "apia-without-a-day",
            "every six hours over the end of 2011 in Apia, where 29 December was followed by the 31st",
            numbered(every(6 * HOUR, "2011-12-26 04:00", "2012-01-03 16:00")),
            RetentionRules(keep_daily=6, keep_weekly=3, keep_monthly=2, keep_yearly=2, zone="Pacific/Apia"),
            utc("2012-01-03 16:00"),
        ),
        History(
            "st-johns-back-over-midnight",
            "every 10 minutes while clocks in St. John's go back from 00:01 to 23:01: 7 November begins twice",
            numbered(every(10 * MINUTE, "2010-11-07 01:00", "2010-11-07 04:00")),
            RetentionRules(keep_last=1, keep_daily=2, zone="America/St_Johns"),
            utc("2010-11-07 04:00"),
        ),
        History(
            "st-johns-in-the-hour-twice",
            "the same, asked at 23:20 of 6 November: there is a point of the 7th already, and it is not the newest",
            numbered(every(10 * MINUTE, "2010-11-07 01:00", "2010-11-07 02:50")),
            RetentionRules(keep_daily=2, zone="America/St_Johns"),
            utc("2010-11-07 02:50"),
        ),
        History(
            "holds-and-dates",
            "daily, some points held, some with a date of their own, one of which is held past it",
            _marked(
                numbered(at("UTC", "02:00", "2026-08-01", "2026-11-20")),
                held={3, 40, 60, 110},
                until={
                    40: "2026-09-20",
                    50: "2026-12-01",
                    70: "2026-11-01",
                    111: "2026-11-20 12:00",
                    112: "2026-11-20",
                },
            ),
            RetentionRules(keep_last=2, keep_daily=5, keep_weekly=3, keep_monthly=2),
            utc("2026-11-20 12:00"),
        ),
        History(
            "only-dates-and-all-over",
            "on-demand points alone, all past their dates: nothing would be left, and the plan says so",
            _marked(
                numbered(at("UTC", "09:00", "2026-05-01", "2026-05-05")),
                held=set(),
                until={n: f"2026-06-{n:02}" for n in range(1, 6)},
            ),
            GFS,
            utc("2026-06-05 00:00"),
        ),
        History(
            "no-rules",
            "no rule is given: what has no date of its own stays",
            _marked(
                numbered(every(6 * HOUR, "2026-11-01 00:00", "2026-11-10 00:00")),
                held={10},
                until={20: "2026-11-09", 30: "2027-01-01"},
            ),
            RetentionRules(),
            utc("2026-11-10 06:00"),
        ),
        History(
            "clock-was-ahead",
            "daily; points 21 to 23 say 2036, for the clock was wrong for three days: they push nothing out",
            [
                *numbered(at("UTC", "02:00", "2026-11-01", "2026-11-20")),
                *numbered(at("UTC", "02:00", "2036-02-07", "2036-02-09"), first=21),
                *numbered(at("UTC", "02:00", "2026-11-24", "2026-11-26"), first=24),
            ],
            RetentionRules(keep_last=4, keep_daily=7, keep_weekly=3, keep_monthly=3, keep_yearly=3),
            utc("2026-11-26 12:00"),
        ),
        History(
            "clock-fell-back",
            "the clock fell back to 1970 before it was asked: all points lie ahead of it, none expires but by its date",
            _marked(
                numbered(at("UTC", "02:00", "2026-11-01", "2026-11-06")),
                held=set(),
                until={2: "1969-12-31", 5: "2026-12-01"},
            ),
            RetentionRules(keep_last=1),
            utc("1970-01-01 00:05"),
        ),
        History(
            "one-second",
            "points of one second: by fraction, then by number, then by host",
            [
                point(5, "2026-11-20 02:00:00.000001"),
                point(9, "2026-11-20 02:00:00"),
                RetentionPoint(PointRef(OTHER_HOST, 7), utc("2026-11-20 02:00:00")),
                point(7, "2026-11-20 02:00:00"),
                point(8, "2026-11-20 02:00:00"),
                point(6, "2026-11-20 02:00:00.999999"),
            ],
            RetentionRules(keep_last=4, keep_daily=3),
            utc("2026-11-20 02:00:01"),
        ),
        History(
            "azure-ten-years",
            "each day at 02:00 in Berlin for ten years: 30 days, Sundays, first Sundays, first Sundays of January",
            numbered(at(berlin, "02:00", "2016-01-01", "2025-12-31")),
            RetentionRules(
                keep_daily=30,
                keep_weekly=12,
                keep_monthly=60,
                keep_yearly=10,
                zone=berlin,
                weekly_on=Weekday.SUNDAY,
                monthly_on=parse_month_day("first sunday"),
                yearly_on=parse_year_day("first sunday of january"),
            ),
            utc("2026-01-01 00:00"),
        ),
        History(
            "chosen-days-with-gaps",
            "twice a day; off on chosen days and whole weeks: the next day that has a point stands in for them, or, "
            "where none follows in the period, its newest point",
            numbered(
                without(
                    every(12 * HOUR, "2026-01-01 06:00", "2026-06-10 18:00"),
                    ("2026-02-15 00:00", "2026-02-17 12:00"),  # day 15, and the Monday after
                    ("2026-03-15 00:00", "2026-04-01 00:00"),  # from day 15 to the end of the month
                    ("2026-05-06 00:00", "2026-05-11 00:00"),  # from a Wednesday to the end of the week
                )
            ),
            RetentionRules(
                keep_weekly=20, keep_monthly=12, weekly_on=Weekday.WEDNESDAY, monthly_on=parse_month_day("day 15")
            ),
            utc("2026-06-10 19:00"),
        ),
        History(
            "chosen-day-to-come",
            "asked before the chosen days of this week, month and year have come: their newest point until then",
            numbered(at("UTC", "02:00", "2026-10-01", "2026-11-18")),
            RetentionRules(
                keep_weekly=3,
                keep_monthly=2,
                keep_yearly=2,
                weekly_on=Weekday.FRIDAY,
                monthly_on=parse_month_day("last friday"),
                yearly_on=parse_year_day("last day of december"),
            ),
            utc("2026-11-18 12:00"),
        ),
        History(
            "chosen-days-are-past",
            "the newest point is none of a chosen day and no rule keeps it: it is kept all the same until the next",
            numbered(at("UTC", "02:00", "2026-10-01", "2026-11-18")),
            RetentionRules(
                keep_weekly=3, keep_monthly=2, weekly_on=Weekday.MONDAY, monthly_on=parse_month_day("day 1")
            ),
            utc("2026-11-18 12:00"),
        ),
        History(
            "chosen-day-that-was-left-out",
            "Fridays in Apia, where 2011-12-30 was to be one and never was: the Saturday stands in",
            numbered(every(6 * HOUR, "2011-12-12 04:00", "2012-01-10 16:00")),
            RetentionRules(keep_weekly=6, weekly_on=Weekday.FRIDAY, zone="Pacific/Apia"),
            utc("2012-01-10 16:00"),
        ),
        History(
            "chosen-day-that-began-twice",
            "every 10 minutes while clocks in St. John's go back from 00:01 of 1 November to 23:01 of 31 October",
            numbered(every(10 * MINUTE, "2009-10-31 01:00", "2009-11-01 06:00")),
            RetentionRules(
                keep_weekly=2,
                keep_monthly=2,
                zone="America/St_Johns",
                weekly_on=Weekday.SATURDAY,
                monthly_on=parse_month_day("last day"),
            ),
            utc("2009-11-01 06:00"),
        ),
        History(
            "chosen-day-in-week-53",
            "Saturdays over the end of 2026, whose week 53 ends on Sunday 2027-01-03",
            numbered(at("UTC", "12:00", "2026-12-10", "2027-01-20")),
            RetentionRules(
                keep_weekly=6,
                keep_yearly=2,
                weekly_on=Weekday.SATURDAY,
                yearly_on=parse_year_day("last saturday of december"),
            ),
            utc("2027-01-20 13:00"),
        ),
    ]
