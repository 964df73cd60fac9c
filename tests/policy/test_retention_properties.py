"""What holds for every history, rule and moment; and that the oracle agrees.

Points crowd around the odd hours of odd zones: clocks that go forward, back, by half an hour, over midnight, over the
date line, and the ends of years with 53 weeks.
"""

from __future__ import annotations

import string
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from helpers import retention_oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from policy_schedules import HOST, OTHER_HOST, utc

from blockvault.errors import InvalidInputError
from blockvault.model import PointRef
from blockvault.policy import ReasonKind, RetentionPoint, RetentionRules, plan
from blockvault.policy.periods import Weekday
from blockvault.policy.selection import LAST, MonthDay, YearDay

if TYPE_CHECKING:
    from blockvault.policy import RetentionPlan

CALENDAR = {"keep_daily": "daily", "keep_weekly": "weekly", "keep_monthly": "monthly", "keep_yearly": "yearly"}
RULES = ["keep_last", *CALENDAR]

ODD_MOMENTS = [  # zone, and a moment in it at which something happens
    ("UTC", "2024-02-29 00:00"),
    ("UTC", "2028-03-01 00:00"),
    ("UTC", "2021-01-04 00:00"),
    ("UTC", "2027-01-04 00:00"),
    ("UTC", "2024-12-30 00:00"),
    ("UTC", "1969-12-31 23:59:59"),
    ("Europe/Berlin", "2026-03-29 01:00"),
    ("Europe/Berlin", "2026-10-25 01:00"),
    ("Europe/Berlin", "2026-12-31 23:00"),
    ("Europe/Berlin", "2060-10-31 01:00"),
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Pacific/Kwajalein", "1993-08-21 12:00"),
    ("America/St_Johns", "2010-11-07 02:31"),
    ("America/St_Johns", "2006-10-29 02:31"),
    ("America/St_Johns", "2009-11-01 02:31"),  # over midnight and over the end of a month
    ("America/Sao_Paulo", "2018-02-18 02:00"),
    ("America/Sao_Paulo", "2018-11-04 03:00"),
    ("Africa/Casablanca", "2026-02-15 02:00"),
    ("Asia/Kathmandu", "1985-12-31 18:30"),
]

# A few of a unit, so that moments meet in one second, hour, day, week, month and year, and at the odd moment itself.
UNITS = [timedelta(microseconds=1), *(timedelta(minutes=n) for n in (15, 60, 360)), *map(timedelta, (1, 7, 31, 366))]
spans = st.builds(lambda unit, count: unit * count, st.sampled_from(UNITS), st.integers(-4, 4))
counts = st.none() | st.integers(1, 4)
month_days = st.builds(MonthDay, st.sampled_from([1, 2, 7, 15, 28, LAST])) | st.builds(
    MonthDay, st.sampled_from([1, 2, 3, 4, LAST]), st.sampled_from(Weekday)
)
year_days = st.builds(YearDay, st.sampled_from([1, 2, 3, 10, 11, 12]), month_days)
chosen_days = {
    "weekly_on": st.none() | st.sampled_from(Weekday),
    "monthly_on": st.none() | month_days,
    "yearly_on": st.none() | year_days,
}
rule_sets = st.fixed_dictionaries({**dict.fromkeys(RULES, counts), **chosen_days})


@st.composite
def histories(
    draw: st.DrawFn, *, own_dates: bool = True, ahead: bool = True
) -> tuple[list[RetentionPoint], RetentionRules, datetime]:
    """Points, rules and a now. Without `ahead`, no point is taken after it."""
    zone, odd = draw(st.sampled_from(ODD_MOMENTS))
    size = draw(st.integers(0, 16))
    anchors = st.sampled_from([utc(odd), *(utc(odd) + span for span in draw(st.lists(spans, max_size=3)))])
    one = st.tuples(
        st.sampled_from([HOST, OTHER_HOST]),
        st.integers(1, 20),
        anchors,
        spans,
        st.sampled_from([False, False, False, True]),
        (st.integers(0, 3).flatmap(lambda n: st.none() if n else spans)) if own_dates else st.none(),
    )
    drawn = draw(st.lists(one, min_size=size, max_size=size, unique_by=lambda row: row[:2]))
    moments = [anchor + span for _, _, anchor, span, _, _ in drawn]
    now = max(moments, default=utc(odd)) + abs(draw(spans))
    if ahead and draw(st.booleans()):
        now = utc(odd) + draw(spans)
    points = [
        RetentionPoint(PointRef(origin, number), moment, held, None if own is None else now + own)
        for moment, (origin, number, _, _, held, own) in zip(moments, drawn, strict=True)
    ]
    return points, RetentionRules(**draw(rule_sets), zone=zone), now


