"""`blockvault point undelete`: bring a deleted point back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("undelete")
@click.argument("point", metavar="P")
@leaf()
def command(call: Call, point: str) -> int | None:
    """Bring a deleted point back.

    Possible until its soft-delete days are over and `blockvault prune` has run; `blockvault points --deleted` lists
    what can be brought back.
    """
    with call.open_vault() as vault:
        info = vault.undelete_point(point)
    from blockvault.cli.views import show_marked

    show_marked(call, info, "is back")
    return None
