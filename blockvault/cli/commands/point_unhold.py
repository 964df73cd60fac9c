"""`blockvault point unhold`: lift a hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("unhold")
@click.argument("point", metavar="P")
@leaf()
def command(call: Call, point: str) -> int | None:
    """Lift a hold.

    The rules apply to the point again. If it was deleted, its soft-delete days begin again now.
    """
    with call.open_vault() as vault:
        info = vault.unhold(point)
    from blockvault.cli.views import show_marked

    show_marked(call, info, "is not held any more")
    return None
