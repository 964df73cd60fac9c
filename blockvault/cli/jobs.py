"""What the commands of jobs share: the opened journal, and how a job is shown."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from blockvault.clock import utc_now
from blockvault.model.job import Job, JobState, PhaseName, PhaseState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.jobs.watch import Progress
    from blockvault.model.job import Phase
    from blockvault.store.journal import Journal

COLUMNS = ("job", "operation", "item", ">point", "begun", "state", "phases")


@contextmanager
def opened_journal() -> Iterator[Journal]:
    """The journal of this host. Phases whose process is gone are set right first, so nothing dead is shown as alive."""
    from blockvault.config import default_state_dir
    from blockvault.jobs.work import recover
    from blockvault.store.journal import Journal

    with Journal(default_state_dir()) as journal:
        recover(journal, utc_now())
        yield journal


def progress_of(job: Job) -> Progress | None:
    """How far a running job is."""
    from blockvault.config import default_state_dir
    from blockvault.jobs.watch import read_progress

    return read_progress(default_state_dir(), job.id) if job.is_open else None


def job_fields(job: Job) -> dict[str, Any]:
    """A job for `--json`."""
    progress = progress_of(job)
    return {
        "job": job.id,
        "operation": job.operation,
        "state": job.state,
        "trigger": job.trigger,
        "vault": job.vault,
        "item": job.item or None,
        "item_id": job.item_id or None,
        "point": job.number,
        "created": job.created,
        "ended": job.ended,
        "scheduled_for": job.moment,
        "retain_until": job.retain_until,
        "comment": job.comment,
        "cancel_asked": job.cancel_asked,
        "phases": [
            {
                "phase": phase.name,
                "state": phase.state,
                "started": phase.started,
                "ended": phase.ended,
                "seconds": _seconds(phase),
                "tries": phase.tries,
                "not_before": phase.not_before,
                "problem": phase.problem,
            }
            for phase in job.phases
        ],
        "warnings": list(job.warnings),
        "details": job.details,
        "read_bytes": job.statistics.read_bytes,
        "changed_bytes": job.statistics.changed_bytes,
        "unique_bytes": job.statistics.unique_bytes,
        "stored_bytes": job.statistics.stored_bytes,
        "sent_bytes": job.statistics.sent_bytes,
        "progress": None
        if progress is None
        else {
            "phase": progress.phase.lower(),
            "done_bytes": progress.done_bytes,
            "total_bytes": progress.total_bytes,
            "sent_bytes": progress.sent_bytes,
        },
    }


def job_row(job: Job) -> tuple[str, ...]:
    """A job in a table of jobs."""
    from blockvault.cli.render import moment

    point = str(job.number) if job.number is not None else job.details.get("point", "")
    return (
        job.id,
        job.operation.value,
        job.item or f"vault {job.vault}",
        point,
        moment(job.created, utc_now()),
        state_text(job),
        ", ".join(f"{phase.name} {phase_text(job, phase)}" for phase in job.phases),
    )


def state_text(job: Job) -> str:
    """The state, with what is not to be seen from it."""
    if job.is_open and job.cancel_asked is not None:
        return f"{job.state} (is being cancelled)"
    return job.state.value


def phase_text(job: Job, phase: Phase) -> str:
    """`in-progress 35%`, `waiting for its turn`, `completed in 2.1 s`."""
    from blockvault.cli.render import moment
    from blockvault.units import format_seconds

    match phase.state:
        case PhaseState.IN_PROGRESS:
            progress = progress_of(job)
            done = f" {100 * progress.done_bytes // progress.total_bytes}%" if progress and progress.total_bytes else ""
            return f"in-progress{done}"
        case PhaseState.WAITING:
            if phase.not_before is not None:
                return f"tried again at {moment(phase.not_before)[-5:]} ({phase.tries} failed)"
            return "waiting" if job.current is phase else "not begun"
        case PhaseState.COMPLETED:
            seconds = _seconds(phase)
            return "completed" + (f" in {format_seconds(seconds)}" if seconds is not None else "")
    return phase.state.value


def _seconds(phase: Phase) -> float | None:
    if phase.started is None or phase.ended is None:
        return None
    return (phase.ended - phase.started).total_seconds()


def job_facts(job: Job) -> list[tuple[str, str]]:
    """All that is known of a job, for people."""
    from blockvault.cli.render import moment
    from blockvault.cli.views import figures

    facts = [
        ("operation", f"{job.operation}, {job.trigger}"),
        ("vault", job.vault),
    ]
    if job.item:
        facts.append(("item", job.item))
    if job.number is not None:
        facts.append(("point", str(job.number)))
    if job.moment is not None:
        facts.append(("scheduled for", moment(job.moment)))
    facts.append(("begun", moment(job.created, utc_now())))
    if job.ended is not None:
        facts.append(("ended", moment(job.ended, utc_now())))
    if job.retain_until is not None:
        facts.append(("retain until", moment(job.retain_until)))
    if job.comment:
        facts.append(("comment", job.comment))
    for phase in job.phases:
        text = phase_text(job, phase)
        facts.append((phase.name.value, text + (f"; {phase.tries} tries" if phase.tries > 1 else "")))
        if phase.problem is not None:
            problem = phase.problem
            facts.append(("", f"{problem.message}   [{problem.kind}]"))
            facts += [("", f"{label} {text}") for label, text in (("why:", problem.why), ("do:", problem.do)) if text]
    facts += [("warning", f"{warning.message}   [{warning.kind}]") for warning in job.warnings]
    facts += [(name.replace("_", " "), value) for name, value in job.details.items() if value]
    transfer = job.phase(PhaseName.TRANSFER)
    if transfer is not None and transfer.state is PhaseState.COMPLETED:
        facts += figures(job.statistics)
    return facts


def exit_code_of_job(job: Job) -> int:
    """What `job wait` ends with: as the command itself would have."""
    from blockvault.cli.exit_codes import ExitCode

    codes = {
        JobState.COMPLETED: ExitCode.DONE,
        JobState.COMPLETED_WITH_WARNING: ExitCode.WARNING,
        JobState.FAILED: ExitCode.FAILED,
        JobState.CANCELLED: ExitCode.INTERRUPTED,
        JobState.IN_PROGRESS: ExitCode.FAILED,
    }
    return codes[job.state]
