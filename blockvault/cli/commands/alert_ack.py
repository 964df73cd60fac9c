"""`blockvault alert ack`: say that an alert is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("ack")
@click.argument("alert", metavar="ALERT")
@leaf(vault=False)
def command(call: Call, alert: str) -> int | None:
    """Say that an alert is known.

    It is told no more unless it gets worse, and one that held the expiry of an item's points holds it no more. It is
    resolved when it is so no more.
    """
    from blockvault.cli.alerts import alert_fields, opened_book
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.reports.alerts import acknowledge, find_alert
    from blockvault.store.audit_log import AuditLog, this_user

    who = this_user()
    name = who.login or str(who.uid)
    by = f"{name} (by sudo from {who.sudo_user})" if who.sudo_user else name
    with opened_book() as book:
        found = find_alert(book.alerts(), alert)
        details = {"alert": found.id, "key": found.key, "item": found.finding.item, "held_expiry": found.holds_expiry}
        with AuditLog(default_state_dir()).acting("alert.ack", details, vault=found.finding.vault):
            done = acknowledge(book, found.key, by, utc_now())
    if call.output.as_json:
        call.output.document({"schema": "blockvault.alert/1", **alert_fields(done)})
    elif not call.output.quiet:
        free = f"; points of item '{done.finding.item}' may expire again" if found.holds_expiry else ""
        call.output.line(f"alert {done.id} is acknowledged{free}")
    return None
