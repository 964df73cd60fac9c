"""`blockvault item list`: what a vault protects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("list")
@leaf()
def command(call: Call) -> int | None:
    """List items."""
    with call.open_vault() as vault:
        items = vault.items()
    from blockvault.cli.views import item_fields

    if call.output.as_json:
        call.output.document({"schema": "blockvault.items/1", "items": [item_fields(item) for item in items]})
        return None
    if not items:
        call.output.note("no items yet; `blockvault snapshot DISK` registers one")
        return None
    rows = [
        (item.name, str(len(item.disks)), str(item.snapshot_days), ", ".join(disk.path for disk in item.disks))
        for item in items
    ]
    call.output.table(("item", ">disks", ">snapshot days", "from"), rows)
    return None
