"""The channels of this host, and the thread that sends what waits in the outbox.

    sender = Sender(book, load_channels(state_dir), utc_now, say)
    sender.start(); ...; sender.wake(); ...; sender.stop()

Channels stand in the configuration (`[[notify]]`), or in `<state>/notify.toml`, which `blockvault notify add` writes.

Invariants:
- What could not be sent stays in the outbox, is tried again after 1 minute, then 2, 4, ... 6 hours, and is given up
  after 7 days, which is said. A message that was sent leaves the outbox before the next is begun.
- Between the receiver's yes and the outbox's commit lies a moment: whoever is killed in it sends that message again,
  with the same id. Nothing that a sender alone can do closes that; receivers go by the id.
- A channel that does not answer holds up nobody: each has a thread of its own, and every try a time limit.
- A ping that says "alive" is never kept for later: late, it would be a lie.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from blockvault.config import load_settings
from blockvault.config.reading import ConfigFile, read_document, read_text
from blockvault.config.settings import VERSION, Channel, keys_of
from blockvault.errors import AlreadyExistsError, BlockVaultError, InvalidInputError, NotFoundError
from blockvault.reports.channels import Cutter, check_channel, deliver, ping
from blockvault.store.local import replace_file
from blockvault.store.locks import FileLock

if TYPE_CHECKING:
    from blockvault.model.alert import Outgoing
    from blockvault.store.alert_book import AlertBook

FILE = "notify.toml"
RETRY_FIRST = timedelta(minutes=1)
RETRY_LIMIT = timedelta(hours=6)
GIVEN_UP_AFTER = timedelta(days=7)
PING_EVERY = timedelta(minutes=5)
ALIVE_FOR = timedelta(minutes=3)  # after that long without a look nobody is called alive
STOP_SECONDS = 5.0
_LOOK_SECONDS = 30.0

Deliver = Callable[[Channel, "Outgoing", datetime, Cutter], None]


# --- the channels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownChannel:
    """A channel, where it stands, and why it cannot be used, if so."""

    channel: Channel
    source: str
    problem: str = ""


def channels_path(state_dir: str) -> str:
    """The file that `notify add` writes."""
    return os.path.join(state_dir, FILE)


def known_channels(state_dir: str) -> list[KnownChannel]:
    """All channels, by name. The configuration's, if the state folder is this host's; it comes before `notify.toml`.

    Raises `InvalidInputError` (`config.*`) where a file says what cannot be.
    """
    settings = load_settings()
    own = _read_own(state_dir)
    found = {channel.name: KnownChannel(channel, channels_path(state_dir)) for channel in own}
    if os.path.abspath(state_dir) == settings.general.state_dir:
        for channel in settings.notify:
            found[channel.name] = KnownChannel(channel, str(settings.origin_of(f"notify.{channel.name}")))
    return [_checked(found[name]) for name in sorted(found)]


def load_channels(state_dir: str) -> list[Channel]:
    """The channels that can be used, by name. Raises as `known_channels`."""
    return [known.channel for known in known_channels(state_dir) if not known.problem]


def channel_named(state_dir: str, name: str) -> Channel:
    """The channel of that name. Raises `NotFoundError` (`notify.not-found`)."""
    known = known_channels(state_dir)
    for each in known:
        if each.channel.name == name:
            return each.channel
    names = ", ".join(each.channel.name for each in known)
    raise NotFoundError(
        "notify.not-found",
        f"there is no channel '{name}'",
        why=f"there are: {names}" if names else "there is none yet",
        do="see `blockvault notify list`, or make one with `blockvault notify add`",
    )


def add_channel(state_dir: str, channel: Channel, now: datetime) -> None:
    """Write a new channel into `notify.toml`, readable by its owner alone.

    Raises:
        AlreadyExistsError: there is one of that name (`notify.exists`).
        InvalidInputError: it could not be used (`notify.bad-channel`).
    """
    check_channel(channel)
    with _lock(state_dir, now):
        for known in known_channels(state_dir):
            if known.channel.name == channel.name:
                raise AlreadyExistsError(
                    "notify.exists",
                    f"there is a channel '{channel.name}' already",
                    why=f"it stands in {known.source}",
                    do="choose another name, or remove that one first",
                )
        _write_own(state_dir, [*_read_own(state_dir), channel])


def remove_channel(state_dir: str, name: str, now: datetime) -> Channel:
    """Take a channel out of `notify.toml`.

    Raises:
        NotFoundError: there is none (`notify.not-found`).
        InvalidInputError: it stands in the configuration (`notify.configured`).
    """
    with _lock(state_dir, now):
        channel = channel_named(state_dir, name)
        own = _read_own(state_dir)
        if name not in {each.name for each in own}:
            (source,) = (each.source for each in known_channels(state_dir) if each.channel.name == name)
            raise InvalidInputError(
                "notify.configured",
                f"channel '{name}' stands in the configuration",
                why=f"in {source}; commands do not change that",
                do="take it out there",
            )
        _write_own(state_dir, [each for each in own if each.name != name])
        return channel


def _checked(known: KnownChannel) -> KnownChannel:
    try:
        check_channel(known.channel)
    except BlockVaultError as error:
        return KnownChannel(known.channel, known.source, error.why or error.message)
    return known


def _read_own(state_dir: str) -> list[Channel]:
    path = channels_path(state_dir)
    text = read_text(ConfigFile(path, "named"))
    if text is None:
        return []
    told, faults = read_document(path, text)
    if faults:
        raise faults[0]
    return [value for value, _ in told.values() if isinstance(value, Channel)]


def _write_own(state_dir: str, channels: Sequence[Channel]) -> None:
    lines = ["# Written by `blockvault notify add` and `notify remove`; it may hold secrets.", f"version = {VERSION}"]
    keys = {entry.name: key for key, entry in keys_of(Channel).items()}
    for channel in channels:
        lines += ["", "[[notify]]"]
        for entry in fields(channel):
            value = getattr(channel, entry.name)
            if value:
                lines.append(f"{keys[entry.name]} = {_toml(value)}")
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    replace_file(channels_path(state_dir), ("\n".join(lines) + "\n").encode())


def _toml(value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # text of one line: a string of JSON is one of TOML


def _lock(state_dir: str, now: datetime) -> FileLock:
    return FileLock(
        channels_path(state_dir) + ".lock",
        kind="notify.locked",
        subject="the channels are being changed",
        now=now,
        wait_seconds=10,
    )


# --- sending ---------------------------------------------------------------------------------------------------------


def retry_after(tries: int) -> timedelta:
    """How long to wait after so many failed tries: 1 minute, 2, 4, ... 6 hours."""
    return min(RETRY_LIMIT, RETRY_FIRST * (1 << min(tries - 1, 20)))


class Sender:
    """Sends what waits in the outbox, a thread a channel.

    Args:
        book: with the outbox.
        channels: where to send.
        clock: the moment, in UTC.
        say: told what was given up.
        send: sends one message; raises a `BlockVaultError` if that failed.
    """

    def __init__(
        self,
        book: AlertBook,
        channels: Sequence[Channel],
        clock: Callable[[], datetime],
        say: Callable[[str], None] = lambda _text: None,
        send: Deliver = deliver,
    ) -> None:
        self._book = book
        self._clock = clock
        self._say = say
        self._send = send
        self._lines = [_Line(channel) for channel in channels]
        self._stopping = threading.Event()
        self._alive: tuple[datetime, bool] | None = None

    def start(self) -> None:
        """Begin to send; returns at once."""
        for line in self._lines:
            line.thread = threading.Thread(
                target=self._serve, args=(line,), name=f"notify {line.channel.name}", daemon=True
            )
            line.thread.start()

    def wake(self) -> None:
        """Something may have come into the outbox."""
        for line in self._lines:
            line.awake.set()

    def alive(self, *, well: bool) -> None:
        """The daemon has looked; channels of kind ping tell that on, unless something is critical."""
        self._alive = (self._clock(), well)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End: what is being sent is cut off and stays in the outbox. Waits for that long at most."""
        self._stopping.set()
        for line in self._lines:
            line.awake.set()
            if line.cutter is not None:
                line.cutter.cut()
        for line in self._lines:
            if line.thread is not None:
                line.thread.join(seconds)

    def run_once(self) -> int:
        """Send all that is due now, in this thread; returns how many messages arrived. For a timer's run, and tests."""
        return sum(self._send_due(line) for line in self._lines)

    def _serve(self, line: _Line) -> None:
        if line.channel.kind == "ping":
            self._ping(line, "start")
        while not self._stopping.is_set():
            try:
                self._send_due(line)
                if line.channel.kind == "ping":
                    self._tell_alive(line)
            except BlockVaultError as error:  # the book cannot be used: the daemon says so itself
                self._say(f"channel '{line.channel.name}': {error.message}")
            line.awake.wait(_LOOK_SECONDS)
            line.awake.clear()

    def _send_due(self, line: _Line) -> int:
        """Send what is due of a channel, oldest first, until one fails: then the others wait as long."""
        arrived = 0
        now = self._clock()
        if line.not_before is not None and now < line.not_before <= now + RETRY_LIMIT:  # unless the clock was set back
            return 0
        for message in self._book.waiting(line.channel.name):
            now = self._clock()
            if self._stopping.is_set():
                break
            if now - message.created > GIVEN_UP_AFTER:
                self._book.sent(message)
                self._say(f"channel '{line.channel.name}': a message of {message.created:%Y-%m-%d %H:%M} was given up")
                continue
            if message.not_before is not None and now < message.not_before <= now + RETRY_LIMIT:
                continue
            line.cutter = Cutter()
            try:
                self._send(line.channel, message, now, line.cutter)
            except Exception as error:  # noqa: BLE001 - a library that a channel uses may raise anything
                if self._stopping.is_set():
                    break  # cut off by us: no try of its own
                problem = f"an unforeseen error ({type(error).__name__})"
                if isinstance(error, BlockVaultError):
                    problem = error.why or error.message
                line.not_before = now + RETRY_FIRST
                self._book.failed(message, now + retry_after(message.tries + 1), problem)
                return arrived
            finally:
                line.cutter = None
            self._book.sent(message)
            line.not_before = None
            arrived += 1
        return arrived

    def _tell_alive(self, line: _Line) -> None:
        now = self._clock()
        if self._alive is None:
            return
        looked, well = self._alive
        if not well or not timedelta() <= now - looked <= ALIVE_FOR:
            return
        if line.pinged is not None and timedelta() <= now - line.pinged < PING_EVERY:
            return
        if self._ping(line, ""):
            line.pinged = now

    def _ping(self, line: _Line, what: str) -> bool:
        line.cutter = Cutter()
        try:
            ping(line.channel, what, "", line.cutter)
        except BlockVaultError:
            return False  # its silence is what it is there for
        finally:
            line.cutter = None
        return True


@dataclass(slots=True, eq=False)
class _Line:
    """A channel as it is being served."""

    channel: Channel
    awake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    cutter: Cutter | None = None
    not_before: datetime | None = None
    pinged: datetime | None = None
