"""Whether two paths are one disk.

They are where they lead to the same file (by a hard link, a symbolic link or a bind mount), to the same device by
another node, or to a loop device and the file under it.

Best effort: what lies between (device mapper, RAID, a partition and its disk) is not followed.
"""

from __future__ import annotations

import os
import stat

Identity = frozenset[tuple[str, int, int]]
NOBODY: Identity = frozenset()


def disk_identity(path: str) -> Identity:
    """What names the disk at a path, whatever the path; nothing where there is no file or device."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return NOBODY
    if stat.S_ISREG(status.st_mode):
        return frozenset({("file", status.st_dev, status.st_ino)})
    if not stat.S_ISBLK(status.st_mode):
        return NOBODY
    number = ("device", os.major(status.st_rdev), os.minor(status.st_rdev))
    return frozenset({number}) | _under_loop(*number[1:])


def _under_loop(major: int, minor: int) -> Identity:
    """The file that a loop device shows from its first byte on."""
    top = f"/sys/dev/block/{major}:{minor}/loop"
    try:
        with open(f"{top}/offset", encoding="ascii") as file:
            if file.read().strip() != "0":
                return NOBODY
        with open(f"{top}/backing_file", encoding="utf-8", errors="surrogateescape") as file:
            status = os.stat(file.read().rstrip("\n"))
    except OSError:
        return NOBODY
    return frozenset({("file", status.st_dev, status.st_ino)})
