"""`blockvault job cancel`: end a job that waits or runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("cancel")
@click.argument("job_id", metavar="JOB")
@leaf(vault=False)
def command(call: Call, job_id: str) -> int | None:
    """Cancel a job that waits or runs.

    What waits is cancelled at once; what runs stops at its next batch, with nothing half done. A snapshot that was
    made already stays: `blockvault transfer` can still move it.
    """
    from blockvault.cli.jobs import job_fields, opened_journal, state_text
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.daemon.control import ask
    from blockvault.jobs import phases
    from blockvault.store.audit_log import AuditLog

    with opened_journal() as journal:
        job = journal.get(job_id)
        details = {"job": job.id, "operation": job.operation, "item": job.item}
        with AuditLog(default_state_dir()).acting("job.cancel", details, vault=job.vault, vault_id=job.vault_id):
            job = journal.change(job_id, lambda job, _: phases.ask_to_cancel(job, utc_now()))
    ask(default_state_dir(), "look")
    if call.output.as_json:
        call.output.document({"schema": "blockvault.job/1", **job_fields(job)})
    elif not call.output.quiet:
        call.output.line(f"job {job.id}: {state_text(job)}")
    return None
