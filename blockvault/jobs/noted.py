"""What the command line does itself, noted in the journal as the job that it is: seen, followed and cancelled there.

    with Noted(vault, Operation.BACKUP, monitor) as noted:
        vault.snapshot(..., on_number=noted.started, on_captured=noted.captured)

Nothing of the work depends on the journal: where it cannot be written the work is done all the same, and a note says
that the history lacks it. Whoever runs a command sees its errors and decides what to do, so nothing is tried again by
itself; but a snapshot whose transfer was killed in mid-way waits for the daemon, as any other.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError, CancelledError
from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases
from blockvault.jobs.watch import Watcher, problems_of
from blockvault.model.job import FOREGROUND, Job, Operation, Phase, PhaseName, PhaseState, Problem, Trigger
from blockvault.store.journal import Journal, LogLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from blockvault.model import Item, PointStatistics
    from blockvault.monitor import Monitor
    from blockvault.store.locks import NumberLock
    from blockvault.vault import Vault


class Noted:
    """A job of the command line; nothing is noted before `started` was called.

    Args:
        vault: the opened vault.
        operation: what is done.
        monitor: of the work.
        retain_until: of a backup: until when its point is kept.
        comment: of a backup.
    """

    def __init__(
        self,
        vault: Vault,
        operation: Operation,
        monitor: Monitor,
        *,
        retain_until: datetime | None = None,
        comment: str = "",
    ) -> None:
        self._vault = vault
        self._operation = operation
        self._monitor = monitor
        self._retain_until = retain_until
        self._comment = comment
        self._stack = contextlib.ExitStack()
        self._journal: Journal | None = None
        self._lock: NumberLock | None = None
        self._statistics: PointStatistics | None = None
        self._waits = False
        self._problem: Problem | None = None
        self.job_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._try(lambda: self._end(error))

    def _try(self, work: Callable[[], None]) -> None:
        """Do something with the journal; where that fails the work goes on."""
        try:
            work()
        except (BlockVaultError, OSError) as error:
            self._monitor.note(f"the journal of jobs lacks this: {error}")

    def started(
        self, item: Item | None = None, number: int | None = None, *, details: dict[str, str] | None = None
    ) -> None:
        """The work begins, with its item and the number of its point, as far as it has them."""
        self._try(lambda: self._start(item, number, details or {}))

    def _start(self, item: Item | None, number: int | None, details: dict[str, str]) -> None:
        now = utc_now()
        names = (PhaseName.CAPTURE, PhaseName.TRANSFER) if self._operation is Operation.BACKUP else (PhaseName.RUN,)
        made = Job(
            id="",
            operation=self._operation,
            trigger=Trigger.ON_DEMAND,
            vault=self._vault.name,
            vault_id=VaultId(self._vault.id),
            item_id=item.id if item else ItemId(""),
            item=item.name if item else "",
            created=now,
            phases=tuple(Phase(name) for name in names),
            number=number,
            retain_until=self._retain_until,
            comment=self._comment,
            retries=0,
            details={"by": FOREGROUND, **details},
        )
        journal = self._stack.enter_context(Journal(self._vault.state_dir))
        job = journal.add(phases.begin(made, names[0], now))
        assert job is not None
        self._lock = journal.lock(job.id)
        self._lock.take()
        self._stack.callback(self._lock.release)
        self._stack.enter_context(Watcher(journal, self._vault.state_dir, job.id, self._monitor))
        self._journal, self.job_id = journal, job.id

    def captured(self) -> None:
        """The snapshot is made; the transfer begins."""
        self._try(self._capture)

    def _capture(self) -> None:
        if self._journal is None:
            return
        now = utc_now()

        def decide(job: Job, _others: list[Job]) -> Job:
            job = phases.captured(job, job.number or 0, [], now)
            return job if job.cancel_asked is not None else phases.begin(job, PhaseName.TRANSFER, now)

        self._journal.change(self.job_id, decide)

    def done(
        self, statistics: PointStatistics | None = None, *, waits: bool = False, problem: Problem | None = None
    ) -> None:
        """What came of it.

        Args:
            statistics: of a backup.
            waits: a snapshot was made whose transfer is for another time.
            problem: the work was done and found what must not be: the job has failed.
        """
        self._statistics, self._waits, self._problem = statistics, waits, problem

    def _end(self, error: BaseException | None) -> None:
        if self._journal is None:
            return
        now = utc_now()
        warnings = problems_of(self._monitor)

        def decide(job: Job, _others: list[Job]) -> Job | None:
            phase = job.current
            if phase is None:
                return None
            if isinstance(error, (CancelledError, KeyboardInterrupt)):
                return phases.cancelled(job, phase.name, now)
            problem = self._problem if error is None else problem_of(error)
            if problem is not None:
                return phases.fail(job, phase.name, problem, now, retries=0)
            if phase.state is PhaseState.WAITING:  # cancelled between the phases
                return phases.cancelled(job, phase.name, now)
            if self._waits:
                if phase.name is PhaseName.CAPTURE:
                    job = phases.captured(job, job.number or 0, [], now, warnings)
                else:
                    job = phases.released(job, phase.name, now)
                return phases.skip(job, PhaseName.TRANSFER, now)
            if phase.name is PhaseName.CAPTURE:  # no snapshot could be kept
                job = phases.went_at_once(job, job.number or 0, now, warnings)
            else:
                job = phases.complete(job, phase.name, now, warnings)
            return replace(job, statistics=self._statistics) if self._statistics else job

        self._journal.change(self.job_id, decide)
        lines = [LogLine(now, "warning", problem.message) for problem in warnings]
        if error is not None:
            lines.append(LogLine(now, "error", problem_of(error).message))
        self._journal.log(self.job_id, lines)


def problem_of(error: BaseException) -> Problem:
    """An error as a job keeps it."""
    if isinstance(error, BlockVaultError):
        return Problem.of(error)
    return Problem("internal", f"{type(error).__name__}: {error}")
