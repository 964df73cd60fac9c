"""`blockvault notify remove`: a channel is told no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("remove")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf(vault=False)
def command(call: Call, name: str, dry_run: bool, yes: bool) -> int | None:
    """Remove a channel that `notify add` made.

    Nobody is told through it any more; what waits to be sent through it is dropped.
    """
    from blockvault.cli.alerts import opened_book
    from blockvault.cli.confirm import confirm
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.reports.notify import channel_named, remove_channel
    from blockvault.store.audit_log import AuditLog

    state = default_state_dir()
    channel = channel_named(state, name)
    if not dry_run:
        confirm(f"Remove channel '{name}'? Nobody is told through it any more.", yes=yes)
        with AuditLog(state).acting("notify.remove", {"channel": name, "kind": channel.kind}):
            remove_channel(state, name, utc_now())
        with opened_book() as book:
            for message in book.waiting(name):
                book.sent(message)
    if call.output.as_json:
        call.output.document(
            {"schema": "blockvault.channel/1", "channel": name, "kind": channel.kind, "removed": not dry_run}
        )
    elif not call.output.quiet:
        call.output.line(f"channel '{name}' {'would be' if dry_run else 'is'} removed")
    return None
