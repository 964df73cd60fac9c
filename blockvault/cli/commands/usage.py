"""`blockvault usage`: where the space goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("usage")
@click.option(
    "--by", type=click.Choice(["item", "tier"]), default="item", show_default=True, help="What a row stands for."
)
@leaf()
def command(call: Call, by: str) -> int | None:
    """Show where the space goes.

    `stored` counts what an item's points brought in; blocks that it shares with others are counted where they came
    first.
    """
    with call.open_vault() as vault:
        report = vault.usage(by=by)
    from blockvault.units import format_size

    if call.output.as_json:
        fields = {name: getattr(report, name) for name in report.__dataclass_fields__ if name != "rows"}
        call.output.document({"schema": "blockvault.usage/1", **fields, "by": by, "rows": report.rows})
        return None
    call.output.facts(
        f"vault '{report.vault}' in {report.path}",
        [
            ("vault", format_size(report.vault_bytes)),
            ("  packs", format_size(report.pack_bytes)),
            ("  records", format_size(report.record_bytes)),
            ("  LMDB", format_size(report.lmdb_bytes)),
            ("snapshots", format_size(report.snapshot_bytes)),
            ("free", format_size(report.free_bytes)),
        ],
    )
    if report.rows:
        call.output.line()
        rows = [
            (
                row.name,
                str(row.points),
                format_size(row.logical_bytes),
                format_size(row.stored_bytes),
                format_size(row.snapshot_bytes),
            )
            for row in report.rows
        ]
        call.output.table((by, ">points", ">disk sizes", ">stored", ">snapshots"), rows)
    return None
