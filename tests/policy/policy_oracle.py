"""The rules of retention a second time, as sentences over whole groups, with the calendar of the C library.

`blockvault/policy` walks from the newest point to the oldest and asks Python's `zoneinfo` and `isocalendar`. Here all
points are put into groups first, and days and ISO weeks come from `localtime` and `strftime` of the C library, told
the zone by `TZ`. The two agree or one of them is wrong. Moments before 1900 and after 2200 are not compared.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blockvault.model import PointRef
    from blockvault.policy import RetentionPlan, RetentionPoint, RetentionRules

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORMATS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}

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
        newest = {name: max(group, key=rank) for name, group in groups.items()}
        for name in sorted(newest, key=lambda name: rank(newest[name]))[-count:]:
            reasons[newest[name].ref].add(f"{rule} {name}")
    if rules.keep_last is not None:
        for index, point in enumerate(ordinary):
            newer_count = len(ordinary) - 1 - index
            if newer_count < rules.keep_last:
                reasons[point.ref].add(f"last {newer_count + 1} of {rules.keep_last}")
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
        date = local(until, "%Y-%m-%d")
        if now < until:
            found.add(f"retain-until {date}")
        outcome[point.ref] = (
            (True, frozenset(found)) if found else (False, frozenset({f"its retain-until {date} is over"}))
        )
    return outcome
