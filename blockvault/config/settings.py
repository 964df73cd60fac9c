"""What there is to set. One dataclass a table of the file; a field says what it may be, and what it is otherwise.

A new setting is a field here: reading, `config show`, the environment variable and the did-you-mean follow from it.
Times are seconds, sizes are bytes. `docs/configuration.md` tells each to users, and a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from blockvault.config.kinds import (
    Choice,
    Choices,
    Clock,
    Kind,
    Number,
    Place,
    Size,
    Span,
    Text,
    Texts,
    VaultName,
    Whole,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

VERSION = 1
REDACTED = "***"
# What a channel can be told of; `job.failed` is told of as `alert.warning` too.
EVENTS = ("alert.critical", "alert.warning", "alert.info", "alert.resolved", "job.failed", "summary.daily")
_T = TypeVar("_T")
_DAY = 86400


def _setting(default: _T, kind: Kind, *, key: str = "", secret: bool = False) -> _T:
    """A field: what it is built in as, what it may be, its key in the file if that is no name in Python."""
    made: _T = field(default=default, metadata={"kind": kind, "key": key, "secret": secret})
    return made


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: `built-in`, `$BLOCKVAULT_VAULT`, `--vault`, or a file and its line."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


BUILT_IN = Origin("built-in")


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """`[general]`."""

    vault: str = _setting("default", VaultName())
    state_dir: str = _setting("", Place(empty=False))
    color: str = _setting("auto", Choice(("auto", "always", "never")))


@dataclass(frozen=True, slots=True)
class BandwidthRule:
    """One limit of what transfers send, at some time of the day. `begin` and `end` are minutes since midnight."""

    begin: int = _setting(0, Clock(), key="from")
    end: int = _setting(1440, Clock(), key="to")
    limit: int = _setting(0, Size())
    zone: str = _setting("", Zone())

    def applies(self, now: datetime) -> bool:
        """Whether it limits at this moment; a rule from 22:00 to 06:00 goes over midnight."""
        from zoneinfo import ZoneInfo

        local = now.astimezone(ZoneInfo(self.zone) if self.zone else None)
        minute = local.hour * 60 + local.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """`[daemon]`."""

    captures: int = _setting(2, Whole(1, 256))
    transfers: int = _setting(1, Whole(1, 256))
    bandwidth: tuple[BandwidthRule, ...] = ()
    io_priority: str = _setting("best-effort", Choice(("idle", "best-effort")))
    verify_budget: int = _setting(1800, Span(0, _DAY))
    verify_days: int = _setting(30, Whole(1, 3650))
    reclaim_hour: int = _setting(4, Whole(0, 23))
    history_days: int = _setting(400, Whole(1, 36500))
    retry_first: int = _setting(60, Span(1, _DAY))
    retry_limit: int = _setting(3600, Span(1, 30 * _DAY))
    metrics_textfile: str = _setting("", Place())
    log_format: str = _setting("text", Choice(("text", "json")))

    def bandwidth_limit(self, now: datetime) -> int | None:
        """Bytes a second that transfers may send now: the lowest limit that applies; None: as fast as it goes."""
        return min((rule.limit for rule in self.bandwidth if rule.applies(now)), default=None)


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """`[alerts]`: when something is told as wrong."""

    rpo_factor: float = _setting(2.0, Number(1, 1000))
    verify_stale_days: int = _setting(30, Whole(1, 3650))
    free_days: int = _setting(14, Whole(0, 3650))
    warn_times: int = _setting(3, Whole(1, 1000))


@dataclass(frozen=True, slots=True)
class Channel:
    """One `[[notify]]`: a way to tell people. Its secrets are files, but an address may be one too and is not shown."""

    name: str = _setting("", Text(empty=False))
    kind: str = _setting("", Choice(("webhook", "smtp", "ping", "apprise")))
    url: str = _setting("", Text(), secret=True)
    to: tuple[str, ...] = _setting((), Texts())
    sender: str = _setting("", Text(), key="from")
    server: str = _setting("", Text())
    user: str = _setting("", Text())
    secret_file: str = _setting("", Place())
    events: tuple[str, ...] = _setting((), Choices(EVENTS))


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """`[vault.NAME]`."""

    path: str = _setting("", Place())
    proxy: str = _setting("", Text(), secret=True)
    key_file: str = _setting("", Place())


SECTIONS: dict[str, type[Any]] = {"general": GeneralSettings, "daemon": DaemonSettings, "alerts": AlertSettings}
NAMED: dict[str, type[Any]] = {"vault": VaultSettings}
# What a table of a list needs of its keys.
NEEDED = {BandwidthRule: ("from", "to", "limit"), Channel: ("name", "kind")}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of this host. `files` are those that were read, in the order in which they were."""

    general: GeneralSettings = field(default_factory=GeneralSettings)
    daemon: DaemonSettings = field(default_factory=DaemonSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    notify: tuple[Channel, ...] = ()
    vaults: Mapping[str, VaultSettings] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def vault(self, name: str) -> VaultSettings:
        """What is set of the vault of that name; where nothing is, what is built in."""
        return self.vaults.get(name) or VaultSettings()

    def origin_of(self, setting: str) -> Origin:
        """Where the value of a setting (`daemon.captures`, `vault.site.path`, `notify.mail`) comes from."""
        return self.origins.get(setting, BUILT_IN)

    def shown(self, *, as_text: bool = False) -> dict[str, Any]:
        """All settings by name, `general.vault`, with secrets left out; `as_text`: as people would write them."""
        shown: dict[str, Any] = {}
        for section in SECTIONS:
            table = getattr(self, section)
            shown.update({f"{section}.{key}": value for key, value in _redacted(table, as_text).items()})
            if section == "daemon":
                shown["daemon.bandwidth"] = [_redacted(rule, as_text) for rule in self.daemon.bandwidth]
        for channel in self.notify:
            shown[f"notify.{channel.name}"] = _redacted(channel, as_text)
        for name, vault in sorted(self.vaults.items()):
            shown.update({f"vault.{name}.{key}": value for key, value in _redacted(vault, as_text).items()})
        return shown


def keys_of(table: type[Any]) -> dict[str, Any]:
    """The fields of a table that are read as one value, by their keys in the file."""
    return {entry.metadata["key"] or entry.name: entry for entry in fields(table) if entry.metadata}


def _redacted(table: Any, as_text: bool) -> dict[str, Any]:
    values = {}
    for key, entry in keys_of(type(table)).items():
        value = getattr(table, entry.name)
        if entry.metadata["secret"] and value:
            value = REDACTED
        values[key] = entry.metadata["kind"].text(value) if as_text else value
    return values
