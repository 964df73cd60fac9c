"""`blockvault group list`: which items are captured at one instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import Item


@click.command("list")
@leaf()
def command(call: Call) -> int | None:
    """List groups and their items."""
    with call.open_vault() as vault:
        groups = vault.groups()
    if call.output.as_json:
        fields = [{"group": name, "items": [item.name for item in items]} for name, items in groups.items()]
        call.output.document({"schema": "blockvault.groups/1", "groups": fields})
        return None
    if not groups:
        call.output.note("no groups yet; `blockvault group create NAME ITEM...` makes one")
        return None
    rows = [(name, str(len(items)), ", ".join(item.name for item in items)) for name, items in groups.items()]
    call.output.table(("group", ">items", "which"), rows)
    return None


def show(call: Call, name: str, items: tuple[Item, ...], told: str) -> None:
    """A group after it was changed."""
    names = [item.name for item in items]
    if call.output.as_json:
        call.output.document({"schema": "blockvault.group/1", "group": name, "items": names})
    elif not call.output.quiet:
        call.output.line(f"group '{name}' {told}: {', '.join(names)}")
