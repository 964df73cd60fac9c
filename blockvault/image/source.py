"""A disk image to be read: a raw file or a block device, open once, known by its inode.

Invariants:
- `size` is that of the moment of opening; every read stays inside it, and a file that became shorter is an
  error.
- Two `state()`s that are equal, with `check_unchanged` between them, mean that no byte was written through
  the file system or the device in between. What a writer changes through a shared memory mapping is seen
  because dirty pages are written back first, which makes the next store fault and move the file's time.

It does not promise a point in time: a live image may be written while it is read, and then the caller is
told.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from blockvault import kernel
from blockvault.errors import DeviceError
from blockvault.image.in_use import find_writer, has_no_writer, is_device_at_rest, refuse
from blockvault.image.reader import ScanResult
from blockvault.image.system import device_size, sectors_changed
from blockvault.page_cache import must_leave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.image.reader import U8, U64
    from blockvault.kernel import CancelToken, PlainBatch

# File times of kernels before 6.13 move in steps of a clock tick: a write within the tick of the last look is
# only seen if that look waited for the next one.
_TIME_STEP_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class SourceState:
    """What tells a source from its changed self. `device` is that of the file, or the device itself."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    sectors_written: int | None  # of a block device: written or discarded since boot


class ImageSource:
    """One open disk image; a `DiskReader` of whatever it holds at the time."""

    def __init__(self, path: str, fd: int, size: int, is_device: bool, chunk_size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.is_device = is_device
        self.chunk_size = chunk_size
        self._drop_cache = must_leave(fd, self.data_bytes())

    @classmethod
    def open(cls, path: str, chunk_size: int) -> ImageSource:
        """Open the image at `path`.

        Raises:
            DeviceError: `image.not-found`, `image.is-folder`, `image.not-a-disk`, `image.unreadable`.
        """
        fd = -1
        try:
            _check_kind(path, os.stat(path))
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            _check_kind(path, os.fstat(fd))  # the path may name something else by now
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
            status = os.fstat(fd)
            is_device = stat.S_ISBLK(status.st_mode)
            size = device_size(fd) if is_device else status.st_size
            return cls(path, fd, size, is_device, chunk_size)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if isinstance(error, DeviceError):
                raise
            raise _open_error(path, error) from error

    @property
    def chunk_count(self) -> int:
        """Chunks of the disk, the last one perhaps short."""
        return -(-self.size // self.chunk_size)

    def data_bytes(self) -> int:
        """Bytes that the image takes up on its own storage; a device has no holes."""
        if self.is_device:
            return self.size
        return min(self.size, os.fstat(self.fd).st_blocks * 512)

    def state(self) -> SourceState:
        """The state now, to be given to `check_unchanged` later."""
        if self.is_device or not has_no_writer(self.fd):
            # Written back, a device's sectors are counted and a mapped page is watched again.
            os.fsync(self.fd)
        state = self._state()
        if not self.is_device and time.time_ns() - max(state.mtime_ns, state.ctime_ns) < _TIME_STEP_NS:
            time.sleep(_TIME_STEP_NS / 1e9)
            state = self._state()
        return state

    def _state(self) -> SourceState:
        status = os.fstat(self.fd)
        if self.is_device:
            # The node's ctime moves when its owner or mode does; its mtime, when the device is written.
            return SourceState(
                device_size(self.fd),
                status.st_mtime_ns,
                0,
                0,
                status.st_rdev,
                sectors_changed(status.st_rdev),
            )
        return SourceState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev, None)

    def check_unchanged(self, before: SourceState) -> None:
        """Raise `DeviceError` (`image.changed`) if it was written, resized, replaced or deleted since."""
        now = self.state()
        if now.size != before.size:
            raise self._changed(f"its size went from {before.size} to {now.size} bytes")
        try:
            status = os.stat(self.path)
        except OSError:
            raise self._changed("it was deleted or renamed") from None
        named = (0, status.st_rdev) if self.is_device else (status.st_ino, status.st_dev)
        if named != (now.inode, now.device):
            raise self._changed("another file took its place")
        if now != before:
            same_data = replace(now, ctime_ns=before.ctime_ns) == before
            raise self._changed("its attributes or its bytes were changed" if same_data else "it was written to")

    def _changed(self, how: str) -> DeviceError:
        return DeviceError(
            "image.changed",
            f"the disk image {self.path} changed while it was read",
            why=how,
            do="stop what writes to it, place it on xfs or btrfs, or accept it fuzzy with --consistency none",
            errno=errno.EBUSY,
            filename=self.path,
        )

    def check_no_writer(self) -> None:
        """Raise `DeviceError` (`image.in-use`) if a lock, a mount or a virtual machine shows a writer."""
        writer = find_writer(self.path, self.fd)
        if writer is not None:
            raise refuse(self.path, writer)

    def is_at_rest(self) -> bool:
        """Whether it is certain that nobody has it open to write: a guest that runs from it would."""
        return is_device_at_rest(self.path, self.fd) if self.is_device else has_no_writer(self.fd)

    def scan(
        self,
        first_chunk: int,
        chunk_count: int,
        digests: U8 | None,
        *,
        seed: int,
        threads: int,
        cancel: CancelToken | None,
    ) -> ScanResult:
        """States and digests of a range of chunks, compared with the parent's `digests`."""
        batch = kernel.scan(
            self.fd,
            chunk_size=self.chunk_size,
            disk_size=self.size,
            first_chunk=first_chunk,
            chunk_count=chunk_count,
            digests=digests,
            seed=seed,
            threads=threads,
            drop_cache=self._drop_cache,
            cancel=cancel,
        )
        return ScanResult(batch.states, batch.digests, batch.read_bytes)

    def identify(self, chunks: U64, *, seed: int, id_key: bytes | None, cancel: CancelToken | None) -> PlainBatch:
        """Plain bytes, digests and (with `id_key`) ids of the given chunks, from one read each (R4)."""
        return kernel.identify(
            np.full(len(chunks), self.fd, np.int32),
            chunks,
            chunk_size=self.chunk_size,
            disk_size=self.size,
            seed=seed,
            id_key=id_key,
            drop_cache=self._drop_cache,
            cancel=cancel,
        )

    def data_runs(self, first_chunk: int, chunk_count: int) -> Iterator[tuple[int, int]]:
        """Runs (first chunk, count) that may hold data, in order; what lies between reads as zeros."""
        return data_runs(self.fd, self.size, self.chunk_size, first_chunk, chunk_count)

    def close(self) -> None:
        """Let go of the file; safe to call again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def data_runs(fd: int, size: int, chunk_size: int, first_chunk: int, chunk_count: int) -> Iterator[tuple[int, int]]:
    """Runs (first chunk, count) of a file that SEEK_DATA says may hold data; a hole costs one call.

    Where the file cannot tell (a block device), all of it. A chunk that data touches anywhere is told, once.
    """
    end = min((first_chunk + chunk_count) * chunk_size, size)
    position = first_chunk * chunk_size
    run_first = run_end = first_chunk
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
            hole = os.lseek(fd, data, os.SEEK_HOLE) if data < end else data
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end of the file
                break
            if error.errno != errno.EINVAL:
                raise
            data, hole = position, end
        if data >= end:
            break
        first, stop = data // chunk_size, -(-min(hole, end) // chunk_size)
        if first > run_end:
            if run_end > run_first:
                yield run_first, run_end - run_first
            run_first = first
        elif run_end == run_first:
            run_first = first
        run_end = stop
        position = hole
    if run_end > run_first:
        yield run_first, run_end - run_first


def next_data(fd: int, offset: int, end: int) -> int | None:
    """Where the next data of a file may begin, from `offset` on and before `end`; one call."""
    if offset >= end:
        return None
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno != errno.EINVAL:
            raise
        return offset
    return data if data < end else None


def _check_kind(path: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise DeviceError(
            "image.is-folder",
            f"{path} is a folder, not a disk image",
            do="name the image file or the block device itself",
            errno=errno.EISDIR,
            filename=path,
        )
    raise DeviceError(
        "image.not-a-disk",
        f"{path} is neither a file nor a block device",
        why="a disk image has bytes that can be read at any place, again and again",
        do="name an image file or a block device",
        errno=errno.EINVAL,
        filename=path,
    )


def _open_error(path: str, error: OSError) -> DeviceError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DeviceError(
            "image.not-found",
            f"there is no disk image at {path}",
            do="check the path",
            errno=error.errno,
            filename=path,
        )
    return DeviceError(
        "image.unreadable",
        f"the disk image {path} cannot be opened for reading",
        why=error.strerror,
        do="run as a user who may read it" if error.errno in (errno.EACCES, errno.EPERM) else "check the disk",
        errno=error.errno,
        filename=path,
    )
