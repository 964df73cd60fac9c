"""Which points of an item are kept and which expire, with the reasons for each.

    plan(points, RetentionRules(keep_last=3, keep_daily=7, zone="Europe/Berlin"), now)

A rule `keep_daily=7` keeps the newest point of each of the 7 most recent days *that have points*; weeks, months and
years likewise; `keep_last=3` the 3 newest points. Days without a point are not counted: a machine that was off for
a month comes back to the points it had, instead of finding that they all grew too old meanwhile. A point is kept if
any rule keeps it. The newest point of a period is taken, not the oldest, because it is the one that every rule has
kept until the period ended: so it makes no difference whether expiry runs every hour or once a year.

A rule may name a day instead: `weekly_on=Weekday.SUNDAY`, `monthly_on=` the first Sunday, `yearly_on=` one of January.
Of each week (month, year) it then keeps the newest point of the first day, from that one on, that has a point; where
none has, the newest point of the period. Until the day has come that is the newest point there is; from its last point
on nothing that is taken later takes its place: so again it makes no difference how often expiry runs.

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
- With rules, the newest of the points that they speak of is always kept (`newest`, where no rule does): only
  retain-until dates can expire all, and the next transfer finds the parent that its churn is reckoned against.
- The order is by `taken`, then number, then origin; the order of the input does not matter.

Not promised: a point taken while the clock ran behind counts as being as old as it says.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from blockvault.errors import InternalError, InvalidInputError
from blockvault.policy.periods import day_name, day_of, month_name, week_name, year_name, zone_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime, tzinfo

    from blockvault.model import PointRef
    from blockvault.policy.periods import Weekday
    from blockvault.policy.selection import MonthDay, YearDay


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
        weekly_on: the day of each week whose point `keep_weekly` keeps; None: the newest point of the week.
        monthly_on: likewise of `keep_monthly`.
        yearly_on: likewise of `keep_yearly`.

    Raises:
        InvalidInputError: `policy.rule-zero`, `policy.unknown-zone`.
    """

    keep_last: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    zone: str = "UTC"
    weekly_on: Weekday | None = None
    monthly_on: MonthDay | None = None
    yearly_on: YearDay | None = None

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

    def __str__(self) -> str:
        """For people: `daily 7, monthly 12 on first sunday (Europe/Berlin)`."""
        weekly = None if self.weekly_on is None else self.weekly_on.name.lower()
        chosen = {"weekly": weekly, "monthly": self.monthly_on, "yearly": self.yearly_on}
        told = []
        for rule, count in self.counts():
            name = rule.removeprefix("keep_")
            on = chosen.get(name)
            if count is not None:
                told.append(f"{name} {count}" if on is None else f"{name} {count} on {on}")
        return f"{', '.join(told)} ({self.zone})" if told else "no rules"

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
    NEWEST = "newest"
    NO_RULES = "no-rules"
    ALL_KEPT = "all-kept"
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


def _no_day(_rules: RetentionRules, _day: date) -> date | None:
    return None


def _day_of_week(rules: RetentionRules, day: date) -> date | None:
    if rules.weekly_on is None:
        return None
    ordinal = day.toordinal() + rules.weekly_on - day.weekday()
    return date.fromordinal(min(ordinal, date.max.toordinal()))


def _day_of_month(rules: RetentionRules, day: date) -> date | None:
    return None if rules.monthly_on is None else rules.monthly_on.in_month(day.year, day.month)


def _day_of_year(rules: RetentionRules, day: date) -> date | None:
    return None if rules.yearly_on is None else rules.yearly_on.in_year(day.year)


# One line a calendar rule: its name, what a day's period is called, and the day that the rules choose in that period.
_CALENDAR_RULES: tuple[
    tuple[str, ReasonKind, Callable[[date], str], Callable[[RetentionRules, date], date | None]], ...
] = (
    ("keep_daily", ReasonKind.DAILY, day_name, _no_day),
    ("keep_weekly", ReasonKind.WEEKLY, week_name, _day_of_week),
    ("keep_monthly", ReasonKind.MONTHLY, month_name, _day_of_month),
    ("keep_yearly", ReasonKind.YEARLY, year_name, _day_of_year),
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


def keep_all(points: Iterable[RetentionPoint], why: str, now: datetime) -> RetentionPlan:
    """A plan that expires nothing, not even what is past its own retain-until, and says why."""
    reason = Reason(ReasonKind.ALL_KEPT, why)
    kept = tuple(Decision(point, keep=True, reasons=(reason,)) for point in _newest_first(points, now))
    return RetentionPlan(RetentionRules(), now, kept)


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
    for rule, kind, name_of, day_in in _CALENDAR_RULES:
        chosen = [day_in(rules, day) for day in days] if counts[rule] else []
        if any(chosen):
            kept = _chosen_of_each(governed, days, chosen, name_of, counts[rule] or 0)
        else:
            kept = _newest_of_each(governed, days, name_of, counts[rule] or 0)
        for point, period in kept:
            found.setdefault(point.ref, []).append(Reason(kind, f"{kind} {period}"))
    if governed and not rules.is_empty and governed[0].ref not in found:
        found[governed[0].ref] = [Reason(ReasonKind.NEWEST, "newest")]
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


def _chosen_of_each(
    governed: Sequence[RetentionPoint],
    days: Sequence[date],
    chosen: Sequence[date | None],
    name_of: Callable[[date], str],
    count: int,
) -> Iterator[tuple[RetentionPoint, str]]:
    """Of each of the `count` latest periods that have a point the one of the chosen day, and the period's name.

    Periods are in the order of the calendar, not of their newest points: those may have expired, and where clocks go
    back over midnight a period goes on after the next one has begun.
    """
    candidates: dict[str, tuple[RetentionPoint, date, bool]] = {}  # with its day, and whether that is late enough
    for point, day, wanted in zip(governed, days, chosen, strict=True):  # newest first
        period = name_of(day)
        is_late = wanted is not None and day >= wanted
        known = candidates.get(period)
        if known is None or (is_late and (not known[2] or day < known[1])):
            candidates[period] = (point, day, is_late)
    for period in sorted(candidates, reverse=True)[:count]:
        yield candidates[period][0], period


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
