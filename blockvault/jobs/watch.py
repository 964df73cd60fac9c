"""What stands between a running phase and the rest of the host: its log, its progress, a request to end it, its rate.

    JobMonitor    collects what the library says, for the job's log and its warnings; waits where a rate is to be kept
    Watcher       a thread beside the work: sees that the job is to be cancelled, and tells how far it is

Progress is a small file a job in `<state>/progress/`, written twice a second at most and never synced: it is of no use
after a crash, and a commit of the journal twice a second would cost more than the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from blockvault.model.job import Problem
from blockvault.monitor import Monitor
from blockvault.store.journal import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from blockvault.store.journal import Journal

WATCH_SECONDS = 0.5
_SLEEP_SECONDS_MAX = 0.25  # so that a cancel or the end of a slow hour is seen soon


class Rate:
    """How fast bytes may go to the vault. One that several share limits their sum.

    Args:
        limit: bytes a second that may be sent at a moment; None: as fast as it goes.
        clock: the moment, in UTC.
    """

    def __init__(self, limit: Callable[[datetime], int | None], clock: Callable[[], datetime]) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0  # on the monotonic clock: when all that was sent so far has been paid for

    def wait(self, byte_count: int, ended: Callable[[], bool]) -> None:
        """Return when so many bytes may have been sent; at once where there is no limit, or when it `ended`."""
        rate = self._limit(self._clock())
        if not rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + byte_count / rate
            until = self._free_at
        while not ended() and self._limit(self._clock()):
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLEEP_SECONDS_MAX))


class JobMonitor(Monitor):
    """Collects messages for the job's log.

    Args:
        clock: the moment of a line, in UTC.
        rate: how fast bytes may go to the vault; None: as fast as they can.
    """

    def __init__(self, clock: Callable[[], datetime], rate: Rate | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._rate = rate
        self.lines: list[LogLine] = []

    def on_message(self, level: str, message: str) -> None:
        """Keep the line."""
        self.lines.append(LogLine(self._clock().astimezone(UTC), level, message))

    def on_sent(self, byte_count: int) -> None:
        """Keep to the rate."""
        if self._rate is not None:
            self._rate.wait(byte_count, self.cancelled.is_set)


def problems_of(monitor: Monitor) -> list[Problem]:
    """The warnings of a monitor, as a job keeps them."""
    return [Problem(warned.kind, warned.message) for warned in monitor.warnings]


class Progress(NamedTuple):
    """How far a running phase is, as its process told it last."""

    phase: str
    done_bytes: int
    total_bytes: int
    sent_bytes: int
    at: float  # seconds since 1970


def progress_path(state_dir: str, job_id: str) -> str:
    """The file that tells how far a job is."""
    return os.path.join(state_dir, "progress", f"{job_id}.json")


def read_progress(state_dir: str, job_id: str) -> Progress | None:
    """How far a job is; None where it does not run, or has not told yet."""
    try:
        with open(progress_path(state_dir, job_id), "rb") as file:
            told = json.load(file)
        return Progress(str(told["phase"]), int(told["done"]), int(told["total"]), int(told["sent"]), float(told["at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Watcher:
    """While inside, a job that somebody cancels is cancelled, and how far it is can be read.

    Args:
        journal: where a request to cancel stands.
        state_dir: the host's state folder.
        job_id: the job.
        monitor: of the work.
    """

    def __init__(self, journal: Journal, state_dir: str, job_id: str, monitor: Monitor) -> None:
        self._journal = journal
        self._path = progress_path(state_dir, job_id)
        self._job_id = job_id
        self._monitor = monitor
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {job_id}", daemon=True)

    def __enter__(self) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _watch(self) -> None:
        seen, told = -1, None
        while not self._over.wait(WATCH_SECONDS):
            with contextlib.suppress(Exception):  # what cannot be seen or told does not end the work
                revision = self._journal.revision
                if revision != seen:
                    seen = revision
                    if self._journal.get(self._job_id).cancel_asked is not None:
                        self._monitor.cancel()
                told = self._tell(told)

    def _tell(self, told: tuple[str, int, int] | None) -> tuple[str, int, int]:
        monitor = self._monitor
        state = (monitor.phase_name, monitor.done_bytes, monitor.total_bytes)
        if state != told:
            fields = {
                "phase": state[0],
                "done": state[1],
                "total": state[2],
                "sent": monitor.counters["sent_bytes"],
                "at": time.time(),
            }
            with open(f"{self._path}.new", "w") as file:
                json.dump(fields, file)
            os.replace(f"{self._path}.new", self._path)
        return state
