"""Pictures of what policies leave: by hand, and against the oracle day by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from helpers import retention_oracle
from policy_schedules import HOST, utc
from test_schedule import walk

from blockvault.model import PointRef
from blockvault.policy import ReasonKind, RetentionPoint, RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import parse_schedule
from blockvault.policy.selection import parse_month_day, parse_year_day
from blockvault.policy.simulate import simulate

BERLIN = "Europe/Berlin"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AZURE = RetentionRules(
    keep_daily=10,
    keep_weekly=6,
    keep_monthly=12,
    keep_yearly=5,
    zone=BERLIN,
    weekly_on=Weekday.SUNDAY,
    monthly_on=parse_month_day("first sunday"),
    yearly_on=parse_year_day("first sunday of january"),
)


def test_thirteen_months_of_azures_scheme() -> None:
    policy = Policy("gold", parse_schedule("daily 02:00", zone=BERLIN), AZURE)
    simulation = simulate(policy, utc("2026-11-28 12:00"))
    assert simulation.rows() == [
        ("2025-11", "Y............................."),  # no point in January 2025: the first one after stands in
        ("2025-12", "......M........................"),
        ("2026-01", "...Y..........................."),
        ("2026-02", "M..........................."),
        ("2026-03", "M.............................."),
        ("2026-04", "....M........................."),
        ("2026-05", "..M............................"),
        ("2026-06", "......M......................."),
        ("2026-07", "....M.........................."),
        ("2026-08", ".M............................."),
        ("2026-09", ".....M........................"),
        ("2026-10", "...M....................W......"),  # six weeks: 25 October to 28 November
        ("2026-11", "M......W......W...DDDWDDDDDW"),
    ]
    assert simulation.counts() == {
        ReasonKind.YEARLY: 2, ReasonKind.MONTHLY: 12, ReasonKind.WEEKLY: 6, ReasonKind.DAILY: 10,
    }  # fmt: skip
    assert len(simulation.decisions) == (date(2026, 11, 28) - date(2025, 11, 1)).days + 1


def test_days_without_a_point_are_blank() -> None:
    policy = Policy("gold", parse_schedule("weekly mon,thu 03:00", zone="UTC"), RetentionRules(keep_weekly=2))
    assert simulate(policy, utc("2026-11-20 12:00"), 2).rows() == [
        ("2026-10", ".   .  .   .  .   .  .   .  ."),
        ("2026-11", " .  .   .  W   .  W"),
    ]


def test_a_policy_without_rules_keeps_all() -> None:
    policy = Policy("gold", parse_schedule("daily 00:00", zone=BERLIN), RetentionRules(zone=BERLIN))
    simulation = simulate(policy, utc("2026-02-03 12:00"), 1)
    assert simulation.rows() == [("2026-02", "AAA")]
    assert simulation.kept == simulation.decisions


def test_a_point_at_midnight_of_the_first_day_counts() -> None:
    policy = Policy("gold", parse_schedule("daily 00:00", zone=BERLIN), RetentionRules(keep_daily=9, zone=BERLIN))
    assert simulate(policy, utc("2026-02-02 22:59"), 1).rows() == [("2026-02", "DD")]
    assert simulate(policy, utc("2026-02-02 23:00"), 1).rows() == [("2026-02", "DDD")]


def test_an_hourly_schedule_shows_one_mark_a_day() -> None:
    rules = RetentionRules(keep_last=3, keep_daily=2, keep_monthly=2)
    policy = Policy("gold", parse_schedule("hourly 6", zone="UTC"), rules)
    simulation = simulate(policy, utc("2026-11-04 07:00"), 2)
    assert simulation.rows() == [("2026-10", "." * 30 + "M"), ("2026-11", "..DM")]
    assert simulation.counts() == {ReasonKind.MONTHLY: 2, ReasonKind.DAILY: 2, ReasonKind.LAST: 3}


def test_the_newest_alone_has_a_mark_of_its_own() -> None:
    rules = RetentionRules(keep_weekly=1, weekly_on=Weekday.MONDAY)
    policy = Policy("gold", parse_schedule("daily 02:00", zone="UTC"), rules)
    assert simulate(policy, utc("2026-11-18 12:00"), 1).rows() == [("2026-11", "." * 15 + "W.N")]


@pytest.mark.parametrize(
    ("schedule", "zone", "now"),
    [
        ("daily 02:30", BERLIN, "2026-11-28 12:00"),
        ("daily 00:15", "America/St_Johns", "2009-11-01 12:00"),
        ("weekly fri 01:00", "Pacific/Apia", "2012-02-01 00:00"),
        ("hourly 12", "Australia/Lord_Howe", "2026-05-01 00:00"),
    ],
)
def test_every_mark_is_the_oracles(schedule: str, zone: str, now: str) -> None:
    """Moments from the walk along the wall clock, reasons from the oracle, letters from a table of this test's own."""
    rules = RetentionRules(
        keep_last=2,
        keep_daily=9,
        keep_weekly=5,
        keep_monthly=7,
        keep_yearly=2,
        zone=zone,
        weekly_on=Weekday.FRIDAY,
        monthly_on=parse_month_day("last day"),
    )
    end = utc(now)
    simulation = simulate(Policy("gold", parse_schedule(schedule, zone=zone), rules), end, 4)
    first = datetime.fromisoformat(f"{simulation.months[0]}-01").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    kind, *rest = schedule.split()
    if kind == "hourly":
        step = timedelta(hours=int(rest[0]))
        moments = [EPOCH + step * n for n in range(-(-(first - EPOCH) // step), (end - EPOCH) // step + 1)]
    else:
        days_between = [first.date() + timedelta(days=n) for n in range(-1, (end - first).days + 3)]
        named = [day for day in days_between if kind == "daily" or day.strftime("%a").lower() == rest[0]]
        walked = {walk(day, time.fromisoformat(rest[-1]), ZoneInfo(zone)) for day in named}
        moments = sorted(moment for moment in walked if first <= moment <= end)
    points = [RetentionPoint(PointRef(HOST, number), taken) for number, taken in enumerate(moments, 1)]
    assert [each.point.taken for each in reversed(simulation.decisions)] == moments
    marks: dict[str, str] = {}
    with retention_oracle.c_library_zone(zone):
        days = {point.ref: retention_oracle.local(point.taken, "%Y-%m-%d") for point in points}
    for ref, (keep, reasons) in retention_oracle.expected(points, rules, end).items():
        words = {reason.split()[0] for reason in reasons} if keep else set()
        longest = ("yearly", "monthly", "weekly", "daily", "last")
        mark = next((word[0].upper() for word in longest if word in words), ".")
        order = "YMWDL."
        marks[days[ref]] = min(mark, marks.get(days[ref], "."), key=order.index)
    drawn = {
        f"{month}-{day:02d}": mark for month, row in simulation.rows() for day, mark in enumerate(row, 1) if mark != " "
    }
    assert drawn == marks
