"""Everything that can be done to the extents of a disk image, at random from a seed.

Each operation keeps the file's size, or brings it back: a changed size says nothing of maps. An operation that the file
system does not have is skipped; `done` counts the ones that were done.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 4096
_FIDEDUPERANGE = 0xC0189436
_FICLONERANGE = 0x4020940D
_KEEP, _PUNCH, _COLLAPSE, _ZERO, _INSERT, _UNSHARE = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV, errno.ETXTBSY)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def share_range(source_fd: int, source_at: int, target_fd: int, target_at: int, length: int) -> None:
    """Have a range of one file share the extents of a range of another, or of its own (FICLONERANGE)."""
    fcntl.ioctl(target_fd, _FICLONERANGE, struct.pack("=qQQQ", source_fd, source_at, length, target_at))


def dedupe(source_fd: int, source_at: int, target_fd: int, target_at: int, length: int) -> int:
    """FIDEDUPERANGE: the bytes that were found equal and share their extents now."""
    head = struct.pack("=QQHHL", source_at, length, 1, 0, 0)
    told = bytearray(head + struct.pack("=qQQlL", target_fd, target_at, 0, 0, 0))
    fcntl.ioctl(source_fd, _FIDEDUPERANGE, told)
    return int(struct.unpack_from("=Q", told, len(head) + 16)[0])


class DiskFuzz:
    """Does things to one image. `clones` are files that share extents with it, never written, but deduplicated."""

    def __init__(self, path: Path, size: int, rng: random.Random, *, random_share: float = 0.5) -> None:
        """`random_share` of what is written cannot be compressed."""
        self.path = path
        self.size = size
        self.rng = rng
        self.random_share = random_share
        self.done: Counter[str] = Counter()
        self.clones: list[Path] = []
        # A few contents that come back, so that there is something to deduplicate and to overwrite with the same.
        self._pool = [rng.randbytes(512) * 8, b"text " * 820, bytes(BLOCK), rng.randbytes(64) * 64]
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, size)
        os.pwrite(self._fd, self._data(size // 2), size // 4)
        self._operations: list[tuple[int, Callable[[], None]]] = [
            (6, self._write_aligned),
            (6, self._write_unaligned),
            (4, self._write_direct),
            (4, self._write_mapped),
            (2, self._write_same),
            (3, self._punch),
            (2, self._zero_range),
            (2, self._reserve),
            (2, self._truncate),
            (2, self._cut_and_insert),
            (2, self._share_own),
            (3, self._dedupe_own),
            (2, self._dedupe_with_clone),
            (1, self._unshare),
            (1, self._defragment),
        ]

    def close(self) -> None:
        os.close(self._fd)

    def step(self) -> None:
        """One operation."""
        weights = [weight for weight, _ in self._operations]
        (_, operation) = self.rng.choices(self._operations, weights)[0]
        try:
            operation()
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self.done["not here"] += 1
        else:
            self.done[operation.__name__.strip("_")] += 1
        assert os.fstat(self._fd).st_size == self.size

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Writes as fast as it can, buffered, direct and mapped, until the context ends."""
        stop = threading.Event()
        rng = random.Random(self.rng.getrandbits(64))
        page = mmap.mmap(-1, BLOCK)
        page[:] = rng.randbytes(BLOCK)

        def write() -> None:
            direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            with mmap.mmap(self._fd, self.size // BLOCK * BLOCK) as mapped:
                while not stop.is_set():
                    at = rng.randrange(self.size // BLOCK) * BLOCK
                    kind = rng.randrange(3)
                    if kind == 0:
                        os.pwrite(self._fd, rng.randbytes(rng.randrange(1, BLOCK)), at)
                    elif kind == 1:
                        os.pwritev(direct, [page], at)
                    else:
                        mapped[at : at + 8] = rng.randbytes(8)
            os.close(direct)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.done["concurrent writer"] += 1

    # --- where and what ---

    def _range(self, blocks: int, *, aligned: bool = True) -> tuple[int, int]:
        """A range of at most so many blocks; most are short."""
        most = max(1, int(blocks * self.rng.random() ** 3)) * BLOCK
        length = most if aligned else self.rng.randrange(1, most + 1)
        start = self.rng.randrange(max(1, self.size - length))
        return (start // BLOCK * BLOCK if aligned else start), length

    def _data(self, length: int) -> bytes:
        if self.rng.random() < self.random_share:
            return self.rng.randbytes(length)
        blocks = self.rng.choices(self._pool, k=-(-length // BLOCK) + 1)
        return b"".join(block[:BLOCK] for block in blocks)[:length]

    # --- writes ---

    def _write_aligned(self) -> None:
        at, length = self._range(200)
        os.pwrite(self._fd, self._data(length)[: self.size - at], at)
        self._settle()

    def _write_unaligned(self) -> None:
        at, length = self._range(100, aligned=False)
        os.pwrite(self._fd, self._data(length), at)
        self._settle()

    def _write_direct(self) -> None:
        at, length = self._range(64)
        with mmap.mmap(-1, length) as buffer:
            buffer[:] = self._data(length)
            fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            try:
                os.pwritev(fd, [memoryview(buffer)], at)
            finally:
                os.close(fd)
        os.ftruncate(self._fd, self.size)

    def _write_mapped(self) -> None:
        with mmap.mmap(self._fd, self.size) as mapped:
            for _ in range(self.rng.randrange(1, 20)):
                at, length = self._range(4, aligned=False)
                mapped[at : at + length] = self._data(length)

    def _write_same(self) -> None:
        """The bytes that are there already: no change, but other extents."""
        at, length = self._range(50)
        os.pwrite(self._fd, os.pread(self._fd, length, at), at)

    def _settle(self) -> None:
        """Now and then what was written reaches the disk before the clone: it is other code that finds it there."""
        if self.rng.random() < 0.3:
            os.fdatasync(self._fd)

    # --- space ---

    def _punch(self) -> None:
        at, length = self._range(200, aligned=self.rng.random() < 0.7)
        _fallocate(self._fd, _PUNCH | _KEEP, at, length)

    def _zero_range(self) -> None:
        at, length = self._range(200, aligned=self.rng.random() < 0.7)
        _fallocate(self._fd, _ZERO | _KEEP, at, length)

    def _reserve(self) -> None:
        at, length = self._range(400)
        _fallocate(self._fd, _KEEP, at, length)

    def _unshare(self) -> None:
        at, length = self._range(100)
        _fallocate(self._fd, _UNSHARE, at, min(length, self.size - at))

    def _truncate(self) -> None:
        """Shorter, or longer, and back."""
        os.ftruncate(self._fd, self.rng.randrange(self.size // 2, self.size + 20 * BLOCK))
        if self.rng.random() < 0.3:
            os.fdatasync(self._fd)
        os.ftruncate(self._fd, self.size)

    def _cut_and_insert(self) -> None:
        """A range is taken out, and a hole put in elsewhere: what is between moves."""
        at, length = self._range(40)
        to = self.rng.randrange(max(1, (self.size - length) // BLOCK)) * BLOCK
        if at + length >= self.size:
            return
        _fallocate(self._fd, _COLLAPSE, at, length)
        _fallocate(self._fd, _INSERT, min(to, (self.size - length - 1) // BLOCK * BLOCK), length)

    def _share_own(self) -> None:
        """A range of the image in another place, as a host tool copies within a file."""
        at, length = self._range(60)
        to = self.rng.randrange(self.size // BLOCK) * BLOCK
        length = min(length, (self.size - at) // BLOCK * BLOCK, (self.size - to) // BLOCK * BLOCK)
        if abs(at - to) >= length > 0:
            share_range(self._fd, at, self._fd, to, length)

    # --- sharing ---

    def _dedupe_own(self) -> None:
        """Find two equal blocks and have them share their place."""
        blocks: dict[bytes, int] = {}
        first = self.rng.randrange(self.size // BLOCK)
        for number in [(first + i) % (self.size // BLOCK) for i in range(300)]:
            data = os.pread(self._fd, BLOCK, number * BLOCK)
            other = blocks.setdefault(data, number)
            if other != number:
                dedupe(self._fd, other * BLOCK, self._fd, number * BLOCK, BLOCK)

    def _dedupe_with_clone(self) -> None:
        """What a deduplicating daemon does: the image and its clones get each other's extents."""
        if not self.clones:
            return
        clone = os.open(self.rng.choice(self.clones), os.O_RDONLY)
        try:
            at, length = self._range(600)
            length = min(length, (self.size - at) // BLOCK * BLOCK)
            for start in range(at, at + length, 16 * BLOCK):
                part = min(16 * BLOCK, at + length - start)
                pair = (self._fd, clone) if self.rng.random() < 0.5 else (clone, self._fd)
                dedupe(pair[0], start, pair[1], start, part)
        finally:
            os.close(clone)

    def _defragment(self) -> None:
        """All extents move, of the image or of a clone; no byte changes."""
        path = self.rng.choice([self.path, *self.clones])
        for command in (["btrfs", "filesystem", "defragment", "-f"], ["xfs_fsr"]):
            if shutil.which(command[0]):
                ended = subprocess.run([*command, str(path)], capture_output=True, check=False)
                if ended.returncode == 0:
                    return
        raise OSError(errno.EOPNOTSUPP, "no tool to defragment it")
