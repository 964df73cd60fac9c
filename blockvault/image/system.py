"""The few Linux calls on files and block devices that Python's `os` has no name for.

Each function is one call and tells the truth of that call: no policy, no messages.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct

_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_IOC_GETVERSION = 0x80087601
_FS_IOC_FSGETXATTR = 0x801C581F
_BLKGETSIZE64 = 0x80081272
_FS_IOC_FIEMAP = 0xC020660B

FLAG_IMMUTABLE = 0x00000010  # chattr +i
FLAG_NOCOW = 0x00800000  # chattr +C

_XFLAG_REALTIME = 0x00000001

_FALLOC_KEEP_SIZE = 0x01
_FALLOC_ZERO_RANGE = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]

_FIEMAP_HEAD = struct.Struct("=QQLLLL")
_FIEMAP_EXTENT = struct.Struct("=QQQQQLLLL")
_FIEMAP_LAST = 0x0001
_FIEMAP_SHARED = 0x2000
_FIEMAP_BATCH = 512

# What a file system says that cannot do a thing with these files, by design and not by accident.
NOT_HERE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ETXTBSY)


def clone(source_fd: int, target_fd: int) -> None:
    """Have the target file share all extents of the source: atomic, whatever writes at the time."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def clone_range(source_fd: int, target_fd: int, offset: int, byte_count: int) -> None:
    """Share `byte_count` bytes at `offset`, in whole file system blocks; 0: to the end of the file."""
    fcntl.ioctl(target_fd, _FICLONERANGE, struct.pack("=qQQQ", source_fd, offset, byte_count, offset))


def inode_flags(fd: int) -> int:
    """The flags of `lsattr`; 0 where the file system has none."""
    flags = array.array("i", [0, 0])
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    except OSError:
        return 0
    return flags[0]


def set_inode_flags(fd: int, flags: int) -> None:
    """The flags of `chattr`. Raises `OSError`."""
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, array.array("i", [flags, 0]))


def follow_nocow(source_fd: int, target_fd: int) -> None:
    """Give an empty target the source's "no copy on write" flag: btrfs clones only between files of one kind.

    The flag takes effect on a file of size 0 only; a fresh target of another size is emptied and sized again.
    """
    wanted = inode_flags(source_fd) & FLAG_NOCOW
    flags = inode_flags(target_fd)
    if wanted == flags & FLAG_NOCOW:
        return
    size = os.fstat(target_fd).st_size
    os.ftruncate(target_fd, 0)
    try:
        set_inode_flags(target_fd, flags & ~FLAG_NOCOW | wanted)
    finally:
        os.ftruncate(target_fd, size)


def inode_generation(fd: int) -> int | None:
    """What tells an inode from a later one of the same number; None where the file system does not say."""
    number = array.array("L", [0])
    try:
        fcntl.ioctl(fd, _FS_IOC_GETVERSION, number)
    except OSError:
        return None
    return number[0] & 0xFFFFFFFF


def is_realtime(fd: int) -> bool:
    """Whether a file's data lies on the realtime device of xfs: its extents' addresses are of that device."""
    attributes = bytearray(28)
    try:
        fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, attributes)
    except OSError:
        return False
    return bool(struct.unpack_from("=L", attributes)[0] & _XFLAG_REALTIME)


def file_system_type(fd: int) -> int:
    """The magic number of the file system that a file lies on (statfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(struct.unpack_from("=q" if ctypes.sizeof(ctypes.c_long) == 8 else "=l", buffer)[0]) & 0xFFFFFFFF


def zero_range(fd: int, offset: int, byte_count: int) -> bool:
    """Make a range read as zeros and keep its space, so that writing it again needs none; False: not here."""
    if _libc.fallocate(fd, _FALLOC_ZERO_RANGE | _FALLOC_KEEP_SIZE, offset, byte_count) == 0:
        return True
    number = ctypes.get_errno()
    if number in NOT_HERE:
        return False
    raise OSError(number, os.strerror(number))


def device_size(fd: int) -> int:
    """Bytes of a block device."""
    size = array.array("Q", [0])
    fcntl.ioctl(fd, _BLKGETSIZE64, size)
    return size[0]


def sectors_changed(rdev: int) -> int | None:
    """Sectors of a block device written or discarded since boot; None where nobody counts them."""
    try:
        with open(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.read().split()]
    except (OSError, ValueError):
        return None
    if len(fields) < 7:
        return None
    return fields[6] + (fields[13] if len(fields) > 13 else 0)


def reads_as_zeros(fd: int) -> bool:
    """Whether a regular file holds no data at all, so that all of it is one hole."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def unshared_bytes(fd: int) -> int:
    """Bytes of a file's extents that no other file shares: the space that deleting it gives back.

    Where the file system cannot tell, its allocated bytes.
    """
    total = 0
    start = 0
    buffer = bytearray(_FIEMAP_HEAD.size + _FIEMAP_BATCH * _FIEMAP_EXTENT.size)
    while True:
        _FIEMAP_HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, 0, 0, _FIEMAP_BATCH, 0)
        try:
            fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        except OSError:
            return os.fstat(fd).st_blocks * 512
        mapped = _FIEMAP_HEAD.unpack_from(buffer)[3]
        if mapped == 0:
            return total
        for index in range(mapped):
            logical, _, length, _, _, flags, *_ = _FIEMAP_EXTENT.unpack_from(
                buffer, _FIEMAP_HEAD.size + index * _FIEMAP_EXTENT.size
            )
            if not flags & _FIEMAP_SHARED:
                total += length
            if flags & _FIEMAP_LAST:
                return total
            start = logical + length


def extent_count(fd: int) -> int:
    """How many extents a file has; 0 where the file system cannot tell."""
    buffer = bytearray(_FIEMAP_HEAD.pack(0, (1 << 64) - 1, 0, 0, 0, 0))
    try:
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
    except OSError:
        return 0
    return int(_FIEMAP_HEAD.unpack(buffer)[3])


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def drop_from_cache(fd: int) -> None:
    """Tell the kernel that a file's pages will not be wanted again."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
