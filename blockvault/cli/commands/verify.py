"""`blockvault verify`: every stored byte against its identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import BlockDamage, VerifyReport

TOUCHES_SHOWN = 10


@click.command("verify")
@click.argument("point", metavar="P", required=False)
@click.option("--all", "all_points", is_flag=True, help="Every point: what happens without P too.")
@click.option("--quick", is_flag=True, help="Structure only: records, layers, tables, sizes; no block is decoded.")
@leaf()
def command(call: Call, point: str | None, all_points: bool, quick: bool) -> int | None:
    """Check every stored byte against its identity.

    One point, or all of the vault. Damage is named by object and block, with every point and piece of a disk that it
    touches; the exit code is then 4.
    """
    if point and all_points:
        raise click.UsageError("give a point or --all, not both")
    with call.open_vault() as vault, call.job() as monitor:
        report = vault.verify(point, quick=quick, monitor=monitor)
    call.warn(report.warnings)
    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.verify/1", **_fields(report)})
    else:
        _show(call, report)
    return ExitCode.DAMAGE if report.damage else None


def _fields(report: VerifyReport) -> dict[str, object]:
    return {
        "quick": report.quick,
        "points": report.points,
        "blocks": report.blocks,
        "plain_bytes": report.plain_bytes,
        "stored_bytes": report.stored_bytes,
        "seconds": report.seconds,
        "damage": report.damage,
        "warnings": report.warnings,
    }


def _show(call: Call, report: VerifyReport) -> None:
    from blockvault.units import format_seconds, format_size

    output = call.output
    for damage in report.damage:
        _show_damage(call, damage)
    if output.quiet:
        return
    found = f"{len(report.damage)} damaged" if report.damage else "no damage found"
    facts = [("points", str(report.points)), ("blocks", str(report.blocks))]
    if report.quick:
        facts.append(("checked", "structure only; `blockvault verify` reads every block too"))
    else:
        sizes = f"{format_size(report.plain_bytes)} of disks, {format_size(report.stored_bytes)} stored"
        facts.append(("checked", sizes))
    facts.append(("time", format_seconds(report.seconds)))
    output.facts(f"verify: {found}", facts)


def _show_damage(call: Call, damage: BlockDamage) -> None:
    from blockvault.cli.render import shown
    from blockvault.units import format_size

    output = call.output
    where = damage.object if damage.slot is None else f"{damage.object} slot {damage.slot}"
    output.line(f"{output.paint('damaged:', 'red', output.results)} {shown(where)}: {shown(damage.reason)}")
    listed = damage.touches if output.verbose else damage.touches[:TOUCHES_SHOWN]
    for touch in listed:
        piece = f"{format_size(touch.byte_count)} at offset {touch.offset}"
        output.line(f"  point {shown(touch.label)} of item '{touch.item}', disk {touch.disk}: {piece}")
    if len(listed) < len(damage.touches):
        output.line(f"  and {len(damage.touches) - len(listed)} more; -v or --json lists all")
    if not damage.touches:
        output.line("  no point needs it")
