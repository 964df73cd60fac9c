"""How much work each item would lose now, against how much its policy allows: `report rpo`.

    target   the longest gap between two moments of its schedule, times a factor (`alerts.rpo_factor`)
    age      how long ago the newest point was taken that is in the vault
    missed   moments of the schedule since then (since the item is protected) for which no point came

Worked example: a policy `daily 02:00` and a factor of 2 have a target of 48 h. The newest point is of Friday 02:04; on
Sunday at 02:04 the item is outside, and two runs are missed as soon as Sunday's window is over.

Invariants:
- A snapshot is no vault point: with the host's disk it is gone too. It is shown beside.
- A point that is dated ahead of `now` (a clock was wrong) proves nothing, and is passed over.
- What cannot be told (a policy or a vault that cannot be read) is never shown as inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.model import Protection
from blockvault.policy.schedule import Frequency

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blockvault.policy.schedule import Schedule
    from blockvault.reports.facts import ItemFacts, VaultFacts

_COUNTED = timedelta(days=400)  # further back missed runs are not counted
_CLOCKS = timedelta(minutes=5)  # two hosts may be so far apart
_WEEK = 7


class RpoState(StrEnum):
    """What a report says of an item."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    NOT_YET = "not-yet"  # no point in the vault, and it is not protected for longer than its target
    UNKNOWN = "unknown"  # its policy cannot be read
    STOPPED = "stopped"  # protection was stopped: no more points are to come
    UNPROTECTED = "unprotected"  # no policy takes points of it


@dataclass(frozen=True, slots=True)
class RpoRow:
    """An item. `point` is the newest in the vault, `snapshot` the newest that restores from this host at once."""

    vault: str
    item: str
    policy: str
    state: RpoState
    point: int | None
    taken: datetime | None
    age_seconds: float | None
    target_seconds: float | None
    snapshot: int | None
    snapshot_taken: datetime | None
    missed: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RpoReport:
    """All items, those first that are outside. `problems` are vaults that cannot be read, by name."""

    now: datetime
    factor: float
    rows: tuple[RpoRow, ...]
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every protected item is known to be inside, or too new to tell."""
        return not self.problems and not any(row.state in (RpoState.OUTSIDE, RpoState.UNKNOWN) for row in self.rows)

    def count(self, state: RpoState) -> int:
        """How many items are in that state."""
        return sum(row.state is state for row in self.rows)


_ORDER = (
    RpoState.OUTSIDE,
    RpoState.UNKNOWN,
    RpoState.NOT_YET,
    RpoState.INSIDE,
    RpoState.STOPPED,
    RpoState.UNPROTECTED,
)


def interval_of(schedule: Schedule) -> timedelta:
    """The longest time between two moments of a schedule, as it is meant: an hour of daylight saving is not counted."""
    if schedule.frequency is Frequency.HOURLY:
        return timedelta(hours=schedule.hours)
    if schedule.frequency is Frequency.DAILY:
        return timedelta(days=1)
    days = sorted(schedule.weekdays)
    gaps = [(after - day) % _WEEK or _WEEK for day, after in zip(days, [*days[1:], days[0]], strict=True)]
    return timedelta(days=max(gaps))


def target_of(schedule: Schedule, factor: float) -> timedelta:
    """How old the newest point in the vault may be."""
    return interval_of(schedule) * factor


def rpo_report(vaults: Iterable[VaultFacts], now: datetime, factor: float) -> RpoReport:
    """The report.

    Args:
        vaults: what there is.
        now: the moment.
        factor: of the target.
    """
    rows, problems = [], []
    for vault in vaults:
        if vault.problem:
            problems.append((vault.name, vault.problem))
        for item in vault.items:
            rows.append(_row(item, now, factor))
    rows.sort(key=lambda row: (_ORDER.index(row.state), row.vault, row.item))
    return RpoReport(now, factor, tuple(rows), tuple(problems))


def _row(item: ItemFacts, now: datetime, factor: float) -> RpoRow:
    points = [point for point in item.in_vault if point.taken <= now + _CLOCKS]
    newest = points[-1] if points else None
    snapshots = [point for point in item.points if point.has_snapshot]
    target = target_of(item.policy.schedule, factor) if item.policy is not None else None
    return RpoRow(
        vault=item.vault,
        item=item.item,
        policy=item.policy.name if item.policy is not None else "",
        state=_state(item, newest.taken if newest else None, target, now),
        point=newest.number if newest else None,
        taken=newest.taken if newest else None,
        age_seconds=(now - newest.taken).total_seconds() if newest else None,
        target_seconds=target.total_seconds() if target is not None and item.is_protected else None,
        snapshot=snapshots[-1].number if snapshots else None,
        snapshot_taken=snapshots[-1].taken if snapshots else None,
        missed=_missed(item, newest.taken if newest else item.since, now),
        problem=item.problem,
    )


def _state(item: ItemFacts, taken: datetime | None, target: timedelta | None, now: datetime) -> RpoState:
    if item.problem and item.is_protected:
        return RpoState.UNKNOWN
    if not item.is_protected or target is None:
        # An item that is protected and names no policy gets no points: it is not protected.
        return RpoState.UNPROTECTED if item.protection is not Protection.STOPPED else RpoState.STOPPED
    if taken is None:
        return RpoState.NOT_YET if now - item.since <= target else RpoState.OUTSIDE
    return RpoState.INSIDE if now - taken <= target else RpoState.OUTSIDE


def _missed(item: ItemFacts, last: datetime, now: datetime) -> int:
    """Moments after `last` whose window is over."""
    if item.policy is None or not item.is_protected:
        return 0
    count = 0
    for moment in item.policy.schedule.after(max(last, now - _COUNTED)):
        if moment + item.policy.window >= now:
            break
        count += 1
    return count
