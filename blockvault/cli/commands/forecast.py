"""`blockvault forecast`: what policies will add and free in the coming days."""

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


@click.command("forecast")
@click.option("--days", type=click.IntRange(1, 730), default=90, show_default=True, help="How far ahead.")
@report_options
@leaf(otherwise="all of this host")
def command(call: Call, days: int, form: str, output: str | None) -> int | None:
    """Show what policies will add to vaults and free in the coming days.

    Each item goes on as it did: a point at each moment of its schedule, with its own median churn, expired by its
    rules. What an expired point frees depends on where the guest writes; so there is a least and a most.
    """
    from blockvault.cli.exit_codes import ExitCode
    from blockvault.cli.reporting import look, written
    from blockvault.reports.capacity import capacity_report, forecast_report
    from blockvault.reports.figures import sampled

    world = look(call)
    samples = sampled(world.state_dir, world.vaults, world.now)
    report = forecast_report(world.vaults, samples, world.now, days)
    capacity = capacity_report(world.vaults, samples, world.now)
    with written(call, form, output) as chosen:
        write(call.output, report, capacity, chosen)
    return ExitCode.FAILED if any(vault.problem for vault in report.vaults) else None


def write(output: Output, report: ForecastReport, capacity: CapacityReport, chosen: Form) -> None:
    """The forecast in the form that is asked for; the page is that of `report capacity`."""
    from blockvault.cli.reporting import Form
    from blockvault.reports.capacity import ForecastVault

    match chosen:
        case Form.JSON:
            fields = {"now": report.now, "days": report.days, "vaults": report.vaults}
            output.document({"schema": "blockvault.forecast/1", **fields})
        case Form.CSV:
            from blockvault.reports.sheet import as_csv

            output.results.write(as_csv(ForecastVault, report.vaults))
        case Form.HTML:
            from blockvault.reports.page import capacity_page

            output.results.write(capacity_page(capacity, report))
        case Form.TEXT:
            show(output, report)


def show(output: Output, report: ForecastReport) -> None:
    """The forecast for people."""
    from blockvault.reports.page import signed
    from blockvault.units import format_size

    for vault in report.vaults:
        if vault.problem:
            continue
        full = f"on {vault.full_on:%Y-%m-%d}" if vault.full_on is not None else "not foreseen"
        freed = f"{format_size(vault.freed_low_bytes)} to {format_size(vault.freed_high_bytes)}"
        facts = [
            ("points added", f"{vault.added_points}, with {format_size(vault.added_bytes)}"),
            ("freed", freed),
            ("free now", format_size(vault.free_bytes)),
            ("full", full),
        ]
        if vault.unknown:
            named = ", ".join(vault.unknown[:5]) + (", ..." if len(vault.unknown) > 5 else "")
            facts.append(("not reckoned", f"{len(vault.unknown)} without a second point yet: {named}"))
        output.facts(f"vault '{vault.vault}', the next {report.days} days", facts)
        rows = [
            (f"{step.at:%Y-%m-%d}", str(step.points), signed(step.low_bytes), signed(step.high_bytes))
            for step in vault.steps
        ]
        output.line()
        output.table(("day", ">points", ">at least", ">at most"), rows)
        output.line()
