"""`blockvault item show`: an item, its disks and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import Item


@click.command("show")
@click.argument("name", metavar="ITEM")
@leaf()
def command(call: Call, name: str) -> int | None:
    """Show an item and its disks."""
    with call.open_vault() as vault:
        item = vault.item(name)
        map_off = vault.map_off(name)
        days = vault.snapshot_days(item)
    show(call, item, days, map_off)
    return None


def show(call: Call, item: Item, snapshot_days: int, map_off: str) -> None:
    """The item, for people or programs. `map_off` says why its changed-block maps are off, if they are."""
    from blockvault.cli.render import moment
    from blockvault.cli.views import item_fields, policy_text
    from blockvault.units import format_size

    if call.output.as_json:
        call.output.document(
            {"schema": "blockvault.item/1", **item_fields(item, snapshot_days), "map_off": map_off or None}
        )
        return
    facts = [("id", item.id), ("registered", moment(item.created)), ("chunk size", format_size(item.chunk_size))]
    facts += [(f"disk {disk.name}", disk.path) for disk in item.disks]
    facts.append(("policy", policy_text(item)))
    days = "none are kept" if snapshot_days == 0 else f"kept {snapshot_days} days"
    facts.append(("snapshots", days))
    facts.append(("snapshots in", item.snapshot_dir or "beside the image where possible, else in the state folder"))
    if map_off:
        facts.append(("map", f"off, every disk is scanned: {map_off}"))
        facts.append(("on again with", f"blockvault snapshot {item.name} --full"))
    if item.comment:
        facts.append(("comment", item.comment))
    call.output.facts(f"item '{item.name}'", facts)
