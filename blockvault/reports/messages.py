"""What is told through channels: a message is one JSON document, and the same in plain text.

    {"schema": "blockvault.notification/1", "id": "...", "created": "...", "host": "...", "events": ["alert.critical"],
     "subject": "...", "alerts": [{"alert": "a-...", "state": ..., "severity": ..., "text": ..., ...}],
     "summary": null, "audit": {"line": 12, "hash": "..."}}

All alerts of one look go into one message, so that a full disk under a thousand items is one message, not a thousand.
`audit` has the newest line of the audit log: kept by the receiver it proves later that nothing was cut off its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from blockvault.clock import to_text
from blockvault.model.alert import Alert, Outgoing, Severity

if TYPE_CHECKING:
    from blockvault.config.settings import Channel

SCHEMA = "blockvault.notification/1"
ALERTS_MOST = 50  # of one message; the rest is counted
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ID_SERIAL_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an alert: `opened`, `worse` or `resolved`."""

    what: str
    alert: Alert

    @property
    def names(self) -> tuple[str, ...]:
        """What channels choose by."""
        if self.what == "resolved":
            return ("alert.resolved",)
        names = (f"alert.{self.alert.finding.severity}",)
        return (*names, "job.failed") if self.alert.finding.rule == "job-failed" else names


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks: this host's name, and the newest line of its audit log (number and hash)."""

    host: str
    audit: tuple[int, str]


def wanted_events(channel: Channel) -> frozenset[str]:
    """The events that a channel is told of; a ping says alive or not, so it fails by what is critical."""
    from blockvault.config.settings import EVENTS

    if channel.events:
        return frozenset(channel.events)
    return frozenset(("alert.critical",)) if channel.kind == "ping" else frozenset(EVENTS)


def messages(channels: Iterable[Channel], events: Sequence[Event], speaker: Speaker, now: datetime) -> list[Outgoing]:
    """One message a channel, of all events that it wants to hear of."""
    made = []
    for channel in channels:
        wanted = wanted_events(channel)
        chosen = [event for event in events if wanted.intersection(event.names)]
        if chosen:
            names = sorted({name for event in chosen for name in event.names} & wanted)
            made.append(_outgoing(channel, names, subject_of(chosen), speaker, now, events=chosen))
    return made


def summary_messages(
    channels: Iterable[Channel], summary: dict[str, Any], speaker: Speaker, now: datetime
) -> list[Outgoing]:
    """The daily summary for channels that want it; a ping has no use for it."""
    return [
        _outgoing(channel, ["summary.daily"], summary_subject(summary), speaker, now, summary=summary)
        for channel in channels
        if channel.kind != "ping" and "summary.daily" in wanted_events(channel)
    ]


def check_message(channel: Channel, speaker: Speaker, now: datetime) -> Outgoing:
    """What `notify test` sends."""
    return _outgoing(channel, ["test"], f"a test of channel '{channel.name}'", speaker, now)


def _outgoing(
    channel: Channel,
    names: Sequence[str],
    subject: str,
    speaker: Speaker,
    now: datetime,
    *,
    events: Sequence[Event] = (),
    summary: dict[str, Any] | None = None,
) -> Outgoing:
    number = f"{int(now.timestamp() * 1000):013d}-{_random()}"
    document = {
        "schema": SCHEMA,
        "id": number,
        "created": to_text(now),
        "host": speaker.host,
        "events": list(names),
        "subject": plain(subject),
        "alerts": [_fields(event) for event in events[:ALERTS_MOST]],
        "alerts_left_out": max(0, len(events) - ALERTS_MOST),
        "summary": summary,
        "audit": {"line": speaker.audit[0], "hash": speaker.audit[1]},
    }
    return Outgoing(number, channel.name, now, msgspec.json.encode(document).decode())


def _random() -> str:
    import secrets

    return secrets.token_hex(_ID_SERIAL_DIGITS)


def _fields(event: Event) -> dict[str, Any]:
    alert, finding = event.alert, event.alert.finding
    return {
        "alert": alert.id,
        "key": plain(alert.key),
        "what": event.what,
        "rule": finding.rule,
        "severity": finding.severity,
        "state": alert.state,
        "since": to_text(alert.since),
        "resolved": to_text(alert.resolved) if alert.resolved else None,
        "vault": plain(finding.vault) or None,
        "item": plain(finding.item) or None,
        "text": plain(finding.text),
        "why": plain(finding.why),
        "do": plain(finding.do),
    }


def subject_of(events: Sequence[Event]) -> str:
    """One line for all: the worst of them, and how many more there are."""
    worst = max(events, key=lambda event: (event.what != "resolved", event.alert.finding.severity.rank))
    finding = worst.alert.finding
    lead = "over" if worst.what == "resolved" else finding.severity.value
    more = len(events) - 1
    return f"{lead}: {finding.text}" + (f" (and {more} more)" if more else "")


def summary_subject(summary: dict[str, Any]) -> str:
    """One line for a day."""
    jobs = summary["jobs"]
    bad = jobs.get("failed", 0) + jobs.get("completed-with-warning", 0)
    told = f"{sum(jobs.values())} jobs, {bad} of them failed or with a warning" if bad else f"{sum(jobs.values())} jobs"
    count = len(summary["open_alerts"])
    return f"daily summary: {told}, {count} open alert{'s' * (count != 1)}"


def plain_text(document: dict[str, Any]) -> str:
    """The message for people who read mail: each alert as three lines, then how to check the audit log."""
    lines = []
    for alert in document["alerts"]:
        label = "over:" if alert["what"] == "resolved" else f"{alert['severity']}:"
        lines += [f"{label:<9} {alert['text']}   [{alert['alert']}]", f"why:      {alert['why']}"]
        lines += [f"do:       {alert['do']}"] if alert["what"] != "resolved" else []
        lines += [f"since:    {_minute(alert['since'])}", ""]
    if document["alerts_left_out"]:
        lines += [f"and {document['alerts_left_out']} more: see `blockvault alert list`", ""]
    summary = document["summary"]
    if summary is not None:
        jobs = ", ".join(f"{count} {state}" for state, count in sorted(summary["jobs"].items())) or "none"
        lines += [f"jobs of the last 24 hours: {jobs}", ""]
        lines += [f"vault '{vault['vault']}': {vault['text']}" for vault in summary["vaults"]]
        lines += ["", "open alerts:" if summary["open_alerts"] else "no open alerts"]
        lines += [f"  {alert['severity']}: {alert['text']}" for alert in summary["open_alerts"]]
        lines.append("")
    if document["events"] == ["test"]:
        lines += ["This is a test: nothing is wrong.", ""]
    audit = document["audit"]
    lines += [
        f"host:     {document['host']}",
        f"audit:    line {audit['line']}, hash {audit['hash']}",
        "          (kept here it proves that nothing was cut off: blockvault audit verify --expect HASH)",
    ]
    return "\n".join(lines) + "\n"


def is_failure(document: dict[str, Any]) -> bool:
    """Whether a message tells of something that is wrong now."""
    return any(alert["what"] != "resolved" for alert in document["alerts"])


def _minute(text: str) -> str:
    return text[:16].replace("T", " ") + " UTC"


def plain(text: str) -> str:
    """One line without anything that a terminal, a mail program or a header would obey; names are anybody's."""
    return _CONTROLS.sub("?", text)


def worst_of(alerts: Iterable[Alert]) -> Severity | None:
    """The worst severity of some alerts."""
    return max((alert.finding.severity for alert in alerts), key=lambda each: each.rank, default=None)
