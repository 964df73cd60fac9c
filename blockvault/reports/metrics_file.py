"""Keeps the daemon's metrics file up to date: `daemon.metrics_textfile`.

The work is done by a process of its own, `blockvault metrics --textfile FILE`, since it may open vaults, and the
daemon's loop waits for nothing. It is begun when the journal has something new, `SOON` after the last one at the
earliest, and otherwise every `LATEST`, so that whoever reads the file sees by its own timestamp that the daemon lives.

Invariants:
- One such process runs at a time; one that takes longer than `ENOUGH` is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from blockvault.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blockvault.store.journal import Journal

SOON = timedelta(minutes=1)
LATEST = timedelta(minutes=15)
ENOUGH = timedelta(minutes=10)
_ERROR_MAX = 500


class MetricsFile:
    """One of the daemon's looks.

    Args:
        path: the file.
        state_dir: the host's state folder.
        program: the words that start BlockVault; none: this very Python.
    """

    def __init__(self, path: str, state_dir: str, program: Sequence[str] = ()) -> None:
        self._words = [*(program or (sys.executable, "-m", "blockvault")), "metrics", "--quiet", "--textfile", path]
        self._environment = {**os.environ, "BLOCKVAULT_STATE_DIR": state_dir}
        self._process: subprocess.Popen[bytes] | None = None
        self._begun: datetime | None = None
        self._revision = -1
        self._journal: Journal | None = None
        self.started = 0

    def look(self, journal: Journal, _views: object, now: datetime) -> None:
        """Begin where it is time. Raises `DeviceError` (`metrics.not-written`) for what the last one ended with."""
        self._journal = journal
        if self._process is not None:
            if self._process.poll() is None:
                if self._begun is not None and now - self._begun > ENOUGH:
                    self._process.kill()
                return
            self._end(self._process)
        since = now - self._begun if self._begun is not None else LATEST
        revision = journal.revision
        if timedelta() <= since < (SOON if revision != self._revision else LATEST):
            return
        self._begin(revision, now)

    def _begin(self, revision: int, now: datetime) -> None:
        self._revision, self._begun = revision, now
        self.started += 1
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        with process:
            said = process.stderr.read(_ERROR_MAX) if process.stderr is not None else b""
        if process.returncode != 0:
            line = said.decode(errors="replace").strip().partition("\n")[0]
            raise DeviceError("metrics.not-written", f"writing metrics ended with {process.returncode}: {line}")

    def close(self) -> None:
        """Wait for what was begun, then have the file say what came after it: `daemon --once` ends with that."""
        self._wait()
        if self._journal is not None and self._begun is not None and self._journal.revision != self._revision:
            self._begin(self._journal.revision, self._begun)
            self._wait()

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(ENOUGH.total_seconds())
        except subprocess.TimeoutExpired:
            self._process.kill()
        with contextlib.suppress(DeviceError):  # the daemon ends: nobody is there to do something about it
            self._end(self._process)
