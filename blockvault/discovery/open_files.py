"""Which processes have a disk image open: looked up in /proc, so only those that this user may see."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Opener:
    """A process that has a file or device open."""

    pid: int
    name: str
    writes: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}){'' if self.writes else ', read-only'}"


def openers_of(wanted: set[tuple[str, int, int]]) -> dict[tuple[str, int, int], tuple[Opener, ...]]:
    """Who has these files and devices (`disk_identity`) open, this process left out."""
    if not wanted:
        return {}
    found: dict[tuple[str, int, int], dict[int, Opener]] = {}
    own = str(os.getpid())
    for pid in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not pid.isdigit() or pid == own:
            continue
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:  # it ended, or is another user's
            continue
        for number in numbers:
            link = f"/proc/{pid}/fd/{number}"
            try:
                key = _key(os.stat(link))
                writes = bool(os.lstat(link).st_mode & 0o200)
            except OSError:
                continue
            if key in wanted:
                known = found.setdefault(key, {})
                writes = writes or (int(pid) in known and known[int(pid)].writes)
                known[int(pid)] = Opener(int(pid), _name(pid), writes)
    return {key: tuple(known[pid] for pid in sorted(known)) for key, known in found.items()}


def _key(status: os.stat_result) -> tuple[str, int, int]:
    if stat.S_ISBLK(status.st_mode):
        return ("device", os.major(status.st_rdev), os.minor(status.st_rdev))
    return ("file", status.st_dev, status.st_ino)


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
