"""Where an item's snapshot is kept, and how: cloned beside the image, or copied where there is room.

The file system is asked, not guessed: a small piece of the image is cloned into a nameless file in the place
itself, so that all its conditions (one file system, flags, quota, rights) are those of the real clone.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.image.system import NOT_HERE, clone_range, follow_nocow
from blockvault.model import SnapshotKind
from blockvault.snapshots.refusals import folder_locked, refused
from blockvault.store.local import make_folders
from blockvault.units import MIB, format_size

if TYPE_CHECKING:
    from blockvault.image.source import ImageSource

BESIDE = ".blockvault"
_PROBE_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for snapshots and the way they are kept there.

    `folder` is None where none can be kept, and `reason` says why in the user's words. `folders` has one a
    disk, in the order of the disks: clones of disks on different file systems lie each beside its own image.
    `copies`: all data would be copied, because nothing is there to be built upon.
    """

    folder: str | None
    kind: SnapshotKind | None
    reason: str
    folders: tuple[str, ...] = ()
    copies: bool = False


def choose_place(sources: list[ImageSource], default_dir: str, *, folder: str | None, room_needed: bool) -> Place:
    """The place for a snapshot of these images.

    Args:
        sources: the item's images, open.
        default_dir: where they go if not beside the images; made if missing.
        folder: the user's choice, which wins; made if missing.
        room_needed: whether a whole copy must find room, because none is there to be built upon.

    Raises:
        DeviceError: `snapshot.folder-locked`, the user's folder cannot be written; `snapshot.failed`.
    """
    if folder is not None:
        folder = os.path.abspath(folder)
        _make_folder(folder)
        return _in_folder(sources, folder, room_needed=room_needed)
    beside = tuple(os.path.join(os.path.dirname(os.path.realpath(source.path)), BESIDE) for source in sources)
    if sources and all(_can_clone(source, place) for source, place in zip(sources, beside, strict=True)):
        return Place(beside[0], SnapshotKind.REFLINK, "", beside)
    default_dir = os.path.abspath(default_dir)
    _make_folder(default_dir)
    return _in_folder(sources, default_dir, room_needed=room_needed)


def _in_folder(sources: list[ImageSource], folder: str, *, room_needed: bool) -> Place:
    folders = (folder,) * len(sources)
    if sources and all(_can_clone(source, folder) for source in sources):
        return Place(folder, SnapshotKind.REFLINK, "", folders)
    for source in sources:
        if not _can_hold(folder, source.chunk_count * source.chunk_size):
            size = format_size(source.size)
            return Place(None, None, f"the file system of {folder} cannot hold a file of {size}")
    if room_needed:
        data = sum(source.data_bytes() for source in sources)
        status = os.statvfs(folder)
        free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
        if free < data + data // 10:
            return Place(
                None,
                None,
                f"{folder} has {format_size(free)} free, and a copy of {format_size(data)} with a tenth to spare "
                "has no room there",
            )
    return Place(folder, SnapshotKind.RAW, "", folders, copies=room_needed)


def _make_folder(folder: str) -> None:
    """Make the folder if it is missing, and prove that it takes files."""
    try:
        make_folders("/", folder.lstrip("/"))
        _close_nameless(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise folder_locked(folder, error) from error
    except OSError as error:
        raise refused(folder, error) from error


def _close_nameless(folder: str) -> None:
    try:
        os.close(_open_nameless(folder))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        path = os.path.join(folder, f".probe-{os.urandom(6).hex()}")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(path)


def _open_nameless(folder: str) -> int:
    return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _can_hold(folder: str, size: int) -> bool:
    """Whether the file system takes a file of that size, all of it a hole."""
    try:
        fd = _open_nameless(folder)
    except OSError:
        return True  # it has no nameless files to try with; the capture will tell
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.EINVAL):
            raise refused(folder, error) from error
        return False
    finally:
        os.close(fd)
    return True


def _can_clone(source: ImageSource, folder: str) -> bool:
    """Whether a piece of the image can be cloned into the folder, or where it would be made."""
    if source.is_device:
        return False
    try:
        fd = _open_nameless(folder if os.path.isdir(folder) else os.path.dirname(folder))
    except OSError:
        return False  # not writable, or without nameless files, as all that clone have
    try:
        follow_nocow(source.fd, fd)
        clone_range(source.fd, fd, 0, _PROBE_BYTES if source.size > _PROBE_BYTES else 0)
        return True
    except OSError as error:
        if error.errno in (*NOT_HERE, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
            return False
        raise refused(folder, error) from error
    finally:
        os.close(fd)
