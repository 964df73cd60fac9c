"""`blockvault unprotect`: stop the protection of items; their points are kept, or deleted if that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.engine.protecting import UnprotectPlan


@click.command("unprotect")
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@click.option("--delete-data", is_flag=True, help="Delete all of their points; they can be brought back for some days.")
@click.option("--reason", metavar="TEXT", default="protection ended", help="Why; kept with deleted points.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, items: tuple[str, ...], delete_data: bool, reason: str, dry_run: bool, yes: bool) -> int | None:
    """Stop the protection of items.

    No more points are taken, and those that are there are kept, whatever the policy says; `blockvault resume ITEM` goes
    on. With --delete-data all points are deleted: `blockvault point undelete` brings one back for the vault's
    soft-delete days. On a terminal the name of each item has to be typed for that.
    """
    from blockvault.cli.confirm import confirm_by_name

    with call.open_vault() as vault, call.job() as monitor:
        plan = vault.plan_unprotect(items, delete_data=delete_data)
        if not dry_run:
            if delete_data:
                question = f"Delete {_counts(plan)} of {', '.join(plan.items)}?"
                confirm_by_name(question, plan.items, yes=yes)
            vault.unprotect(plan, reason=reason, monitor=monitor)
        days = vault.soft_delete_days
    _show(call, plan, delete_data=delete_data, dry_run=dry_run, days=days)
    return None


def _counts(plan: UnprotectPlan) -> str:
    from blockvault.cli.views import counted

    text = counted(len(plan.points), "point")
    if plan.snapshots:
        text += f", and for good {counted(len(plan.snapshots), 'snapshot')} of no point in the vault,"
    return text


def _show(call: Call, plan: UnprotectPlan, *, delete_data: bool, dry_run: bool, days: int) -> None:
    if call.output.as_json:
        fields = {
            "items": plan.items,
            "deleted_points": [info.label for info in plan.points],
            "deleted_snapshots": [record.number for record in plan.snapshots],
            "data_kept": not delete_data,
            "soft_delete_days": days,
            "dry_run": dry_run,
        }
        call.output.document({"message_type": "summary", "schema": "blockvault.unprotect/1", **fields})
        return
    if call.output.quiet:
        return
    would = "would be" if dry_run else "is"
    for name in plan.items:
        kept = "" if delete_data else "; all of its points are kept"
        call.output.line(f"the protection of item '{name}' {would} stopped{kept}")
    if delete_data:
        back = f"for {days} days `blockvault point undelete P` brings one back" if days else "there is no soft delete"
        call.output.line(f"{'would be ' if dry_run else ''}deleted: {_counts(plan).rstrip(',')}; {back}")
