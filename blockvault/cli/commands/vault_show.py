"""`blockvault vault show`: a vault's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("show")
@click.argument("name", metavar="NAME|FOLDER", required=False)
@leaf()
def command(call: Call, name: str | None) -> int | None:
    """Show a vault's settings.

    That of NAME, or the one that --vault names.
    """
    from blockvault.cli.views import coverage_facts, coverage_fields

    if name is not None:
        if call.vault_option not in (None, name):
            raise click.UsageError("the vault is named twice, and differently")
        call.vault_option = name
    with call.open_vault() as vault:
        items, points, coverage = vault.items(), vault.points(), vault.coverage()
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
                    "items": len(items),
                    "points": len(points),
                    "verified": coverage_fields(coverage),
                }
            )
            return None
        from blockvault.cli.render import moment
        from blockvault.units import format_size

        call.output.facts(
            f"vault '{vault.name}'",
            [
                ("path", vault.path),
                ("id", vault.id),
                ("made", moment(vault.created)),
                ("encrypted", "yes" if vault.encrypted else "no"),
                ("chunk size", format_size(vault.chunk_size)),
                ("soft delete", f"{vault.soft_delete_days} days"),
                ("format version", str(vault.format_version)),
                ("items", str(len(items))),
                ("points", str(len(points))),
                *coverage_facts(coverage),
            ],
        )
    return None