def refs_of(points: tuple[RetentionPoint, ...]) -> set[PointRef]:
    return {point.ref for point in points}


def kept_by(made: RetentionPlan, kind: str) -> list[str]:
    """The texts of all reasons of one kind."""
    return [reason.text for decision in made.decisions for reason in decision.reasons if reason.kind == kind]


@settings(max_examples=400, deadline=None)
@given(histories())
def test_the_oracle_agrees(history: tuple[list[RetentionPoint], RetentionRules, datetime]) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    assert retention_oracle.outcome_of(made) == retention_oracle.expected(points, rules, now)
    assert len(made.decisions) == len(points)
    assert made.expires_all == (bool(points) and made.kept == ())


@settings(deadline=None)
@given(histories(), st.data())
def test_more_generous_rules_never_keep_fewer(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], data: st.DataObject
) -> None:
    points, rules, now = history
    assume(not rules.is_empty)  # no rules keep all: the first one given may keep fewer
    more: dict[str, Any] = {on: getattr(rules, on) for on in chosen_days}
    for rule in RULES:
        count = getattr(rules, rule)
        more[rule] = data.draw(counts if count is None else st.integers(count, count + 4))
    generous = RetentionRules(**more, zone=rules.zone)
    assert refs_of(plan(points, rules, now).kept) <= refs_of(plan(points, generous, now).kept)
    assert refs_of(plan(points, generous, now).kept) <= refs_of(plan(points, RetentionRules(zone=rules.zone), now).kept)


@settings(deadline=None)
@given(histories())
def test_what_was_kept_is_kept_again(history: tuple[list[RetentionPoint], RetentionRules, datetime]) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    again = plan(made.kept, rules, now)
    assert again.expired == ()
    assert again.decisions == tuple(decision for decision in made.decisions if decision.keep)


@settings(deadline=None)
@given(histories(ahead=False, own_dates=False), st.data())
def test_expiring_often_or_seldom_leaves_the_same(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], data: st.DataObject
) -> None:
    """Expiry after some of the points, again after more of them, and so on: as if it had run at the end alone."""
    points, rules, now = history
    in_order = sorted(points, key=lambda point: (point.taken, point.ref.number, point.ref.origin))
    alive: tuple[RetentionPoint, ...] = ()
    for point in in_order:
        alive = (*alive, point)
        if data.draw(st.booleans()):
            alive = plan(alive, rules, point.taken).kept
    assert plan(alive, rules, now).kept == plan(points, rules, now).kept


@settings(deadline=None)
@given(histories(), st.data())
def test_a_hold_keeps_its_point_and_changes_no_other(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], data: st.DataObject
) -> None:
    points, rules, now = history
    before = plan(points, rules, now)
    assert not any(point.held for point in before.expired)
    assume(points)
    index = data.draw(st.integers(0, len(points) - 1))
    other = [*points]
    other[index] = replace(other[index], held=not other[index].held)
    after = plan(other, rules, now)
    changed = points[index].ref
    assert [each for each in before.decisions if each.point.ref != changed] == [
        each for each in after.decisions if each.point.ref != changed
    ]


@settings(deadline=None)
@given(histories())
def test_points_with_a_date_or_of_the_future_push_nothing_out(
    history: tuple[list[RetentionPoint], RetentionRules, datetime],
) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    ordinary = [point for point in points if point.retain_until is None and point.taken <= now]
    alone = plan(ordinary, rules, now)
    assert [each for each in made.decisions if each.point in ordinary] == list(alone.decisions)
    for decision in made.decisions:
        if decision.point not in ordinary and not decision.keep:
            assert decision.point.retain_until is not None
            assert decision.point.retain_until <= now


