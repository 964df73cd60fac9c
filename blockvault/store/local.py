"""The object store on a local file system, and the port that every store keeps.

What the protocols rely on (`docs/concurrency.md`): create-only writes, whole reads, ranged reads, listing, deletion.

Invariants:
- An object appears under its name whole and durable, or not at all: it is written without a name (`O_TMPFILE`, or a
  file in `tmp/` where the file system has none), synced, linked to its name, and the folder is synced.
- Nothing is overwritten: linking to a name that exists fails.
- Names are relative, of letters, digits, `.`, `_`, `-` and `/`, without `..`: no name leads out of the vault.
- Nothing is followed out of it either: a folder or an object that is a symbolic link, and an object that is no plain
  file (a FIFO would hang its reader, a device do worse), is refused before it is opened.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Protocol

from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    CorruptionError,
    DeviceError,
    InternalError,
    NotFoundError,
)
from blockvault.failpoints import reach
from blockvault.page_cache import let_go

_NAME = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\Z")
SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)
READ_BYTES_MAX = 20 << 20  # the largest object that is read whole is an index segment, of 16 MiB plain
CACHED_BYTES = 1 << 20  # what is larger is a pack; the rest is read again soon, and small


class ObjectStore(Protocol):
    """The port: what a vault needs of the place that holds its objects."""

    def put_new(self, name: str, data: bytes) -> None:
        """Create `name` durably. Raises `AlreadyExistsError` (`store.exists`)."""

    def new_object(self, name: str) -> NewObject:
        """Begin an object that is written in pieces and appears at `commit`."""

    def open(self, name: str) -> int:
        """A file descriptor for reading at offsets."""

    def read(self, name: str, *, limit: int = READ_BYTES_MAX) -> bytes:
        """The whole object."""

    def size(self, name: str) -> int:
        """Its length in bytes."""

    def modified(self, name: str) -> float:
        """When it was made, by the store's own time."""

    def exists(self, name: str) -> bool:
        """Whether it is there; an error where that cannot be known."""

    def entries(self, prefix: str) -> list[str]:
        """Last parts of the names directly under the folder `prefix`."""

    def delete(self, name: str) -> None:
        """Remove it; it is no error if it is gone."""

    def mend(self, name: str, data: bytes) -> None:
        """Put whole bytes in the place of a damaged object's, in one step."""

    def now(self) -> float:
        """The store's own time, seconds since 1970."""


def device_error(error: OSError, what: str, *, kind: str = "store.failed") -> DeviceError:
    """A failed system call as an error in the user's nouns; a full disk gets its own kind."""
    if error.errno in SPACE_ERRORS:
        return DeviceError(
            "store.no-space",
            f"no space left while {what}",
            why=os.strerror(error.errno or 0),
            do="free space or move the vault, then run the command again; completed points are untouched",
            errno=error.errno,
            filename=error.filename if isinstance(error.filename, str) else None,
        )
    return DeviceError(
        kind,
        f"the system refused while {what}",
        why=os.strerror(error.errno) if error.errno else str(error),
        do="check the disk and its rights; completed points are untouched",
        errno=error.errno,
        filename=error.filename if isinstance(error.filename, str) else None,
    )


class NotPlainError(OSError):
    """What lies at a path is no plain file, for the reason given: it was not opened."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(errno.ELOOP, reason, path)
        self.reason = reason


def check_plain(path: str) -> None:
    """Raise `NotPlainError` where something other than a plain file lies at `path`; nothing there is fine."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise NotPlainError("it is a link, a folder, a pipe or a device, not a plain file", path)


