"""`blockvault vault key remove`: one way less into an encrypted vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("remove")
@click.argument("slot", type=click.IntRange(0), metavar="SLOT")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, slot: int, dry_run: bool, yes: bool) -> int | None:
    """Remove a key slot: its passphrase or key file opens no more.

    SLOT is a number of `blockvault vault key list`. The last slot stays. The master key stays the same: whoever kept
    a copy of the slot, or a paper key, can still open the vault with it.
    """
    from blockvault.cli.commands.vault_key_add import show_slot
    from blockvault.cli.confirm import confirm

    with call.open_vault() as vault:
        found = vault.keys.remove(slot, dry_run=True)
        if not dry_run:
            what = f"slot {slot} ({found.label or found.kind or 'not readable'})"
            confirm(f"Remove key {what} of the vault '{vault.name}'?", yes=yes)
            vault.keys.remove(slot)
        show_slot(call, vault, found, "would be removed" if dry_run else "is removed")
        if found.opened:
            call.output.note("it is the slot that opened the vault just now")
    return None
