"""What the commands of alerts and channels share: the opened book, and how an alert is shown."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from blockvault.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.model.alert import Alert
    from blockvault.store.alert_book import AlertBook


@contextmanager
def opened_book() -> Iterator[AlertBook]:
    """The book of alerts of this host."""
    from blockvault.config import default_state_dir
    from blockvault.store.alert_book import AlertBook

    with AlertBook(default_state_dir()) as book:
        yield book


def known_alerts() -> list[Alert]:
    """The alerts of this host, the worst first; that nobody looks is one of them. No book is made."""
    from blockvault.config import default_state_dir
    from blockvault.model.alert import Alert, AlertState
    from blockvault.reports.alerts import silence
    from blockvault.store.alert_book import FOLDER

    found: list[Alert] = []
    if os.path.isdir(os.path.join(default_state_dir(), FOLDER)):
        with opened_book() as book:
            found = book.alerts()
    now = utc_now()
    silent = silence(default_state_dir(), now)
    if silent is not None:
        found.append(Alert(silent, silent.since or now, now))
    order = {AlertState.OPEN: 0, AlertState.ACKNOWLEDGED: 1, AlertState.RESOLVED: 2}
    return sorted(found, key=lambda alert: (order[alert.state], -alert.finding.severity.rank, alert.since))


def alert_fields(alert: Alert) -> dict[str, Any]:
    """An alert for `--json`."""
    finding = alert.finding
    return {
        "alert": alert.id,
        "key": alert.key,
        "rule": finding.rule,
        "severity": finding.severity,
        "state": alert.state,
        "since": alert.since,
        "seen": alert.seen,
        "acknowledged": alert.acknowledged,
        "acknowledged_by": alert.by or None,
        "resolved": alert.resolved,
        "reopened": alert.reopened,
        "vault": finding.vault or None,
        "item": finding.item or None,
        "item_id": finding.item_id or None,
        "holds_expiry": alert.holds_expiry,
        "text": finding.text,
        "why": finding.why,
        "do": finding.do,
    }


def alert_lines(alert: Alert) -> list[tuple[str, str]]:
    """An alert for people: what, why, what to do, and since when."""
    from blockvault.cli.render import moment

    finding, now = alert.finding, utc_now()
    lines = [
        (f"{finding.severity}:", f"{finding.text}   [{alert.id}]"),
        ("why:", finding.why),
        ("do:", finding.do),
        ("since:", moment(alert.since, now)),
    ]
    if alert.acknowledged is not None:
        lines.append(("known:", f"acknowledged by {alert.by} at {moment(alert.acknowledged)}"))
    if alert.resolved is not None:
        lines.append(("over:", f"since {moment(alert.resolved, now)}"))
    return lines
