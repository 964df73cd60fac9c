"""`blockvault group set`: change which items a group has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("set")
@click.argument("name", metavar="NAME")
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@leaf()
def command(call: Call, name: str, items: tuple[str, ...]) -> int | None:
    """Change which items a group has.

    It has exactly the items named from then on; others that were in it are in none.
    """
    with call.open_vault() as vault:
        members = vault.set_group(name, list(items))
    from blockvault.cli.commands.group_list import show

    show(call, name, members, "has these items")
    return None
