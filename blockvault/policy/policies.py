"""A policy: when the points of its items are taken, how they are taken, and how long they are kept.

    policy = Policy("nightly", Schedule.daily("02:00", zone="Europe/Berlin"), RetentionRules(keep_daily=30))
    oddities_of(policy)                     what is allowed and probably not meant
    may_expire(before.retention, after.retention)     whether a change can expire a point that was kept

Invariants:
- A policy is a value: a change makes the next revision of it, and what was decided by an earlier one stays explained.
- What cannot be meant is refused when the value is made: no policy has a rule that keeps nothing, a day that some
  months do not have, or starts that are spread beyond the next run.
- Nothing here reads a clock or a vault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from blockvault.errors import InvalidInputError
from blockvault.ids import OriginId, check_policy_name
from blockvault.model import Consistency, OnHookFailure, PointRef, PruneDecision
from blockvault.model.item import SNAPSHOT_DAYS_DEFAULT
from blockvault.policy.periods import Weekday, day_of, zone_named
from blockvault.policy.retention import RetentionPoint, RetentionRules, plan
from blockvault.policy.schedule import Frequency, Schedule

WINDOW_DEFAULT = timedelta(minutes=30)
RETRIES_DEFAULT = 3
RETRIES_MAX = 100
POLICY_SNAPSHOT_DAYS_MAX = 30
KEEP_MAX = 36_500
DEFAULT_NAME = "default"
UNWRITTEN = -1  # the revision of a policy that the vault has no record of yet
_DAY = timedelta(days=1)
_REFERENCE = datetime(2026, 1, 1, tzinfo=UTC)  # any moment does: what is looked at holds for all weeks


@dataclass(frozen=True, slots=True)
class Policy:
    """How items are backed up that are assigned to it.

    Args:
        name: 2 to 50 letters, digits and hyphens, a letter first, as vaults are named.
        schedule: when points are taken.
        retention: how long points in the vault are kept; rules that are empty keep them for good.
        snapshot_days: how many days snapshots are kept for instant restore, 1 to 30.
        window: over how long a time the starts of its items are spread.
        consistency: what is asked of the guest.
        on_hook_failure: what happens where that is not reached.
        retries: how often a transfer that failed by something that can pass is tried again.
        comment: free text.
        revision: counts the changes of its record, from 0; `UNWRITTEN`: the vault has none yet.

    Raises:
        InvalidInputError: `policy.bad-name`, `policy.snapshot-days`, `policy.bad-window`, `policy.retries`,
            `policy.rule-too-large`, `policy.selection-without-rule`.
    """

    name: str
    schedule: Schedule
    retention: RetentionRules = field(default_factory=RetentionRules)
    snapshot_days: int = SNAPSHOT_DAYS_DEFAULT
    window: timedelta = WINDOW_DEFAULT
    consistency: Consistency = Consistency.CRASH
    on_hook_failure: OnHookFailure = OnHookFailure.WARN
    retries: int = RETRIES_DEFAULT
    comment: str = ""
    revision: int = 0

    def __post_init__(self) -> None:
        check_policy_name(self.name)
        if not 1 <= self.snapshot_days <= POLICY_SNAPSHOT_DAYS_MAX:
            raise InvalidInputError(
                "policy.snapshot-days",
                f"a policy cannot keep snapshots for {self.snapshot_days} days",
                why=f"1 to {POLICY_SNAPSHOT_DAYS_MAX} days are possible",
                do="choose another number; an item that is to have none says so itself: `blockvault item set`",
            )
        if not 0 <= self.retries <= RETRIES_MAX:
            raise InvalidInputError(
                "policy.retries",
                f"a transfer cannot be tried again {self.retries} times",
                why=f"0 to {RETRIES_MAX} times are possible",
                do="choose another number",
            )
        between = timedelta(hours=self.schedule.hours or 24)
        if not timedelta() <= self.window < between:
            raise InvalidInputError(
                "policy.bad-window",
                f"starts cannot be spread over {_span(self.window)}",
                why=f"the next run comes {_span(between)} after the last, and a run must have begun before that",
                do=f"choose a window shorter than {_span(between)}, or 0m for none",
            )
        for name, count in self.retention.counts():
            if count is not None and count > KEEP_MAX:
                raise InvalidInputError(
                    "policy.rule-too-large",
                    f"{name.replace('_', '-')} {count} is more than a policy takes",
                    why=f"{KEEP_MAX} at most are possible",
                    do="leave all rules out to keep points for good",
                )
        for period in ("weekly", "monthly", "yearly"):
            chosen = getattr(self.retention, f"{period}_on")
            if chosen is not None and getattr(self.retention, f"keep_{period}") is None:
                raise InvalidInputError(
                    "policy.selection-without-rule",
                    f"a day is chosen for keep-{period}, and there is no such rule",
                    why=f"{period}-on says which point of a period is kept, keep-{period} of how many periods",
                    do=f"give keep-{period} too, or leave {period}-on out",
                )


@dataclass(frozen=True, slots=True)
class PolicyRevision:
    """A policy as the vault has it: when it was changed to this, by which host, and what was said of that."""

    policy: Policy
    changed: datetime
    by: str = ""
    note: str = ""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something about a policy that is allowed and probably not meant. `kind` is stable, as those of errors are."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What a change of a policy, or of the policy of items, would come to; nothing is changed yet.

    `expired` are points that are kept as things are and would expire by it; `items` those that it concerns.
    `is_shorter` says whether it can ever expire a point that was kept before, whatever points there are now.
    """

    before: Policy | None
    after: Policy
    items: tuple[str, ...]
    expired: tuple[PruneDecision, ...]
    is_shorter: bool

    @property
    def told(self) -> str:
        """`this change would expire 43 points of 3 items`."""
        count, items = len(self.expired), len({decision.item for decision in self.expired})
        points = "1 point" if count == 1 else f"{count or 'no'} points"
        return f"this change would expire {points}" + (f" of {items} item{'s' * (items != 1)}" if count else "")


