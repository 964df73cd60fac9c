"""One phase of one job, carried out with a vault and noted in the journal.

    Worker(journal, state_dir, open_vault, clock).run(job_id, PhaseName.CAPTURE)

The order that makes a kill harmless: the job's lock is taken; the journal says that the phase runs; the work is done,
each step durable in itself; the journal says what came of it. Killed in between, the lock is free and the journal
still says that the phase runs: `recover` makes it wait again, and the next try looks first for what the last one has
done. A capture finds its snapshot, or its point, by the job's id in its tags; a transfer finds its point in the vault.

Invariants:
- A phase is worked on by one process at a time (`Journal.lock`).
- No error leaves a phase running in the journal, but a journal that cannot be written: then `recover` does it.
- A job that was cancelled is not completed, but where all the work was done before it was seen.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from blockvault.errors import (
    BlockVaultError,
    CancelledError,
    ConflictError,
    CorruptionError,
    DeviceError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    TransportError,
    UnsupportedError,
)
from blockvault.failpoints import reach
from blockvault.jobs import phases
from blockvault.jobs.watch import JobMonitor, Watcher, problems_of
from blockvault.model import Consistency, Phase2, Tier, VerifyBudget
from blockvault.model.enums import OnHookFailure
from blockvault.model.job import FOREGROUND, GROUP, Job, Operation, PhaseName, PhaseState, Problem
from blockvault.store.journal import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from blockvault.ids import ItemId
    from blockvault.jobs.watch import Rate
    from blockvault.model import PointInfo, PointStatistics, SnapshotResult
    from blockvault.monitor import Monitor
    from blockvault.store.journal import Journal
    from blockvault.store.locks import NumberLock
    from blockvault.vault import Vault

    # What the journal is told: the job and the other open jobs of its item, as they are then; returns what it becomes.
    Outcome = Callable[[Job, list[Job]], Job]

_PASSING = (ConflictError, TransportError, DeviceError)  # may be gone when the same is tried again
JOB_TAG = "job"  # of a point: the job that took it, of a group's points the first of its jobs
LEADER = "captured_by"  # in `Job.details` of a group: the job whose process captured all of them


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """What applies to the work of all jobs.

    Args:
        verify_budget: of a scheduled verify, in seconds.
        rate: how fast bytes may go to the vault.
        retry_first: how long a phase that failed by what can pass waits for its second try; then twice as long each.
        retry_limit: how long it waits at most.
        held: items of a vault of which nothing may expire, by their ids, and why.
    """

    verify_budget: timedelta = timedelta(minutes=30)
    rate: Rate | None = None
    retry_first: timedelta = phases.RETRY_FIRST
    retry_limit: timedelta = phases.RETRY_LIMIT
    held: Callable[[Vault, datetime], Mapping[ItemId, str]] = lambda _vault, _now: {}


class Worker:
    """Carries out phases.

    Args:
        journal: of the host.
        state_dir: the host's state folder.
        open_vault: opens the vault of a job; what it gives is used in a `with`.
        clock: the moment, in UTC.
        settings: see `WorkSettings`.
        watched: whether a thread looks for requests to cancel and tells how far the work is.
    """

    def __init__(
        self,
        journal: Journal,
        state_dir: str,
        open_vault: Callable[[Job], AbstractContextManager[Vault]],
        clock: Callable[[], datetime],
        settings: WorkSettings | None = None,
        *,
        watched: bool = True,
    ) -> None:
        self._journal = journal
        self._state_dir = state_dir
        self._open_vault = open_vault
        self._clock = clock
        self._settings = settings or WorkSettings()
        self._watched = watched

    def run(self, job_id: str, name: PhaseName, monitor: Monitor | None = None) -> Job:
        """Carry out a phase whose turn it is; returns the job as it is then.

        Errors of the work are noted in the journal and not raised.

        Args:
            job_id: the job.
            name: the phase.
            monitor: of a job that somebody watches; None: one of its own.

        Raises:
            ConflictError: another process works on the job (`job.at-work`), or it was cancelled (`job.changed-...`).
        """
        lock = self.begin(job_id, name)
        try:
            return self.carry_out(job_id, name, monitor)
        finally:
            lock.release()

    def begin(self, job_id: str, name: PhaseName) -> NumberLock:
        """The first half of `run`: the job is locked, and the journal says that the phase runs."""
        lock = self._journal.lock(job_id)
        if not lock.take():
            raise ConflictError("job.at-work", f"another process works on job {job_id}")
        try:
            self._journal.change(job_id, lambda job, _: phases.begin(job, name, self._clock()))
            reach("job.begun")
        except BaseException:
            lock.release()
            raise
        return lock

    def carry_out(self, job_id: str, name: PhaseName, monitor: Monitor | None = None) -> Job:
        """The second half, under the lock: the work, and what came of it.

        The capture of an item takes those of its group with it that wait for the same moment.
        """
        monitor = monitor or JobMonitor(self._clock, self._settings.rate)
        job = self._journal.get(job_id)
        watching: AbstractContextManager[None] = contextlib.nullcontext()
        if self._watched:
            watching = Watcher(self._journal, self._state_dir, job_id, monitor)
        with contextlib.ExitStack() as stack:
            jobs = [job, *self._team(job, name, stack)]
            try:
                with watching:
                    outcomes = self._work(jobs, name, monitor)
                    reach("job.done")
            except CancelledError:
                outcomes = dict.fromkeys((each.id for each in jobs), self._stopped(name))
            except Exception as error:  # noqa: BLE001 - a bug ends its own phase, not the daemon
                outcomes = dict.fromkeys((each.id for each in jobs), self._failed(name, error))
            lines = list(monitor.lines) if isinstance(monitor, JobMonitor) else _lines(monitor, self._clock())
            ended = [self._end(each.id, name, outcomes[each.id], lines) for each in jobs]
        return ended[0]

    def _end(self, job_id: str, name: PhaseName, outcome: Outcome, lines: list[LogLine]) -> Job:
        """Note what came of a phase, with its log."""
        ended = self._journal.change(job_id, outcome)
        phase = ended.phase(name)
        if phase is not None and phase.problem is not None:
            lines = [*lines, LogLine(self._clock(), "error", phase.problem.message)]
        self._journal.log(job_id, lines)
        return ended

    def _team(self, job: Job, name: PhaseName, stack: contextlib.ExitStack) -> list[Job]:
        """The jobs of the group's other items, begun and locked: all are captured at one instant."""
        group = job.details.get(GROUP)
        if name is not PhaseName.CAPTURE or not group:
            return []
        begun = []
        for other in self._journal.open_jobs():
            phase = other.current
            same = (other.vault_id, other.details.get(GROUP), other.moment) == (job.vault_id, group, job.moment)
            if other.id == job.id or not same or phase is None or phase.name is not name:
                continue
            lock = self._journal.lock(other.id)
            if not lock.take():
                continue
            stack.callback(lock.release)
            with contextlib.suppress(phases.JobStateError):
                begun.append(self._journal.change(other.id, lambda each, _: self._follow(each, job, name)))
        return begun

    def _follow(self, job: Job, leader: Job, name: PhaseName) -> Job:
        """Begin the phase of a job under another's process, and remember whose."""
        return replace(phases.begin(job, name, self._clock()), details={**job.details, LEADER: leader.id})

    def _failed(self, name: PhaseName, error: Exception) -> Outcome:
        if isinstance(error, BlockVaultError):
            problem, passing = Problem.of(error), isinstance(error, _PASSING)
        elif isinstance(error, OSError):
            problem, passing = Problem("job.device", str(error)), True
        else:
            problem, passing = Problem("internal", f"{type(error).__name__}: {error}"), False

        def decide(job: Job, _others: list[Job]) -> Job:
            if job.cancel_asked is not None:
                return phases.cancelled(job, name, self._clock())  # nobody wants it tried again
            return phases.fail(
                job,
                name,
                problem,
                self._clock(),
                retries=job.retries if passing else 0,
                first=self._settings.retry_first,
                limit=self._settings.retry_limit,
            )

        return decide

    def _stopped(self, name: PhaseName) -> Outcome:
        """Cancelled because somebody asked for it; else this process is to end, and the phase waits for the next."""

        def decide(job: Job, _others: list[Job]) -> Job:
            if job.cancel_asked is not None:
                return phases.cancelled(job, name, self._clock())
            return phases.released(job, name, self._clock())

        return decide

    # --- the work ----------------------------------------------------------------------------------------------

    def _work(self, jobs: list[Job], name: PhaseName, monitor: Monitor) -> dict[str, Outcome]:
        job = jobs[0]
        with self._open_vault(job) as vault:
            match job.operation, name:
                case (Operation.BACKUP, PhaseName.CAPTURE):
                    return self._capture(vault, jobs, monitor)
                case (Operation.BACKUP | Operation.TRANSFER, PhaseName.TRANSFER):
                    return {job.id: self._transfer(vault, job, monitor)}
                case (Operation.PRUNE, PhaseName.RUN):
                    return {job.id: self._prune(vault, monitor)}
                case (Operation.VERIFY, PhaseName.RUN):
                    return {job.id: self._verify(vault, monitor)}
        raise InternalError("job.operation", f"no process carries out the {name} of a {job.operation}")

    def _capture(self, vault: Vault, jobs: list[Job], monitor: Monitor) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        fresh: list[tuple[Job, str]] = []
        for job in jobs:
            try:
                item = _item_name(vault, job)
            except NotFoundError as error:
                outcomes[job.id] = self._failed(PhaseName.CAPTURE, error)
                continue
            found = self._done_before(vault, job, item)
            if found is not None:
                outcomes[job.id] = self._captured(found.number, found.tier, found.statistics, monitor)
            else:
                fresh.append((job, item))
        if len(fresh) > 1:
            outcomes.update(self._capture_together(vault, fresh, monitor))
        for job, item in fresh:
            if job.id in outcomes:
                continue
            try:
                made = vault.capture(item, retain_until=job.retain_until, **self._asked(vault, job, item, monitor))
                outcomes[job.id] = self._captured(made.number, made.tier, made.statistics, monitor)
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - of a group each item has its own end
                outcomes[job.id] = self._failed(PhaseName.CAPTURE, error)
        reach("job.captured")
        return outcomes

    def _capture_together(self, vault: Vault, fresh: list[tuple[Job, str]], monitor: Monitor) -> dict[str, Outcome]:
        """Capture all at one instant; nothing, with a warning, where their disks cannot be cloned: then one by one."""
        job, item = fresh[0]
        names = [name for _, name in fresh]
        group = job.details[GROUP]
        whole = sorted(names) == sorted(each.name for each in vault.items() if each.group == group)
        try:
            made = vault.snapshot_group(
                group if whole else names, phase2=Phase2.LATER, **self._asked(vault, job, item, monitor)
            )
        except (UnsupportedError, InvalidInputError) as error:
            if not error.kind.startswith("group."):
                raise
            monitor.warn(error.kind, f"{error.message}: the items of group '{group}' are captured one after the other")
            return {}
        by_item = {result.item: result for result in made}
        return {
            each.id: self._captured(by_item[name].number, by_item[name].tier, by_item[name].statistics, monitor)
            for each, name in fresh
        }

    def _asked(self, vault: Vault, job: Job, item: str, monitor: Monitor) -> dict[str, Any]:
        """What a capture is asked for, by the item's policy and by its job."""
        policy = vault.policy_of(item)
        return {
            "consistency": policy.consistency if policy is not None else Consistency.CRASH,
            "on_hook_failure": policy.on_hook_failure if policy is not None else OnHookFailure.WARN,
            "job": job.id,
            "tags": {JOB_TAG: job.id},
            "comment": job.comment,
            "now": self._clock(),
            "monitor": monitor,
        }

    def _captured(self, number: int, tier: Tier, statistics: PointStatistics, monitor: Monitor) -> Outcome:
        """What becomes of a job whose point `number` was captured."""

        def decide(job: Job, others: list[Job]) -> Job:
            now = self._clock()
            if tier is not Tier.VAULT:
                job = phases.captured(job, number, others, now, problems_of(monitor))
                # Asked just now, when the snapshot was made already: it stays, what comes after it does not begin.
                return phases.ask_to_cancel(job, now) if job.cancel_asked is not None and job.is_open else job
            return replace(phases.went_at_once(job, number, now, problems_of(monitor)), statistics=statistics)

        return decide

    @staticmethod
    def _done_before(vault: Vault, job: Job, item: str) -> PointInfo | None:
        """The point that an earlier try of this capture, or of its group's, made before it was killed."""
        phase = job.phase(PhaseName.CAPTURE)
        if phase is None or phase.tries <= 1:
            return None
        tags = (job.id, job.details.get(LEADER))
        return next((info for info in vault.points(item) if info.tags.get(JOB_TAG) in tags), None)

    def _transfer(self, vault: Vault, job: Job, monitor: Monitor) -> Outcome:
        item = _item_name(vault, job)
        made: list[SnapshotResult] = vault.transfer(item, number=job.number, monitor=monitor)
        if made:
            statistics = made[0].statistics
        else:
            point = next((info for info in vault.points(item, deleted=True) if info.number == job.number), None)
            if point is None or point.point is None:
                raise NotFoundError(
                    "snapshot.gone",
                    f"the snapshot of point {job.number} is gone: there is nothing to transfer",
                    why="its days are over, or it was deleted",
                    do="the next backup carries its churn",
                )
            statistics = point.statistics

        def decide(job: Job, _others: list[Job]) -> Job:
            done = phases.complete(job, PhaseName.TRANSFER, self._clock(), problems_of(monitor))
            return replace(done, statistics=statistics)

        return decide

    def _prune(self, vault: Vault, monitor: Monitor) -> Outcome:
        now = self._clock()
        vault.expire_snapshots(now=now, monitor=monitor)  # of items that are not captured any more too
        held = self._settings.held(vault, now)
        for reason in held.values():
            monitor.warn("prune.held", f"nothing of an item was ended: {reason}")
        result = vault.prune(vault.plan_prune(now=now, held_items=held, monitor=monitor), monitor=monitor)
        if result.problem is not None:
            raise result.problem
        details = {
            "expired": ", ".join(result.expired),
            "purged": ", ".join(result.purged),
            "freed_bytes": str(result.reclaim.freed_bytes),
        }
        return self._done(monitor, details)

    def _verify(self, vault: Vault, monitor: Monitor) -> Outcome:
        budget = VerifyBudget(seconds=self._settings.verify_budget.total_seconds())
        report = vault.verify(budget=budget, now=self._clock(), monitor=monitor)
        if report.damage:
            raise CorruptionError(
                "verify.damage",
                f"{len(report.damage)} damaged objects or blocks were found",
                why=f"the first is {report.damage[0].object}: {report.damage[0].reason}",
                do="see `blockvault verify --all`, then heal what can be with `blockvault vault repair`",
            )
        return self._done(monitor, {"verified_bytes": str(report.stored_bytes), "blocks": str(report.blocks)})

    def _done(self, monitor: Monitor, details: dict[str, str]) -> Outcome:
        def decide(job: Job, _others: list[Job]) -> Job:
            return replace(phases.complete(job, PhaseName.RUN, self._clock(), problems_of(monitor)), details=details)

        return decide


