"""`blockvault notify list`: who is told, and what waits to be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model.alert import Outgoing


@click.command("list")
@leaf(vault=False)
def command(call: Call) -> int | None:
    """List the channels through which people are told.

    Addresses and secrets are not shown. Ends with 3 if a channel cannot be used, or has messages that wait.
    """
    from blockvault.cli.alerts import opened_book
    from blockvault.config import default_state_dir
    from blockvault.config.settings import EVENTS, REDACTED
    from blockvault.reports.messages import wanted_events
    from blockvault.reports.notify import known_channels
    from blockvault.store.alert_book import FOLDER

    known = known_channels(default_state_dir())
    waiting: dict[str, list[Outgoing]] = {}
    if os.path.isdir(os.path.join(default_state_dir(), FOLDER)):
        with opened_book() as book:
            for message in book.waiting():
                waiting.setdefault(message.channel, []).append(message)
    rows, fields = [], []
    for each in known:
        channel, held = each.channel, waiting.get(each.channel.name, [])
        to = ", ".join(channel.to) if channel.kind == "smtp" else REDACTED
        events = sorted(wanted_events(channel))
        problem = each.problem or (held[0].problem if held else "")
        told = "everything" if len(events) == len(EVENTS) else ", ".join(events)
        rows.append((channel.name, channel.kind, to, told, str(len(held)), problem or "-"))
        fields.append(
            {
                "channel": channel.name,
                "kind": channel.kind,
                "to": list(channel.to),
                "events": events,
                "signed": channel.kind == "webhook" and bool(channel.secret_file),
                "source": each.source,
                "waiting": len(held),
                "waiting_since": held[0].created if held else None,
                "problem": problem or None,
            }
        )
    if call.output.as_json:
        call.output.document({"schema": "blockvault.channels/1", "channels": fields})
    elif known:
        call.output.table(("channel", "kind", "to", "told of", ">waiting", "problem"), rows)
    else:
        call.output.note("nobody is told: make a channel with `blockvault notify add`")
    return ExitCode.WARNING if any(each.problem for each in known) or waiting else None
