"""`blockvault vault set`: change a vault's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("set")
@click.option("--soft-delete-days", type=click.IntRange(0, 3650), required=True,
              help="How long a deleted point can be brought back; 0: not at all.")  # fmt: skip
@leaf()
def command(call: Call, soft_delete_days: int) -> int | None:
    """Change a vault's settings.

    Points that are deleted already keep the date until which they can be brought back.
    """
    with call.open_vault() as vault:
        vault.set_soft_delete_days(soft_delete_days)
        name = vault.name
    if call.output.as_json:
        fields = {"schema": "blockvault.vault-set/1", "vault": name, "soft_delete_days": soft_delete_days}
        call.output.document(fields)
    elif not call.output.quiet:
        call.output.line(f"vault '{name}': deleted points can be brought back for {soft_delete_days} days")
    return None
