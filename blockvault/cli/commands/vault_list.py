"""`blockvault vault list`: the vaults that this machine's state folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("list")
@leaf(vault=False)
def command(call: Call) -> int | None:
    """List the vaults of this machine."""
    from blockvault.vault import Vault

    vaults = Vault.known()
    if call.output.as_json:
        call.output.document({"schema": "blockvault.vaults/1", "vaults": vaults})
        return None
    if not vaults:
        call.output.note("no vault yet; `blockvault snapshot DISK` makes the default one")
        return None
    rows = [(vault.name, "yes" if vault.encrypted else "no", vault.error or "good", vault.path) for vault in vaults]
    call.output.table(("vault", "encrypted", "state", "path"), rows)
    return None
