"""Which points a policy would leave: as if it had run for some months until now, nothing missed, expired as it goes.

    simulate(policy, now, months=13).rows()      [("2025-11", ".....M"), ..., ("2026-11", "MDDDW")]: a mark a day

How often expiry runs makes no difference to what is left (`retention`), so one plan at the end tells it.

Invariants:
- A pure function of (policy, now, months): the same arguments always draw the same picture.
- Every point that the schedule would have taken is counted once, as kept or as expired.
- A day's mark is that of the longest-lived rule that keeps a point of it.
"""

from __future__ import annotations

import calendar
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from blockvault.ids import OriginId
from blockvault.model import PointRef
from blockvault.policy.periods import day_of, month_name, zone_named
from blockvault.policy.policies import Policy
from blockvault.policy.retention import Decision, ReasonKind, RetentionPoint, plan
from blockvault.policy.schedule import first_shown

MONTHS_DEFAULT = 13
MONTHS_MAX = 120
EXPIRED, NONE = ".", " "
# From the longest-lived to the shortest: the first that keeps a day's point is the day's mark.
LETTERS: dict[ReasonKind, str] = {
    ReasonKind.YEARLY: "Y",
    ReasonKind.MONTHLY: "M",
    ReasonKind.WEEKLY: "W",
    ReasonKind.DAILY: "D",
    ReasonKind.LAST: "L",
    ReasonKind.NO_RULES: "A",
    ReasonKind.NEWEST: "N",
}


@dataclass(frozen=True, slots=True)
class Simulation:
    """What would be left at `now`. `decisions` are of every point that was taken, newest first."""

    policy: Policy
    now: datetime
    months: tuple[str, ...]
    decisions: tuple[Decision, ...]

    @property
    def kept(self) -> tuple[Decision, ...]:
        """The points that are left, newest first."""
        return tuple(decision for decision in self.decisions if decision.keep)

    def counts(self) -> dict[ReasonKind, int]:
        """How many points each rule keeps; one that several keep counts for each of them."""
        found = Counter(reason.kind for decision in self.kept for reason in decision.reasons)
        return {kind: found[kind] for kind in LETTERS if found[kind]}

    def rows(self) -> list[tuple[str, str]]:
        """A month and its days, one mark each: the letter of a rule, `.` where all points expired, blank for none."""
        zone = zone_named(self.policy.retention.zone)
        marks: dict[date, str] = {}
        for decision in self.decisions:
            day = day_of(decision.point.taken, zone)
            kinds = {reason.kind for reason in decision.reasons} if decision.keep else set()
            letters = [letter for kind, letter in LETTERS.items() if kind in kinds]
            known = marks.get(day, EXPIRED)
            marks[day] = min([known, *letters], key=_RANK.__getitem__)
        return [(name, _row(name, marks)) for name in self.months]


_RANK = {letter: rank for rank, letter in enumerate([*LETTERS.values(), EXPIRED])}


def simulate(policy: Policy, now: datetime, months: int = MONTHS_DEFAULT) -> Simulation:
    """Run a policy from the first day of the month that lies `months - 1` before this one, until `now`.

    Args:
        policy: its schedule and retention.
        now: the end, in UTC.
        months: how many, the one that has begun among them; 1 to `MONTHS_MAX`.
    """
    zone = zone_named(policy.retention.zone)
    today = day_of(now, zone)
    names = [_month_before(today, back) for back in range(months - 1, -1, -1)]
    begun = first_shown(names[0], time(0), zone)
    origin = OriginId("0" * 32)
    points: list[RetentionPoint] = []
    for moment in policy.schedule.after(begun - timedelta(seconds=1)):  # a point at midnight is one of that day
        if moment > now:
            break
        points.append(RetentionPoint(PointRef(origin, len(points) + 1), moment))
    made = plan(points, policy.retention, now)
    return Simulation(policy, now, tuple(month_name(name) for name in names), made.decisions)


def _month_before(day: date, back: int) -> date:
    index = day.year * 12 + day.month - 1 - back
    return date(index // 12, index % 12 + 1, 1)


def _row(month: str, marks: dict[date, str]) -> str:
    year, number = int(month[:4]), int(month[5:])
    days = range(1, calendar.monthrange(year, number)[1] + 1)
    return "".join(marks.get(date(year, number, day), NONE) for day in days).rstrip()
