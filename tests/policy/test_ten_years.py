"""Ten years lived day by day: a point, a plan, an expiry; then exactly these points are left.

What is expected is reckoned here from the calendar alone, without groups or rules.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from policy_schedules import HOST

from blockvault.model import PointRef
from blockvault.policy import RetentionPoint, RetentionRules, plan
from blockvault.policy.periods import Weekday
from blockvault.policy.selection import parse_month_day, parse_year_day

BERLIN = ZoneInfo("Europe/Berlin")
DAY = timedelta(days=1)
FIRST, LAST = date(2016, 1, 1), date(2025, 12, 31)
OFF = {date(2021, 7, 1) + n * DAY for n in range(31)}  # all of July 2021
OFF |= {date(2024, 12, 31), date(2025, 1, 1), date(2025, 2, 28), date(2025, 12, 14)}


def all_days() -> list[date]:
    return [FIRST + n * DAY for n in range((LAST - FIRST).days + 1)]


def moment(day: date, hour: int, minute: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=BERLIN).astimezone(UTC)


def last_day_on(days: set[date], *, year: int, month: int | None = None) -> date:
    return max(day for day in days if day.year == year and (month is None or day.month == month))


def test_exactly_these_are_left() -> None:
    rules = RetentionRules(
        keep_last=3, keep_daily=30, keep_weekly=12, keep_monthly=24, keep_yearly=7, zone="Europe/Berlin"
    )
    ceiling = 3 + 30 + 12 + 24 + 7
    alive: tuple[RetentionPoint, ...] = ()
    number = 0
    expired_count = 0
    for day in all_days():
        if day not in OFF:
            # twice a day: at 02:30, which 30 March 2025 does not have, and at 23:45, which in summer is 21:45 UTC
            for hour, minute in ((2, 30), (23, 45)):
                number += 1
                alive = (*alive, RetentionPoint(PointRef(HOST, number), moment(day, hour, minute)))
        if day.day == 10 and day.month == 6:
            # each 10 June a point by hand, for 400 days
            number += 1
            alive = (
                *alive,
                RetentionPoint(
                    PointRef(HOST, number), moment(day, 12, 0), retain_until=moment(day, 12, 0) + timedelta(days=400)
                ),
            )
        made = plan(alive, rules, moment(day, 23, 50))
        assert not made.expires_all
        assert len([point for point in made.kept if point.retain_until is None]) <= ceiling
        expired_count += len(made.expired)
        alive = made.kept
    left = {point.taken for point in alive if point.retain_until is None}
    on = set(all_days()) - OFF

    evenings = {date(2025, 12, 31) - n * DAY for n in range(31)} - OFF  # 30 days: one of these 31 was off
    assert len(evenings) == 30
    # Sundays, the last days of their weeks, from 28 December back; of the week of 14 December there is the Saturday.
    # The twelfth week is the one that the 31st lies in.
    weeks = {date(2025, 12, 28) - 7 * n * DAY for n in range(11)}
    weeks = (weeks - {date(2025, 12, 14)}) | {date(2025, 12, 13), date(2025, 12, 31)}
    months = {last_day_on(on, year=year, month=month) for year in (2024, 2025) for month in range(1, 13)}
    assert {date(2024, 2, 29), date(2024, 12, 30), date(2025, 2, 27)} <= months
    years = {last_day_on(on, year=year) for year in range(2019, 2026)}
    expected = {moment(day, 23, 45) for day in evenings | weeks | months | years}
    expected.add(moment(LAST, 2, 30))  # second of the last three; the third is the evening of the 30th
    assert left == expected

    by_hand = {point.taken for point in alive if point.retain_until is not None}
    assert by_hand == {moment(date(2025, 6, 10), 12, 0)}
    assert expired_count + len(alive) == number


def test_a_month_off_costs_nothing() -> None:
    """The daily points of before are there on the first day after, and each new day takes the place of the oldest."""
    rules = RetentionRules(keep_daily=10)
    days = [date(2026, 9, 1) + n * DAY for n in range(30)]
    points = [
        RetentionPoint(PointRef(HOST, n), datetime(day.year, day.month, day.day, 2, tzinfo=UTC))
        for n, day in enumerate(days, 1)
    ]
    alive = plan(points, rules, datetime(2026, 9, 30, 3, tzinfo=UTC)).kept
    assert [point.number for point in alive] == [*range(30, 20, -1)]
    for n in range(3):
        taken = datetime(2026, 11, 1 + n, 2, tzinfo=UTC)
        alive = plan([*alive, RetentionPoint(PointRef(HOST, 31 + n), taken)], rules, taken).kept
        assert [point.number for point in alive] == [*range(31 + n, 21 + n, -1)]


def test_chosen_days_lived_day_by_day() -> None:
    """Azure's scheme for three years with an expiry each evening: exactly what one expiry at the end would leave."""
    rules = RetentionRules(
        keep_daily=30,
        keep_weekly=12,
        keep_monthly=12,
        keep_yearly=5,
        zone="Europe/Berlin",
        weekly_on=Weekday.SUNDAY,
        monthly_on=parse_month_day("first sunday"),
        yearly_on=parse_year_day("first sunday of january"),
    )
    days = [date(2023, 1, 1) + n * DAY for n in range(3 * 365 + 1)]
    points = [RetentionPoint(PointRef(HOST, n), moment(day, 2, 30)) for n, day in enumerate(days, 1) if day not in OFF]
    alive: tuple[RetentionPoint, ...] = ()
    for point in points:
        alive = plan((*alive, point), rules, point.taken + timedelta(hours=12)).kept
    left = {point.taken for point in alive}
    assert left == {point.taken for point in plan(points, rules, points[-1].taken).kept}

    on = {day for day in days if day not in OFF}
    daily = set(sorted(on)[-30:])
    # the week that goes on has no Sunday yet; of 14 December, which was off, there is the Saturday
    weekly = {date(2025, 12, 31), date(2025, 12, 13)} | {date(2025, 12, 28) - 7 * n * DAY for n in range(11)}
    weekly -= {date(2025, 12, 14)}
    monthly = {date(2025, month, 1) + (6 - date(2025, month, 1).weekday()) * DAY for month in range(1, 13)}
    yearly = {date(2023, 1, 1), date(2024, 1, 7), date(2025, 1, 5)}
    assert left == {moment(day, 2, 30) for day in daily | weekly | monthly | yearly}
