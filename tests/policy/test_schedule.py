"""Schedules: worked examples, odd days of every zone against a brute-force oracle, and what holds for all of them."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvault.errors import InvalidInputError
from blockvault.policy.schedule import HOURS, Frequency, Schedule, Weekday, first_shown, start_of

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ALL_ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "posixrules", "Factory"})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def shown(moment: datetime, zone: str) -> str:
    return moment.astimezone(ZoneInfo(zone)).strftime("%a %d %H:%M")


def walk(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The oracle: minute by minute, until the wall clock shows the time or a later one.

    From far enough before that the clock has not shown it: clocks that go back show an earlier time again.
    """
    wall = datetime.combine(day, at)
    moment = datetime.combine(day, at, tzinfo=UTC) - 27 * HOUR
    while moment.astimezone(zone).replace(tzinfo=None) < wall:
        moment += MINUTE
    return moment


def transitions(zone: ZoneInfo, first: int, last: int) -> list[datetime]:
    """The days of these years on which the zone's offset changes."""
    found = []
    moment = datetime(first, 1, 1, tzinfo=UTC)
    while moment.year <= last:
        if moment.astimezone(zone).utcoffset() != (moment + DAY).astimezone(zone).utcoffset():
            found.append(moment)
        moment += DAY
    return found


def test_a_day_in_berlin_and_both_odd_days() -> None:
    schedule = Schedule.daily("02:30", zone="Europe/Berlin")
    spring = list(islice(schedule.after(utc("2026-03-28T00:00")), 3))
    assert [shown(moment, "Europe/Berlin") for moment in spring] == ["Sat 28 02:30", "Sun 29 03:00", "Mon 30 02:30"]
    assert spring[1] == utc("2026-03-29T01:00")  # 02:30 is left out: the first moment after the gap
    autumn = list(islice(schedule.after(utc("2026-10-24T12:00")), 2))
    assert autumn == [utc("2026-10-25T00:30"), utc("2026-10-26T01:30")]  # 02:30 comes twice: once, the first


def test_a_date_that_was_left_out_runs_when_the_next_one_begins() -> None:
    schedule = Schedule.daily("12:00", zone="Pacific/Apia")
    found = list(islice(schedule.after(utc("2011-12-29T12:00")), 4))
    names = [shown(moment, "Pacific/Apia") for moment in found]
    assert names == ["Thu 29 12:00", "Sat 31 00:00", "Sat 31 12:00", "Sun 01 12:00"]


def test_a_weekly_schedule_keeps_to_its_days() -> None:
    schedule = Schedule.weekly([Weekday.SUNDAY, Weekday.WEDNESDAY], "23:45", zone="America/New_York")
    found = list(islice(schedule.after(utc("2026-11-28T00:00")), 3))
    assert [shown(moment, "America/New_York") for moment in found] == ["Sun 29 23:45", "Wed 02 23:45", "Sun 06 23:45"]


@pytest.mark.parametrize("hours", HOURS)
def test_hours_elapse_whatever_clocks_do(hours: int) -> None:
    found = list(islice(Schedule.hourly(hours).after(utc("2026-03-28T23:59")), 60))
    assert found[0] == utc("2026-03-29T00:00")
    assert {later - sooner for sooner, later in pairwise(found)} == {timedelta(hours=hours)}


def test_what_was_missed_is_made_up_for_once() -> None:
    schedule = Schedule.daily("02:00", zone="UTC")
    now = utc("2026-11-28T15:00")
    assert schedule.due(utc("2026-11-28T02:00"), now) is None
    assert schedule.due(utc("2026-11-27T02:00"), now) == utc("2026-11-28T02:00")
    assert schedule.due(utc("2016-01-01T00:00"), now) == utc("2026-11-28T02:00")  # down for ten years: one run
    assert schedule.due(utc("2026-11-29T02:00"), now) is None  # the clock was set back
    assert Schedule.weekly([Weekday.FRIDAY], "02:00", zone="UTC").due(utc("2026-11-20T02:00"), now) == utc(
        "2026-11-27T02:00"
    )


