"""An alert: something that is wrong, or was, as people are told of it; and what rules go by.

Invariants:
- `key` is the same as long as it is the same trouble: `rpo-missed/<item>`, so that it is told once.
- Every alert has the three lines of an error: what, why, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from blake3 import blake3

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


class Severity(StrEnum):
    """How bad it is. `CRITICAL`: work is being lost, or would be if something happened now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return list(Severity).index(self)


class AlertState(StrEnum):
    """What became of an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"  # somebody has seen it; it is told no more, unless it gets worse
    RESOLVED = "resolved"  # it is so no more


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule finds at one moment.

    Args:
        rule: the rule's name, the first part of the key.
        subject: what it is about, the rest of the key.
        severity: how bad it is.
        text: what is wrong, one line.
        why: how that is known.
        do: what to do about it.
        vault, vault_id, item, item_id: what it concerns, as far as it does.
        since: since when it is so, if the rule knows.
        stays: it does not pass by itself: it stays until somebody acknowledges it.
        holds_expiry: no point of the item expires until somebody acknowledges it.
    """

    rule: str
    subject: str
    severity: Severity
    text: str
    why: str
    do: str
    vault: str = ""
    vault_id: str = ""
    item: str = ""
    item_id: str = ""
    since: datetime | None = None
    stays: bool = False
    holds_expiry: bool = False

    @property
    def key(self) -> str:
        """Names the trouble."""
        return f"{self.rule}/{self.subject}"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as the host keeps it.

    Args:
        finding: what it says, as of the last look at which it was so.
        since: since when it is so.
        seen: the last look at which it was so.
        acknowledged: when somebody said that it is known.
        by: who that was.
        resolved: since when it is so no more.
        told: the severity that people were told of; None: they were not, or were told that it is over.
        reopened: how often it came back before it was told as over.
    """

    finding: Finding
    since: datetime
    seen: datetime
    acknowledged: datetime | None = None
    by: str = ""
    resolved: datetime | None = None
    told: Severity | None = None
    reopened: int = 0

    @property
    def key(self) -> str:
        """Names the trouble."""
        return self.finding.key

    @property
    def id(self) -> str:
        """`a-7k2m9x4q`: the key, short enough to be typed."""
        return alert_id(self.key)

    @property
    def state(self) -> AlertState:
        """What became of it."""
        if self.resolved is not None:
            return AlertState.RESOLVED
        return AlertState.OPEN if self.acknowledged is None else AlertState.ACKNOWLEDGED

    @property
    def holds_expiry(self) -> bool:
        """Whether no point of its item expires."""
        return self.finding.holds_expiry and self.state is AlertState.OPEN


def alert_id(key: str) -> str:
    """The id of the alert of that key."""
    number = int.from_bytes(blake3(key.encode("utf-8", "surrogateescape")).digest()[:5], "big")
    return "a-" + "".join(_LETTERS[number >> 5 * place & 31] for place in reversed(range(8)))


@dataclass(frozen=True, slots=True)
class Sample:
    """The space of a vault's file system, or of a snapshot folder's, on one day."""

    day: date
    used_bytes: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits to be sent through one channel.

    `id` is the same at every try, so that a receiver can tell a repetition. `body` is the message, a JSON document.
    """

    id: str
    channel: str
    created: datetime
    body: str
    tries: int = 0
    not_before: datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PointFigures:
    """What one point says of its item's churn. `is_first`: all data was new, it tells nothing of churn."""

    number: int
    label: str
    taken: datetime
    changed_bytes: int
    unique_bytes: int
    stored_bytes: int
    size_bytes: int
    is_first: bool


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What is known of a protected item.

    `interval_seconds` is the longest time between two runs of its policy; `known_since` is since when it is known to
    be protected.
    """

    item_id: str
    item: str
    vault: str
    vault_id: str
    policy: str
    interval_seconds: float
    known_since: datetime
    last_good: datetime | None = None
    points: tuple[PointFigures, ...] = ()  # in order of time, the newest last


@dataclass(frozen=True, slots=True)
class Shortening:
    """A revision of a policy that keeps less than the one before."""

    policy: str
    revision: int
    changed: datetime
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """The space under one folder, now and on earlier days, oldest first."""

    what: str  # "vault 'site'", "snapshots in /srv/images"
    path: str
    key: str
    free_bytes: int
    total_bytes: int
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """What is known of a vault. `looked`: when it was opened for this; None: it has not been yet, or cannot be."""

    name: str
    vault_id: str
    path: str
    problem: tuple[str, str, str] | None = None  # message, why, do
    looked: datetime | None = None
    created: datetime | None = None
    point_count: int = 0
    needed_bytes: int = 0
    verified_bytes: int = 0
    damage: tuple[str, ...] = ()  # of what is damaged, in words
    shortened: tuple[Shortening, ...] = ()
    spaces: tuple[SpaceFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What rules look at of a job that has ended."""

    id: str
    operation: str
    state: str
    vault: str
    vault_id: str
    item: str
    item_id: str
    created: datetime
    ended: datetime
    problem: tuple[str, str, str] | None = None
    made_point: bool = False  # a point is in the vault by it


@dataclass(frozen=True, slots=True)
class Known:
    """All that rules go by. `now` is the moment for which they are asked.

    `waiting_since` has, by channel, the oldest message that could not be sent, with the reason of the last failure.
    """

    now: datetime
    jobs: tuple[EndedJob, ...] = ()  # newest first
    items: tuple[ItemFacts, ...] = ()
    vaults: tuple[VaultFacts, ...] = ()
    unusual: tuple[Finding, ...] = ()  # of the items' churn, as `unusual_churn` found at the last look at their vaults
    set_aside: tuple[str, ...] = ()  # journals that were found damaged
    silent: tuple[datetime, datetime] | None = None  # from when to when nobody has looked, before this daemon began
    waiting_since: dict[str, tuple[datetime, str]] = field(default_factory=dict)
