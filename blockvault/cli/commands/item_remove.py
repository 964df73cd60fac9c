"""`blockvault item remove`: take an item without points out of the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("remove")
@click.argument("name", metavar="ITEM")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say whether it could be removed; nothing is changed.")
@leaf()
def command(call: Call, name: str, yes: bool, dry_run: bool) -> int | None:
    """Remove an item that has no points.

    Its disks are not touched. An item with points is not removed: `blockvault unprotect ITEM` stops its protection and
    keeps them, with --delete-data they are deleted.
    """
    from blockvault.cli.confirm import confirm

    with call.open_vault() as vault:
        item = vault.item(name)
        vault.check_removable(item)
        if not dry_run:
            confirm(f"Remove item '{name}', which has no points, from the vault '{vault.name}'?", yes=yes)
            vault.remove_item(name)
    told = "could be removed" if dry_run else "is removed; its disks are as they were"
    if call.output.as_json:
        fields = {"schema": "blockvault.item-remove/1", "item": item.name, "id": item.id, "removed": not dry_run}
        call.output.document(fields)
    elif not call.output.quiet:
        call.output.line(f"item '{item.name}' {told}")
    return None
