"""`blockvault notify test`: send a message through a channel now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("test")
@click.argument("name")
@leaf(vault=False)
def command(call: Call, name: str) -> int | None:
    """Send a test message through a channel.

    At once, without the queue: it arrives, or the reason why not is told, within half a minute.
    """
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.errors import TransportError
    from blockvault.reports.alerts import speaker_of
    from blockvault.reports.channels import deliver
    from blockvault.reports.messages import check_message
    from blockvault.reports.notify import channel_named

    state = default_state_dir()
    channel = channel_named(state, name)
    message = check_message(channel, speaker_of(state), utc_now())
    try:
        deliver(channel, message, utc_now())
    except TransportError as error:
        error.do = "check the address and what listens there, then run it again"
        raise
    if call.output.as_json:
        call.output.document({"schema": "blockvault.channel/1", "channel": name, "kind": channel.kind, "sent": True})
    elif not call.output.quiet:
        call.output.line(f"channel '{name}' has taken a message")
    return None
