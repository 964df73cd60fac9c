"""What each rule, hold and date means, by hand."""

from __future__ import annotations

import sys
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from policy_schedules import HOST, OTHER_HOST, point, utc

from blockvault.errors import InternalError, InvalidInputError
from blockvault.model import PointRef
from blockvault.policy import ReasonKind, RetentionPoint, RetentionRules, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blockvault.policy import RetentionPlan

NOW = utc("2026-11-21 00:00")
RULES = ["keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"]


def told(made: RetentionPlan) -> dict[int, str]:
    """`{4: "+ daily 2026-11-20", 3: "- no rule keeps it"}`, newest first."""
    return {
        decision.point.number: f"{'+' if decision.keep else '-'} {', '.join(map(str, decision.reasons))}"
        for decision in made.decisions
    }


def asked(points: Iterable[RetentionPoint], *, now: datetime = NOW, zone: str = "UTC", **rules: int) -> dict[int, str]:
    return told(plan(points, RetentionRules(**rules, zone=zone), now))


FOUR = [
    point(1, "2026-11-16 12:00"),
    point(2, "2026-11-17 12:00"),
    point(3, "2026-11-20 12:00"),
    point(4, "2026-11-20 18:00"),
]


def test_the_example_of_the_module() -> None:
    assert asked(FOUR, keep_daily=2) == {
        4: "+ daily 2026-11-20",
        3: "- no rule keeps it",
        2: "+ daily 2026-11-17",
        1: "- no rule keeps it",
    }


def test_days_without_points_are_not_counted() -> None:
    a_year_later = NOW + timedelta(days=365)
    assert asked(FOUR, keep_daily=3, now=a_year_later) == asked(FOUR, keep_daily=3)
    assert [number for number, text in asked(FOUR, keep_daily=3).items() if text.startswith("+")] == [4, 2, 1]


def test_last_says_its_place() -> None:
    assert asked(FOUR, keep_last=2) == {
        4: "+ last 1 of 2",
        3: "+ last 2 of 2",
        2: "- no rule keeps it",
        1: "- no rule keeps it",
    }
    assert asked(FOUR, keep_last=7)[2] == "+ last 3 of 7"


def test_all_rules_that_keep_a_point_are_told_in_their_order() -> None:
    points = [point(1, "2026-11-20 18:00", held=True)]
    everything = {"keep_last": 3, "keep_daily": 1, "keep_weekly": 1, "keep_monthly": 1, "keep_yearly": 1}
    assert asked(points, **everything) == {
        1: "+ last 1 of 3, daily 2026-11-20, weekly 2026-W47, monthly 2026-11, yearly 2026, held"
    }
    (decision,) = plan(points, RetentionRules(**everything), NOW).decisions
    assert [reason.kind.value for reason in decision.reasons] == [
        "last",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "held",
    ]


@pytest.mark.parametrize(
    ("rule", "just_before", "just_after", "older", "newer"),
    [
        ("keep_daily", "2026-11-16 23:59:59.999999", "2026-11-17 00:00", "daily 2026-11-16", "daily 2026-11-17"),
        ("keep_weekly", "2026-11-15 23:59:59.999999", "2026-11-16 00:00", "weekly 2026-W46", "weekly 2026-W47"),
        ("keep_weekly", "2021-01-03 23:59:59.999999", "2021-01-04 00:00", "weekly 2020-W53", "weekly 2021-W01"),
        ("keep_weekly", "2024-12-29 23:59:59.999999", "2024-12-30 00:00", "weekly 2024-W52", "weekly 2025-W01"),
        ("keep_monthly", "2024-02-29 23:59:59.999999", "2024-03-01 00:00", "monthly 2024-02", "monthly 2024-03"),
        ("keep_yearly", "2025-12-31 23:59:59.999999", "2026-01-01 00:00", "yearly 2025", "yearly 2026"),
    ],
)
def test_where_periods_end(rule: str, just_before: str, just_after: str, older: str, newer: str) -> None:
    points = [point(1, just_before), point(2, just_after)]
    assert asked(points, **{rule: 2}) == {2: f"+ {newer}", 1: f"+ {older}"}
    a_moment_earlier = [point(1, just_before), point(2, utc(just_after) - timedelta(microseconds=1))]
    assert asked(a_moment_earlier, **{rule: 2}) == {2: f"+ {older}", 1: "- no rule keeps it"}


def test_a_week_goes_on_over_the_new_year() -> None:
    points = [point(1, "2026-12-31 12:00"), point(2, "2027-01-03 12:00")]
    now = utc("2027-01-04 00:00")
    assert asked(points, keep_weekly=5, now=now) == {2: "+ weekly 2026-W53", 1: "- no rule keeps it"}
    assert asked(points, keep_yearly=5, now=now) == {2: "+ yearly 2027", 1: "+ yearly 2026"}


