"""`blockvault vault key add`: one more way into an encrypted vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import KeySlotInfo
    from blockvault.vault import Vault


@click.command("add")
@click.option("--new-key-file", metavar="FILE", help="The new key: a file of at least 32 random bytes.")
@click.option("--label", metavar="TEXT", default="", help="What to call the slot; anyone with the folder can read it.")
@leaf()
def command(call: Call, new_key_file: str | None, label: str) -> int | None:
    """Add a passphrase or key file that opens the vault.

    The vault is opened as always, with a key that it has. The new passphrase is asked for twice, or comes from
    $BLOCKVAULT_NEW_PASSWORD, $BLOCKVAULT_NEW_PASSWORD_FILE, $BLOCKVAULT_NEW_PASSWORD_COMMAND or systemd's credential
    blockvault.new-password; with --new-key-file the file's bytes are the new key.
    """
    from blockvault.clock import utc_now

    with call.open_vault() as vault:
        vault.keys.slots()  # one without encryption says so before anyone is asked
        slot = vault.keys.add(call.new_secret(new_key_file), label=label, now=utc_now())
        show_slot(call, vault, slot, "is added")
    return None


def show_slot(call: Call, vault: Vault, slot: KeySlotInfo, done: str) -> None:
    """A slot that was made or removed."""
    from blockvault.cli.commands.vault_key_list import costs_text

    if call.output.as_json:
        call.output.document({"schema": "blockvault.key/1", "vault": vault.name, "id": vault.id, "key": slot})
        return
    facts = [("kind", slot.kind or "not readable"), ("label", slot.label or "-"), ("costs", costs_text(slot))]
    call.output.facts(f"key slot {slot.slot} of the vault '{vault.name}' {done}", facts)
