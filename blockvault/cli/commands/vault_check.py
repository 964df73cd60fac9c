"""`blockvault vault check`: structure, LMDB and leftovers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import CheckReport


@click.command("check")
@click.option("--quick", is_flag=True, help="Only what points need: leave out other packs and the index's entries.")
@leaf()
def command(call: Call, quick: bool) -> int | None:
    """Check a vault's structure and count what nobody needs.

    Records, layers, the table and size of every pack, what binds them, the LMDB store against them. No block is
    decoded: `blockvault verify` does that. Damage ends with exit code 4; leftovers of work that died do not.
    """
    with call.open_vault() as vault, call.job() as monitor:
        report = vault.check(quick=quick, monitor=monitor)
    call.warn(report.warnings)
    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.check/1", **_fields(report)})
    else:
        _show(call, report)
    return ExitCode.DAMAGE if report.damage else None


def _fields(report: CheckReport) -> dict[str, object]:
    return {
        "quick": report.quick,
        "points": report.points,
        "packs": report.packs,
        "layers": report.layers,
        "damage": report.damage,
        "leftovers": report.leftovers,
        "quarantined": report.quarantined,
        "index_entries": report.index_entries,
        "index_stale": report.index_stale,
        "seconds": report.seconds,
        "warnings": report.warnings,
    }


def _show(call: Call, report: CheckReport) -> None:
    from blockvault.cli.commands.verify import show_damage
    from blockvault.cli.views import counted
    from blockvault.units import format_seconds, format_size

    output = call.output
    for damage in report.damage:
        show_damage(call, damage)
    if output.quiet:
        return
    facts = [("points", str(report.points)), ("packs", str(report.packs)), ("layers", str(report.layers))]
    facts += [("left over", f"{one.count} {one.what}, {format_size(one.byte_count)}") for one in report.leftovers]
    if report.quarantined:
        facts.append(("quarantine", f"{counted(report.quarantined, 'block or object')}; see `blockvault vault repair`"))
    if report.index_entries:
        facts.append(("index", f"{report.index_entries} entries compared, {report.index_stale} name nothing any more"))
    facts.append(("time", format_seconds(report.seconds)))
    found = f"{len(report.damage)} damaged" if report.damage else "no damage found"
    output.facts(f"check: {found}", facts)
