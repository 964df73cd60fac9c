"""`blockvault group create`: make a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("create")
@click.argument("name", metavar="NAME")
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@leaf()
def command(call: Call, name: str, items: tuple[str, ...]) -> int | None:
    """Make a group of items.

    Its items are captured at one instant by `blockvault snapshot @NAME`. An item is in one group at most.
    """
    with call.open_vault() as vault:
        members = vault.create_group(name, list(items))
    from blockvault.cli.commands.group_list import show

    show(call, name, members, "is made")
    return None
