"""Scheduled moments against the points that were made: `report sla`.

Every moment of an item's schedule in the period has one outcome:

    on-time    its capture began within the policy's window, and a grace of some minutes for a queue
    late       a point was made, later: the host was down, or busy
    failed     its job failed, or was cancelled
    missed     nothing was made for it, and its window is over
    running    its job is at work, or its window is not over: it is not counted yet

The evidence is the journal of this host, which names the moment of each scheduled job; where that has none (trimmed, or
another host's work), a point that was taken between the moment and the next one is evidence too.

Invariants:
- Each moment is counted once: on-time + late + failed + missed = due.
- An item is judged from since when it is protected without a break, and by the policy as it is now: moments
  before its last change are left out rather than judged by a schedule that was not theirs. A row's `since` says from
  when.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from blockvault.model.job import Job, JobState, Operation, PhaseName, PhaseState, Trigger
from blockvault.model.totals import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blockvault.reports.facts import ItemFacts, VaultFacts

GRACE = timedelta(minutes=15)


class Outcome(StrEnum):
    """What became of a moment, from the best to the worst."""

    ON_TIME = "on-time"
    RUNNING = "running"
    LATE = "late"
    MISSED = "missed"
    FAILED = "failed"


_RANK = {outcome: rank for rank, outcome in enumerate(Outcome)}


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations: how many, the median, what 95 of 100 do not exceed, and the longest. None where there are none."""

    count: int = 0
    median: float | None = None
    p95: float | None = None
    longest: float | None = None


@dataclass(frozen=True, slots=True)
class SlaRow:
    """An item. `days` has the worst outcome of each UTC day of the period that had a moment."""

    vault: str
    item: str
    policy: str
    since: datetime
    due: int
    on_time: int
    late: int
    failed: int
    missed: int
    running: int
    warned: int
    untransferred: int
    percent: float | None
    capture_seconds: Spread
    transfer_seconds: Spread
    freeze_ms: Spread
    longest_gap_seconds: float | None
    on_demand: int
    restores: int
    days: tuple[tuple[date, Outcome], ...] = ()


@dataclass(frozen=True, slots=True)
class DayDurations:
    """The jobs of a UTC day, by when their phases ended: how many, and the median of how long they took."""

    day: date
    captures: int
    capture_seconds: float | None
    transfers: int
    transfer_seconds: float | None


@dataclass(frozen=True, slots=True)
class SlaReport:
    """All protected items of the period, the worst first, and what they come to together."""

    now: datetime
    since: datetime
    rows: tuple[SlaRow, ...]
    capture_seconds: Spread
    transfer_seconds: Spread
    freeze_ms: Spread
    restores: int
    failed_restores: int
    verifies: int
    failed_verifies: int
    by_day: tuple[DayDurations, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()

    def total(self, name: str) -> int:
        """The sum of a count over all items."""
        return sum(getattr(row, name) for row in self.rows)

    @property
    def percent(self) -> float | None:
        """Of all moments that were due, how many of 100 have a point; None where none was due."""
        return _percent(self.total("on_time") + self.total("late"), self.total("due"))


def sla_report(
    vaults: Sequence[VaultFacts],
    jobs: Iterable[Job],
    since: datetime,
    now: datetime,
) -> SlaReport:
    """The report.

    Args:
        vaults: what there is.
        jobs: of the journal, in any order; what ended before `since` is passed over.
        since: the beginning of the period.
        now: its end.
    """
    by_item: dict[tuple[str, str], list[Job]] = defaultdict(list)
    others: Counter[tuple[Operation, bool]] = Counter()
    for job in jobs:
        if job.ended is not None and job.ended < since:
            continue
        by_item[job.vault_id, job.item_id].append(job)
        if job.operation in (Operation.RESTORE, Operation.VERIFY) and not job.is_open:
            others[job.operation, _is_done(job)] += 1
    rows, measured = [], []
    for vault in vaults:
        for item in vault.items:
            if item.is_protected and item.policy is not None:
                rows.append(_row(item, by_item[item.vault_id, item.item_id], since, now))
    for found in by_item.values():
        measured += found
    rows.sort(key=lambda row: (100.0 if row.percent is None else row.percent, row.vault, row.item))
    freezes = [
        point.freeze_ms
        for vault in vaults
        for item in vault.items
        for point in item.points
        if point.freeze_ms is not None and since <= point.taken <= now
    ]
    return SlaReport(
        now=now,
        since=since,
        rows=tuple(rows),
        capture_seconds=spread(_durations(measured, PhaseName.CAPTURE)),
        transfer_seconds=spread(_durations(measured, PhaseName.TRANSFER)),
        freeze_ms=spread(freezes),
        restores=others[Operation.RESTORE, True],
        failed_restores=others[Operation.RESTORE, False],
        verifies=others[Operation.VERIFY, True],
        failed_verifies=others[Operation.VERIFY, False],
        by_day=_by_day(measured),
        problems=tuple((vault.name, vault.problem) for vault in vaults if vault.problem),
    )


def spread(values: Sequence[float]) -> Spread:
    """Of durations, in any order."""
    if not values:
        return Spread()
    ordered = sorted(values)
    return Spread(len(ordered), median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1])


