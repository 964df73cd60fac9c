"""`blockvault vault key rotate`: a new data key for what is written from now on, or a new passphrase for a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("rotate")
@click.option("--slot", type=click.IntRange(0), metavar="SLOT", help="Give this slot a new passphrase or key file.")
@click.option("--new-key-file", metavar="FILE", help="With --slot, the new key: at least 32 random bytes.")
@click.option("--label", metavar="TEXT", help="With --slot, another label; else the old one goes over.")
@leaf()
def command(call: Call, slot: int | None, new_key_file: str | None, label: str | None) -> int | None:
    """Begin a new data key, or give a slot a new passphrase.

    Without --slot: what commands write from now on is encrypted under a new data key. Nothing is encrypted again, all
    points stay readable, passphrases stay as they are.

    With --slot: a new slot is added, then the old one is removed. The new passphrase is asked for twice, or comes
    from $BLOCKVAULT_NEW_PASSWORD, its _FILE or _COMMAND, or --new-key-file. The master key stays the same: whoever
    kept a copy of the old slot can still open it with the old passphrase.
    """
    from blockvault.clock import utc_now

    if slot is None and (new_key_file is not None or label is not None):
        raise click.UsageError("--new-key-file and --label need --slot")
    with call.open_vault() as vault:
        if slot is not None:
            from blockvault.cli.commands.vault_key_add import show_slot

            vault.keys.slot(slot)  # before anyone is asked
            made = vault.keys.replace(slot, call.new_secret(new_key_file), label=label, now=utc_now())
            show_slot(call, vault, made, f"takes the place of slot {slot}")
            return None
        epochs = vault.keys.rotate(now=utc_now())
        if call.output.as_json:
            fields = {"vault": vault.name, "id": vault.id, "epochs": epochs}
            call.output.document({"schema": "blockvault.key-epochs/1", **fields})
            return None
        call.output.facts(f"the vault '{vault.name}' has a new data key", [("data keys", str(epochs))])
        call.output.note("processes that have the vault open go on with the one before until they open it again")
    return None
