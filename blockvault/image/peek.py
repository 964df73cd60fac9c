"""Looking into a disk's bytes with bounds: hostile bytes may lead nowhere, and never make it read on and on."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES_MAX = 1 << 20
TOTAL_BYTES_MAX = 32 << 20
READS_MAX = 20_000


class NotThereError(Exception):
    """A structure leads beyond the bytes that there are, or to more of them than it may."""


class Peek:
    """Bytes of something by offset: a file, a disk within it, a partition of that.

    Args:
        read: the bytes at an offset, fewer at the end.
        size: how many there are.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self.size = size
        self._reads_left = READS_MAX
        self._bytes_left = TOTAL_BYTES_MAX

    @classmethod
    def of_file(cls, fd: int, size: int) -> Peek:
        """All of an open file or device."""
        return cls(lambda offset, count: os.pread(fd, count, offset), size)

    def part(self, offset: int, size: int) -> Peek:
        """A part of it; what is read there counts here."""
        end = min(offset + size, self.size)
        return Peek(lambda at, count: self.some(offset + at, count), max(0, end - offset))

    def some(self, offset: int, count: int) -> bytes:
        """The bytes that are there, `count` at most."""
        if offset < 0 or count < 0 or count > READ_BYTES_MAX:
            raise NotThereError
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        self._reads_left -= 1
        self._bytes_left -= count
        if self._reads_left < 0 or self._bytes_left < 0:
            raise NotThereError
        return self._read(offset, count)

    def exact(self, offset: int, count: int) -> bytes:
        """Exactly these bytes. Raises `NotThereError`."""
        found = self.some(offset, count)
        if len(found) < count:
            raise NotThereError
        return found

    def fields(self, form: str, offset: int) -> tuple[Any, ...]:
        """What `struct` makes of the bytes there. Raises `NotThereError`."""
        return struct.unpack(form, self.exact(offset, struct.calcsize(form)))

    def number(self, form: str, offset: int) -> int:
        """One number of these."""
        return int(self.fields(form, offset)[0])

    def has(self, magic: bytes, offset: int) -> bool:
        """Whether these bytes stand there."""
        return self.some(offset, len(magic)) == magic


def text_of(data: bytes, encoding: str = "utf-8") -> str:
    """A label or name as far as its first NUL; what is no text of that encoding is replaced."""
    return data.decode(encoding, "replace").split("\0", 1)[0].strip()
