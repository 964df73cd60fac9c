"""A policy: when the points of its items are taken, how they are taken, and how long they are kept.

    policy = Policy("nightly", Schedule.daily("02:00", zone="Europe/Berlin"), RetentionRules(keep_daily=30))

Invariants:
- A policy is a value: a change makes the next revision of it, and what was decided by an earlier one stays explained.
- Nothing here reads a clock or a vault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.model import Consistency
from blockvault.model.item import SNAPSHOT_DAYS_DEFAULT
from blockvault.policy.retention import RetentionRules

if TYPE_CHECKING:
    from blockvault.policy.schedule import Schedule

WINDOW_DEFAULT = timedelta(minutes=30)


class OnHookFailure(StrEnum):
    """What becomes of a job whose pre-script or freeze failed."""

    WARN = "warn"  # a crash-consistent point, and the job is completed-with-warning
    FAIL = "fail"  # no point


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
        revision: counts the changes of its record, from 0.
    """

    name: str
    schedule: Schedule
    retention: RetentionRules = field(default_factory=RetentionRules)
    snapshot_days: int = SNAPSHOT_DAYS_DEFAULT
    window: timedelta = WINDOW_DEFAULT
    consistency: Consistency = Consistency.CRASH
    on_hook_failure: OnHookFailure = OnHookFailure.WARN
    retries: int = 3
    comment: str = ""
    revision: int = 0
