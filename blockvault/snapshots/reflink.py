"""Snapshots by clone: the file system shares the image's extents with a file of its own, at once.

A clone is atomic for one file, whatever writes to the image at the time; it needs room only for what the
image overwrites later. Several disks are cloned one right after the other, their dirty pages written before
the first, so that the time between them is that of the calls alone.

    <folder>/<item>-<id>/<N>/<disk>.img        mode 0400, never written again
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault import kernel
from blockvault.errors import DeviceError
from blockvault.failpoints import reach
from blockvault.image.source import ImageSource
from blockvault.image.system import NOT_HERE, clone, follow_nocow, inode_generation, reads_as_zeros, sync_folder
from blockvault.snapshots.overlay import copy_data
from blockvault.snapshots.refusals import damaged, refused
from blockvault.store.local import make_folders

if TYPE_CHECKING:
    from blockvault.model import SnapshotDisk
    from blockvault.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Cloned:
    """A clone as it was when it was whole: whoever finds it otherwise knows that it was touched."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    generation: int | None


def cloned(fd: int) -> Cloned:
    """What tells a clone from one that was touched."""
    status = os.fstat(fd)
    return Cloned(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, inode_generation(fd))


def new_target(source: ImageSource, path: str) -> int:
    """A new, empty file for a clone of `source`, whose dirty pages are written; folders are made. The descriptor."""
    make_folders("/", os.path.dirname(os.path.abspath(path)).lstrip("/"))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        follow_nocow(source.fd, fd)
        os.fsync(source.fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def settle(sources: list[ImageSource], paths: list[str], fds: list[int]) -> list[Cloned]:
    """Make clones durable, if each is one of the image that its path still names."""
    for source in sources:
        _check_path(source)
    for fd in fds:
        os.fchmod(fd, 0o400)
        os.fsync(fd)
    for folder in {os.path.dirname(path) for path in paths}:
        sync_folder(folder)
    reach("snapshot.reflink.synced")
    return [cloned(fd) for fd in fds]


def _check_path(source: ImageSource) -> None:
    """The image must still be the file at its path: a clone of one that was replaced is of the past."""
    opened = os.fstat(source.fd)
    try:
        named = os.stat(source.path)
    except OSError:
        named = None
    if named is None or (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
        raise DeviceError(
            "image.changed",
            f"the disk image {source.path} changed while its snapshot was taken",
            why="it was deleted or renamed" if named is None else "another file took its place",
            do="run the command again",
            filename=source.path,
        )


def open_clone(disk: SnapshotDisk, chunk_size: int, mtime_ns: int) -> ImageSource:
    """Open a clone for reading. Raises `CorruptionError` (`snapshot.damaged`) if it is not what was made."""
    try:
        source = ImageSource.open(disk.file, chunk_size)
    except DeviceError as error:
        if error.kind == "image.not-found":
            raise damaged(disk.file, "it is gone") from None
        raise refused(disk.file, error) from error
    status = os.fstat(source.fd)
    why = None
    if source.size != disk.size:
        why = f"it has {source.size} bytes, the disk {disk.size}"
    elif status.st_mtime_ns != mtime_ns:
        why = "something has written to it since it was captured"
    if why is not None:
        source.close()
        raise damaged(disk.file, why)
    return source


def restore_clone(source: ImageSource, target_fd: int, monitor: Monitor) -> int:
    """Clone or copy a clone to a target of its size; returns the bytes written."""
    fresh = reads_as_zeros(target_fd)
    if fresh:
        try:
            follow_nocow(source.fd, target_fd)
            clone(source.fd, target_fd)
            monitor.advance(source.size)
            return source.size
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
    token = kernel.CancelToken()
    monitor.attach(token)
    return copy_data(source.fd, target_fd, source.size, fresh, monitor, token)


def remove_clones(paths: list[str]) -> None:
    """Remove clones and the folders that they leave empty."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for folder in {os.path.dirname(path) for path in paths}:
        remove_if_empty(folder)
        remove_if_empty(os.path.dirname(folder))


def remove_if_empty(folder: str) -> None:
    """Remove a folder if nothing is in it; it is no error if there is, or if it is gone."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
        sync_folder(os.path.dirname(folder))
