"""Locks on one machine: an open-file-description (OFD) lock decides who lives.

The kernel drops such a lock when the process ends, however it ends; so a lock that is held has a living owner, and a
file that is left over means nothing. What stands in the file (pid, since when, what) is for messages only.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from datetime import datetime
from types import TracebackType
from typing import Self

from blockvault.clock import to_text
from blockvault.errors import ConflictError
from blockvault.store.local import NotPlainError, check_plain, device_error, foreign

_FLOCK = struct.Struct("hhqqi4x")


def try_lock(fd: int, first: int = 0, count: int = 0) -> bool:
    """Take the exclusive OFD lock on some bytes of a file if it is free; 0 bytes: all from the first on."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


class FileLock:
    """An exclusive lock named by a file, held from `__enter__` to `__exit__`.

    Args:
        path: the lock file; made if missing, never removed.
        kind: the error's kind when someone else holds it.
        subject: what is locked, for the message: "item 'web01' is being captured".
        wait_seconds: how long to wait for it.
    """

    def __init__(self, path: str, *, kind: str, subject: str, now: datetime, wait_seconds: float = 0.0) -> None:
        self.path = path
        self.kind = kind
        self.subject = subject
        self.now = now
        self.wait_seconds = wait_seconds
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            check_plain(self.path)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except NotPlainError as error:
            raise foreign(f"the lock file {self.path}", error.reason) from None
        except OSError as error:
            raise device_error(error, f"making the lock {self.path}") from error
        try:
            if os.fstat(fd).st_nlink > 1:  # it is emptied below, and with it whatever else it is a name of
                raise foreign(f"the lock file {self.path}", "it is another file under a second name")
            deadline = time.monotonic() + self.wait_seconds
            while not try_lock(fd):
                if time.monotonic() >= deadline:
                    raise self._refusal(os.pread(fd, 4096, 0))
                time.sleep(0.02)
        except BaseException:
            os.close(fd)
            raise
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "since": to_text(self.now)}).encode(), 0)
        except OSError:
            pass  # for messages only: on a full disk the lock is held all the same
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refusal(self, holder: bytes) -> ConflictError:
        try:
            told = json.loads(holder)
            who = f" (pid {told['pid']}, since {told['since'][11:19]} UTC)"
        except (ValueError, KeyError, TypeError):
            who = ""
        return ConflictError(
            self.kind,
            f"{self.subject}{who}",
            why="another blockvault process is at work there; one at a time",
            do="wait until it ends, then run the command again",
        )


class NumberLock:
    """A lock on a number: a byte of a file that stays empty, so that no lock leaves a file behind.

    Args:
        path: the file; made if missing.
        number: what is locked.
    """

    def __init__(self, path: str, number: int) -> None:
        self._path, self._number = path, number
        self._fd = -1

    def take(self) -> bool:
        """Take the lock if it is free; it is held until `release`, or until the process ends."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not try_lock(fd, self._number, 1):
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        """Let the lock go; safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
