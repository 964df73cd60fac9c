"""`blockvault point delete`: delete a point; it can be brought back for some days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import PointInfo


@click.command("delete")
@click.argument("point", metavar="P")
@click.option("--reason", metavar="TEXT", default="", help="Why; kept with the point.")
@click.option("--purge", is_flag=True, help="For good: it cannot be brought back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; nothing is changed.")
@leaf()
def command(call: Call, point: str, reason: str, purge: bool, yes: bool, dry_run: bool) -> int | None:
    """Delete a point.

    It is out of the lists at once, and can be brought back with `blockvault point undelete P` for the vault's
    soft-delete days (14, if not said otherwise). `blockvault prune` frees its space after that. A point that is only
    a snapshot has no soft delete.
    """
    from blockvault.cli.confirm import confirm

    with call.open_vault() as vault:
        info = vault.point(point, deleted=purge)
        last = not any(other.item == info.item and other.id != info.id for other in vault.points())
        final = purge or info.point is None or vault.soft_delete_days == 0
        if dry_run:
            _show(call, info, "would be deleted", final=final)
            return None
        if final or last:
            what = f"Delete point {info.label} of item '{info.item}'{' for good' if final else ''}"
            confirm(what + (", the last one of the item?" if last else "?"), yes=yes)
        vault.delete_point(info.id, reason=reason, purge=purge)
        days = vault.soft_delete_days
    if final:
        _show(call, info, "is deleted for good; `blockvault prune` frees its space", final=True)
    else:
        again = f"blockvault point undelete {info.label}{call.vault_flag}"
        _show(call, info, f"is deleted; for {days} days `{again}` brings it back", final=False)
    return None


def _show(call: Call, info: PointInfo, told: str, *, final: bool) -> None:
    from blockvault.cli.views import point_fields

    if call.output.as_json:
        fields = {"schema": "blockvault.point-delete/1", "message_type": "summary", "final": final, "told": told}
        call.output.document({**fields, **point_fields(info)})
    elif not call.output.quiet:
        call.output.line(f"point {info.label} of item '{info.item}' {told}")
