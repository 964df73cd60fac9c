"""`blockvault report capacity`: what vaults hold, how they grow, when their disks are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.reporting import report_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.cli.render import Output
    from blockvault.cli.reporting import Form
    from blockvault.reports.capacity import CapacityReport, ForecastReport


@click.command("capacity")
@report_options
@leaf(otherwise="all of this host")
def command(call: Call, form: str, output: str | None) -> int | None:
    """Show what vaults hold, how fast they grow and when their disks are full.

    Of all vaults of this host, or of the one that --vault names. Growth is the slope over one sample a day, which
    the daemon, `blockvault metrics` and this report leave behind; until there are some it is what points brought in.
    """
    from blockvault.cli.exit_codes import ExitCode
    from blockvault.cli.reporting import look, written
    from blockvault.reports.capacity import capacity_report, forecast_report
    from blockvault.reports.figures import sampled

    world = look(call)
    samples = sampled(world.state_dir, world.vaults, world.now)
    report = capacity_report(world.vaults, samples, world.now)
    forecast = forecast_report(world.vaults, samples, world.now) if form == "html" else None
    with written(call, form, output) as chosen:
        write(call.output, report, forecast, chosen)
    return None if report.is_good else ExitCode.FAILED


def write(output: Output, report: CapacityReport, forecast: ForecastReport | None, chosen: Form) -> None:
    """The report in the form that is asked for; the page has the forecast too."""
    from blockvault.cli.reporting import Form
    from blockvault.reports.capacity import CapacityItem

    match chosen:
        case Form.JSON:
            fields = {"now": report.now, "vaults": report.vaults, "items": report.items}
            output.document({"schema": "blockvault.report-capacity/1", **fields})
        case Form.CSV:
            from blockvault.reports.sheet import as_csv

            output.results.write(as_csv(CapacityItem, report.items))
        case Form.HTML:
            from blockvault.reports.page import capacity_page

            output.results.write(capacity_page(report, forecast))
        case Form.TEXT:
            show(output, report)


def show(output: Output, report: CapacityReport) -> None:
    """The report for people."""
    from blockvault.units import format_size

    for vault in report.vaults:
        if vault.problem:
            continue
        ratio = f" ({vault.ratio:g} x)" if vault.ratio is not None else ""
        growth = "not known yet"
        if vault.growth_per_day is not None:
            by = ", by what points brought in" if vault.growth_from == "points" else ""
            growth = f"{format_size(vault.growth_per_day)} a day{by}"
        full = "not foreseen"
        if vault.full_on is not None and vault.days_left is not None:
            full = f"on {vault.full_on:%Y-%m-%d}, in {vault.days_left:.0f} days"
        facts = [
            ("protected", f"{format_size(vault.protected_bytes)} of {vault.items} item{'s' * (vault.items != 1)}"),
            ("points", f"{vault.points}, together {format_size(vault.logical_bytes)}"),
            ("stored", f"{format_size(vault.stored_bytes)}{ratio}"),
            ("snapshots", format_size(vault.snapshot_bytes)),
            ("growth", growth),
            ("free", f"{format_size(vault.free_bytes)} of {format_size(vault.disk_bytes)}"),
            ("full", full),
        ]
        output.facts(f"vault '{vault.vault}' in {vault.path}", facts)
        output.line()
    if not report.items:
        return
    rows = [
        (
            item.item,
            item.vault,
            format_size(item.disk_bytes),
            str(item.points),
            str(item.snapshots),
            format_size(item.stored_bytes),
            f"{item.ratio:g} x" if item.ratio is not None else "",
            format_size(item.churn_bytes) if item.churn_bytes is not None else "",
            format_size(item.growth_per_day) if item.growth_per_day is not None else "",
        )
        for item in report.items
    ]
    columns = ("item", "vault", ">disks", ">points", ">snapshots", ">stored", ">ratio", ">churn of a point",
               ">growth a day")  # fmt: skip
    output.table(columns, rows)
