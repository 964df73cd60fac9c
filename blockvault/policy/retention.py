"""Which points of an item are kept and which expire, with the reasons for each.

    plan(points, RetentionRules(keep_last=3, keep_daily=7, zone="Europe/Berlin"), now)

A rule `keep_daily=7` keeps the newest point of each of the 7 most recent days *that have points*; weeks, months and
years likewise; `keep_last=3` the 3 newest points. Days without a point are not counted: a machine that was off for
a month comes back to the points it had, instead of finding that they all grew too old meanwhile. A point is kept if
any rule keeps it. The newest point of a period is taken, not the oldest, because it is the one that every rule has
kept until the period ended: so it makes no difference whether expiry runs every hour or once a year.

Worked example: points at noon on Mon 16, Tue 17 and Fri 20, and a second one on Fri 20 at 18:00; `keep_daily=2` keeps
Fri 18:00 (`daily 2026-11-20`) and Tue 17 (`daily 2026-11-17`); Fri noon and Mon 16 expire.

Invariants:
- A hold beats everything. A held point takes its place in the rules as if it were not held, so setting or lifting a
  hold changes nothing for any other point.
- A point with a retain-until lives by that date alone: kept before it whatever the rules say, expired from it on even
  if a rule would keep it or none is given. It takes no place in any rule: once it is gone it would leave a hole where
  an ordinary point had to go for it.
- A point taken after `now` (a clock was wrong) is kept until its time has come, and takes no place in any rule: one
  that says 2036 pushes nothing out, and a `now` that fell back to 1970 expires nothing but what is past its own date.
  To be rid of such a point before, give it a retain-until or delete it.
- With no rule at all, every point without a retain-until is kept.
- With rules, the newest of the points that they speak of is always kept: only retain-until dates can expire all.
- The order is by `taken`, then number, then origin; the order of the input does not matter.

Not promised: a point taken while the clock ran behind counts as being as old as it says.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from blockvault.errors import InternalError, InvalidInputError
from blockvault.policy.periods import day_name, day_of, month_name, week_name, year_name, zone_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date, datetime, tzinfo

    from blockvault.model import PointRef


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How many points are kept for what; None where a rule is not given.

    Args:
        keep_last: the newest points.
        keep_daily: the newest point of each of so many days that have one; `keep_weekly` (ISO weeks, Monday first),
            `keep_monthly` and `keep_yearly` likewise.
        keep_weekly: see `keep_daily`.
        keep_monthly: see `keep_daily`.
        keep_yearly: see `keep_daily`.
        zone: IANA name of the zone in which days, weeks, months and years are cut.

    Raises:
        InvalidInputError: `policy.rule-zero`, `policy.unknown-zone`.
    """

    keep_last: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    zone: str = "UTC"

    def __post_init__(self) -> None:
        for name, count in self.counts():
            if count is not None and count < 1:
                option = name.replace("_", "-")
                raise InvalidInputError(
                    "policy.rule-zero",
                    f"{option} {count} is not a retention rule",
                    why="a rule keeps at least one point; one of zero would expire all that it speaks of",
                    do=f"give {option} 1 or more, or leave it out",
                )
        zone_named(self.zone)

    def counts(self) -> Iterator[tuple[str, int | None]]:
        """The rules by name, in their order: `("keep_last", 3)`, ..."""
        for rule in fields(self):
            if rule.name.startswith("keep_"):
                yield rule.name, getattr(self, rule.name)

    @property
    def is_empty(self) -> bool:
        """No rule is given: points live until their own retain-until, or for good."""
        return all(count is None for _, count in self.counts())


@dataclass(frozen=True, slots=True)
class RetentionPoint:
    """What retention needs to know of a point. Moments are in UTC, as everywhere."""

    ref: PointRef
    taken: datetime
    held: bool = False
    retain_until: datetime | None = None

    @property
    def number(self) -> int:
        """N of `--point N`."""
        return self.ref.number


class ReasonKind(StrEnum):
    """What a reason speaks of."""

    LAST = "last"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    NO_RULES = "no-rules"
    AHEAD = "ahead"
    HELD = "held"
    RETAIN_UNTIL = "retain-until"
    NO_RULE_KEEPS = "no-rule-keeps"  # from here on: why a point expires
    RETAIN_UNTIL_OVER = "retain-until-over"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: its kind for programs, its text for people (`daily 2026-11-20`)."""

    kind: ReasonKind
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one point. Of `reasons` there is at least one; each alone would keep a point that is kept."""

    point: RetentionPoint
    keep: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class RetentionPlan:
    """A decision for every point of an item, newest first."""

    rules: RetentionRules
    now: datetime
    decisions: tuple[Decision, ...]

    @cached_property
    def kept(self) -> tuple[RetentionPoint, ...]:
        """The points that stay, newest first."""
        return tuple(decision.point for decision in self.decisions if decision.keep)

    @cached_property
    def expired(self) -> tuple[RetentionPoint, ...]:
        """The points that expire, newest first."""
        return tuple(decision.point for decision in self.decisions if not decision.keep)

    @property
    def expires_all(self) -> bool:
        """The item has points, and none would be left: whoever carries this out asks first."""
        return bool(self.decisions) and not self.kept


