"""What the ended jobs of a vault add up to, for counters that must never go down.

The history of jobs is trimmed; these totals are not. Each is the sum over all jobs that ever ended, plus what each of
them held when it ended: `add` is called once for a job, at the moment at which it has ended.

Invariants:
- No figure here ever goes down.
- A job counts once, by the state that its phases came to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from blockvault.model.job import JobState, Operation, Phase, PhaseName, PhaseState

if TYPE_CHECKING:
    from blockvault.model.job import Job

# Upper ends of the classes of a phase's duration, in seconds: from a clone to a first transfer of a day.
DURATION_BOUNDS = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
DAMAGE_KINDS = ("verify.damage",)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long phases took: `counts` of those that took at most each of `DURATION_BOUNDS`, and of all the rest last."""

    counts: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many phases."""
        return sum(self.counts)

    def with_one(self, seconds: float) -> Durations:
        """And one more."""
        place = next((at for at, bound in enumerate(DURATION_BOUNDS) if seconds <= bound), len(DURATION_BOUNDS))
        counts = tuple(count + (at == place) for at, count in enumerate(self.counts))
        return Durations(counts, self.seconds + seconds)

    def plus(self, other: Durations) -> Durations:
        """Both together."""
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Durations(counts, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class VaultTotals:
    """The totals of one vault.

    Args:
        vault: its name, as the newest of the jobs had it.
        jobs: how many ended, by `operation state`: `backup completed-with-warning`.
        phases: how long completed phases took, by `operation phase`.
        read_bytes: the figures of all jobs, in bytes; `changed_bytes`, `stored_bytes` and `sent_bytes` likewise.
        changed_bytes: see `read_bytes`.
        stored_bytes: see `read_bytes`.
        sent_bytes: see `read_bytes`.
        verify_errors: verifies that found damage.
        last_verify: when the newest verify ended that found none.
    """

    vault: str = ""
    jobs: dict[str, int] = field(default_factory=dict)
    phases: dict[str, Durations] = field(default_factory=dict)
    read_bytes: int = 0
    changed_bytes: int = 0
    stored_bytes: int = 0
    sent_bytes: int = 0
    verify_errors: int = 0
    last_verify: datetime | None = None

    def plus(self, other: VaultTotals) -> VaultTotals:
        """Both together, under the other's name."""
        phases = dict(self.phases)
        for name, held in other.phases.items():
            phases[name] = phases[name].plus(held) if name in phases else held
        verifies = [at for at in (self.last_verify, other.last_verify) if at is not None]
        return VaultTotals(
            vault=other.vault,
            jobs=dict(Counter(self.jobs) + Counter(other.jobs)),
            phases=phases,
            read_bytes=self.read_bytes + other.read_bytes,
            changed_bytes=self.changed_bytes + other.changed_bytes,
            stored_bytes=self.stored_bytes + other.stored_bytes,
            sent_bytes=self.sent_bytes + other.sent_bytes,
            verify_errors=self.verify_errors + other.verify_errors,
            last_verify=max(verifies, default=None),
        )


@dataclass(frozen=True, slots=True)
class ItemSuccess:
    """The newest backup of an item that got into the vault: when its point was taken."""

    vault: str
    vault_id: str
    item_id: str
    item: str
    taken: datetime


def add(totals: VaultTotals, job: Job) -> VaultTotals:
    """The totals with a job that has just ended."""
    key, figures = f"{job.operation} {job.state}", job.statistics
    phases = dict(totals.phases)
    for phase in job.phases:
        seconds = seconds_of(phase)
        if phase.state is PhaseState.COMPLETED and seconds is not None:
            name = f"{job.operation} {phase.name}"
            phases[name] = phases.get(name, Durations()).with_one(seconds)
    damaged = any(phase.problem and phase.problem.kind in DAMAGE_KINDS for phase in job.phases)
    verified = job.operation is Operation.VERIFY and job.state in (
        JobState.COMPLETED,
        JobState.COMPLETED_WITH_WARNING,
    )
    return replace(
        totals,
        vault=job.vault,
        jobs={**totals.jobs, key: totals.jobs.get(key, 0) + 1},
        phases=phases,
        read_bytes=totals.read_bytes + figures.read_bytes,
        changed_bytes=totals.changed_bytes + figures.changed_bytes,
        stored_bytes=totals.stored_bytes + figures.stored_bytes,
        sent_bytes=totals.sent_bytes + figures.sent_bytes,
        verify_errors=totals.verify_errors + damaged,
        last_verify=_later(totals.last_verify, job.ended or job.created) if verified else totals.last_verify,
    )


def success_of(job: Job) -> ItemSuccess | None:
    """What a backup says of its item's newest point in the vault; None if none came of it.

    A transfer alone says nothing: its point was taken at another time, which the vault knows.
    """
    capture, transfer = job.phase(PhaseName.CAPTURE), job.phase(PhaseName.TRANSFER)
    if job.operation is not Operation.BACKUP or capture is None or transfer is None or capture.started is None:
        return None
    if transfer.state is not PhaseState.COMPLETED:  # the capture may have been skipped: read straight into the vault
        return None
    return ItemSuccess(job.vault, job.vault_id, job.item_id, job.item, capture.started)


def seconds_of(phase: Phase) -> float | None:
    """How long the last try of an ended phase took; None where it was not begun, or a clock was set back."""
    if phase.started is None or phase.ended is None or phase.ended < phase.started:
        return None
    return (phase.ended - phase.started).total_seconds()


def _later(known: datetime | None, new: datetime) -> datetime:
    return new if known is None else max(known, new)
