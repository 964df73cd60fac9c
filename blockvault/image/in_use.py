"""Who else is writing to a disk image: QEMU's image lock, other exclusive locks, mounts, loop devices.

Best effort by nature: a program that takes no lock is not seen here, only by what it changes
(`ImageSource.check_unchanged`). What is found is certain: there are no false alarms to get used to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct

from blockvault.errors import DeviceError

_FLOCK = struct.Struct("hhqqi4x")
_QEMU_WRITE_BYTE = 101  # RAW_LOCK_PERM_BASE (100) + bit 1, BLK_PERM_WRITE, of QEMU's block/file-posix.c


def find_writer(path: str, fd: int) -> str | None:
    """Who may be writing to this image now, as a phrase ("it is mounted at /mnt"), or None."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return _device_user(path, os.fstat(fd).st_rdev)
    return _lock_holder(fd) or _loop_user(fd)


def refuse(path: str, writer: str) -> DeviceError:
    """The error for an image that someone is writing to."""
    return DeviceError(
        "image.in-use",
        f"the disk image {path} is in use",
        why=writer,
        do="stop what uses it, or place it on xfs or btrfs, or accept a fuzzy point with --consistency none",
        errno=errno.EBUSY,
        filename=path,
    )


def has_no_writer(fd: int) -> bool:
    """Whether it is certain that no process has this file open for writing.

    The kernel grants a read lease only then. The lease is given back at once; should anyone open the file in
    that instant they wait for it, and the signal that tells the lease's holder is one that is ignored.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _IGNORED_SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def is_device_at_rest(path: str, fd: int) -> bool:
    """Whether it is certain that no other process has this block device open, and that it is not mounted.

    The kernel does not say who has a device open; root sees the open files of all processes.
    """
    if os.geteuid() != 0 or find_writer(path, fd) is not None:
        return False
    this = os.fstat(fd).st_rdev
    for process in os.listdir("/proc"):
        if not process.isdigit() or int(process) == os.getpid():
            continue
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue  # it has ended
        for number in numbers:
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{process}/fd/{number}")
                if stat.S_ISBLK(status.st_mode) and status.st_rdev == this:
                    return False
    return True


_IGNORED_SIGNAL = signal.SIGURG  # without a handler it does nothing


def _locked(fd: int, kind: int, start: int, length: int) -> bool:
    """Whether a lock of another open file description stands in the way of one of `kind`."""
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _lock_holder(fd: int) -> str | None:
    if _locked(fd, fcntl.F_WRLCK, _QEMU_WRITE_BYTE, 1):
        return "a running virtual machine has it open for writing (QEMU's image lock)"
    if _locked(fd, fcntl.F_RDLCK, 0, 0):
        return "another program holds an exclusive lock on it"
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another program holds an exclusive lock on it"
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def _loop_user(fd: int) -> str | None:
    """A writable loop device on this file that someone has mounted or taken."""
    this = os.fstat(fd)
    for name in os.listdir("/sys/block") if os.path.isdir("/sys/block") else ():
        if not name.startswith("loop"):
            continue
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file:
                backing = os.stat(file.read().rstrip("\n"))
            with open(f"/sys/block/{name}/ro", encoding="ascii") as file:
                read_only = file.read().strip() == "1"
        except OSError:
            continue
        if read_only or (backing.st_dev, backing.st_ino) != (this.st_dev, this.st_ino):
            continue
        device = f"/dev/{name}"
        with contextlib.suppress(OSError):
            user = _device_user(device, os.stat(device).st_rdev)
            if user:
                return f"the loop device {device} stands on it, and {user}"
    return None


def _device_user(path: str, rdev: int) -> str | None:
    """A device that is mounted, swap, or part of another device cannot be opened exclusively."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        return None
    except OSError as error:
        if error.errno != errno.EBUSY:
            return None
    mounts = _mounts(path, rdev)
    if mounts:
        written = [folder for folder, read_only in mounts if not read_only]
        return f"it is mounted at {written[0]}" if written else None
    return "the system is using it (mounted, swap, RAID, LVM or device mapper)"


def _mounts(path: str, rdev: int) -> list[tuple[str, bool]]:
    """Where a device or one of its partitions is mounted, and whether its file system is read-only."""
    sysfs = f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}"
    numbers = {f"{os.major(rdev)}:{os.minor(rdev)}"}
    names = {os.path.realpath(path)}
    with contextlib.suppress(OSError):
        for name in os.listdir(sysfs):
            with contextlib.suppress(OSError), open(f"{sysfs}/{name}/dev", encoding="ascii") as file:
                numbers.add(file.read().strip())
                names.add(f"/dev/{name}")
    found = []
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields, tail = left.split(), right.split()
            # btrfs shows a number of its own in the third field: the device's name tells
            if len(tail) >= 3 and (fields[2] in numbers or os.path.realpath(tail[1]) in names):
                read_only = "ro" in tail[2].split(",") or "ro" in fields[5].split(",")
                found.append((fields[4].encode().decode("unicode_escape"), read_only))
    return found