# One line a calendar rule. A rule that takes another point of a period than its newest (the first Sunday's of a
# month) will say so here, beside the name of the period.
_CALENDAR_RULES: tuple[tuple[str, ReasonKind, Callable[[date], str]], ...] = (
    ("keep_daily", ReasonKind.DAILY, day_name),
    ("keep_weekly", ReasonKind.WEEKLY, week_name),
    ("keep_monthly", ReasonKind.MONTHLY, month_name),
    ("keep_yearly", ReasonKind.YEARLY, year_name),
)


def plan(points: Iterable[RetentionPoint], rules: RetentionRules, now: datetime) -> RetentionPlan:
    """Decide for every point of one item: keep or expire. See the module for what rules, holds and dates mean.

    Args:
        points: all points of the item that are not deleted already, in any order, each once.
        rules: what to keep.
        now: the moment for which to plan; of several clocks the earliest, which expires the least.
    """
    ordered = _newest_first(points, now)
    zone = zone_named(rules.zone)
    governed = [point for point in ordered if point.retain_until is None and point.taken <= now]
    by_rules = _reasons_of_rules(governed, rules, zone)
    decisions = []
    for point in ordered:
        keeping = by_rules.get(point.ref, []) + _reasons_of_its_own(point, rules, zone, now)
        decisions.append(
            Decision(point, keep=True, reasons=tuple(keeping))
            if keeping
            else Decision(point, keep=False, reasons=(_expiry(point, zone),))
        )
    return RetentionPlan(rules, now, tuple(decisions))


def _newest_first(points: Iterable[RetentionPoint], now: datetime) -> list[RetentionPoint]:
    ordered = list(points)
    moments = [now, *(point.taken for point in ordered), *(point.retain_until for point in ordered)]
    # Two moments of one zone compare by their wall clocks, which is wrong when clocks go back: hence UTC alone.
    if any(moment is not None and moment.utcoffset() != timedelta(0) for moment in moments):
        raise InternalError("policy.not-utc", "retention was asked about a moment that is not in UTC")
    if len({point.ref for point in ordered}) < len(ordered):
        raise InternalError("policy.point-twice", "retention was asked about one point twice")
    ordered.sort(key=lambda point: (point.taken, point.number, point.ref), reverse=True)
    return ordered


def _reasons_of_rules(
    governed: Sequence[RetentionPoint], rules: RetentionRules, zone: tzinfo
) -> dict[PointRef, list[Reason]]:
    """Which rules keep which of the points that rules speak of; newest first."""
    found: dict[PointRef, list[Reason]] = {}
    for place, point in enumerate(islice(governed, rules.keep_last or 0), 1):
        text = f"last {place} of {rules.keep_last}"
        found.setdefault(point.ref, []).append(Reason(ReasonKind.LAST, text))
    counts = dict(rules.counts())
    days = [day_of(point.taken, zone) for point in governed]
    for rule, kind, name_of in _CALENDAR_RULES:
        for point, period in _newest_of_each(governed, days, name_of, counts[rule] or 0):
            found.setdefault(point.ref, []).append(Reason(kind, f"{kind} {period}"))
    return found


def _newest_of_each(
    governed: Sequence[RetentionPoint], days: Sequence[date], name_of: Callable[[date], str], count: int
) -> Iterator[tuple[RetentionPoint, str]]:
    """The newest point of each of the `count` most recent periods that have one, and the period's name."""
    seen: set[str] = set()
    for point, day in zip(governed, days, strict=True):
        period = name_of(day)
        if period in seen:
            continue
        if len(seen) == count:
            return
        seen.add(period)
        yield point, period


def _reasons_of_its_own(point: RetentionPoint, rules: RetentionRules, zone: tzinfo, now: datetime) -> list[Reason]:
    """What keeps a point besides the rules."""
    found = []
    if point.retain_until is None:
        if rules.is_empty:
            found.append(Reason(ReasonKind.NO_RULES, "no rules"))
        if point.taken > now:
            found.append(Reason(ReasonKind.AHEAD, "taken after now"))
    if point.held:
        found.append(Reason(ReasonKind.HELD, "held"))
    if point.retain_until is not None and point.retain_until > now:
        found.append(Reason(ReasonKind.RETAIN_UNTIL, f"retain-until {_date(point.retain_until, zone)}"))
    return found


def _expiry(point: RetentionPoint, zone: tzinfo) -> Reason:
    if point.retain_until is None:
        return Reason(ReasonKind.NO_RULE_KEEPS, "no rule keeps it")
    return Reason(ReasonKind.RETAIN_UNTIL_OVER, f"its retain-until {_date(point.retain_until, zone)} is over")


def _date(moment: datetime, zone: tzinfo) -> str:
    return day_of(moment, zone).isoformat()
