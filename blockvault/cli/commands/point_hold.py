"""`blockvault point hold`: keep a point whatever the rules say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("hold")
@click.argument("point", metavar="P")
@click.option("--reason", metavar="TEXT", default="", help="Why; shown with the point.")
@leaf()
def command(call: Call, point: str, reason: str) -> int | None:
    """Keep a point whatever the rules say.

    Until `blockvault point unhold P` it is neither expired nor deleted.
    """
    with call.open_vault() as vault:
        info = vault.hold(point, reason=reason)
    from blockvault.cli.views import show_marked

    show_marked(call, info, "is held: no rule ends it")
    return None
