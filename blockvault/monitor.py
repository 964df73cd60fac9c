"""The one way in which the library speaks while it works: phases, counters, warnings.

Terminal bars, JSON lines and tests are its readers. Every method may be called from any thread. A job asks
`check` between batches; a `cancel` from anywhere (a signal handler, another thread) ends it there.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from blockvault.errors import CancelledError


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user must be told although the work went on; makes a job `completed-with-warning`."""

    kind: str
    message: str


class Cancellable(Protocol):
    """What can be asked to stop."""

    def cancel(self) -> None:
        """Stop at the next opportunity."""


class Monitor:
    """Collects counters and warnings; readers override the three `on_*` hooks.

    Invariants: counters only grow; a warning is never dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self.warnings: list[Warned] = []
        self.cancelled = threading.Event()
        self.signal_number: int | None = None
        self._tokens: list[Cancellable] = []
        self.phase_name = ""
        self.total_bytes = 0  # of all phases of this name so far, as is `done_bytes`
        self.done_bytes = 0

    def phase(self, name: str, total_bytes: int) -> None:
        """A phase begins (`Capture`, `Transfer`, `Restore`, `Verify`, ...), with the bytes that it will go over."""
        with self._lock:
            if name != self.phase_name:
                self.phase_name, self.total_bytes, self.done_bytes = name, 0, 0
            self.total_bytes += total_bytes
        self.on_phase(name, total_bytes)

    def advance(self, byte_count: int) -> None:
        """The current phase went over `byte_count` more bytes of its total."""
        with self._lock:
            self.done_bytes += byte_count
        self.on_advance(byte_count)

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter of work done: `read_bytes`, `chunks_identified`, `pack_commits`, ..."""
        with self._lock:
            self.counters[counter] += amount

    def sent(self, byte_count: int) -> None:
        """So many bytes of blocks went to the vault; a reader that limits the rate lets the caller wait here."""
        self.count("sent_bytes", byte_count)
        self.on_sent(byte_count)

    def warn(self, kind: str, message: str) -> None:
        """Tell the user of something that does not stop the work but leaves it less than whole."""
        with self._lock:
            self.warnings.append(Warned(kind, message))
        self.on_message("warning", message)

    def note(self, message: str) -> None:
        """Tell the user something that is not a warning."""
        self.on_message("note", message)

    def cancel(self, signal_number: int | None = None) -> None:
        """Ask the running work to stop at its next batch."""
        self.signal_number = signal_number
        self.cancelled.set()
        for token in list(self._tokens):
            token.cancel()

    def attach(self, token: Cancellable) -> None:
        """Have `cancel` reach a token too, such as one that the native core looks at between pieces."""
        self._tokens.append(token)
        if self.cancelled.is_set():
            token.cancel()

    def check(self) -> None:
        """Raise `CancelledError` (`job.cancelled`) if `cancel` was called."""
        if self.cancelled.is_set():
            raise CancelledError(
                "job.cancelled",
                "stopped on request",
                why="interrupted" if self.signal_number else "cancelled",
                do="run the same command again; every completed point is untouched",
            )

    def on_phase(self, name: str, total_bytes: int) -> None:
        """Hook of readers."""

    def on_advance(self, byte_count: int) -> None:
        """Hook of readers."""

    def on_sent(self, byte_count: int) -> None:
        """Hook of readers."""

    def on_message(self, level: str, message: str) -> None:
        """Hook of readers; `level` is `warning` or `note`."""
