"""What vaults hold, how fast they grow, and when their disks are full: `report capacity` and `forecast`.

The growth of a vault is the Theil-Sen slope over one sample a day of its size: the median of the slopes between all
pairs of samples, which one first transfer or one big reclaim does not turn. Where there are too few samples yet it is
what the points of the last weeks brought in, which counts nothing that was freed; `growth_from` says which it is.

`forecast` runs the policies over the coming days: a point at each moment, each of the item's own median churn, expired
by the item's rules, and freed after the vault's soft-delete days. How much a point that expires frees depends on where
the guest wrote, which nobody knows beforehand. So there are two figures:

    low     the guest writes the same places again and again: between two kept points lies the largest churn of a day
    high    it never writes the same place twice: all churn between them lies there, at most all of the item's data

The truth lies between; the day on which the disk is full is reckoned by the higher of the growths that are known.

Invariants:
- Pure functions of rows and `now`; without growth there is no day on which the disk is full, rather than a far one.
- low <= high at every step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from statistics import median
from typing import TYPE_CHECKING

from blockvault.ids import OriginId
from blockvault.model import PointRef
from blockvault.policy.retention import RetentionPoint, keep_all, plan

if TYPE_CHECKING:
    from blockvault.reports.facts import ItemFacts, PointFacts, VaultFacts

SAMPLES_MIN = 3
SAMPLES_DAYS = 60  # older ones say little about the coming weeks
SPAN_MIN_DAYS = 2.0
POINTS_DAYS = 30
CHURN_POINTS = 30
FORECAST_DAYS = 90
STEP_DAYS = 10
FULL_DAYS_MAX = 3650.0  # what is further away is not a day that anybody plans for
_DAY = timedelta(days=1)
_COMING = OriginId("f" * 32)  # of points that are not there yet: they sort behind all others of their moment


@dataclass(frozen=True, slots=True)
class Sample:
    """How large a vault was, and what its disk had left, at one moment."""

    at: datetime
    stored_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class CapacityVault:
    """A vault. `protected_bytes`: the disks of its items; `logical_bytes`: those of all its points."""

    vault: str
    path: str
    items: int
    points: int
    protected_bytes: int
    logical_bytes: int
    stored_bytes: int
    snapshot_bytes: int
    ratio: float | None
    growth_per_day: float | None
    growth_from: str  # samples, points, or nothing
    free_bytes: int
    disk_bytes: int
    days_left: float | None
    full_on: datetime | None
    samples: tuple[Sample, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CapacityItem:
    """An item. `stored_bytes` is what its points brought in; what it shares with others counts where it came first."""

    vault: str
    item: str
    disk_bytes: int
    points: int
    snapshots: int
    logical_bytes: int
    stored_bytes: int
    ratio: float | None
    churn_bytes: float | None  # the median of what its points stored, but for first ones
    growth_per_day: float | None


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """All vaults and items."""

    now: datetime
    vaults: tuple[CapacityVault, ...]
    items: tuple[CapacityItem, ...]

    @property
    def is_good(self) -> bool:
        """Whether every vault could be read."""
        return not any(vault.problem for vault in self.vaults)


@dataclass(frozen=True, slots=True)
class ForecastStep:
    """How it will be on a day: points, and bytes that are stored more than now (fewer, where negative)."""

    at: datetime
    points: int
    low_bytes: int
    high_bytes: int


@dataclass(frozen=True, slots=True)
class ForecastVault:
    """The coming days of a vault. `added_bytes` is what the points bring in, `unknown` are items without a history."""

    vault: str
    free_bytes: int
    added_points: int
    added_bytes: int
    freed_low_bytes: int
    freed_high_bytes: int
    steps: tuple[ForecastStep, ...]
    full_on: datetime | None
    unknown: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ForecastReport:
    """All vaults."""

    now: datetime
    days: int
    vaults: tuple[ForecastVault, ...]


# --- now -------------------------------------------------------------------------------------------------------------


def capacity_report(
    vaults: Iterable[VaultFacts], samples: Mapping[str, Sequence[Sample]], now: datetime
) -> CapacityReport:
    """The report.

    Args:
        vaults: what there is.
        samples: one a day of each vault, by its id.
        now: the moment.
    """
    found, items = [], []
    for vault in vaults:
        found.append(_vault(vault, samples.get(vault.vault_id, ()), now))
        items += [_item(item) for item in vault.items]
    return CapacityReport(now, tuple(found), tuple(items))


def _vault(vault: VaultFacts, samples: Sequence[Sample], now: datetime) -> CapacityVault:
    points = [point for item in vault.items for point in item.in_vault]
    logical = sum(point.size_bytes for point in points)
    recent = tuple(sample for sample in samples if now - SAMPLES_DAYS * _DAY <= sample.at <= now)
    growth, source = growth_of(recent), "samples"
    if growth is None:
        growth, source = _growth_of_points(points, now), "points"
    left = days_until_full(vault.free_bytes, growth)
    return CapacityVault(
        vault=vault.name,
        path=vault.path,
        items=len(vault.items),
        points=len(points),
        protected_bytes=sum(_disk_bytes(item) for item in vault.items),
        logical_bytes=logical,
        stored_bytes=vault.stored_bytes,
        snapshot_bytes=vault.snapshot_bytes,
        ratio=_ratio(logical, vault.stored_bytes),
        growth_per_day=growth,
        growth_from=source if growth is not None else "",
        free_bytes=vault.free_bytes,
        disk_bytes=vault.disk_bytes,
        days_left=left,
        full_on=now + left * _DAY if left is not None else None,
        samples=recent,
        problem=vault.problem,
    )


def _item(item: ItemFacts) -> CapacityItem:
    points = item.in_vault
    logical, stored = sum(point.size_bytes for point in points), sum(point.stored_bytes for point in points)
    churn = churn_of(points)
    return CapacityItem(
        vault=item.vault,
        item=item.item,
        disk_bytes=_disk_bytes(item),
        points=len(points),
        snapshots=sum(point.has_snapshot for point in item.points),
        logical_bytes=logical,
        stored_bytes=stored,
        ratio=_ratio(logical, stored),
        churn_bytes=churn,
        growth_per_day=_a_day(points, churn),
    )


def growth_of(samples: Sequence[Sample]) -> float | None:
    """Bytes a day, by the Theil-Sen slope; None for too few samples, or too short a time."""
    if len(samples) < SAMPLES_MIN:
        return None
    start = min(sample.at for sample in samples)
    marks = sorted(((sample.at - start) / _DAY, sample.stored_bytes) for sample in samples)
    if marks[-1][0] - marks[0][0] < SPAN_MIN_DAYS:
        return None
    slopes = [
        (late[1] - early[1]) / (late[0] - early[0]) for early, late in combinations(marks, 2) if late[0] > early[0]
    ]
    return median(slopes)


def days_until_full(free_bytes: int, growth_per_day: float | None) -> float | None:
    """How many days until nothing is free; None without growth, or where it is too far away to mean anything."""
    if growth_per_day is None or growth_per_day <= 0:
        return None
    days = free_bytes / growth_per_day
    return days if days <= FULL_DAYS_MAX else None


def churn_of(points: Sequence[PointFacts]) -> float | None:
    """The median of what the newest points stored; first transfers are not churn. None where there is none."""
    stored = [point.stored_bytes for point in points if not point.initial][-CHURN_POINTS:]
    return median(stored) if stored else None


def _a_day(points: Sequence[PointFacts], churn: float | None) -> float | None:
    """Median churn, times how many points a day there are."""
    later = [point for point in points if not point.initial][-CHURN_POINTS:]
    if churn is None or len(later) < 2 or later[-1].taken - later[0].taken < _DAY:
        return None  # what was taken within a day says nothing of how often
    gaps = [(after.taken - before.taken) / _DAY for before, after in pairwise(later) if after.taken > before.taken]
    return churn / median(gaps) if gaps else None


def _growth_of_points(points: Sequence[PointFacts], now: datetime) -> float | None:
    """What points brought in a day: the median over the days of the last weeks that had a point."""
    days: dict[int, int] = defaultdict(int)
    for point in points:
        if not point.initial and now - POINTS_DAYS * _DAY <= point.taken <= now:
            days[point.taken.toordinal()] += point.stored_bytes
    if len(days) < SAMPLES_MIN:
        return None
    share = len(days) / (max(days) - min(days) + 1)  # a weekly point does not come every day
    return median(days.values()) * share


def _disk_bytes(item: ItemFacts) -> int:
    return item.points[-1].size_bytes if item.points else 0


def _ratio(logical: int, stored: int) -> float | None:
    return round(logical / stored, 2) if stored else None


# --- what is to come -------------------------------------------------------------------------------------------------


def forecast_report(
    vaults: Iterable[VaultFacts],
    samples: Mapping[str, Sequence[Sample]],
    now: datetime,
    days: int = FORECAST_DAYS,
) -> ForecastReport:
    """What policies will add and free. Args: see `capacity_report`; `days` from now on."""
    found = []
    for vault in vaults:
        recent = [sample for sample in samples.get(vault.vault_id, ()) if now - SAMPLES_DAYS * _DAY <= sample.at <= now]
        found.append(_forecast(vault, growth_of(recent), now, days))
    return ForecastReport(now, days, tuple(found))


@dataclass(frozen=True, slots=True)
class _Course:
    """One item over the coming days: its points, old and new, and what each stored."""

    points: tuple[RetentionPoint, ...]
    stored: Mapping[PointRef, float]
    coming: int
    data_bytes: float  # what its first transfer stored: no more than that can lie between two points


def _forecast(vault: VaultFacts, growth: float | None, now: datetime, days: int) -> ForecastVault:
    marks = [now + day * _DAY for day in sorted({0, *range(STEP_DAYS, days, STEP_DAYS), days})]
    counts, lows, highs = ([0] * len(marks), [0.0] * len(marks), [0.0] * len(marks))
    added_points, added, unknown = 0, 0.0, []
    for item in vault.items:
        churn = churn_of(item.in_vault)
        if churn is None and item.is_protected:
            unknown.append(item.item)
        course = _course(item, churn or 0.0, now, marks[-1])
        added_points += course.coming
        added += course.coming * (churn or 0.0)
        for place, (points, low, high) in enumerate(_held(item, course, marks, vault.soft_delete_days)):
            counts[place] += points
            lows[place] += low
            highs[place] += high
    steps = tuple(
        ForecastStep(mark, counts[place], *_ordered(lows[place] - lows[0], highs[place] - highs[0]))
        for place, mark in enumerate(marks)
    )
    last = steps[-1]
    return ForecastVault(
        vault=vault.name,
        free_bytes=vault.free_bytes,
        added_points=added_points,
        added_bytes=round(added),
        freed_low_bytes=max(0, round(added) - last.high_bytes),
        freed_high_bytes=max(0, round(added) - last.low_bytes),
        steps=steps,
        full_on=_full_on(vault.free_bytes, steps, growth, now),
        unknown=tuple(unknown),
        problem=vault.problem,
    )


def _ordered(one: float, other: float) -> tuple[int, int]:
    return round(min(one, other)), round(max(one, other))


def _course(item: ItemFacts, churn: float, now: datetime, end: datetime) -> _Course:
    points, stored = [], {}
    for point in item.in_vault:
        assert point.ref is not None
        points.append(RetentionPoint(point.ref, point.taken, point.held, point.retain_until))
        stored[point.ref] = float(point.stored_bytes)
    data = max((size for size in stored.values()), default=0.0)
    coming = 0
    if item.is_protected and item.policy is not None and points:
        for moment in item.policy.schedule.after(now):
            if moment > end:
                break
            coming += 1
            ref = PointRef(_COMING, coming)
            points.append(RetentionPoint(ref, moment))
            stored[ref] = churn
    return _Course(tuple(sorted(points, key=lambda point: (point.taken, point.ref))), stored, coming, data)


def _held(
    item: ItemFacts, course: _Course, marks: Sequence[datetime], soft_delete_days: int
) -> Iterable[tuple[int, float, float]]:
    """For each mark the points that are kept, and what they and those deleted but not freed yet store: low, high."""
    now = marks[0]
    kept: list[RetentionPoint] = []
    unfreed: list[RetentionPoint] = []  # not expired by the day before whose end nothing is freed yet
    before, before_freed = None, None
    for mark in marks:
        freed_until = max(now, mark - soft_delete_days * _DAY)
        # What expired once stays expired: so a day's plan is made of what the one before left, and of what is new.
        kept = _kept(item, [*kept, *_taken(course, before, mark)], mark)
        unfreed = _kept(item, [*unfreed, *_taken(course, before_freed, freed_until)], freed_until)
        before, before_freed = mark, freed_until
        held = {point.ref for point in unfreed}
        # What was taken later cannot be deleted for so long.
        held |= {point.ref for point in _taken(course, freed_until, mark)}
        yield len(kept), *_stored(course, held, mark)


def _taken(course: _Course, after: datetime | None, until: datetime) -> list[RetentionPoint]:
    """Points that were taken in between; `after` None: from the beginning on."""
    return [point for point in course.points if (after is None or point.taken > after) and point.taken <= until]


def _stored(course: _Course, held: set[PointRef], mark: datetime) -> tuple[float, float]:
    """What the points that are held store together: low, high."""
    low = high = between_low = between_high = 0.0
    first = True
    for point in course.points:
        if point.taken > mark:
            break
        churn = course.stored[point.ref]
        between_low, between_high = max(between_low, churn), between_high + churn
        if point.ref in held:
            low += course.data_bytes if first else min(between_low, course.data_bytes)
            high += course.data_bytes if first else min(between_high, course.data_bytes)
            between_low = between_high = 0.0
            first = False
    return low, high


def _kept(item: ItemFacts, points: Sequence[RetentionPoint], now: datetime) -> list[RetentionPoint]:
    if item.is_protected and item.policy is not None:
        made = plan(points, item.policy.retention, now)
    else:
        made = keep_all(points, "", now)
    return list(made.kept)


def _full_on(free_bytes: int, steps: Sequence[ForecastStep], growth: float | None, now: datetime) -> datetime | None:
    """When the disk is full by the forecast, else by the growth that was measured, whichever comes first."""
    left = days_until_full(free_bytes, growth)
    measured = now + left * _DAY if left is not None else None
    for before, after in pairwise(steps):
        if after.high_bytes >= free_bytes:
            rise = after.high_bytes - before.high_bytes
            share = (free_bytes - before.high_bytes) / rise if rise > 0 else 0.0
            foreseen = before.at + max(0.0, share) * (after.at - before.at)
            return min(foreseen, measured) if measured is not None else foreseen
    return measured
