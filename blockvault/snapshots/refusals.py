"""The system's refusals in the snapshot tier, in the user's nouns: full, locked, unreadable, damaged."""

from __future__ import annotations

import errno
import os

from blockvault.errors import CorruptionError, DeviceError
from blockvault.image.system import FLAG_IMMUTABLE, inode_flags

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCKED = (errno.EPERM, errno.EACCES, errno.EROFS)


def refused(path: str, error: OSError) -> DeviceError:
    """A refused write or read in the tier. What is a `DeviceError` already keeps its kind, but for a full disk."""
    if error.errno in _FULL:
        return no_space(path, error)
    if isinstance(error, DeviceError):
        return error
    if error.errno in _LOCKED:
        return folder_locked(path if os.path.isdir(path) else os.path.dirname(path), error)
    return DeviceError(
        "snapshot.failed",
        f"the system refused to keep the snapshot at {path}",
        why=os.strerror(error.errno) if error.errno else str(error),
        do="check the disk; points and other snapshots are untouched",
        errno=error.errno,
        filename=path,
    )


def no_space(path: str, error: OSError) -> DeviceError:
    """The snapshot folder's file system is full."""
    return DeviceError(
        "snapshot.no-space",
        f"no space left for a snapshot at {path}",
        why=os.strerror(error.errno or errno.ENOSPC),
        do="free space, keep snapshots for fewer days, or choose another place: `blockvault item set --snapshot-dir`",
        errno=errno.ENOSPC,
        filename=path,
    )


def folder_locked(folder: str, error: OSError) -> DeviceError:
    """The snapshot folder does not take new files, for a reason that is found out and told."""
    return DeviceError(
        "snapshot.folder-locked",
        f"the snapshot folder {folder} cannot be written",
        why=_why_locked(folder, error),
        do="unlock it, or choose another place: `blockvault item set --snapshot-dir`",
        errno=error.errno,
        filename=folder,
    )


def _why_locked(folder: str, error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "its file system is mounted read-only"
    existing = folder
    while existing != "/" and not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    try:
        fd = os.open(existing, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "this user may not look into it"
    try:
        if inode_flags(fd) & FLAG_IMMUTABLE:
            return f"{existing} is immutable (chattr +i)"
    finally:
        os.close(fd)
    return "this user may not write there"


def damaged(path: str, why: str) -> CorruptionError:
    """A file of a snapshot is not what it was made."""
    return CorruptionError(
        "snapshot.damaged",
        f"the snapshot file {path} is damaged",
        why=why,
        do="restore from the vault (`--from vault`); the next snapshot begins anew",
    )
