"""The rules of retention a second time, as sentences over whole groups, with the calendar of the C library.

`blockvault/policy` walks from the newest point to the oldest and asks Python's `zoneinfo` and `isocalendar`. Here all
points are put into groups first, and days and ISO weeks come from `localtime` and `strftime` of the C library, told
the zone by `TZ`. The two agree or one of them is wrong. Moments before 1900 and after 2200 are not compared.
"""

from __future__ import annotations

import calendar
import os
import time
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blockvault.model import PointRef
    from blockvault.policy import RetentionPlan, RetentionPoint, RetentionRules
    from blockvault.policy.selection import MonthDay

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORMATS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}

DAY = FORMATS["daily"]

Outcome = dict["PointRef", tuple[bool, frozenset[str]]]


@contextmanager
def c_library_zone(zone: str) -> Iterator[None]:
    """The C library's local time is that of `zone` inside."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def local(moment: datetime, form: str) -> str:
    """`strftime` on the wall clock of the C library's zone."""
    return time.strftime(form, time.localtime((moment - EPOCH) // timedelta(seconds=1)))


def outcome_of(plan: RetentionPlan) -> Outcome:
    """A plan in the oracle's words."""
    return {
        decision.point.ref: (decision.keep, frozenset(str(reason) for reason in decision.reasons))
        for decision in plan.decisions
    }


def chosen_days(rule: str, rules: RetentionRules, periods: Iterable[str]) -> dict[str, str] | None:
    """The chosen day of each of the periods of a rule; None if the rule names none."""
    if rule == "weekly" and rules.weekly_on is not None:
        weekday = rules.weekly_on + 1
        return {name: date.fromisocalendar(int(name[:4]), int(name[6:]), weekday).isoformat() for name in periods}
    if rule == "monthly" and rules.monthly_on is not None:
        return {name: _in_month(int(name[:4]), int(name[5:]), rules.monthly_on) for name in periods}
    if rule == "yearly" and rules.yearly_on is not None:
        return {name: _in_month(int(name), rules.yearly_on.month, rules.yearly_on.day) for name in periods}
    return None


def _in_month(year: int, month: int, chosen: MonthDay) -> str:
    """From the calendar on the wall: its rows are weeks, its columns weekdays."""
    columns = list(zip(*calendar.monthcalendar(year, month), strict=True))
    days = [day for column in columns for day in column] if chosen.weekday is None else columns[chosen.weekday]
    there = sorted(day for day in days if day)
    return f"{year:04d}-{month:02d}-{there[-1] if chosen.number == -1 else there[chosen.number - 1]:02d}"


def expected(points: Sequence[RetentionPoint], rules: RetentionRules, now: datetime) -> Outcome:
    """For every point: does it stay, and all reasons for that."""
    with c_library_zone(rules.zone):
        return _expected(points, rules, now)


def _expected(points: Sequence[RetentionPoint], rules: RetentionRules, now: datetime) -> Outcome:
    def rank(point: RetentionPoint) -> tuple[datetime, int, str]:
        return point.taken, point.ref.number, point.ref.origin

    reasons: dict[PointRef, set[str]] = {point.ref: set() for point in points}
    ordinary = sorted((p for p in points if p.retain_until is None and not p.taken > now), key=rank)
    wanted = {
        "daily": rules.keep_daily,
        "weekly": rules.keep_weekly,
        "monthly": rules.keep_monthly,
        "yearly": rules.keep_yearly,
    }
    for rule, count in wanted.items():
        if count is None:
            continue
        groups: dict[str, list[RetentionPoint]] = {}
        for point in ordinary:
            groups.setdefault(local(point.taken, FORMATS[rule]), []).append(point)
        chosen = chosen_days(rule, rules, groups)
        if chosen is not None:
            # The latest periods by name; of each the newest point of the first day that is not before the chosen one.
            for name in sorted(groups)[-count:]:
                late = [p for p in groups[name] if local(p.taken, DAY) >= chosen[name]]
                first = min((local(p.taken, DAY) for p in late), default=None)
                pool = [p for p in late if local(p.taken, DAY) == first] or groups[name]
                reasons[max(pool, key=rank).ref].add(f"{rule} {name}")
            continue
        newest = {name: max(group, key=rank) for name, group in groups.items()}
        for name in sorted(newest, key=lambda name: rank(newest[name]))[-count:]:
            reasons[newest[name].ref].add(f"{rule} {name}")
    if rules.keep_last is not None:
        for index, point in enumerate(ordinary):
            newer_count = len(ordinary) - 1 - index
            if newer_count < rules.keep_last:
                reasons[point.ref].add(f"last {newer_count + 1} of {rules.keep_last}")
    if ordinary and (rules.keep_last is not None or any(wanted.values())) and not reasons[ordinary[-1].ref]:
        reasons[ordinary[-1].ref].add("newest")
    nothing_given = rules.keep_last is None and all(count is None for count in wanted.values())
    outcome: Outcome = {}
    for point in points:
        found = reasons[point.ref]
        until = point.retain_until
        if point.held:
            found.add("held")
        if until is None:
            if nothing_given:
                found.add("no rules")
            if point.taken > now:
                found.add("taken after now")
            outcome[point.ref] = (True, frozenset(found)) if found else (False, frozenset({"no rule keeps it"}))
            continue
        until_day = local(until, "%Y-%m-%d")
        if now < until:
            found.add(f"retain-until {until_day}")
        outcome[point.ref] = (
            (True, frozenset(found)) if found else (False, frozenset({f"its retain-until {until_day} is over"}))
        )
    return outcome
