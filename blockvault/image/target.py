"""Where a restored disk is written: a new file that appears when it is whole, or a block device.

Invariants:
- A file is built without a name in its own folder (`O_TMPFILE`; where the file system has none, under a
  hidden name) and linked to its name by `commit`, after its bytes are durable. A crash or `abort` before
  leaves nothing.
- What stands at the path is never overwritten without `force`, and with it only by `commit`, in one step.
- A device is overwritten in place: nothing of it can be taken back, so it always needs `force`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Self

from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    DeviceError,
    InvalidInputError,
)
from blockvault.failpoints import reach
from blockvault.image.system import device_size
from blockvault.units import format_size

_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


class Target:
    """A target being written through `fd`, or past the page cache through `direct_fd`; ends with `commit` or `abort`.

    `fresh` says that it was made for this and reads as zeros; a device is never fresh (R14).
    """

    def __init__(self, path: str, fd: int, *, fresh: bool, force: bool, partial: str | None) -> None:
        self.path = path
        self.fd = fd
        self.fresh = fresh
        self._force = force
        self._partial = partial  # its hidden name, where it has one
        self.direct_fd = _open_direct(fd)

    def reserve(self, byte_count: int) -> None:
        """Raise `DeviceError` (`target.no-space`) if so much data cannot have room; promises nothing."""
        if not self.fresh:
            return
        status = os.fstatvfs(self.fd)
        free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
        if byte_count > free:
            raise DeviceError(
                "target.no-space",
                f"there is no room for {self.path}",
                why=f"it holds {format_size(byte_count)} of data, and {format_size(free)} are free",
                do="free space, or restore to another place with -o",
                errno=errno.ENOSPC,
                filename=self.path,
            )

    def commit(self) -> None:
        """Make the bytes durable and put the file in place.

        Raises:
            AlreadyExistsError: `target.exists`, something took the name meanwhile.
            DeviceError: the system refused; nothing was put in place.
        """
        try:
            reach("target.sync")
            os.fsync(self.fd)
            reach("target.link")
            if self.fresh:
                self._put_in_place()
        except FileExistsError:
            self.abort()
            raise _exists(self.path) from None
        except OSError as error:
            self.abort()
            if isinstance(error, BlockVaultError):
                raise
            raise write_error(self.path, error) from error
        self._close()

    def _put_in_place(self) -> None:
        folder, name = os.path.split(self.path)
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._force:
                if self._partial is None:
                    self._partial = _partial_name(self.path)
                    self._link(os.path.basename(self._partial), folder_fd)
                os.rename(self._partial, self.path)
                self._partial = None
            elif self._partial is None:
                self._link(name, folder_fd)
            else:
                os.link(self._partial, self.path)  # rename would overwrite
                os.unlink(self._partial)
                self._partial = None
            reach("target.linked")
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)

    def _link(self, name: str, folder_fd: int) -> None:
        # With a folder's descriptor Python uses linkat(AT_SYMLINK_FOLLOW); without one it would link the
        # link.
        os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=folder_fd, follow_symlinks=True)

    def abort(self) -> None:
        """Leave nothing behind of a new file; safe to call again, and after `commit`."""
        self._close()
        if self._partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._partial)
            self._partial = None

    def _close(self) -> None:
        if self.direct_fd is not None:
            os.close(self.direct_fd)
            self.direct_fd = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def open_target(path: str, size: int, *, force: bool) -> Target:
    """Begin to write a disk of `size` bytes to `path`: a new file, or with `force` a block device.

    Raises:
        AlreadyExistsError: `target.exists`.
        InvalidInputError: `target.is-folder`, `target.no-folder`, `target.not-a-disk`,
            `target.device-needs-force`, `target.too-small`.
        ConflictError: `target.in-use`, a device that is mounted or otherwise taken.
        DeviceError: `target.cannot-create`, `target.no-space`, `target.too-large`.
    """
    path = os.path.realpath(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _new_file(path, size, force=force)
    except OSError as error:
        raise write_error(path, error) from error
    if stat.S_ISBLK(status.st_mode):
        return _device(path, size, force=force)
    if stat.S_ISDIR(status.st_mode):
        raise InvalidInputError(
            "target.is-folder", f"{path} is a folder", do="name the file that is to be written in it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInputError(
            "target.not-a-disk",
            f"{path} is neither a file nor a block device",
            do="name a new file or a block device; `-o -` writes to standard output",
        )
    if not force:
        raise _exists(path)
    return _new_file(path, size, force=force)


def _new_file(path: str, size: int, *, force: bool) -> Target:
    folder = os.path.dirname(path)
    partial: str | None = None
    try:
        try:
            # Only the owner may read it: a disk's bytes are its machine's secrets.
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE or not os.path.isdir(folder):
                raise
            partial = _partial_name(path)
            fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if not os.path.isdir(folder):
            raise InvalidInputError(
                "target.no-folder", f"there is no folder {folder}", do="make it first, or name another place"
            ) from None
        raise write_error(path, error, kind="target.cannot-create") from error
    target = Target(path, fd, fresh=True, force=force, partial=partial)
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        target.abort()
        if error.errno in (errno.EFBIG, errno.EINVAL):
            raise DeviceError(
                "target.too-large",
                f"the file system of {folder} cannot hold a file of {format_size(size)}",
                why=error.strerror,
                do="restore to another file system, for example xfs, or to a block device",
                errno=error.errno,
                filename=path,
            ) from error
        raise write_error(path, error) from error
    return target


def _device(path: str, size: int, *, force: bool) -> Target:
    if not force:
        raise InvalidInputError(
            "target.device-needs-force",
            f"{path} is a block device",
            why="a restore overwrites all of it, and that cannot be undone",
            do="check that it is the right one, then add --force",
        )
    try:
        # O_EXCL on a device: refused if it is mounted, swap, or part of another device.
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ConflictError(
                "target.in-use",
                f"the device {path} is in use",
                why="it is mounted, swap, or part of another device",
                do="unmount it, or choose another device",
            ) from error
        raise write_error(path, error, kind="target.cannot-create") from error
    room = device_size(fd)
    if room < size:
        os.close(fd)
        raise InvalidInputError(
            "target.too-small",
            f"the device {path} is smaller than the disk",
            why=f"the disk has {size} bytes, the device {room}",
            do="choose a larger device",
        )
    return Target(path, fd, fresh=False, force=force, partial=None)


def _open_direct(fd: int) -> int | None:
    """The same file for writing past the page cache; None where its file system has no such thing."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


def _partial_name(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name[:200]}.partial-{os.urandom(6).hex()}")


def _exists(path: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        "target.exists",
        f"{path} already exists",
        why="a restore never overwrites a file unasked",
        do="name another with -o, or add --force",
    )


def write_error(path: str, error: OSError, *, kind: str = "target.write-error") -> DeviceError:
    """A refused write, in the user's nouns; a full disk has a kind of its own."""
    if error.errno in _SPACE_ERRORS:
        return DeviceError(
            "target.no-space",
            f"no space left for {path}",
            why=error.strerror,
            do="free space, or restore to another place with -o",
            errno=error.errno,
            filename=path,
        )
    advice = "check the rights on the folder" if error.errno in (errno.EACCES, errno.EPERM) else "check the disk"
    if error.errno == errno.EROFS:
        advice = "the file system is read-only: name another place with -o"
    return DeviceError(
        kind, f"{path} cannot be written", why=error.strerror, do=advice, errno=error.errno, filename=path
    )
