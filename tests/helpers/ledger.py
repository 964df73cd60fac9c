"""What a vault must hold, in plain words: a dictionary of points with copies of their images, and simple rules of time.

The oracle of the stateful tests. It knows nothing of marks, plans and packs: a point is held or not, deleted or not,
gone or not, and what retention keeps is said here a second time (in UTC alone, in a few lines).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from blockvault.model import PointInfo, Tier
from blockvault.policy import RetentionRules

PERIODS = {"keep_daily": "%Y-%m-%d", "keep_weekly": "%G-%V", "keep_monthly": "%Y-%m", "keep_yearly": "%Y"}


@dataclass(slots=True)
class Known:
    """One point, from the moment that it was taken; it stays in the ledger when it is gone."""

    id: str
    number: int
    origin: str
    item: str
    taken: datetime
    retain_until: datetime | None
    copies: dict[str, Path]
    in_vault: bool
    snapshot_until: datetime | None  # None: this host has no snapshot of it
    held: bool = False
    deleted: datetime | None = None
    purge_after: datetime | None = None
    gone: bool = False

    @property
    def is_listed(self) -> bool:
        return not self.gone and self.deleted is None

    @property
    def is_root(self) -> bool:
        """Whether the vault must keep what it needs."""
        return self.in_vault and not self.gone


@dataclass(frozen=True, slots=True)
class Expected:
    """What a prune must do, by ids."""

    kept: set[str]
    expired: set[str]
    purged: set[str]
    emptied: set[str]  # items


@dataclass(slots=True)
class Ledger:
    """All points that there ever were, by id."""

    soft_delete_days: int
    points: dict[str, Known] = field(default_factory=dict)
    policies: dict[str, RetentionRules] = field(default_factory=dict)  # what an item's policy keeps
    stopped: set[str] = field(default_factory=set)  # items whose protection is stopped

    def add(self, info: PointInfo, origin: str, copies: dict[str, Path]) -> Known:
        """A new point. Numbers and ids are never used again (R12)."""
        assert info.id not in self.points
        assert (origin, info.number) not in {(known.origin, known.number) for known in self.points.values()}
        assert all(info.number > known.number for known in self.points.values() if known.in_vault)
        known = Known(
            info.id,
            info.number,
            origin,
            info.item,
            info.taken,
            info.kept_until,
            copies,
            in_vault=info.tier is not Tier.SNAPSHOT,
            snapshot_until=info.snapshot_until,
        )
        self.points[info.id] = known
        return known

    def listed(self, item: str | None = None) -> list[Known]:
        return [known for known in self.points.values() if known.is_listed and item in (None, known.item)]

    def roots(self) -> list[Known]:
        return [known for known in self.points.values() if known.is_root]

    def waiting(self) -> list[Known]:
        """Snapshots whose transfer waits."""
        return [known for known in self.listed() if not known.in_vault]

    # --- marks ---

    def delete(self, known: Known, now: datetime) -> None:
        known.deleted, known.purge_after = now, now + timedelta(days=self.soft_delete_days)

    def undelete(self, known: Known) -> None:
        known.deleted = known.purge_after = None

    def unhold(self, known: Known, now: datetime) -> None:
        """A deleted point that was held has its days again, from now on."""
        known.held = False
        if known.deleted is not None and known.purge_after is not None:
            known.purge_after = max(known.purge_after, now + (known.purge_after - known.deleted))

    def end(self, known: Known) -> None:
        known.gone = True
        known.snapshot_until = None

    # --- snapshots ---

    def expire_snapshots(self, points: Iterable[Known]) -> None:
        """The snapshots of these were removed; what only they held is gone."""
        for known in points:
            known.snapshot_until = None
            known.gone = known.gone or not known.in_vault

    def expirable_snapshots(self, origin: str, moment: datetime) -> list[Known]:
        """What the end of a job removes: snapshots whose days are over, but for the newest that the vault has."""
        newest: dict[str, int] = {}
        for known in self.roots():
            if known.origin == origin:
                newest[known.item] = max(newest.get(known.item, 0), known.number)
        return [
            known
            for known in self.points.values()
            if known.origin == origin
            and known.snapshot_until is not None
            and known.snapshot_until <= moment
            and known.number < newest.get(known.item, 0)
        ]

    def lose_host(self) -> None:
        """A host that lost its state has no snapshots any more."""
        self.expire_snapshots(self.points.values())

    # --- retention ---

    def prune(self, rules: RetentionRules | None, item: str | None, now: datetime) -> Expected:
        """What a prune at `now` must do, by rules or (None) by each item's policy; nothing is changed here."""
        kept: set[str] = set()
        expired: set[str] = set()
        emptied: set[str] = set()
        purged: set[str] = set()
        for name in {known.item for known in self.roots()} if item is None else {item}:
            there = [known for known in self.listed(name) if known.in_vault]
            if name in self.stopped and (rules is None or item is None):
                stay = {known.id for known in there}
            else:
                stay = survivors(there, self.policies.get(name, RetentionRules()) if rules is None else rules, now)
            kept |= stay
            expired |= {known.id for known in there} - stay
            if there and not stay:
                emptied.add(name)
            for known in self.roots():
                if known.item == name and known.purge_after is not None and not known.held:
                    purged |= {known.id} if known.purge_after <= now else set()
        if not self.soft_delete_days:
            purged |= expired
        return Expected(kept, expired, purged, emptied)


def survivors(points: Iterable[Known], rules: RetentionRules, now: datetime) -> set[str]:
    """Ids of the points of one item that retention keeps."""
    everything = list(points)
    asked = {name: count for name, count in rules.counts() if count is not None}
    ordinary = [known for known in everything if known.retain_until is None and known.taken <= now]
    ordinary.sort(key=lambda known: known.taken, reverse=True)
    keep = set() if asked else {known.id for known in everything if known.retain_until is None}
    keep |= {known.id for known in ordinary[: asked.get("keep_last", 0)]}
    for rule, form in PERIODS.items():
        newest: dict[str, str] = {}
        for known in ordinary:
            newest.setdefault(known.taken.strftime(form), known.id)
        keep |= set(list(newest.values())[: asked.get(rule, 0)])
    for known in everything:
        until = known.retain_until
        if known.held or (until is not None and until > now) or (until is None and known.taken > now):
            keep.add(known.id)
    return keep