def _row(item: ItemFacts, jobs: Sequence[Job], since: datetime, now: datetime) -> SlaRow:
    assert item.policy is not None
    start = max(since, item.since, item.policy_changed or since)
    outcomes = list(outcomes_of(item, jobs, start, now))
    count = Counter(outcome for _, outcome in outcomes)
    backups = [job for job in jobs if job.operation is Operation.BACKUP and not job.is_open]
    due = sum(count[each] for each in Outcome if each is not Outcome.RUNNING)
    days: dict[date, Outcome] = {}
    for moment, outcome in outcomes:
        known = days.get(moment.date(), outcome)
        days[moment.date()] = max(known, outcome, key=_RANK.__getitem__)
    return SlaRow(
        vault=item.vault,
        item=item.item,
        policy=item.policy.name,
        since=start,
        due=due,
        on_time=count[Outcome.ON_TIME],
        late=count[Outcome.LATE],
        failed=count[Outcome.FAILED],
        missed=count[Outcome.MISSED],
        running=count[Outcome.RUNNING],
        warned=sum(job.state is JobState.COMPLETED_WITH_WARNING for job in backups),
        untransferred=sum(_is_untransferred(job) for job in backups),
        percent=_percent(count[Outcome.ON_TIME] + count[Outcome.LATE], due),
        capture_seconds=spread(_durations(jobs, PhaseName.CAPTURE)),
        transfer_seconds=spread(_durations(jobs, PhaseName.TRANSFER)),
        freeze_ms=spread([p.freeze_ms for p in item.points if p.freeze_ms is not None and start <= p.taken <= now]),
        longest_gap_seconds=_longest_gap(item, jobs, start, now),
        on_demand=sum(job.trigger is Trigger.ON_DEMAND for job in backups),
        restores=sum(job.operation is Operation.RESTORE and _is_done(job) for job in jobs),
        days=tuple(sorted(days.items())),
    )


def outcomes_of(
    item: ItemFacts, jobs: Iterable[Job], start: datetime, now: datetime
) -> Iterable[tuple[datetime, Outcome]]:
    """Each moment of the item's schedule after `start` and not after `now`, with what became of it."""
    assert item.policy is not None
    by_moment = {job.moment: job for job in jobs if job.operation is Operation.BACKUP and job.moment is not None}
    taken = [point.taken for point in item.points]
    moments = item.policy.schedule.after(start)
    moment = next(moments, None)
    while moment is not None and moment <= now:
        following = next(moments, None)
        limit = moment + item.policy.window + GRACE
        job = by_moment.get(moment)
        at = _captured(job) if job is not None else _first_between(taken, moment, following)
        if at is not None:
            yield moment, Outcome.ON_TIME if at <= limit else Outcome.LATE
        elif job is not None:
            yield moment, Outcome.RUNNING if job.is_open else Outcome.FAILED
        else:
            yield moment, Outcome.RUNNING if limit >= now else Outcome.MISSED
        moment = following


def _captured(job: Job) -> datetime | None:
    """When the point of a job was taken; None if none was, or not yet."""
    capture, transfer = job.phase(PhaseName.CAPTURE), job.phase(PhaseName.TRANSFER)
    at_once = transfer is not None and transfer.state is PhaseState.COMPLETED
    if capture is not None and (capture.state is PhaseState.COMPLETED or at_once):
        return capture.started
    return None


def _first_between(taken: Sequence[datetime], moment: datetime, following: datetime | None) -> datetime | None:
    place = bisect_left(taken, moment)
    if place < len(taken) and (following is None or taken[place] < following):
        return taken[place]
    return None


def _is_untransferred(job: Job) -> bool:
    """Whether a captured point of the job did not get into the vault by the job itself."""
    transfer = job.phase(PhaseName.TRANSFER)
    return _captured(job) is not None and transfer is not None and transfer.state is not PhaseState.COMPLETED


def _is_done(job: Job) -> bool:
    return job.state in (JobState.COMPLETED, JobState.COMPLETED_WITH_WARNING)


def _durations(jobs: Iterable[Job], name: PhaseName) -> list[float]:
    found = []
    for job in jobs:
        phase = job.phase(name)
        if phase is not None and phase.state is PhaseState.COMPLETED:
            seconds = seconds_of(phase)
            if seconds is not None:
                found.append(seconds)
    return found


def _by_day(jobs: Iterable[Job]) -> tuple[DayDurations, ...]:
    found: dict[date, dict[PhaseName, list[float]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        for phase in job.phases:
            seconds = seconds_of(phase)
            if phase.state is PhaseState.COMPLETED and seconds is not None and phase.ended is not None:
                found[phase.ended.date()][phase.name].append(seconds)
    made = []
    for day, phases in sorted(found.items()):
        captures, transfers = phases[PhaseName.CAPTURE], phases[PhaseName.TRANSFER]
        if captures or transfers:
            middle, other = spread(captures).median, spread(transfers).median
            made.append(DayDurations(day, len(captures), middle, len(transfers), other))
    return tuple(made)


def _longest_gap(item: ItemFacts, jobs: Sequence[Job], start: datetime, now: datetime) -> float | None:
    """The longest time of the period without a new point in the vault; of points that expired the journal tells."""
    found = {point.taken for point in item.in_vault}
    for job in jobs:
        at = _captured(job)
        if at is not None and not _is_untransferred(job):
            found.add(at)
    taken = sorted(at for at in found if start <= at <= now)
    if not taken:
        return (now - start).total_seconds() if now > start else None
    first = start if any(at < start for at in found) else taken[0]
    return max((after - before).total_seconds() for before, after in pairwise([first, *taken, now]))


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
