"""What becomes of a job: pure functions from a job to the job that it is next.

    waiting -> in-progress -> completed | failed | cancelled
            <- (tried again, interrupted)
    waiting -> skipped | cancelled

The overlap rule: while a transfer of an item is outstanding (it runs, waits its turn or is to be tried again), later
captures complete and their transfers are skipped; the next transfer carries all churn since the last vault point. A
job on demand is never skipped: somebody wants this very point, so its transfer waits.

Invariants:
- Every function refuses what the phase's state does not allow (`JobStateError` names a bug or a lost race), so a job
  that somebody cancelled meanwhile is not completed afterwards.
- A phase that was interrupted (its process died) waits again, but not more often than `INTERRUPTIONS_MAX`: work that
  kills the machine is not repeated for ever.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from blockvault.errors import ConflictError
from blockvault.model.job import Job, Operation, Phase, PhaseName, PhaseState, Problem, Trigger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blockvault.ids import ItemId, VaultId

INTERRUPTIONS_MAX = 5
RETRY_FIRST = timedelta(minutes=1)
RETRY_LIMIT = timedelta(hours=1)


class JobStateError(ConflictError):
    """The job is not any more what the caller took it for."""


def backup_job(
    *,
    vault: str,
    vault_id: VaultId,
    item_id: ItemId,
    item: str,
    trigger: Trigger,
    now: datetime,
    moment: datetime | None = None,
    retain_until: datetime | None = None,
    comment: str = "",
    retries: int = 3,
    details: dict[str, str] | None = None,
) -> Job:
    """A new backup of an item, both phases waiting."""
    return Job(
        id="",
        operation=Operation.BACKUP,
        trigger=trigger,
        vault=vault,
        vault_id=vault_id,
        item_id=item_id,
        item=item,
        created=now,
        phases=(Phase(PhaseName.CAPTURE), Phase(PhaseName.TRANSFER)),
        moment=moment,
        retain_until=retain_until,
        comment=comment,
        retries=retries,
        details=details or {},
    )


def begin(job: Job, name: PhaseName, now: datetime) -> Job:
    """A waiting phase is begun; it must be its turn."""
    phase = job.current
    if phase is None or phase.name is not name or phase.state is not PhaseState.WAITING:
        raise _not(job, name, "waits no more")
    return _with(
        job, replace(phase, state=PhaseState.IN_PROGRESS, started=now, tries=phase.tries + 1, not_before=None), now
    )


def complete(job: Job, name: PhaseName, now: datetime, warnings: Iterable[Problem] = ()) -> Job:
    """A running phase has done its work."""
    phase = _running(job, name)
    done = replace(phase, state=PhaseState.COMPLETED, ended=now, problem=None)
    return _with(replace(job, warnings=(*job.warnings, *warnings)), done, now)


def captured(job: Job, number: int, others: Iterable[Job], now: datetime, warnings: Iterable[Problem] = ()) -> Job:
    """The capture is complete, the snapshot of point `number` kept; by the overlap rule its transfer may be skipped.

    Args:
        job: a backup whose capture runs.
        number: N of the point.
        others: the other open jobs of the item.
        now: the moment.
        warnings: what the capture warned of.
    """
    job = replace(complete(job, PhaseName.CAPTURE, now, warnings), number=number)
    older = next((other for other in others if outstanding_transfer(other)), None)
    if older is not None and job.trigger is Trigger.SCHEDULE:
        reason = Problem("transfer.skipped", f"the transfer of {older.id} is still going on: the next one carries this")
        return skip(job, PhaseName.TRANSFER, now, reason)
    return job


def outstanding_transfer(job: Job) -> bool:
    """Whether a captured snapshot of the job is on its way into the vault, or waits for it."""
    phase = job.current
    return phase is not None and phase.name is PhaseName.TRANSFER


def skip(job: Job, name: PhaseName, now: datetime, reason: Problem | None = None) -> Job:
    """A waiting phase is left out."""
    phase = job.phase(name)
    if phase is None or phase.state is not PhaseState.WAITING:
        raise _not(job, name, "waits no more")
    return _with(job, replace(phase, state=PhaseState.SKIPPED, ended=now, problem=reason), now)


def went_at_once(job: Job, number: int, now: datetime, warnings: Iterable[Problem] = ()) -> Job:
    """No snapshot could be kept: the capture was skipped, and the point is in the vault."""
    phase = _running(job, PhaseName.CAPTURE)
    job = _with(job, replace(phase, state=PhaseState.SKIPPED, ended=now), now)
    transfer = job.phase(PhaseName.TRANSFER)
    assert transfer is not None
    done = replace(transfer, state=PhaseState.COMPLETED, started=phase.started, ended=now, tries=phase.tries)
    return _with(replace(job, number=number, warnings=(*job.warnings, *warnings)), done, now)


def fail(
    job: Job,
    name: PhaseName,
    problem: Problem,
    now: datetime,
    *,
    retries: int,
    first: timedelta = RETRY_FIRST,
    limit: timedelta = RETRY_LIMIT,
) -> Job:
    """A running phase ended with an error: it is tried again later, or has failed.

    Args:
        job: the job.
        name: the phase.
        problem: the error.
        now: the moment.
        retries: how often it is tried again; 0 for an error that does not pass by itself.
        first: how long it waits for the second try; for each further one twice as long.
        limit: how long it waits at most.
    """
    phase = _running(job, name)
    if phase.tries <= retries:
        wait = min(first * 2 ** (phase.tries - 1), limit)
        later = now + wait + _spread(job.id, phase.tries, wait)
        return _with(job, replace(phase, state=PhaseState.WAITING, not_before=later, problem=problem), now)
    return _with(job, replace(phase, state=PhaseState.FAILED, ended=now, problem=problem), now)


def interrupted(job: Job, name: PhaseName, now: datetime) -> Job:
    """The process of a running phase has died, or was stopped with the machine: the phase waits again."""
    phase = _running(job, name)
    problem = Problem(
        "job.interrupted",
        f"the {name} was interrupted",
        why="its process ended without a word: it was killed, or the machine went down",
    )
    if phase.tries >= INTERRUPTIONS_MAX:
        return _with(job, replace(phase, state=PhaseState.FAILED, ended=now, problem=problem), now)
    return _with(job, replace(phase, state=PhaseState.WAITING, problem=problem), now)


def released(job: Job, name: PhaseName, now: datetime) -> Job:
    """A running phase was stopped in good order, with the daemon: it waits again, as if it had not been begun."""
    phase = _running(job, name)
    return _with(job, replace(phase, state=PhaseState.WAITING, tries=phase.tries - 1), now)


def ask_to_cancel(job: Job, now: datetime) -> Job:
    """Somebody wants the job to end: what waits is cancelled at once, what runs when its process sees it."""
    if not job.is_open:
        raise JobStateError(
            "job.ended",
            f"job {job.id} has ended already: {job.state}",
            why="only what waits or runs can be cancelled",
            do=f"`blockvault job show {job.id}`",
        )
    job = replace(job, cancel_asked=job.cancel_asked or now)
    phase = job.current
    assert phase is not None
    return job if phase.state is PhaseState.IN_PROGRESS else cancelled(job, phase.name, now)


def cancelled(job: Job, name: PhaseName, now: datetime) -> Job:
    """A phase ends because somebody asked for it."""
    phase = job.phase(name)
    if phase is None or phase.has_ended:
        raise _not(job, name, "has ended")
    return _with(job, replace(phase, state=PhaseState.CANCELLED, ended=now, not_before=None), now)


def _running(job: Job, name: PhaseName) -> Phase:
    phase = job.phase(name)
    if phase is None or phase.state is not PhaseState.IN_PROGRESS:
        raise _not(job, name, "does not run")
    return phase


def _with(job: Job, phase: Phase, now: datetime) -> Job:
    """The job with one of its phases replaced; ended, if that was all there was to do."""
    phases = tuple(phase if each.name is phase.name else each for each in job.phases)
    if phase.state in (PhaseState.FAILED, PhaseState.CANCELLED):
        # What comes after it is not begun any more, and is not shown as if it still were.
        phases = tuple(
            replace(each, state=PhaseState.SKIPPED, ended=now) if each.state is PhaseState.WAITING else each
            for each in phases
        )
    job = replace(job, phases=phases)
    return job if job.is_open else replace(job, ended=now)


def _spread(job_id: str, tries: int, wait: timedelta) -> timedelta:
    """A part of up to a quarter of the wait: what failed together is not tried again together."""
    part = hashlib.blake2b(f"{job_id}/{tries}".encode(), digest_size=4).digest()
    return timedelta(seconds=int(wait.total_seconds() / 4 * int.from_bytes(part, "big") / 2**32))


def _not(job: Job, name: PhaseName, what: str) -> JobStateError:
    return JobStateError("job.changed-meanwhile", f"the {name} of job {job.id} {what}", why=f"the job is {job.state}")
