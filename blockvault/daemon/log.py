"""What the daemon says, a line each on standard error: text for people and the system's journal, or JSON for programs.

    {"time": "2026-11-20T02:00:04.000000Z", "level": "info", "event": "phase.ended", "job": "j-0abc1234",
     "item": "web01", "vault": "default", "message": "capture of backup j-0abc1234 of web01: completed"}

`event` is stable, as the kinds of errors are; `job`, `item` and `vault` are there where the event has one.

Invariants:
- One event is one line, whatever an item or an error is called.
- A reader that has gone does not end the daemon.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

from blockvault.clock import to_text, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

# What a terminal obeys, or a reader of lines takes for an end of one.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class LogForm(StrEnum):
    """How it is written."""

    TEXT = "text"
    JSON = "json"


class Level(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class DaemonLog:
    """Writes events.

    Args:
        form: see `LogForm`.
        stream: where to; None: standard error, as it is then.
        clock: the moment.
        quiet: only warnings and errors.
    """

    def __init__(
        self,
        form: LogForm = LogForm.TEXT,
        stream: TextIO | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        quiet: bool = False,
    ) -> None:
        self._form = form
        self._stream = stream
        self._clock = clock
        self._quiet = quiet

    def event(
        self, event: str, message: str, level: Level = Level.INFO, *, job: str = "", item: str = "", vault: str = ""
    ) -> None:
        """Write one."""
        if self._quiet and level is Level.INFO:
            return
        named = {name: value for name, value in (("job", job), ("item", item), ("vault", vault)) if value}
        if self._form is LogForm.JSON:
            fields = {"time": to_text(self._clock()), "level": level.value, "event": event, **named, "message": message}
            line = json.dumps(fields)
        else:
            line = _OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}", message)
            line = line if level is Level.INFO else f"{level}: {line}"
            line = line.encode("utf-8", "backslashreplace").decode()
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            stream.write(line + "\n")
            stream.flush()
