"""`blockvault transfer`: phase 2 for snapshots that still wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("transfer")
@click.argument("item", required=False)
@click.option("--level", type=click.IntRange(1, 19), default=1, show_default=True, help="Compression level.")
@leaf()
def command(call: Call, item: str | None, level: int) -> int | None:
    """Move snapshots that still wait into the vault.

    All of them, or that of ITEM. `snapshot` does this by itself unless told --snapshot-only.
    """
    with call.open_vault() as vault, call.job() as monitor:
        results = vault.transfer(item, level=level, monitor=monitor)
    from blockvault.cli.views import snapshot_facts, snapshot_fields

    restores = [f"blockvault restore --point {result.number}{call.vault_flag}" for result in results]
    for result in results:
        call.warn(result.warnings)
    if call.output.as_json:
        fields = [snapshot_fields(*pair) for pair in zip(results, restores, strict=True)]
        call.output.document({"message_type": "summary", "schema": "blockvault.transfer/1", "transfers": fields})
        return None
    if not results:
        call.output.note("nothing waits: every snapshot is in the vault")
    if not call.output.quiet:
        for result, restore in zip(results, restores, strict=True):
            title = f"point {result.number} of item '{result.item}': {result.job_state}"
            call.output.facts(title, snapshot_facts(result, restore))
    return None
