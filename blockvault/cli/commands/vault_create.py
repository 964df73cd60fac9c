"""`blockvault vault create`: make a vault, encrypted unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("create")
@click.argument("name")
@click.option("--path", metavar="FOLDER", help="Where to make it; else in the state folder.")
@click.option("--chunk-size", metavar="SIZE", default="64K", show_default=True, help="16K to 4M, a power of two.")
@click.option("--soft-delete-days", type=click.IntRange(0, 3650), default=14, show_default=True,
              help="How long a deleted point can be brought back; 0: not at all.")  # fmt: skip
@click.option("--no-encryption", is_flag=True, help="Store blocks and records readable.")
@leaf()
def command(
    call: Call, name: str, path: str | None, chunk_size: str, soft_delete_days: int, no_encryption: bool
) -> int | None:
    """Make a vault.

    NAME has 2 to 50 letters, digits and hyphens and begins with a letter. The passphrase is asked for twice, or comes
    from $BLOCKVAULT_PASSWORD, $BLOCKVAULT_PASSWORD_FILE, $BLOCKVAULT_PASSWORD_COMMAND or systemd's credentials; with
    --key-file the file's bytes are the key.
    """
    from blockvault.cli.passphrase import ask_secret
    from blockvault.ids import check_vault_name
    from blockvault.units import check_chunk_size, parse_size
    from blockvault.vault import Vault

    check_vault_name(name)  # before anyone is asked for a passphrase
    chunk_bytes = check_chunk_size(parse_size(chunk_size))
    secret = None
    if not no_encryption:
        secret = call.secret(name) or ask_secret(name, new=True)
    elif call.key_file:
        raise click.UsageError("--no-encryption and --key-file contradict each other")
    with Vault.create(
        name, path=path, chunk_size=chunk_bytes, secret=secret, soft_delete_days=soft_delete_days
    ) as vault:
        if call.output.as_json:
            call.output.document(
                {
                    "schema": "blockvault.vault/1",
                    "vault": vault.name,
                    "id": vault.id,
                    "path": vault.path,
                    "encrypted": vault.encrypted,
                    "chunk_bytes": vault.chunk_size,
                    "soft_delete_days": vault.soft_delete_days,
                    "format_version": vault.format_version,
                    "created": vault.created,
                }
            )
            return None
        call.output.facts(
            f"vault '{vault.name}' is made",
            [
                ("path", vault.path),
                ("encrypted", "yes" if vault.encrypted else "no"),
                ("use it with", f"blockvault snapshot DISK --vault {path or vault.name}"),
            ],
        )
    if secret is not None:
        what = "key file" if secret.key_file else "passphrase"
        call.output.note(f"keep the {what} safe: without it nothing in this vault can be read, by anyone")
    return None
