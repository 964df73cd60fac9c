"""`blockvault report rpo`: how much work each item would lose now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.reporting import report_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.cli.render import Output
    from blockvault.cli.reporting import Form
    from blockvault.reports.rpo import RpoReport


@click.command("rpo")
@report_options
@leaf(otherwise="all of this host")
def command(call: Call, form: str, output: str | None) -> int | None:
    """Show how old the newest point of each item is, against what its policy allows.

    Of all vaults of this host, or of the one that --vault names. An item is outside when its newest point in a vault
    is older than its schedule's interval times `alerts.rpo_factor`; a snapshot on this host does not count. The exit
    code is 20 where an item is outside, or where it cannot be told.
    """
    from blockvault.cli.exit_codes import ExitCode
    from blockvault.cli.reporting import look, written
    from blockvault.reports.rpo import rpo_report

    world = look(call)
    report = rpo_report(world.vaults, world.now, world.factor)
    with written(call, form, output) as chosen:
        write(call.output, report, chosen)
    return None if report.is_good else ExitCode.OUTSIDE_RPO


def write(output: Output, report: RpoReport, chosen: Form) -> None:
    """The report in the form that is asked for."""
    from blockvault.cli.reporting import Form
    from blockvault.reports.rpo import RpoRow, RpoState

    match chosen:
        case Form.JSON:
            output.document(
                {
                    "schema": "blockvault.report-rpo/1",
                    "now": report.now,
                    "factor": report.factor,
                    "good": report.is_good,
                    "outside": report.count(RpoState.OUTSIDE),
                    "unknown": report.count(RpoState.UNKNOWN),
                    "rows": report.rows,
                    "problems": [{"vault": name, "problem": text} for name, text in report.problems],
                }
            )
        case Form.CSV:
            from blockvault.reports.sheet import as_csv

            output.results.write(as_csv(RpoRow, report.rows))
        case Form.HTML:
            from blockvault.reports.page import rpo_page

            output.results.write(rpo_page(report))
        case Form.TEXT:
            show(output, report)


def show(output: Output, report: RpoReport) -> None:
    """The report for people."""
    from blockvault.cli.render import moment
    from blockvault.clock import age
    from blockvault.reports.page import span

    if not report.rows:
        output.note("no items yet; `blockvault snapshot DISK` registers one")
        return
    rows = [
        (
            row.item,
            row.vault,
            row.policy or "none",
            row.state.value,
            str(row.point) if row.point is not None else "none",
            moment(row.taken) if row.taken is not None else "",
            age(row.taken, report.now) if row.taken is not None else "",
            span(row.target_seconds),
            str(row.snapshot) if row.snapshot is not None else "none",
            str(row.missed),
        )
        for row in report.rows
    ]
    columns = ("item", "vault", "policy", "state", ">point", "taken", ">age", ">target", ">snapshot", ">missed runs")
    output.table(columns, rows)
    for row in report.rows:
        if row.problem:
            output.note(f"{row.item}: {row.problem}")
