"""Ctrl-C and SIGTERM ask a job to stop, at its next batch with nothing half done. A second ends at once."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from blockvault.monitor import Monitor

_STOPPING = b"\nstopping at the next batch; a second Ctrl-C ends at once\n"
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def cancelling(monitor: Monitor) -> Iterator[None]:
    """While inside, the first SIGINT or SIGTERM cancels the monitor's job and the second ends the process."""
    asked = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        # Only what is safe inside a handler: no locks, no buffered streams.
        if asked:
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        asked = True
        os.write(2, _STOPPING)
        monitor.cancel(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