def test_items_start_apart_and_always_at_their_own_part_of_the_window() -> None:
    moment, window = utc("2026-11-28T02:00"), timedelta(minutes=30)
    starts = [start_of(moment, f"{number:032x}", window) for number in range(1000)]
    assert all(moment <= start < moment + window for start in starts)
    busiest = max(sum(start <= other < start + MINUTE for other in starts) for start in set(starts))
    assert busiest < 70  # 33 a minute on average
    assert start_of(moment + DAY, f"{7:032x}", window) - start_of(moment, f"{7:032x}", window) == DAY
    assert start_of(moment, "any", timedelta(0)) == moment
    assert start_of(moment, "0123", window) == utc("2026-11-28T02:13:27")  # and so for as long as vaults live


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule.hourly(3),
        lambda: Schedule.hourly(0),
        lambda: Schedule.hourly(24),
        lambda: Schedule.weekly([], "02:00", zone="UTC"),
        lambda: Schedule.daily("2:00", zone="UTC"),
        lambda: Schedule.daily("24:00", zone="UTC"),
        lambda: Schedule.daily("02:60", zone="UTC"),
        lambda: Schedule.daily("02:00\n", zone="UTC"),
        lambda: Schedule(Frequency.DAILY, hours=2),
        lambda: Schedule(Frequency.DAILY, weekdays=frozenset([Weekday.MONDAY])),
        lambda: Schedule(Frequency.DAILY, at=time(2, 0, 1)),
        lambda: Schedule(Frequency.DAILY, at=time(2, tzinfo=UTC)),
    ],
)
def test_an_impossible_schedule_is_refused(make: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.kind == "policy.bad-schedule"
    assert caught.value.why
    assert caught.value.do


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Europe/Berlyn"):
        Schedule.daily("02:00", zone="Europe/Berlyn")


def test_the_ends_of_time() -> None:
    for schedule in (Schedule.daily("12:00", zone="Pacific/Kiritimati"), Schedule.hourly(1)):
        assert schedule.next_after(datetime.max.replace(tzinfo=UTC)) is None
        assert len(list(islice(schedule.after(utc("9999-12-30T00:00")), 100))) < 60
    # The beginning is years before any vault, and may not be reached; it must not fail in another way.
    assert Schedule.hourly(1).next_after(datetime.min.replace(tzinfo=UTC)) == datetime(1, 1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("zone", ALL_ZONES)
def test_every_odd_day_of_every_zone(zone: str) -> None:
    """The days around each change of the offset from 2007 to 2037, at times around it, against the oracle."""
    info = ZoneInfo(zone)
    changes = transitions(info, 2007, 2037)
    for moment in changes[:2] + changes[-2:]:
        for step in (0, 1):
            day = (moment + step * DAY).astimezone(info).date()
            for at in (time(0, 0), time(1, 59), time(2, 30)):
                assert first_shown(day, at, info) == walk(day, at, info), (zone, day, at)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ALL_ZONES),
    st.datetimes(datetime(1972, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),
    st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    st.sets(st.sampled_from(Weekday)),
)
def test_moments_rise_and_none_is_left_out(zone: str, begin: datetime, at: time, weekdays: set[Weekday]) -> None:
    text = f"{at:%H:%M}"
    schedule = Schedule.weekly(weekdays, text, zone=zone) if weekdays else Schedule.daily(text, zone=zone)
    found = list(islice(schedule.after(begin), 20))
    assert all(begin < moment for moment in found)
    assert all(sooner < later for sooner, later in pairwise(found))
    info = ZoneInfo(zone)
    wanted = {
        walk(day, at, info)
        for day in (begin.date() + number * DAY for number in range(-3, (found[-1] - begin).days + 4))
        if not weekdays or Weekday(day.weekday()) in weekdays
    }
    assert found == sorted(moment for moment in wanted if begin < moment <= found[-1])
    # Asking again from any of them goes on with the next; what is due is the newest of them.
    for moment, later in pairwise(found):
        assert schedule.next_after(moment) == later
        assert schedule.due(begin, later) == later
        assert schedule.due(moment, later - timedelta(seconds=1)) is None
