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
        items = [(item, vault.snapshot_days(item)) for item in vault.items()]
    from blockvault.cli.views import item_fields, policy_text

    if call.output.as_json:
        call.output.document({"schema": "blockvault.items/1", "items": [item_fields(*each) for each in items]})
        return None
    if not items:
        call.output.note("no items yet; `blockvault snapshot DISK` registers one")
        return None
    rows = [
        (item.name, str(len(item.disks)), policy_text(item), str(days), ", ".join(disk.path for disk in item.disks))
        for item, days in items
    ]
    call.output.table(("item", ">disks", "policy", ">snapshot days", "from"), rows)
    return None
