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
@click.option("--add-disk", "add_disks", metavar="PATH|NAME=PATH", multiple=True, help="A further disk.")
@click.option("--remove-disk", "remove_disks", metavar="NAME", multiple=True, help="A disk that it has no more.")
@click.option("--shared", is_flag=True, help="A disk that is added may be another item's too.")
@click.option(
    "--as-is", is_flag=True, help="Keep the bytes of a file that is added, also of one that is no whole disk."
)
@click.option("--group", metavar="NAME", help="Items of one group are captured at one instant; '' for none.")
@click.option("--agent", metavar="SOCKET", help="The socket of its QEMU guest agent; '' for none.")
@click.option(
    "--freeze-mount",
    "freeze_mounts",
    metavar="PATH",
    multiple=True,
    help="Where a file system of its disks is mounted here, to be frozen; '' for none.",
)
@click.option("--hook-timeout", "hook_seconds", type=click.IntRange(0, 3600), metavar="SECONDS",
              help="How long one of its scripts may run; 0 for the default.")  # fmt: skip
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
    add_disks: tuple[str, ...],
    remove_disks: tuple[str, ...],
    shared: bool,
    as_is: bool,
    group: str | None,
    agent: str | None,
    freeze_mounts: tuple[str, ...],
    hook_seconds: int | None,
) -> int | None:
    """Change an item.

    What is not named stays as it is. Points that exist keep the disks that they were taken with; the next one has those
    that the item has then.
    """
    named = {
        "new_name": new_name,
        "snapshot_days": snapshot_days,
        "snapshot_dir": snapshot_dir,
        "comment": comment,
        "disks": parse_pairs(disks, "disk") if disks else None,
        "add_disks": add_disks or None,
        "remove_disks": remove_disks or None,
        "group": group,
        "agent_socket": agent,
        "freeze_mounts": tuple(mount for mount in freeze_mounts if mount) if freeze_mounts else None,
        "hook_seconds": hook_seconds,
    }
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --name, --snapshot-days, --disk, --add-disk, ..., or --comment")
    with call.open_vault() as vault, call.job() as monitor:
        item = vault.set_item(name, **changes, shared=shared, as_is=as_is, monitor=monitor)
        map_off = vault.map_off(item.name)
        days = vault.snapshot_days(item)
        agent_state = vault.agent_state(item)
    from blockvault.cli.commands.item_show import show

    show(call, item, days, map_off, agent_state)
    return None
