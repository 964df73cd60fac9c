"""`blockvault item add`: register an item and its disks; no point is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.monitor import Warned


@click.command("add")
@click.argument("name", metavar="NAME")
@click.argument("disks", metavar="[DISK]...", nargs=-1, type=click.Path())
@click.option("--domain", metavar="DOMAIN", help="Take the disks of this libvirt domain.")
@click.option("--chunk-size", metavar="SIZE", help="16K to 4M, a power of two; else the vault's.")
@click.option("--comment", metavar="TEXT", default="", help="A comment.")
@click.option("--shared", is_flag=True, help="Another item of the vault may have one of the disks too.")
@click.option("--as-is", is_flag=True, help="Keep the bytes of each file, also of one that is no whole disk.")
@leaf()
def command(
    call: Call,
    name: str,
    disks: tuple[str, ...],
    domain: str | None,
    chunk_size: str | None,
    comment: str,
    shared: bool,
    as_is: bool,
) -> int | None:
    """Register an item with its disks.

    DISK is a disk image or a block device, named by its file's stem, or vda=PATH to name it yourself. No point is
    taken: that is what `blockvault snapshot NAME` does, or a policy (`blockvault protect NAME --policy P`).
    """
    from blockvault.clock import utc_now
    from blockvault.units import check_chunk_size, parse_size

    chunk_bytes = check_chunk_size(parse_size(chunk_size)) if chunk_size else None
    warned: tuple[Warned, ...] = ()
    if domain is not None:
        from blockvault.discovery import disks_of_domain

        found, warned = disks_of_domain(domain)
        disks = (*found, *disks)
    from blockvault.engine.items import named_disks

    paths = tuple(disk.path for disk in named_disks(disks, ()))
    with call.open_or_make_vault(paths) as vault, call.job() as monitor:
        for each in warned:
            monitor.warn(each.kind, each.message)
        item = vault.add_item(
            name,
            disks,
            chunk_size=chunk_bytes,
            comment=comment,
            shared=shared,
            as_is=as_is,
            monitor=monitor,
            now=utc_now(),
        )
        days = vault.snapshot_days(item)
    from blockvault.cli.commands.item_show import show

    show(call, item, days, "")
    return None