def test_periods_are_cut_in_the_zone_of_the_rules() -> None:
    # one evening in Honolulu, the next morning in Auckland, either side of midnight in UTC
    points = [point(1, "2026-11-15 23:30"), point(2, "2026-11-16 00:30")]
    assert asked(points, keep_daily=9) == {2: "+ daily 2026-11-16", 1: "+ daily 2026-11-15"}
    assert asked(points, keep_daily=9, zone="Pacific/Honolulu") == {2: "+ daily 2026-11-15", 1: "- no rule keeps it"}
    assert asked(points, keep_weekly=9, zone="Pacific/Auckland") == {2: "+ weekly 2026-W47", 1: "- no rule keeps it"}


def test_a_hold_beats_every_rule_and_takes_its_place() -> None:
    held = [point(1, "2026-11-16 12:00", held=True), *FOUR[1:]]
    assert asked(held, keep_last=1)[1] == "+ held"
    assert {n: text for n, text in asked(held, keep_daily=2).items() if n != 1} == {
        n: text for n, text in asked(FOUR, keep_daily=2).items() if n != 1
    }


def test_a_date_of_its_own_decides_alone() -> None:
    points = [
        point(1, "2026-11-16 12:00", until="2026-11-21 00:00:00.000001"),
        point(2, "2026-11-17 12:00", until="2026-11-21 00:00"),  # over: it was to be kept until now
        point(3, "2026-11-20 12:00"),
        point(4, "2026-11-20 18:00", until="2026-12-01"),
    ]
    dated = {4: "+ retain-until 2026-12-01", 2: "- its retain-until 2026-11-21 is over", 1: "+ retain-until 2026-11-21"}
    assert asked(points) == {3: "+ no rules", **dated}
    assert asked(points, keep_last=9, keep_daily=9) == {3: "+ last 1 of 9, daily 2026-11-20", **dated}
    assert asked(points, keep_last=1) == {3: "+ last 1 of 1", **dated}  # 4 takes no place


def test_a_hold_beats_a_date_that_is_over() -> None:
    points = [
        point(1, "2026-11-01 12:00", held=True, until="2026-11-02"),
        point(2, "2026-11-02 12:00", held=True, until="2027-01-01"),
    ]
    assert asked(points, keep_last=1) == {2: "+ held, retain-until 2027-01-01", 1: "+ held"}


def test_dates_are_told_in_the_zone_of_the_rules() -> None:
    points = [
        point(1, "2026-11-01 12:00", until="2026-11-30 23:00"),
        point(2, "2026-11-01 13:00", until="2026-11-10 23:00"),
    ]
    assert asked(points, zone="Europe/Berlin") == {
        2: "- its retain-until 2026-11-11 is over",
        1: "+ retain-until 2026-12-01",
    }


def test_a_point_of_the_future_is_kept_and_pushes_nothing_out() -> None:
    ahead = point(9, "2036-01-01 00:00")
    assert asked([*FOUR, ahead], keep_last=1, keep_daily=2) == {
        9: "+ taken after now",
        **asked(FOUR, keep_last=1, keep_daily=2),
    }
    assert asked([ahead]) == {9: "+ no rules, taken after now"}
    gone = point(9, "2036-01-01 00:00", until="2026-11-20")
    assert asked([gone], keep_last=1) == {9: "- its retain-until 2026-11-20 is over"}


def test_a_point_taken_at_this_very_moment_is_not_of_the_future() -> None:
    assert asked([point(1, "2026-11-20 12:00"), point(2, NOW)], keep_last=1) == {
        2: "+ last 1 of 1",
        1: "- no rule keeps it",
    }


def test_a_clock_that_fell_back_expires_nothing() -> None:
    made = plan(FOUR, RetentionRules(keep_last=1), utc("1970-01-01 00:00"))
    assert made.expired == ()
    assert {reason.kind for decision in made.decisions for reason in decision.reasons} == {ReasonKind.AHEAD}


def test_points_of_one_moment_are_in_the_order_of_their_numbers() -> None:
    moment = utc("2026-11-20 12:00")
    points = [
        RetentionPoint(PointRef(origin, number), moment) for number in (3, 10, 9) for origin in (OTHER_HOST, HOST)
    ]
    made = plan(points, RetentionRules(keep_last=2), NOW)
    assert made == plan(reversed(points), RetentionRules(keep_last=2), NOW)
    assert [each.ref for each in made.kept] == [PointRef(OTHER_HOST, 10), PointRef(HOST, 10)]


def test_no_rule_keeps_all() -> None:
    assert set(asked(FOUR).values()) == {"+ no rules"}
    assert RetentionRules().is_empty
    assert RetentionRules(zone="Europe/Berlin").is_empty
    assert not any(RetentionRules(**{rule: 1}).is_empty for rule in RULES)


def test_no_points_no_question() -> None:
    made = plan([], RetentionRules(keep_last=1), NOW)
    assert made.decisions == ()
    assert not made.expires_all


