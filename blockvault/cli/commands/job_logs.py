"""`blockvault job logs`: what was said while a job ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("logs")
@click.argument("job_id", metavar="JOB")
@leaf(vault=False)
def command(call: Call, job_id: str) -> int | None:
    """Print the log of a job."""
    from blockvault.cli.jobs import opened_journal
    from blockvault.cli.render import shown

    with opened_journal() as journal:
        lines = journal.logs(job_id)
    if call.output.as_json:
        fields = [{"at": line.at, "level": line.level, "text": line.text} for line in lines]
        call.output.document({"schema": "blockvault.job-log/1", "job": job_id, "lines": fields})
        return None
    if not lines:
        call.output.note("nothing was said")
    for line in lines:
        at = line.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        call.output.line(f"{at}  {line.level:<7}  {shown(line.text)}")
    return None
