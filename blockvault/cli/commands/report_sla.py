"""`blockvault report sla`: scheduled moments against the points that were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.reporting import report_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.cli.render import Output
    from blockvault.cli.reporting import Form
    from blockvault.reports.sla import SlaReport, Spread


@click.command("sla")
@click.option("--since", default="30d", show_default=True, metavar="30d|DATE", help="From when on.")
@report_options
@leaf(otherwise="all of this host")
def command(call: Call, since: str, form: str, output: str | None) -> int | None:
    """Show which scheduled points were made: on time, late, missed, failed.

    Of all vaults of this host, or of the one that --vault names. A moment counts from since when the item is
    protected, and from the last change of its policy; `since` of a row says from when.
    """
    from blockvault.cli.reporting import look, written
    from blockvault.clock import since as beginning
    from blockvault.errors import InvalidInputError
    from blockvault.reports.sla import sla_report
    from blockvault.store.journal import Journal, jobs_while

    world = look(call)
    start = beginning(since, world.now)
    if start >= world.now:
        raise InvalidInputError("input.time-ahead", f"'{since}' has not come yet", do="give an earlier date")
    with Journal(world.state_dir) as journal:
        # A job that ended in the period may have been made before it: transfers take days at most.
        jobs = list(jobs_while(journal, lambda job: (start - job.created).days < _LONGEST_JOB_DAYS))
    wanted = {vault.vault_id for vault in world.vaults}
    report = sla_report(world.vaults, [job for job in jobs if job.vault_id in wanted], start, world.now)
    with written(call, form, output) as chosen:
        write(call.output, report, chosen)
    return None


def write(output: Output, report: SlaReport, chosen: Form) -> None:
    """The report in the form that is asked for."""
    from blockvault.cli.reporting import Form
    from blockvault.reports.sla import SlaRow

    match chosen:
        case Form.JSON:
            fields = {name: getattr(report, name) for name in report.__dataclass_fields__ if name != "rows"}
            fields["problems"] = [{"vault": name, "problem": text} for name, text in report.problems]
            rows = [
                {
                    **{name: getattr(row, name) for name in row.__dataclass_fields__},
                    "days": [{"day": day, "outcome": outcome} for day, outcome in row.days],
                }
                for row in report.rows
            ]
            document = {"schema": "blockvault.report-sla/1", **fields, "percent": report.percent, "rows": rows}
            output.document(document)
        case Form.CSV:
            from blockvault.reports.sheet import as_csv

            output.results.write(as_csv(SlaRow, report.rows))
        case Form.HTML:
            from blockvault.reports.page import sla_page

            output.results.write(sla_page(report))
        case Form.TEXT:
            show(output, report)


_LONGEST_JOB_DAYS = 30


def show(output: Output, report: SlaReport) -> None:
    """The report for people."""
    from blockvault.cli.render import moment
    from blockvault.reports.page import seconds, span

    counts = [f"{report.total(name)} {name.replace('_', ' ')}" for name in ("on_time", "late", "missed", "failed")]
    facts = [
        ("made", "no moment was due" if report.percent is None else f"{report.percent:.2f} % of {report.total('due')}"),
        ("of these", ", ".join(counts)),
        ("with a warning", str(report.total("warned"))),
        ("not transferred", str(report.total("untransferred"))),
        ("capture", _spread(report.capture_seconds)),
        ("transfer", _spread(report.transfer_seconds)),
    ]
    if report.freeze_ms.count:
        facts.append(("freeze", f"median {report.freeze_ms.median:.0f} ms, longest {report.freeze_ms.longest:.0f} ms"))
    facts.append(("restores", f"{report.restores}, {report.failed_restores} failed"))
    facts.append(("verifies", f"{report.verifies}, {report.failed_verifies} failed"))
    output.facts(f"{moment(report.since)} to {moment(report.now)}", facts)
    if not report.rows:
        output.note("no item is protected; `blockvault protect ITEM --policy POLICY` begins")
        return
    output.line()
    rows = [
        (
            row.item,
            row.vault,
            moment(row.since)[:10],
            str(row.due),
            f"{row.percent:.1f} %" if row.percent is not None else "",
            str(row.late),
            str(row.missed),
            str(row.failed),
            str(row.warned),
            seconds(row.capture_seconds.median),
            seconds(row.transfer_seconds.median),
            span(row.longest_gap_seconds),
        )
        for row in report.rows
    ]
    columns = ("item", "vault", "since", ">due", ">made", ">late", ">missed", ">failed", ">warned", ">capture",
               ">transfer", ">longest gap")  # fmt: skip
    output.table(columns, rows)


def _spread(held: Spread) -> str:
    from blockvault.reports.page import seconds

    if not held.count:
        return "none"
    return f"median {seconds(held.median)}, 95 of 100 within {seconds(held.p95)}, longest {seconds(held.longest)}"