def recover(journal: Journal, now: datetime) -> list[Job]:
    """Make phases wait again whose process is gone; returns their jobs."""
    found = []
    for job in journal.open_jobs():
        phase = job.current
        if phase is None or phase.state is not PhaseState.IN_PROGRESS:
            continue
        lock = journal.lock(job.id)
        if not lock.take():
            continue  # its process lives
        try:
            found.append(journal.change(job.id, lambda job, _: _interrupted(job, now)))
        finally:
            lock.release()
    return found


def _interrupted(job: Job, now: datetime) -> Job | None:
    phase = job.current
    if phase is None or phase.state is not PhaseState.IN_PROGRESS:
        return None
    if job.cancel_asked is not None:
        return phases.cancelled(job, phase.name, now)
    if phase.name is not PhaseName.TRANSFER and job.details.get("by") == FOREGROUND:
        problem = Problem("job.interrupted", "the command was killed", do="run it again")
        return phases.fail(job, phase.name, problem, now, retries=0)
    return phases.interrupted(job, phase.name, now)


def _item_name(vault: Vault, job: Job) -> str:
    """The item's name now: it may have been changed since the job was made."""
    for item in vault.items():
        if item.id == job.item_id:
            return item.name
    raise NotFoundError("item.not-found", f"item '{job.item}' is gone from the vault", do="see `blockvault item list`")


def _lines(monitor: Monitor, now: datetime) -> list[LogLine]:
    return [LogLine(now, "warning", warned.message) for warned in monitor.warnings]
