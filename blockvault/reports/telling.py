"""All of telling people, as the daemon has it: the book of alerts, the watch and the sender in one.

    with Telling(state_dir, open_vault, settings.alerts, say) as telling:
        telling.look(journal, daemon.views, now)        after each tick

Invariants:
- Nothing here ends the daemon or holds up its loop: what goes wrong is said, once as long as it is the same, and the
  next look tries again. Points are worth more than words about them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError
from blockvault.reports.alerts import HEARTBEAT_FOR, SeenVault, Watch
from blockvault.reports.notify import Sender, load_channels
from blockvault.store.alert_book import AlertBook

if TYPE_CHECKING:
    from blockvault.config.settings import AlertSettings
    from blockvault.store.journal import Journal
    from blockvault.vault import Vault

LOOK_EVERY = timedelta(minutes=1)


class Telling:
    """The watch and the sender of a daemon, or of a timer's run.

    Args:
        state_dir: the host's state folder.
        open_vault: opens a vault by its name.
        settings: when something is told.
        say: told what cannot be done, and what was given up.
        clock: the moment, in UTC.
        once: a timer's run: all vaults are looked at, and messages are sent before `look` returns.
        silent_for: how long until the next look at the most, for who watches the watch.
    """

    def __init__(
        self,
        state_dir: str,
        open_vault: Callable[[str], AbstractContextManager[Vault]],
        settings: AlertSettings,
        say: Callable[[str], None],
        *,
        clock: Callable[[], datetime] = utc_now,
        once: bool = False,
        silent_for: timedelta = HEARTBEAT_FOR,
    ) -> None:
        self._state_dir = state_dir
        self._open = open_vault
        self._settings = settings
        self._say = say
        self._clock = clock
        self._once = once
        self._silent_for = silent_for
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._sender: Sender | None = None
        self._looked: datetime | None = None
        self._told: set[str] = set()  # what was said and is still so

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is sent; safe to call again."""
        self._stack.close()

    def _begin(self) -> None:
        """Open the book and begin to send; what cannot be is said, and tried again at the next look."""
        try:
            channels = load_channels(self._state_dir)
        except BlockVaultError as error:
            self._complain(f"nobody is told: {error.message}")
            channels = []
        try:
            book = AlertBook(self._state_dir)
        except BlockVaultError as error:
            self._complain(f"no alerts: {error.message}")
            return
        self._stack.callback(book.close)
        if book.set_aside:
            self._say(f"the book of alerts was damaged; it is in {book.set_aside}, a new one was begun")
        self._sender = Sender(book, channels, self._clock, self._say)
        if not self._once:
            self._sender.start()
            self._stack.callback(self._sender.stop)
        self._watch = Watch(self._state_dir, book, self._open, self._settings, channels, silent_for=self._silent_for)

    def look(self, journal: Journal, views: Sequence[SeenVault], now: datetime) -> None:
        """Look, unless that was done less than a minute ago; have what is new sent."""
        if not self._once and self._looked is not None and timedelta() <= now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        if self._watch is None:
            self._begin()
        if self._watch is None or self._sender is None:
            return
        try:
            told = self._watch.look(journal, views, now, at_once=self._once)
            self._sender.alive(well=self._watch.is_well)
            if self._once:
                self._sender.run_once()
            elif told:
                self._sender.wake()
            self._told.clear()
        except BlockVaultError as error:
            self._complain(f"alerts could not be looked at: {error.message}")

    def _complain(self, text: str) -> None:
        if text not in self._told:
            self._say(text)
        self._told.add(text)
