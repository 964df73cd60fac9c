"""The system's page cache belongs to the users of the machine: a backup reads and writes much, each byte once.

Half of the memory that nobody uses may be filled. What is larger is read past the cache where the system can do that
(`RWF_DONTCACHE`, Linux 6.14): what others had there stays. What only we read and wrote, a pack, is let go of.
All of it is advice: nothing depends on it.
"""

from __future__ import annotations

import os

_RWF_DONTCACHE = 0x80  # no constant of it in Python's os


def must_leave(fd: int, byte_count: int) -> bool:
    """Whether so much of a file that others use should be read without leaving it in the cache.

    Where the system cannot tell what a read brought in from what was there, both would go: there only a file is let go
    of that could not stay in memory itself.
    """
    if byte_count > _bytes("SC_PHYS_PAGES") // 2:
        return True
    return byte_count > _bytes("SC_AVPHYS_PAGES") // 2 and knows_dont_cache(fd)


def knows_dont_cache(fd: int) -> bool:
    """Whether the file system can read a file and leave the cache as it was."""
    try:
        os.preadv(fd, [bytearray(1)], 0, _RWF_DONTCACHE)
    except OSError:
        return False
    return True


def let_go(fd: int) -> None:
    """Take a pack, which is durable, out of the cache if less than an eighth of the memory is unused.

    There may be very many of them, so it is not the size of one that counts.
    """
    if _bytes("SC_AVPHYS_PAGES") < _bytes("SC_PHYS_PAGES") // 8:
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass


def _bytes(name: str) -> int:
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
