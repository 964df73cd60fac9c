"""Which day is meant, as value and as text: every form, every near miss, and every month of many years."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvault.errors import InvalidInputError
from blockvault.policy.periods import Weekday
from blockvault.policy.retention import RetentionRules
from blockvault.policy.schedule import HOURS, Frequency, Schedule, parse_schedule
from blockvault.policy.selection import LAST, MonthDay, YearDay, parse_month_day, parse_weekday, parse_year_day

month_days = st.builds(MonthDay, st.just(LAST) | st.integers(1, 28)) | st.builds(
    MonthDay, st.just(LAST) | st.integers(1, 4), st.sampled_from(Weekday)
)


@pytest.mark.parametrize(
    ("text", "year", "month", "wanted"),
    [
        ("first sunday", 2026, 2, "2026-02-01"),
        ("first sunday", 2026, 3, "2026-03-01"),
        ("first sunday", 2026, 8, "2026-08-02"),
        ("second monday", 2026, 6, "2026-06-08"),
        ("fourth thursday", 2026, 11, "2026-11-26"),
        ("last friday", 2026, 1, "2026-01-30"),
        ("last saturday", 2026, 2, "2026-02-28"),
        ("day 15", 2026, 4, "2026-04-15"),
        ("last day", 2026, 2, "2026-02-28"),
        ("last day", 2028, 2, "2028-02-29"),
        ("last day", 2100, 2, "2100-02-28"),
    ],
)
def test_the_day_of_a_month(text: str, year: int, month: int, wanted: str) -> None:
    assert parse_month_day(text).in_month(year, month).isoformat() == wanted


@settings(deadline=None)
@given(month_days, st.integers(1, 9999), st.integers(1, 12))
def test_every_month_has_it_once(chosen: MonthDay, year: int, month: int) -> None:
    day = chosen.in_month(year, month)
    assert (day.year, day.month) == (year, month)
    length = calendar.monthrange(year, month)[1]
    if chosen.weekday is None:
        assert day.day == (length if chosen.number == LAST else chosen.number)
        return
    fitting = [n for n in range(1, length + 1) if date(year, month, n).weekday() == chosen.weekday]
    assert day.day == fitting[chosen.number if chosen.number == LAST else chosen.number - 1]


@settings(deadline=None)
@given(month_days, st.integers(1, 12))
def test_what_is_written_reads_as_the_same(chosen: MonthDay, month: int) -> None:
    assert parse_month_day(str(chosen)) == chosen
    assert parse_month_day(f"  {str(chosen).upper()} ") == chosen
    assert parse_year_day(str(YearDay(month, chosen))) == YearDay(month, chosen)


def test_texts_are_these() -> None:
    assert str(parse_month_day("FIRST sun")) == "first sunday"
    assert str(parse_month_day("last  day")) == "last day"
    assert str(parse_month_day("day 07")) == "day 7"
    assert str(parse_year_day("last fri of Dec")) == "last friday of december"
    assert str(parse_year_day("day 1 of january")) == "day 1 of january"
    assert parse_weekday("Wed") is parse_weekday(" wednesday ") is Weekday.WEDNESDAY


@pytest.mark.parametrize(
    ("read", "text", "message", "do"),
    [
        (parse_weekday, "sundy", "'sundy' is not a weekday", "did you mean 'sunday'?"),
        (parse_weekday, "", "'' is not a weekday", "write it like sunday"),
        (parse_weekday, "first sunday", "'first sunday' is not a weekday", None),
        (parse_month_day, "sunday", "'sunday' does not say which one of a month", None),
        (parse_month_day, "frist sunday", "'frist sunday' is not a day of a month", "did you mean 'first'?"),
        (parse_month_day, "first sundey", "'sundey' is not a weekday", "did you mean 'sunday'?"),
        (parse_month_day, "fifth sunday", "not every month has a fifth sunday", "did you mean 'last sunday'?"),
        (parse_month_day, "day 29", "not every month has a day 29", "choose day 1 to 28 or 'last day'"),
        (parse_month_day, "day 0", "not every month has a day 0", "choose day 1 to 28 or 'last day'"),
        (parse_month_day, "day -1", "'day -1' is not a day of a month", None),
        (parse_month_day, "day ²", "'day ²' is not a day of a month", None),
        (parse_month_day, "", "'' is not a day of a month", None),
        (parse_year_day, "first sunday", "'first sunday' does not say of which month", None),
        (parse_year_day, "first sunday of jnauary", "'jnauary' is not a month", "did you mean 'january'?"),
        (parse_year_day, "day 29 of february", "not every month has a day 29", None),
        (parse_year_day, " of may", "'' is not a day of a month", None),
    ],
)
def test_near_misses_are_told(read: object, text: str, message: str, do: str | None) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read(text)  # type: ignore[operator]
    assert raised.value.kind == "policy.bad-selection"
    assert raised.value.message == message
    assert raised.value.why
    assert raised.value.do
    assert do in (None, raised.value.do)


@pytest.mark.parametrize(
    ("number", "weekday"), [(0, None), (29, None), (-2, None), (5, Weekday.SUNDAY), (0, Weekday.MONDAY)]
)
def test_a_day_that_some_month_has_not_is_no_value(number: int, weekday: Weekday | None) -> None:
    with pytest.raises(InvalidInputError) as raised:
        MonthDay(number, weekday)
    assert raised.value.kind == "policy.bad-selection"


@pytest.mark.parametrize("month", [0, 13])
def test_months_are_twelve(month: int) -> None:
    with pytest.raises(InvalidInputError):
        YearDay(month, MonthDay(1))


# --- schedules as text --------------------------------------------------------------------------------------------


@given(
    st.one_of(
        st.builds(Schedule.hourly, st.sampled_from(HOURS)),
        st.builds(
            lambda at, days: (
                Schedule.weekly(days, f"{at:%H:%M}", zone="UTC") if days else Schedule.daily(f"{at:%H:%M}", zone="UTC")
            ),
            st.times(),
            st.sets(st.sampled_from(Weekday)),
        ),
    )
)
def test_a_schedule_that_is_written_reads_as_the_same(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule), zone=schedule.zone) == schedule


def test_schedules_are_written_so() -> None:
    zone = "Europe/Berlin"
    assert str(parse_schedule("Hourly 4", zone=zone)) == "hourly 4"
    assert str(parse_schedule("daily  02:00", zone=zone)) == "daily 02:00"
    assert str(parse_schedule("weekly Sunday,wed,sun 02:00", zone=zone)) == "weekly wed,sun 02:00"
    assert parse_schedule("daily 02:00", zone=zone).zone == zone
    assert parse_schedule("hourly 4", zone=zone).frequency is Frequency.HOURLY


@pytest.mark.parametrize(
    ("text", "do"),
    [
        ("", "write it like 'hourly 4', 'daily 02:00' or 'weekly sun,wed 02:00'"),
        ("dayly 02:00", "did you mean 'daily'?"),
        ("daily", "write it like 'hourly 4', 'daily 02:00' or 'weekly sun,wed 02:00'"),
        ("daily 2:00", "write it like 02:00"),
        ("daily 24:00", "write it like 02:00"),
        ("hourly 5", "choose one of 1, 2, 4, 6, 8, 12"),
        ("hourly 0", "choose one of 1, 2, 4, 6, 8, 12"),
        ("hourly ²", None),
        ("hourly 99999999999", None),
        ("weekly 02:00", None),
        ("weekly , 02:00", "name one weekday or several"),
        ("weekly sunn 02:00", "did you mean 'sunday'?"),
        ("weekly sun wed 02:00", None),
        ("monthly 02:00", None),
    ],
)
def test_a_schedule_that_is_none_is_refused(text: str, do: str | None) -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse_schedule(text, zone="UTC")
    assert raised.value.kind == "policy.bad-schedule"
    assert raised.value.do
    assert do in (None, raised.value.do)


def test_the_two_odd_runs_of_a_year_are_told() -> None:
    schedule = parse_schedule("daily 02:30", zone="Europe/Berlin")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    odd = {}
    for run in schedule.after(moment):
        if run > moment + timedelta(days=365):
            break
        told = schedule.oddity(run)
        if told:
            odd[run.isoformat()] = told
    assert odd == {
        "2026-03-29T01:00:00+00:00": "02:30 does not exist on that day: it runs at the first moment after",
        "2026-10-25T00:30:00+00:00": "02:30 comes twice on that day: it runs once, the first time",
    }


def test_elapsed_hours_have_no_odd_runs() -> None:
    schedule = parse_schedule("hourly 1", zone="Europe/Berlin")
    assert schedule.oddity(datetime(2026, 3, 29, 1, tzinfo=UTC)) is None
    assert schedule.oddity(datetime(2026, 10, 25, 1, tzinfo=UTC)) is None


def test_rules_read_as_people_say_them() -> None:
    rules = RetentionRules(keep_daily=7, keep_weekly=4, weekly_on=Weekday.SUNDAY, keep_monthly=12, zone="Europe/Berlin")
    assert str(rules) == "daily 7, weekly 4 on sunday, monthly 12 (Europe/Berlin)"
    monthly = RetentionRules(keep_monthly=12, monthly_on=parse_month_day("first sunday"))
    assert str(monthly) == "monthly 12 on first sunday (UTC)"
    assert str(RetentionRules()) == "no rules"