@settings(deadline=None)
@given(histories())
def test_each_rule_keeps_what_it_promises_and_no_more(
    history: tuple[list[RetentionPoint], RetentionRules, datetime],
) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    ordinary = [point for point in points if point.retain_until is None and point.taken <= now]
    with retention_oracle.c_library_zone(rules.zone):
        for rule, name in CALENDAR.items():
            periods = {retention_oracle.local(point.taken, retention_oracle.FORMATS[name]) for point in ordinary}
            texts = kept_by(made, name)
            assert len(texts) == len(set(texts)) == min(len(periods), getattr(rules, rule) or 0)
            assert set(texts) <= {f"{name} {period}" for period in periods}
    wanted = min(len(ordinary), rules.keep_last or 0)
    assert kept_by(made, "last") == [f"last {place} of {rules.keep_last}" for place in range(1, wanted + 1)]


@settings(deadline=None)
@given(histories())
def test_the_newest_is_always_kept(
    history: tuple[list[RetentionPoint], RetentionRules, datetime],
) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    ordinary = [each for each in made.decisions if each.point.retain_until is None and each.point.taken <= now]
    assume(ordinary)
    kinds = {reason.kind.value for reason in ordinary[0].reasons}
    named = {rule.removesuffix("_on") for rule in chosen_days if getattr(rules, rule) is not None}
    given = {rule.removeprefix("keep_") for rule, count in rules.counts() if count is not None}
    assert kinds >= given - named  # a rule that names a day keeps the newest of its period until then
    assert ordinary[0].keep
    assert ("newest" in kinds) == (bool(given) and kinds.isdisjoint(given))
    assert not made.expires_all


@settings(deadline=None)
@given(histories(ahead=False, own_dates=False), st.integers(0, 5000))
def test_nothing_grows_too_old_by_itself(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], days: int
) -> None:
    points, rules, now = history
    assert plan(points, rules, now + timedelta(days=days)).decisions == plan(points, rules, now).decisions


@settings(deadline=None)
@given(histories(), spans)
def test_an_earlier_clock_expires_less(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], span: timedelta
) -> None:
    """Of the clocks of a host and a store the earlier one is the one to ask, whichever of them is wrong."""
    points, rules, now = history
    assert refs_of(plan(points, rules, now - abs(span)).kept) >= refs_of(plan(points, rules, now).kept)


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    history: tuple[list[RetentionPoint], RetentionRules, datetime], random: Any
) -> None:
    points, rules, now = history
    mixed = [*points]
    random.shuffle(mixed)
    assert plan(mixed, rules, now) == plan(iter(points), rules, now)


@settings(deadline=None)
@given(histories())
def test_the_newest_comes_first_and_every_point_has_a_reason(
    history: tuple[list[RetentionPoint], RetentionRules, datetime],
) -> None:
    points, rules, now = history
    made = plan(points, rules, now)
    order = [(each.point.taken, each.point.number, each.point.ref.origin) for each in made.decisions]
    assert order == sorted(order, reverse=True)
    expiries = {ReasonKind.NO_RULE_KEEPS, ReasonKind.RETAIN_UNTIL_OVER}
    for decision in made.decisions:
        kinds = {reason.kind for reason in decision.reasons}
        assert kinds
        assert len(kinds) == len(decision.reasons)
        assert kinds.isdisjoint(expiries) if decision.keep else (kinds <= expiries and len(kinds) == 1)
    assert {*made.kept, *made.expired} == set(points)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=string.printable + "\0ü/", max_size=40))
def test_any_text_is_a_zone_or_refused(text: str) -> None:
    with suppress(InvalidInputError):
        rules = RetentionRules(keep_daily=1, zone=text)
        point = RetentionPoint(PointRef(HOST, 1), utc("2026-11-20"))
        assert plan([point], rules, utc("2026-11-20")).kept == (point,)
