"""Files for the reference kernel: exact reads and writes, holes, and the errors of both.

A read that ends early inside the disk is an error, never a short answer: the image became smaller. Every
failure of the system is a `DeviceError` with its number, the file's path and the byte at which it happened.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, NoReturn

from blockvault.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

COPY_BYTES = 1 << 20
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 0x01, 0x02, 0x10
CANNOT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, start: int, stop: int) -> bool:
    """Punch or zero a range; False where this file or device cannot."""
    if _libc.fallocate(fd, mode, start, stop - start) == 0:
        return True
    code = ctypes.get_errno()
    if code not in CANNOT:
        raise_write_error(fd, start, OSError(code, os.strerror(code)))
    return False


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of [start, end) that may hold data; all of it where the file cannot tell (a device)."""
    position = start
    while position < end:
        try:
            data = max(position, os.lseek(fd, position, os.SEEK_DATA))
            hole = os.lseek(fd, data, os.SEEK_HOLE) if data < end else end
        except OSError as error:
            if error.errno == errno.ENXIO:
                # No data from here to the end of the file: a hole, or the file has become too short.
                if os.lseek(fd, 0, os.SEEK_END) < end:
                    raise_shrunk(fd, os.lseek(fd, 0, os.SEEK_END))
                return
            if error.errno == errno.EINVAL:
                yield position, end
                return
            raise_read_error(fd, position, error)
        if hole <= data:  # a file that has no notion of position
            hole = end
        if data < end:
            yield data, min(hole, end)
        position = hole


def read_exactly(fd: int, offset: int, length: int) -> bytes:
    """Read a whole range."""
    plain = b""
    while len(plain) < length:
        try:
            piece = os.pread(fd, length - len(plain), offset + len(plain))
        except OSError as error:
            raise_read_error(fd, offset + len(plain), error)
        if not piece:
            raise_shrunk(fd, offset + len(plain))
        plain += piece
    return plain


def read_or_none(fd: int, offset: int, length: int) -> bytes | None:
    """Read a whole range, or tell that it cannot be read."""
    try:
        return read_exactly(fd, offset, length)
    except (DeviceError, OverflowError):
        return None


def write_exactly(fd: int, offset: int, piece: memoryview) -> None:
    """Write a whole piece, however often the system takes only a part."""
    while piece:
        try:
            count = os.pwrite(fd, piece, offset)
        except OSError as error:
            raise_write_error(fd, offset, error)
        offset, piece = offset + count, piece[count:]


def write_zeros(fd: int, start: int, stop: int) -> None:
    """Write zero bytes over a range."""
    for offset in range(start, stop, COPY_BYTES):
        write_exactly(fd, offset, memoryview(bytes(min(COPY_BYTES, stop - offset))))


def _name(fd: int) -> str:
    """The path behind a descriptor, for messages."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"file descriptor {fd}"


def raise_read_error(fd: int, offset: int, error: OSError) -> NoReturn:
    """A read failed."""
    raise DeviceError(
        "image.read-error",
        f"cannot read {_name(fd)} at byte {offset}",
        why=error.strerror,
        errno=error.errno,
        filename=_name(fd),
    ) from error


def raise_shrunk(fd: int, offset: int) -> NoReturn:
    """The file ends before the disk does."""
    raise DeviceError(
        "image.changed",
        f"{_name(fd)} ends at byte {offset}, before the end of the disk",
        why="it became shorter while it was read",
        errno=errno.EIO,
        filename=_name(fd),
    )


def raise_write_error(fd: int, offset: int | None, error: OSError) -> NoReturn:
    """A write failed; a full disk has a kind of its own."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    raise DeviceError(
        "target.no-space" if full else "target.write-error",
        f"cannot write {_name(fd)}" + ("" if offset is None else f" at byte {offset}"),
        why=error.strerror,
        errno=error.errno,
        filename=_name(fd),
    ) from error