def test_only_dates_can_expire_all() -> None:
    over = [point(n, f"2026-11-0{n} 12:00", until="2026-11-10") for n in (7, 8)]
    made = plan(over, RetentionRules(keep_last=9), NOW)
    assert made.expires_all
    assert [each.number for each in made.expired] == [8, 7]
    assert not plan([*over, FOUR[0]], RetentionRules(keep_yearly=1), NOW).expires_all
    assert not plan(
        [point(3, "2026-11-01 12:00", held=True, until="2026-11-02"), *over], RetentionRules(), NOW
    ).expires_all


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [0, -1])
def test_a_rule_of_no_points_is_refused(rule: str, count: int) -> None:
    with pytest.raises(InvalidInputError) as raised:
        RetentionRules(**{rule: count})
    assert raised.value.kind == "policy.rule-zero"
    assert raised.value.message == f"{rule.replace('_', '-')} {count} is not a retention rule"
    assert raised.value.why
    assert raised.value.do


@pytest.mark.parametrize(
    ("zone", "do"),
    [
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("localtime", None),  # which is another zone on every host
        ("right/Europe/Berlin", None),  # with leap seconds: 27 s off
        ("posix/Europe/Berlin", None),
        ("Europe", None),
        ("tzdata.zi", None),
        ("../../etc/passwd", "use an IANA name like Europe/Berlin, or UTC"),
        ("/etc/localtime", None),
        ("UTC\0", None),
        ("leapseconds", None),
        ("Europe/x" * 600, None),
        ("Europe/Berlin/", "did you mean 'Europe/Berlin'?"),
        ("Europe//Berlin", "did you mean 'Europe/Berlin'?"),
        ("Europe/Berlin\n", "did you mean 'Europe/Berlin'?"),
        ("x" * 5000, "use an IANA name like Europe/Berlin, or UTC"),
        ("", "use an IANA name like Europe/Berlin, or UTC"),
    ],
)
def test_a_zone_that_is_not_known_is_refused(zone: str, do: str | None) -> None:
    with pytest.raises(InvalidInputError) as raised:
        RetentionRules(keep_last=1, zone=zone)
    assert raised.value.kind == "policy.unknown-zone"
    assert raised.value.why == "the time zone database of this machine has no zone of that name"
    if do is not None:
        assert raised.value.do == do
    assert raised.value.do != f"did you mean '{zone}'?"


def test_every_zone_of_the_database_is_known() -> None:
    names = zoneinfo.available_timezones() - {"localtime", "posixrules"}
    assert len(names) > 400
    for name in names:
        assert not RetentionRules(keep_last=1, zone=name).is_empty


@pytest.fixture
def no_zone_database(tmp_path: Path) -> Iterator[None]:
    zoneinfo.reset_tzpath([str(tmp_path)])
    ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_zone_database")
def test_utc_needs_no_time_zone_database() -> None:
    if zoneinfo.available_timezones():
        pytest.skip("the package tzdata is installed, which serves in its place")
    assert asked(FOUR, keep_daily=1)[4] == "+ daily 2026-11-20"
    with pytest.raises(InvalidInputError) as raised:
        RetentionRules(zone="Europe/Berlin")
    assert (raised.value.kind, raised.value.why) == ("policy.unknown-zone", "this machine has no time zone database")


@pytest.mark.usefixtures("no_zone_database")
def test_a_database_that_is_a_package_has_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where zones come from the package `tzdata`, zoneinfo fails on a folder of it with the system's error."""
    if "tzdata" in sys.modules:
        pytest.skip("the package tzdata is loaded already")
    for folder in ("tzdata", "tzdata/zoneinfo", "tzdata/zoneinfo/Europe"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "tzdata" / "zones").write_text("Europe/Berlin\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for zone in ("Europe", "x" * 300):
            with pytest.raises(InvalidInputError) as raised:
                RetentionRules(zone=zone)
            assert raised.value.kind == "policy.unknown-zone"
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tzdata"]:
            del sys.modules[name]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_ends_of_time_have_days_too(zone: str) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    points = [point(1, first), point(2, last), RetentionPoint(PointRef(HOST, 3), first, retain_until=first)]
    rules = {"keep_last": 9, "keep_daily": 9, "keep_weekly": 9, "keep_monthly": 9, "keep_yearly": 9}
    assert asked(points, now=last, zone=zone, **rules) == {
        2: "+ last 1 of 9, daily 9999-12-31, weekly 9999-W52, monthly 9999-12, yearly 9999",
        3: "- its retain-until 0001-01-01 is over",
        1: "+ last 2 of 9, daily 0001-01-01, weekly 0001-W01, monthly 0001-01, yearly 0001",
    }


@pytest.mark.parametrize("wrong", [datetime(2026, 11, 20), datetime(2026, 11, 20, tzinfo=timezone(timedelta(hours=1)))])
def test_moments_are_in_utc(wrong: datetime) -> None:
    rules = RetentionRules(keep_last=1)
    for points, now in (
        ([point(1, wrong)], NOW),
        ([RetentionPoint(PointRef(HOST, 1), NOW, retain_until=wrong)], NOW),
        ([], wrong),
    ):
        with pytest.raises(InternalError) as raised:
            plan(points, rules, now)
        assert raised.value.kind == "policy.not-utc"


def test_a_point_is_asked_about_once() -> None:
    with pytest.raises(InternalError) as raised:
        plan([FOUR[0], FOUR[1], FOUR[0]], RetentionRules(keep_last=1), NOW)
    assert raised.value.kind == "policy.point-twice"