def default_policy(zone: str) -> Policy:
    """As Azure's: daily at 02:00, points kept for 30 days, snapshots for 2."""
    return Policy(
        DEFAULT_NAME,
        Schedule.daily("02:00", zone=zone),
        RetentionRules(keep_daily=30, zone=zone),
        comment="daily, 30 days, snapshots 2 days",
        revision=UNWRITTEN,
    )


def may_expire(before: RetentionRules, after: RetentionRules) -> bool:
    """Whether there can be a point that `before` keeps and `after` does not."""
    if after.is_empty:
        return False
    if before.is_empty:
        return True
    later = dict(after.counts())
    if any((count or 0) > (later[name] or 0) for name, count in before.counts()):
        return True
    if before.zone != after.zone:
        return True
    return any(
        getattr(before, f"keep_{period}") is not None
        and getattr(before, f"{period}_on") != getattr(after, f"{period}_on")
        for period in ("weekly", "monthly", "yearly")
    )


def oddities_of(policy: Policy) -> tuple[Oddity, ...]:
    """What is allowed and probably not meant."""
    rules, schedule = policy.retention, policy.schedule
    found = []
    per_day = 24 // schedule.hours if schedule.hours else 1
    if per_day > 1 and not rules.is_empty and (rules.keep_last or 0) < per_day:
        found.append(
            Oddity(
                "policy.hourly-retention",
                f"{per_day} points are taken a day, and of a day's points the rules keep only the newest: the others "
                f"expire as soon as later ones are there; keep-last {per_day * policy.snapshot_days} would keep all of "
                f"{policy.snapshot_days} days",
            )
        )
    if _is_shorter_than_snapshots(policy):
        days = "1 day" if policy.snapshot_days == 1 else f"{policy.snapshot_days} days"
        enough = policy.snapshot_days + (per_day > 1)  # so many hours lie in one date more
        found.append(
            Oddity(
                "policy.shorter-than-snapshots",
                f"snapshots are kept for {days}, and the rules expire points in the vault before that: such a point "
                f"would be left on this machine alone; keep-daily {enough} or more mends it",
            )
        )
    found += _never_taken(policy)
    return tuple(found)


def _is_shorter_than_snapshots(policy: Policy) -> bool:
    """Whether some point expires while its snapshot is kept, not counting those of which a day has a newer one."""
    if policy.retention.is_empty:
        return False
    zone = zone_named(policy.retention.zone)
    per_day = 24 // policy.schedule.hours if policy.schedule.hours else 1
    moments = list(islice(policy.schedule.after(_REFERENCE), (policy.snapshot_days + 10) * per_day))
    origin = OriginId("0" * 32)
    points = [RetentionPoint(PointRef(origin, number), moment) for number, moment in enumerate(moments, 1)]
    for end in range(len(points) - 7 * per_day, len(points) + 1, per_day):  # every day of a week as the last
        now = points[end - 1].taken
        seen = set()
        for decision in plan(points[:end], policy.retention, now).decisions:
            day = day_of(decision.point.taken, zone)
            has_snapshot = decision.point.taken > now - policy.snapshot_days * _DAY
            if has_snapshot and day not in seen and not decision.keep:
                return True
            seen.add(day)
    return False


def _never_taken(policy: Policy) -> list[Oddity]:
    """Chosen weekdays on which the schedule never takes a point."""
    if policy.schedule.frequency is not Frequency.WEEKLY or policy.schedule.zone != policy.retention.zone:
        return []
    rules = policy.retention
    chosen: dict[str, Weekday | None] = {
        "weekly": rules.weekly_on,
        "monthly": rules.monthly_on.weekday if rules.monthly_on else None,
        "yearly": rules.yearly_on.day.weekday if rules.yearly_on else None,
    }
    return [
        Oddity(
            "policy.day-without-point",
            f"{period}-on names a {weekday.name.lower()}, on which the schedule takes no point: the next point of the "
            f"period stands in for it, or, where none follows, the newest",
        )
        for period, weekday in chosen.items()
        if weekday is not None and weekday not in policy.schedule.weekdays
    ]


def _span(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes and minutes % 60 == 0 else f"{minutes} min"
