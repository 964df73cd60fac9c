"""`blockvault job wait`: until a job has ended; its state is the exit code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call

LOOK_SECONDS = 0.5


@click.command("wait")
@click.argument("job_id", metavar="JOB")
@click.option("--timeout", metavar="10m", help="Wait no longer than that; the exit code is then 1.")
@leaf(vault=False)
def command(call: Call, job_id: str, timeout: str | None) -> int | None:
    """Wait until a job has ended.

    The exit code is that of the work: 0 completed, 3 completed with warning, 1 failed, 130 cancelled.
    """
    from blockvault.cli.jobs import exit_code_of_job, job_fields, opened_journal, state_text
    from blockvault.errors import ConflictError
    from blockvault.units import parse_span

    deadline = time.monotonic() + parse_span(timeout) if timeout else None
    while True:
        # Opened for each look: a process that sleeps with a journal open keeps nobody, but owns a map of it.
        with opened_journal() as journal:
            job = journal.get(job_id)
        if not job.is_open:
            break
        if deadline is not None and time.monotonic() >= deadline:
            raise ConflictError(
                "job.still-open",
                f"job {job_id} has not ended within {timeout}",
                why=f"it is {state_text(job)}",
                do=f"`blockvault job show {job_id}`, or wait longer",
            )
        time.sleep(LOOK_SECONDS)
    if call.output.as_json:
        call.output.document({"schema": "blockvault.job/1", **job_fields(job)})
    elif not call.output.quiet:
        call.output.line(f"job {job.id}: {state_text(job)}")
    return exit_code_of_job(job)
