"""A job: one run of work on an item or a vault, its phases, and the state that they come to.

A backup has two phases: capture makes the snapshot, transfer moves the churn from it into the vault. Other work has
one. The state of a job is never stored beside its phases: it follows from them (`Job.state`):

    capture completed + transfer in-progress    in-progress
    capture completed + transfer skipped        completed
    capture completed + transfer completed      completed
    capture completed + transfer failed         completed-with-warning: the snapshot restores
    capture failed    + (none)                  failed
    a cancelled phase                           cancelled; of a cancelled transfer the snapshot stays

and where anything was warned of, `completed` is `completed-with-warning`.

Invariants:
- Phases are run in their order, and none is begun before the one in front of it has ended.
- What has ended does not begin again: a phase that is tried again has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from blockvault.errors import BlockVaultError
from blockvault.ids import ItemId, VaultId
from blockvault.model.point import PointStatistics


class Operation(StrEnum):
    """What a job does."""

    BACKUP = "backup"
    TRANSFER = "transfer"  # phase 2 alone, of a snapshot that waited
    RESTORE = "restore"
    PRUNE = "prune"
    VERIFY = "verify"


class Trigger(StrEnum):
    """Who asked for a job."""

    SCHEDULE = "schedule"
    ON_DEMAND = "on-demand"


class PhaseName(StrEnum):
    """The phases; `RUN` is that of work that has one."""

    CAPTURE = "capture"
    TRANSFER = "transfer"
    RUN = "run"


class PhaseState(StrEnum):
    """How far a phase is."""

    WAITING = "waiting"  # for its turn, for the phase before it, or to be tried again
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class JobState(StrEnum):
    """What the phases of a job come to."""

    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    COMPLETED_WITH_WARNING = "completed-with-warning"
    FAILED = "failed"
    CANCELLED = "cancelled"


GROUP = "group"  # in `details` of a scheduled backup: its item's group, whose items are captured together
FOREGROUND = "the command line"  # in `details["by"]` of a job that a command does itself: nobody tries it again

_ENDED = (PhaseState.COMPLETED, PhaseState.FAILED, PhaseState.CANCELLED, PhaseState.SKIPPED)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning, as it is told: `kind` is stable, the rest is for people."""

    kind: str
    message: str
    why: str | None = None
    do: str | None = None

    @classmethod
    def of(cls, error: BlockVaultError) -> Problem:
        """An error as a job or a view keeps it."""
        return cls(error.kind, error.message, error.why, error.do)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a job.

    `started` is the moment of the last try, `tries` how often it was begun. `not_before` holds back a phase that
    failed by something that can pass, `problem` is what its last try ended with.
    """

    name: PhaseName
    state: PhaseState = PhaseState.WAITING
    started: datetime | None = None
    ended: datetime | None = None
    tries: int = 0
    not_before: datetime | None = None
    problem: Problem | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in _ENDED


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its journal has it.

    Args:
        id: `j-` and eight letters and digits, in order of time.
        vault: the vault's name or folder, as it is opened.
        item_id: the item; "" for work on a whole vault.
        moment: the schedule's moment that it makes up for; None for a job on demand.
        number: N of the point, once it was given.
        retain_until: of a job on demand: until when its point is kept.
        retries: how often a phase is tried again that failed by what can pass.
        cancel_asked: when somebody asked to end it.
    """

    id: str
    operation: Operation
    trigger: Trigger
    vault: str
    vault_id: VaultId
    item_id: ItemId
    item: str
    created: datetime
    phases: tuple[Phase, ...]
    moment: datetime | None = None
    ended: datetime | None = None
    number: int | None = None
    retain_until: datetime | None = None
    comment: str = ""
    retries: int = 3
    cancel_asked: datetime | None = None
    warnings: tuple[Problem, ...] = ()
    statistics: PointStatistics = field(default_factory=PointStatistics)
    details: dict[str, str] = field(default_factory=dict)

    def phase(self, name: PhaseName) -> Phase | None:
        """The phase of that name; None if the job has none."""
        return next((phase for phase in self.phases if phase.name is name), None)

    @property
    def current(self) -> Phase | None:
        """The first phase that has not ended; None if all have."""
        return next((phase for phase in self.phases if not phase.has_ended), None)

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self.state is JobState.IN_PROGRESS

    @property
    def state(self) -> JobState:
        """What the phases come to; the table stands at the top."""
        states = [phase.state for phase in self.phases]
        if PhaseState.CANCELLED in states:
            return JobState.CANCELLED
        if PhaseState.FAILED in states:
            # What was captured restores, though it did not get into the vault.
            kept = PhaseState.COMPLETED in states[: states.index(PhaseState.FAILED)]
            return JobState.COMPLETED_WITH_WARNING if kept else JobState.FAILED
        if not all(phase.has_ended for phase in self.phases):
            return JobState.IN_PROGRESS
        return JobState.COMPLETED_WITH_WARNING if self.warnings else JobState.COMPLETED
