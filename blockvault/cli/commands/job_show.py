"""`blockvault job show`: one job, its phases and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("show")
@click.argument("job_id", metavar="JOB")
@leaf(vault=False)
def command(call: Call, job_id: str) -> int | None:
    """Show a job, its phases and its figures."""
    from blockvault.cli.jobs import job_facts, job_fields, opened_journal, state_text

    with opened_journal() as journal:
        job = journal.get(job_id)
    if call.output.as_json:
        call.output.document({"schema": "blockvault.job/1", **job_fields(job)})
        return None
    call.output.facts(f"job {job.id}: {state_text(job)}", job_facts(job))
    return None
