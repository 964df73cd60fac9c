"""File systems that are mounted on this host: what they lie on, and freezing and thawing one.

A frozen file system makes everybody who writes to it wait, and so this program too, if what it writes lies there: it
would wait for itself. What lies on what is therefore followed to the ground: from a mount to its device, from a loop
device to the file behind it and the file system of that file, from a device mapper or RAID to what it is made of.

Invariants:
- A mount is frozen by its open descriptor, and thawed by the same: whatever is mounted at the path by then.
- Nothing that a protected path lies on, at any depth, is ever frozen (`check_freezable`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from blockvault.errors import HookError

_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
_DEPTH_MAX = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of `/proc/self/mountinfo`, as far as it is needed."""

    superblock: str  # `major:minor`, one for all mounts of a file system
    mount_point: str
    source: str


def open_mount(path: str) -> int:
    """A descriptor of what is mounted at `path`.

    Raises:
        HookError: `hook.not-a-mount`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _no_mount(path, error.strerror) from error
    entry = mount_of(fd)
    if entry is None or entry.mount_point != os.path.realpath(path):
        os.close(fd)
        why = f"it lies in the file system mounted at {entry.mount_point}" if entry else "the system does not say"
        raise _no_mount(path, why)
    return fd


def _no_mount(path: str, why: str | None) -> HookError:
    return HookError(
        "hook.not-a-mount",
        f"{path} is not where a file system is mounted",
        why=why,
        do="mount it, or name its mount point with `blockvault item set ITEM --freeze-mount PATH`",
    )


def check_freezable(fd: int, path: str, *, protected: list[str], disks: list[str]) -> None:
    """Whether this mount may be frozen for a capture of `disks`.

    Args:
        fd: of the mount.
        path: of the mount, for messages.
        protected: what must stay writable, at any depth; a path that is missing is taken for the nearest folder.
        disks: the images and devices of the item: the file system must lie on one of them, or freezing it says
            nothing of the point.

    Raises:
        HookError: `hook.mount-refused`, `hook.other-file-system`.
    """
    entry = mount_of(fd)
    assert entry is not None
    own = f"fs {entry.superblock}"
    for needed in protected:
        if own in _beneath_path(_nearest(needed)):
            raise HookError(
                "hook.mount-refused",
                f"the file system at {path} must not be frozen",
                why=f"{needed} lies on it: this program would wait for itself",
                do="leave it out: `blockvault item set ITEM --freeze-mount ''`",
            )
    grounds = _beneath_mount(entry)
    for disk in disks:
        with contextlib.suppress(OSError):
            status = os.stat(disk)
            device = stat.S_ISBLK(status.st_mode)
            ground = _device(status.st_rdev) if device else f"file {status.st_dev}:{status.st_ino}"
            if ground in grounds:
                return
    raise HookError(
        "hook.other-file-system",
        f"the file system at {path} is on none of the item's disks",
        why=f"{entry.source} is mounted there",
        do="name a mount point of a file system that lies on the item's disks",
    )


def standard_streams() -> list[str]:
    """The files that this program prints to, as paths through their descriptors."""
    return [f"/proc/self/fd/{fd}" for fd in (0, 1, 2) if os.path.exists(f"/proc/self/fd/{fd}")]


# -- what lies on what --------------------------------------------------------------------------------------


def mount_of(fd: int) -> MountEntry | None:
    """The mount that an open file lies on; None where the system does not say."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next((line.split()[1] for line in file if line.startswith("mnt_id:")), None)
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if fields[0] == number and len(tail) >= 2:
            return MountEntry(fields[2], _unescaped(fields[4]), _unescaped(tail[1]))
    return None


def _unescaped(text: str) -> str:
    r"""The kernel writes blanks and backslashes as octal: `\040`."""
    parts = text.split("\\")
    return parts[0] + "".join(
        chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in parts[1:]
    )


def _nearest(path: str) -> str:
    while not os.path.exists(path) and path not in ("/", ""):
        path = os.path.dirname(path)
    return path or "/"


def _beneath_path(path: str, depth: int = 0) -> set[str]:
    """The file systems, devices and backing files that a path lies on, to the ground."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        entry = mount_of(fd)
    finally:
        os.close(fd)
    return _beneath_mount(entry, depth) if entry is not None else set()


def _beneath_mount(entry: MountEntry, depth: int = 0) -> set[str]:
    found = {f"fs {entry.superblock}"}
    number = entry.superblock
    with contextlib.suppress(OSError):
        status = os.stat(entry.source)  # btrfs gives its superblock a number that is no device's
        if stat.S_ISBLK(status.st_mode):
            number = _device(status.st_rdev).removeprefix("dev ")
    return found | _beneath_device(number, depth + 1)


def _device(rdev: int) -> str:
    return f"dev {os.major(rdev)}:{os.minor(rdev)}"


def _beneath_device(number: str, depth: int) -> set[str]:
    top = f"/sys/dev/block/{number}"
    if depth > _DEPTH_MAX or not os.path.isdir(top):
        return set()
    found = {f"dev {number}"}
    with contextlib.suppress(OSError), open(f"{top}/loop/backing_file", "rb") as file:
        backing = os.fsdecode(file.read().rstrip(b"\n"))
        status = os.stat(backing)
        found.add(f"file {status.st_dev}:{status.st_ino}")
        found |= _beneath_path(backing, depth + 1)
    others = []
    with contextlib.suppress(OSError):
        others = [f"{top}/slaves/{name}/dev" for name in os.listdir(f"{top}/slaves")]
    if os.path.exists(f"{top}/partition"):
        others.append(os.path.join(os.path.dirname(os.path.realpath(top)), "dev"))
    for other in others:
        with contextlib.suppress(OSError), open(other, encoding="ascii") as file:
            found |= _beneath_device(file.read().strip(), depth + 1)
    return found


# -- freezing -----------------------------------------------------------------------------------------------


def sync_file_system(fd: int) -> None:
    """Write what is dirty, so that the freeze that follows is short."""
    _libc.syncfs(fd)


def freeze_mount(fd: int, path: str) -> None:
    """Freeze it: who writes waits from now on. Raises `HookError` (`hook.freeze-failed`)."""
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
    except OSError as error:
        why = {
            errno.EBUSY: "somebody else has frozen it",
            errno.EPERM: "only root may",
            errno.EOPNOTSUPP: "its file system cannot be frozen",
        }.get(error.errno or 0, error.strerror)
        do = {
            errno.EBUSY: f"if it was left so, thaw it: fsfreeze --unfreeze {path}",
            errno.EPERM: "run as root, or use a guest agent",
        }.get(error.errno or 0, "use a guest agent")
        raise HookError(
            "hook.freeze-failed", f"the file system at {path} could not be frozen", why=why, do=do
        ) from error


def thaw_mount(fd: int) -> bool:
    """Thaw it; False: it was not frozen any more."""
    while True:
        try:
            fcntl.ioctl(fd, _FITHAW, 0)
            return True
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
