"""`blockvault job list`: what runs, what waits, and what became of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model.job import Job

SHOWN = 30


@click.command("list")
@click.argument("item", required=False)
@click.option("--open", "only_open", is_flag=True, help="Only those that wait or run.")
@click.option("--failed", is_flag=True, help="Only those that failed, or were completed with a warning.")
@click.option("--since", metavar="7d|DATE", help="Only those begun since then.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help=f"At most so many.  [default: {SHOWN}]")
@click.option("--all", "all_jobs", is_flag=True, help="All that the journal has.")
@leaf(vault=False)
def command(
    call: Call,
    item: str | None,
    only_open: bool,
    failed: bool,
    since: str | None,
    limit: int | None,
    all_jobs: bool,
) -> int | None:
    """List jobs, the newest first.

    Of all vaults of this host, or of the items named ITEM.
    """
    from blockvault.cli.jobs import COLUMNS, job_fields, job_row, opened_journal
    from blockvault.clock import since as moment_since
    from blockvault.clock import utc_now
    from blockvault.model.job import JobState
    from blockvault.store.journal import jobs_while

    begin = moment_since(since, utc_now()) if since else None
    bad = (JobState.FAILED, JobState.COMPLETED_WITH_WARNING)
    most = limit or (None if all_jobs or since else SHOWN)
    found: list[Job] = []
    with opened_journal() as journal:
        for job in jobs_while(journal, lambda job: begin is None or job.created >= begin):
            if item not in (None, job.item) or (only_open and not job.is_open) or (failed and job.state not in bad):
                continue
            found.append(job)
            if most is not None and len(found) >= most:
                break
    if call.output.as_json:
        call.output.document({"schema": "blockvault.jobs/1", "jobs": [job_fields(job) for job in found]})
        return None
    if not found:
        call.output.note("no such job" if only_open or failed or item or since else "no jobs yet")
        return None
    call.output.table(COLUMNS, [job_row(job) for job in found])
    if len(found) == most and not limit:
        call.output.note(f"the newest {most}; --all shows more")
    return None
