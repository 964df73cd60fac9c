"""`blockvault verify`: every stored byte against its identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import BlockDamage, VerifyBudget, VerifyReport

TOUCHES_SHOWN = 10


@click.command("verify")
@click.argument("point", metavar="P", required=False)
@click.option("--all", "all_points", is_flag=True, help="Every point: what happens without P too.")
@click.option("--quick", is_flag=True, help="Structure only: records, layers, tables, sizes; no block is decoded.")
@click.option(
    "--budget",
    metavar="30m|10%|50GiB",
    help="Read for so long, such a share or so many stored bytes, the least recently verified first.",
)
@click.option(
    "--within", "within", metavar="30d", default="30d", show_default=True, help="Tell how much was read within that."
)
@leaf()
def command(
    call: Call, point: str | None, all_points: bool, quick: bool, budget: str | None, within: str
) -> int | None:
    """Check every stored byte against its identity.

    One point, or all of the vault. Damage is named by object and block, with every point and piece of a disk that it
    touches; the exit code is then 4. What is damaged is put into quarantine: the next point of its disk stores it anew,
    and `vault repair` heals older points where a copy is left.

    --budget suits a nightly run: at least one pack is read, and every block has its turn. `m` after a number means
    minutes; write MiB for bytes.
    """
    from blockvault.jobs.noted import Noted
    from blockvault.model.job import Operation, Problem
    from blockvault.units import parse_span

    if point and all_points:
        raise click.UsageError("give a point or --all, not both")
    if budget and (point or quick):
        raise click.UsageError("--budget is for the blocks of the whole vault: give neither a point nor --quick")
    limits = parse_budget(budget) if budget else None
    days = max(1, parse_span(within) // 86400)
    with call.open_vault() as vault, call.job() as monitor, Noted(vault, Operation.VERIFY, monitor) as noted:
        noted.started(details={"point": point} if point else None)
        report = vault.verify(point, quick=quick, budget=limits, within_days=days, monitor=monitor)
        noted.done(problem=Problem("verify.damage", f"{len(report.damage)} damaged") if report.damage else None)
    call.warn(report.warnings)
    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.verify/1", **_fields(report)})
    else:
        _show(call, report)
    return ExitCode.DAMAGE if report.damage else None


def parse_budget(text: str) -> VerifyBudget:
    """`30m` or `2h` is time, `10%` a share, `50GiB` stored bytes. Raises `InvalidInputError` (`input.budget`)."""
    from blockvault.errors import InvalidInputError
    from blockvault.model import VerifyBudget
    from blockvault.units import parse_size, parse_span

    try:
        if text.strip().endswith("%"):
            share = float(text.strip().removesuffix("%")) / 100
            if not 0 < share <= 1:
                raise ValueError(text)
            return VerifyBudget(share=share)
        try:
            return VerifyBudget(seconds=parse_span(text))
        except InvalidInputError:
            return VerifyBudget(byte_count=parse_size(text))
    except ValueError:
        raise InvalidInputError(
            "input.budget",
            f"'{text}' is no budget",
            why="a budget is a time, a share of what points need, or stored bytes",
            do="write it like 30m, 2h, 10% or 50GiB",
        ) from None


def _fields(report: VerifyReport) -> dict[str, object]:
    from blockvault.cli.views import coverage_fields

    return {
        "quick": report.quick,
        "points": report.points,
        "blocks": report.blocks,
        "plain_bytes": report.plain_bytes,
        "stored_bytes": report.stored_bytes,
        "seconds": report.seconds,
        "damage": report.damage,
        "warnings": report.warnings,
        "complete": report.complete,
        "quarantined": report.quarantined,
        "coverage": coverage_fields(report.coverage),
    }


def _show(call: Call, report: VerifyReport) -> None:
    from blockvault.cli.views import coverage_facts
    from blockvault.units import format_seconds, format_size

    output = call.output
    for damage in report.damage:
        show_damage(call, damage)
    if output.quiet:
        return
    found = f"{len(report.damage)} damaged" if report.damage else "no damage found"
    facts = [("points", str(report.points)), ("blocks", str(report.blocks))]
    if report.quick:
        facts.append(("checked", "structure only; `blockvault verify` reads every block too"))
    else:
        sizes = f"{format_size(report.plain_bytes)} of disks, {format_size(report.stored_bytes)} stored"
        facts.append(("checked", sizes))
    if report.quarantined:
        facts.append(("quarantined", f"{report.quarantined} now; see `blockvault vault repair`"))
    if not report.complete:
        facts.append(("stopped", "the budget is spent; the next run goes on with what was verified longest ago"))
    if report.coverage is not None and not report.quick:
        facts += coverage_facts(report.coverage)
    facts.append(("time", format_seconds(report.seconds)))
    output.facts(f"verify: {found}", facts)


def show_damage(call: Call, damage: BlockDamage) -> None:
    """One damaged thing, and what it touches."""
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