def open_plain(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a plain file; raises `NotPlainError` for anything else, without having opened it."""
    check_plain(path)
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotPlainError("it is not a plain file", path)
    return fd


def foreign(what: str, why: str) -> CorruptionError:
    """The error for a link, pipe or device where the vault has a folder or an object."""
    return CorruptionError(
        "vault.not-a-plain-file",
        f"{what} of the vault is not what it must be",
        why=f"{why}; a vault's objects lie in plain files and folders of its own",
        do="put the true file or folder there; where it shall lie on another disk, mount that there",
    )


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(root: str, relative: str, *, mode: int = 0o777) -> str:
    """Make `root/relative`, each new folder durable in its parent; returns its path. `mode` is the last one's."""
    path = os.path.join(root, relative)
    if os.path.isdir(path):
        return path
    parent = os.path.dirname(relative)
    if parent:
        make_folders(root, parent)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return path
    sync_folder(os.path.dirname(path))
    return path


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the file's position."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: str, data: bytes) -> None:
    """Replace a file whole and durably."""
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        reach("host.replace")
        os.rename(temporary, path)
        reach("host.replaced")
        sync_folder(os.path.dirname(path))
    except OSError as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise device_error(error, f"writing the host's state {path}") from error


def read_at(fd: int, length: int, offset: int) -> bytes:
    """So many bytes from there on, in however many pieces the system gives them; fewer only at the file's end."""
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


class NewObject:
    """An object being written: bytes are appended, then `commit` gives it its name, or `abort` leaves nothing."""

    def __init__(self, store: LocalStore, name: str) -> None:
        self.name = name
        self._store = store
        self._temporary: str | None = None
        self.size = 0
        try:
            folder = store.folder(os.path.dirname(name))
            try:
                self.fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                    raise
                self._temporary = os.path.join(os.path.dirname(store.path("tmp/x")), os.urandom(12).hex())
                make_folders(store.root, "tmp")
                self.fd = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if isinstance(error, DeviceError):
                raise
            raise device_error(error, f"creating {name} in the vault") from error

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        try:
            reach("store.write")
            write_all(self.fd, data)
        except OSError as error:
            raise device_error(error, f"writing {self.name} to the vault") from error
        self.size += len(data)

    def commit(self) -> None:
        """Make the bytes durable, then the name. Raises `AlreadyExistsError` (`store.exists`)."""
        path = self._store.path(self.name)
        try:
            reach("store.sync")
            os.fchmod(self.fd, 0o400)
            os.fsync(self.fd)
            if self.size > CACHED_BYTES:
                let_go(self.fd)
            reach("store.link")
            folder_fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # With a folder's descriptor Python uses linkat(AT_SYMLINK_FOLLOW), without one plain link.
                source = f"/proc/self/fd/{self.fd}" if self._temporary is None else self._temporary
                os.link(source, os.path.basename(path), dst_dir_fd=folder_fd, follow_symlinks=True)
                reach("store.linked")
                os.fsync(folder_fd)
            finally:
                os.close(folder_fd)
        except FileExistsError:
            raise AlreadyExistsError(
                "store.exists",
                f"the vault already has an object {self.name}",
                why="another writer made it first",
            ) from None
        except OSError as error:
            raise device_error(error, f"putting {self.name} in place in the vault") from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Leave nothing behind; safe to call again, and after `commit`."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._temporary is not None:
            try:
                os.unlink(self._temporary)
            except FileNotFoundError:
                pass
            self._temporary = None


class LocalStore:
    """An `ObjectStore` in a folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._durable: set[str] = set()
        self._own: set[str] = set()  # folders that are known to be no links

    def folder(self, relative: str) -> str:
        """The path of a folder, made if missing, and durable: a folder that another process made may not be synced."""
        self._check_folder(relative)
        path = make_folders(self.root, relative)
        if relative not in self._durable:
            above = os.path.dirname(relative)
            while above:
                sync_folder(os.path.join(self.root, above))
                above = os.path.dirname(above)
            sync_folder(self.root)
            self._durable.add(relative)
        return path

    def path(self, name: str) -> str:
        """Where an object lies. Raises `InternalError` for what is not an object's name."""
        if not _NAME.match(name):
            raise InternalError("store.bad-name", f"'{name}' is not an object's name")
        self._check_folder(os.path.dirname(name))
        return os.path.join(self.root, name)

    def _check_folder(self, relative: str) -> None:
        """No part of a folder's path is a link: a vault from a stranger must not lead out of itself."""
        if not relative or relative in self._own:
            return
        self._check_folder(os.path.dirname(relative))
        try:
            status = os.lstat(os.path.join(self.root, relative))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise device_error(error, f"looking for {relative} of the vault") from error
        if stat.S_ISLNK(status.st_mode):
            raise foreign(f"the folder {relative}", "it is a symbolic link")
        self._own.add(relative)

    def put_new(self, name: str, data: bytes) -> None:
        """Create `name` durably. Raises `AlreadyExistsError` (`store.exists`)."""
        new = self.new_object(name)
        try:
            new.write(data)
            new.commit()
        finally:
            new.abort()

    def new_object(self, name: str) -> NewObject:
        """Begin an object that is written in pieces and appears at `commit`."""
        self.path(name)
        return NewObject(self, name)

    def mend(self, name: str, data: bytes) -> None:
        """Put whole bytes in the place of a damaged object's, durably: at any moment the old or the new are there.

        The one way to replace an object. Only for bytes that say what the object always said (`engine/repair.py`).
        """
        path = self.path(name)
        try:
            temporary = os.path.join(make_folders(self.root, "tmp"), os.urandom(12).hex())
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400)
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            reach("store.mend")
            os.rename(temporary, path)
            reach("store.mended")
            sync_folder(os.path.dirname(path))
        except OSError as error:
            raise device_error(error, f"putting {name} back in the vault") from error

    def open(self, name: str) -> int:
        """A file descriptor. Raises `NotFoundError` (`store.no-object`) or `DeviceError`."""
        try:
            return open_plain(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("store.no-object", f"the vault has no object {name}") from None
        except NotPlainError as error:
            raise foreign(f"the object {name}", error.reason) from None
        except OSError as error:
            if isinstance(error, BlockVaultError):
                raise
            raise device_error(error, f"opening {name} of the vault") from error

    def read(self, name: str, *, limit: int = READ_BYTES_MAX) -> bytes:
        """The whole object. Raises `NotFoundError`, `DeviceError`, or `CorruptionError` beyond `limit`."""
        fd = self.open(name)
        try:
            size = os.fstat(fd).st_size
            if size > limit:
                raise CorruptionError(
                    "vault.object-damaged",
                    f"the vault's object {name} is {size} bytes long",
                    why=f"more than {limit}",
                )
            return read_at(fd, size, 0)
        except OSError as error:
            if isinstance(error, DeviceError):
                raise
            raise device_error(error, f"reading {name} of the vault") from error
        finally:
            os.close(fd)

    def size(self, name: str) -> int:
        """Length in bytes. Raises `NotFoundError`."""
        try:
            return os.lstat(self.path(name)).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("store.no-object", f"the vault has no object {name}") from None

    def modified(self, name: str) -> float:
        """When it was made, by the store's time. Raises `NotFoundError` or `DeviceError`."""
        try:
            return os.stat(self.path(name)).st_mtime
        except FileNotFoundError:
            raise NotFoundError("store.no-object", f"the vault has no object {name}") from None
        except OSError as error:
            raise device_error(error, f"looking for {name} of the vault") from error

    def exists(self, name: str) -> bool:
        """Whether it is there. Raises `DeviceError` where that cannot be known."""
        try:
            os.lstat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise device_error(error, f"looking for {name} of the vault") from error
        return True

    def entries(self, prefix: str) -> list[str]:
        """Last parts of the names directly under the folder `prefix`; none if it does not exist.

        What cannot be an object's name was put there by other programs (`.DS_Store`, `lost+found`) and is passed over.
        """
        path = self.path(prefix)
        self._check_folder(prefix)
        try:
            return [entry for entry in os.listdir(path) if _NAME.match(entry)]
        except (FileNotFoundError, NotADirectoryError):
            return []  # a file that someone put among the folders is none of ours
        except OSError as error:
            raise device_error(error, f"listing {prefix} of the vault") from error

    def delete(self, name: str) -> None:
        """Remove the object and make that durable."""
        path = self.path(name)
        try:
            os.unlink(path)
            sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise device_error(error, f"deleting {name} of the vault") from error

    def remove_scratch(self, older_seconds: float) -> int:
        """Remove what lies in `tmp/` for longer than that, by the store's time; returns its bytes.

        Only what jobs that were killed have left: call it when nobody is at work.
        """
        folder, freed, now = os.path.join(self.root, "tmp"), 0, self.now()
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            try:
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and now - status.st_mtime > older_seconds:
                    os.unlink(path)
                    freed += status.st_size
            except OSError:
                continue
        return freed

    def now(self) -> float:
        """The file system's time: that of a file just made in the vault (R8, R16: never this host's clock)."""
        self._check_folder("tmp")
        folder = make_folders(self.root, "tmp")
        path = os.path.join(folder, os.urandom(8).hex())
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, b"t")
                return os.fstat(fd).st_mtime
            finally:
                os.close(fd)
                os.unlink(path)
        except OSError as error:
            raise device_error(error, "asking the vault's file system for its time") from error
