"""What a policy may be, what is odd about one, and when a change can expire a point."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_retention_properties import histories, refs_of, rule_sets

from blockvault.errors import InvalidInputError
from blockvault.policy import RetentionPoint, RetentionRules, plan
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import UNWRITTEN, Policy, default_policy, may_expire, oddities_of
from blockvault.policy.schedule import Schedule, parse_schedule
from blockvault.policy.selection import parse_month_day, parse_year_day

DAILY = Schedule.daily("02:00", zone="Europe/Berlin")
MONTH = RetentionRules(keep_daily=30, zone="Europe/Berlin")


def kinds(schedule: str, rules: RetentionRules, **options: Any) -> list[str]:
    policy = Policy("gold", parse_schedule(schedule, zone=rules.zone), rules, **options)
    return [oddity.kind for oddity in oddities_of(policy)]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"name": "x"}, "policy.bad-name"),
        ({"name": "1st"}, "policy.bad-name"),
        ({"name": "a/b"}, "policy.bad-name"),
        ({"name": "g" * 51}, "policy.bad-name"),
        ({"name": "gold\n"}, "policy.bad-name"),
        ({"snapshot_days": 0}, "policy.snapshot-days"),
        ({"snapshot_days": 31}, "policy.snapshot-days"),
        ({"retries": -1}, "policy.retries"),
        ({"retries": 101}, "policy.retries"),
        ({"window": timedelta(hours=24)}, "policy.bad-window"),
        ({"window": timedelta(seconds=-1)}, "policy.bad-window"),
        ({"window": timedelta(hours=4), "schedule": Schedule.hourly(4)}, "policy.bad-window"),
        ({"retention": RetentionRules(keep_daily=36_501)}, "policy.rule-too-large"),
        ({"retention": RetentionRules(keep_daily=1, weekly_on=Weekday.SUNDAY)}, "policy.selection-without-rule"),
        (
            {"retention": RetentionRules(keep_yearly=1, monthly_on=parse_month_day("day 1"))},
            "policy.selection-without-rule",
        ),
        (
            {"retention": RetentionRules(keep_daily=1, yearly_on=parse_year_day("day 1 of may"))},
            "policy.selection-without-rule",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], kind: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        Policy(**{"name": "gold", "schedule": DAILY, "retention": MONTH, **options})
    assert raised.value.kind == kind
    assert raised.value.why
    assert raised.value.do


def test_the_bounds_themselves_are_possible() -> None:
    for options in (
        {"name": "ab"},
        {"name": "g" * 50},
        {"snapshot_days": 1},
        {"snapshot_days": 30},
        {"retries": 0},
        {"window": timedelta()},
        {"window": timedelta(hours=24) - timedelta(seconds=1)},
        {"retention": RetentionRules()},
    ):
        Policy(**{"name": "gold", "schedule": DAILY, "retention": MONTH, **options})


def test_the_default_is_azures() -> None:
    policy = default_policy("Europe/Berlin")
    assert (policy.name, str(policy.schedule), policy.schedule.zone) == ("default", "daily 02:00", "Europe/Berlin")
    assert policy.retention == MONTH
    assert (policy.snapshot_days, policy.revision) == (2, UNWRITTEN)
    assert oddities_of(policy) == ()


@pytest.mark.parametrize(
    ("schedule", "rules", "options", "found"),
    [
        ("daily 02:00", RetentionRules(keep_daily=2), {"snapshot_days": 2}, []),
        ("daily 02:00", RetentionRules(keep_daily=1), {"snapshot_days": 2}, ["policy.shorter-than-snapshots"]),
        ("daily 02:00", RetentionRules(keep_daily=29), {"snapshot_days": 30}, ["policy.shorter-than-snapshots"]),
        ("daily 02:00", RetentionRules(keep_last=30), {"snapshot_days": 30}, []),
        ("daily 02:00", RetentionRules(keep_weekly=52), {"snapshot_days": 2}, ["policy.shorter-than-snapshots"]),
        (
            "daily 02:00",
            RetentionRules(keep_weekly=52, weekly_on=Weekday.MONDAY),
            {"snapshot_days": 2},
            ["policy.shorter-than-snapshots"],
        ),
        ("daily 02:00", RetentionRules(keep_weekly=52), {"snapshot_days": 1}, []),
        ("weekly sun 02:00", RetentionRules(keep_weekly=1), {"snapshot_days": 7}, []),
        ("weekly sun 02:00", RetentionRules(keep_weekly=1), {"snapshot_days": 8}, ["policy.shorter-than-snapshots"]),
        ("weekly sun,wed 02:00", RetentionRules(keep_weekly=9), {}, []),
        ("hourly 4", RetentionRules(keep_daily=30), {}, ["policy.hourly-retention"]),
        ("hourly 4", RetentionRules(keep_last=12, keep_daily=30), {}, []),
        ("hourly 4", RetentionRules(), {}, []),
        ("hourly 4", RetentionRules(keep_last=6), {}, ["policy.shorter-than-snapshots"]),
        ("hourly 1", RetentionRules(keep_last=24, keep_daily=2), {}, ["policy.shorter-than-snapshots"]),
        ("hourly 1", RetentionRules(keep_last=24, keep_daily=3), {}, []),
        (
            "weekly mon 02:00",
            RetentionRules(
                keep_weekly=9,
                keep_monthly=9,
                keep_yearly=9,
                weekly_on=Weekday.SUNDAY,
                monthly_on=parse_month_day("first monday"),
                yearly_on=parse_year_day("last tuesday of may"),
            ),
            {},
            ["policy.day-without-point", "policy.day-without-point"],
        ),
        ("weekly mon 02:00", RetentionRules(keep_monthly=9, monthly_on=parse_month_day("day 3")), {}, []),
    ],
)
def test_what_is_odd_is_told(schedule: str, rules: RetentionRules, options: dict[str, Any], found: list[str]) -> None:
    assert kinds(schedule, rules, **options) == found


@settings(max_examples=300, deadline=None)
@given(histories(), rule_sets)
def test_a_change_that_cannot_expire_a_point_expires_none(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], other: dict[str, Any]
) -> None:
    points, before, now = history
    after = RetentionRules(**other, zone=before.zone)
    assume(not may_expire(before, after))
    assert refs_of(plan(points, before, now).kept) <= refs_of(plan(points, after, now).kept)


@settings(deadline=None)
@given(histories(), st.data())
def test_a_change_that_only_adds_is_not_called_shorter(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], data: st.DataObject
) -> None:
    points, before, now = history
    counts = {name: count for name, count in before.counts() if count is not None}
    more = {name: count + data.draw(st.integers(0, 3)) for name, count in counts.items()}
    after = replace(before, **more)
    assert not may_expire(before, after)
    assert refs_of(plan(points, before, now).kept) <= refs_of(plan(points, after, now).kept)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (RetentionRules(), RetentionRules(keep_daily=36_500), True),
        (RetentionRules(keep_daily=1), RetentionRules(), False),
        (RetentionRules(keep_daily=2), RetentionRules(keep_daily=1), True),
        (RetentionRules(keep_daily=2), RetentionRules(keep_weekly=2), True),
        (RetentionRules(keep_daily=2), RetentionRules(keep_daily=2, keep_weekly=1), False),
        (RetentionRules(keep_weekly=2), RetentionRules(keep_weekly=9, weekly_on=Weekday.MONDAY), True),
        (
            RetentionRules(keep_daily=2),
            RetentionRules(keep_daily=2, keep_weekly=9, weekly_on=Weekday.MONDAY),
            False,
        ),
        (RetentionRules(keep_daily=2), RetentionRules(keep_daily=2, zone="Europe/Berlin"), True),
    ],
)
def test_which_changes_shorten(before: RetentionRules, after: RetentionRules, wanted: bool) -> None:
    assert may_expire(before, after) is wanted
