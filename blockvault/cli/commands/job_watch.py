"""`blockvault job watch`: jobs as they go on, two bars each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.jobs.watch import Progress
    from blockvault.model.job import Job, Phase

LOOK_SECONDS = 1.0


@click.command("watch")
@click.argument("job_id", metavar="JOB", required=False)
@leaf(vault=False)
def command(call: Call, job_id: str | None) -> int | None:
    """Follow a job until it has ended, or all that run, until Ctrl-C.

    On a terminal with a bar a phase; elsewhere a line whenever something has changed, with --json an object.
    """
    from blockvault.cli.jobs import exit_code_of_job, job_fields, opened_journal

    view: _Bars | _Lines
    view = _Bars(call) if call.output.messages.isatty() and not call.output.as_json else _Lines(call)
    with view:
        while True:
            with opened_journal() as journal:
                jobs = [journal.get(job_id)] if job_id else journal.open_jobs()
            if call.output.as_json:
                for job in jobs:
                    call.output.document({"message_type": "status", "schema": "blockvault.job/1", **job_fields(job)})
            else:
                view.show(jobs)
            if job_id and not jobs[0].is_open:
                return exit_code_of_job(jobs[0])
            try:
                time.sleep(LOOK_SECONDS)
            except KeyboardInterrupt:
                return None


class _Lines:
    """A line a job, when it has changed."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._told: dict[str, str] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exception: object) -> None:
        pass

    def show(self, jobs: list[Job]) -> None:
        from blockvault.cli.jobs import job_row

        for job in jobs:
            line = "  ".join(job_row(job))
            if self._told.get(job.id) != line:
                self._told[job.id] = line
                self._call.output.line(line)
                self._call.output.results.flush()


class _Bars:
    """A bar a phase, drawn by rich."""

    def __init__(self, call: Call) -> None:
        from blockvault.cli.progress import make_bars

        self._bars: Any = make_bars(call.output)
        self._tasks: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *_exception: object) -> None:
        self._bars.stop()

    def show(self, jobs: list[Job]) -> None:
        from blockvault.cli.jobs import phase_text, progress_of

        for job in jobs:
            for phase in job.phases:
                progress = progress_of(job)
                key = (job.id, phase.name.value)
                if key not in self._tasks:
                    title = f"{job.id} {job.item} {phase.name}"
                    self._tasks[key] = self._bars.add_task(title, total=1, note="")
                done, total = _share(phase, progress)
                self._bars.update(self._tasks[key], total=total, completed=done, note=phase_text(job, phase))


def _share(phase: Phase, progress: Progress | None) -> tuple[int, int]:
    from blockvault.model.job import PhaseState

    if phase.state is PhaseState.IN_PROGRESS and progress is not None:
        return progress.done_bytes, max(1, progress.total_bytes)
    return (1 if phase.state in (PhaseState.COMPLETED, PhaseState.SKIPPED) else 0), 1
