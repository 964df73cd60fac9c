"""`blockvault item set`: change an item's name and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf, parse_pairs

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("set")
@click.argument("name", metavar="ITEM")
@click.option("--name", "new_name", metavar="NEW", help="Another name; its points go with it.")
@click.option("--snapshot-days", type=click.IntRange(0, 30), help="Days to keep snapshots; 0 keeps none.")
@click.option("--snapshot-dir", metavar="FOLDER", help="Where its snapshots lie; '' lets it be chosen.")
@click.option("--disk", "disks", metavar="NAME=PATH", multiple=True, help="The new path of a disk that was moved.")
@click.option("--comment", metavar="TEXT", help="A comment.")
@leaf()
def command(
    call: Call,
    name: str,
    new_name: str | None,
    snapshot_days: int | None,
    snapshot_dir: str | None,
    comment: str | None,
    disks: tuple[str, ...],
) -> int | None:
    """Change an item.

    What is not named stays as it is. Points that exist keep what they were taken with.
    """
    named = {
        "new_name": new_name,
        "snapshot_days": snapshot_days,
        "snapshot_dir": snapshot_dir,
        "comment": comment,
        "disks": parse_pairs(disks, "disk") if disks else None,
    }
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --name, --snapshot-days, --snapshot-dir, --disk or --comment")
    with call.open_vault() as vault:
        item = vault.set_item(name, **changes)
        map_off = vault.map_off(item.name)
        days = vault.snapshot_days(item)
    from blockvault.cli.commands.item_show import show

    show(call, item, days, map_off)
    return None
