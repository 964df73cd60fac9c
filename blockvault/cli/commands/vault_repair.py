"""`blockvault vault repair`: heal what is damaged where a copy is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import RepairReport

HEALED_SHOWN = 10


@click.command("repair")
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--quarantined-only", is_flag=True, help="Read only what is in quarantine, instead of every block.")
@click.option("--index", "rebuild_index", is_flag=True, help="Make the LMDB store anew from the vault's objects too.")
@leaf()
def command(call: Call, dry_run: bool, quarantined_only: bool, rebuild_index: bool) -> int | None:
    """Heal what is damaged where a copy is left.

    Every block is read, as by `verify`. A damaged one gets its bytes again from another block of the same identity, a
    kept snapshot, or the live disk image, checked by identity; a damaged record from the LMDB store. What cannot be
    healed is named with all that it touches, and the exit code is then 4: take the next point, which stores it anew.
    """
    with call.open_vault() as vault, call.job() as monitor:
        report = vault.repair(
            dry_run=dry_run, rebuild_index=rebuild_index, quarantined_only=quarantined_only, monitor=monitor
        )
    call.warn(report.warnings)
    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.repair/1", **_fields(report)})
    else:
        _show(call, report)
    return ExitCode.DAMAGE if report.left else None


def _fields(report: RepairReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "healed": report.healed,
        "records": report.records,
        "released": report.released,
        "index_rebuilt": report.index_rebuilt,
        "left": report.left,
        "seconds": report.seconds,
        "warnings": report.warnings,
    }


def _show(call: Call, report: RepairReport) -> None:
    from blockvault.cli.commands.verify import show_damage
    from blockvault.cli.render import shown
    from blockvault.units import format_seconds

    output = call.output
    for damage in report.left:
        show_damage(call, damage)
    listed = report.healed if output.verbose else report.healed[:HEALED_SHOWN]
    verb = "can be healed" if report.dry_run else "healed"
    label = output.paint(f"{verb}:", "green", output.results)
    for block in listed:
        output.line(f"{label} {shown(block.object)} slot {block.slot} from {shown(block.source)}")
    if len(listed) < len(report.healed):
        output.line(f"  and {len(report.healed) - len(listed)} more; -v or --json lists all")
    for name in report.records:
        output.line(f"{label} record {shown(name)}")
    if output.quiet:
        return
    facts = [
        ("blocks", f"{len(report.healed)} {verb}"),
        ("records", f"{len(report.records)} {verb}"),
        ("quarantine", f"{report.released} released"),
    ]
    if report.index_rebuilt:
        facts.append(("index", "made anew"))
    if report.left:
        facts.append(("next", "take a point of each item named above: it stores anew what could not be healed"))
    facts.append(("time", format_seconds(report.seconds)))
    left = f"{len(report.left)} cannot be healed" if report.left else "nothing is damaged any more"
    if report.dry_run and not report.left:
        left = "all can be healed" if report.healed or report.records else "nothing is damaged"
    output.facts(f"repair: {left}", facts)
