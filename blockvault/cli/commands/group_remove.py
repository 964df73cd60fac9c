"""`blockvault group remove`: end a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("remove")
@click.argument("name", metavar="NAME")
@leaf()
def command(call: Call, name: str) -> int | None:
    """End a group; its items stay.

    Points keep the name of the group that they were taken with.
    """
    with call.open_vault() as vault:
        members = vault.remove_group(name)
    from blockvault.cli.commands.group_list import show

    show(call, name, members, "is ended; these items are in none")
    return None
