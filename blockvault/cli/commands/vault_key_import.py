"""`blockvault vault key import`: back into a vault whose passphrases or key slots are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--new-key-file", metavar="FILE", help="The new key: a file of at least 32 random bytes.")
@click.option("--label", metavar="TEXT", default="", help="What to call the slot; anyone with the folder can read it.")
@leaf()
def command(call: Call, file: str, new_key_file: str | None, label: str) -> int | None:
    """Get back in with the paper key, and set a new passphrase.

    FILE has the paper key, typed or as it was written; `-` reads it from standard input. It opens the vault even when
    its key slots are damaged or gone. The new passphrase is asked for twice, or comes from $BLOCKVAULT_NEW_PASSWORD,
    its _FILE or _COMMAND, or --new-key-file.
    """
    from blockvault.cli.commands.vault_key_add import show_slot
    from blockvault.clock import utc_now
    from blockvault.format.paper import read_paper
    from blockvault.model import Secret
    from blockvault.vault import Vault

    key = Secret(master_key=read_paper(_read(file)))
    with Vault.open(call.vault_name, secret=key) as vault:
        vault.keys.slots()
        slot = vault.keys.add(call.new_secret(new_key_file), label=label, now=utc_now())
        show_slot(call, vault, slot, "is added")
    return None


def _read(file: str) -> str:
    from blockvault.errors import InvalidInputError

    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read(64 << 10)
    except OSError as error:
        raise InvalidInputError(
            "input.paper-key", f"the paper key {file} cannot be read", why=error.strerror, do="check the path"
        ) from None
    return data.decode(errors="replace")
