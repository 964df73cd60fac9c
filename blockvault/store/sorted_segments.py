"""Sorted segments: files that hold what the dedup index keeps beyond LMDB's share, 18 bytes an entry.

An entry is the first 8 bytes of a block's id, as a number, and its place: pack number << 32 | slot. It is a hint, as in
LMDB: a hit counts only after the full id was read equal in the pack's table (R2). So nothing in a file is trusted, and
none is the only copy: they are made anew from the index segments.

A file, little-endian, has room for P pages of 256 entries, of which the last ones may be empty, a hole:
    header      4096 bytes: magic, name (8 random bytes), entries u64, digest of these, the vault's identity and fences
    entries     P x 256 x (prefix u64, place u64), ascending, each prefix once
    tags        P x 256 x u16: the lower 16 bits of each prefix
    fences      P x u64: the first prefix of each page; these alone are kept in memory, 3 MiB for 100 M entries

The room is what a merge may come to before it knows how much falls away, so that all parts are written as they come.

A look-up finds the page by the fences and reads its 512 bytes of tags; only where a tag is equal (a miss: 0.4%) is an
entry read. So what misses need is an eighth of the file, read in place of a filter and found without hashing.

Invariants:
- A file is written once, under a name that nobody knew, and durable before LMDB lists it. One that is not listed is no
  segment: it is what a killed process left.
- Files are read by `pread`, not mapped: one that is cut off or on a failing disk is told by an error, where a mapped
  page would end the process. Who has one open reads on although its name is gone.
- Opening costs the header and the fences, whose digest binds them to vault, name and number of entries. The rest is
  checked as far as it could mislead: a wrong entry is a hint that R2 refuses, entries out of order end a merge.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from blockvault.failpoints import reach
from blockvault.store.local import NotPlainError, open_plain, read_at, sync_folder, write_all

Entries = NDArray[np.uint64]  # (n, 2): prefix, place

FILE_PREFIX = "sorted-"
NAME_BYTES = 8
READ_AT_ONCE = 1 << 16  # that a merge reads of each file
AHEAD_AFTER = 1024  # look-ups
_HEADER = struct.Struct("<8s8sQ32s")
_MAGIC = b"BVSORTED"
_HEADER_BYTES = 4096
_ENTRY_BYTES, _TAG_BYTES, _FENCE_BYTES = 16, 2, 8
_PAGE = 256  # entries: 4 KiB of them, so that one is one page of the disk
_PAGE_BYTES = (_PAGE * _ENTRY_BYTES, _PAGE * _TAG_BYTES, _FENCE_BYTES)
_NONE: Entries = np.zeros((0, 2), np.uint64)


class UnusableError(Exception):
    """A segment that is listed cannot be read, or is not what it says: the index does without it."""

    def __init__(self, name: bytes, reason: str) -> None:
        super().__init__(f"{FILE_PREFIX}{name.hex()}: {reason}")
        self.name = name


class SortedSegment:
    """One file, open for reading."""

    def __init__(self, folder: str, identity: str, name: bytes) -> None:
        self.name = name
        self.path = _path(folder, name)
        self._asked = 0
        try:
            self._fd = open_plain(self.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO) or isinstance(error, NotPlainError):
                raise UnusableError(name, str(error)) from error
            raise  # too many open files, say: the segment is whole
        try:
            self._open(identity)
        except BaseException:
            self.close()
            raise

    def _open(self, identity: str) -> None:
        try:
            header = read_at(self._fd, _HEADER.size, 0)
            length = os.fstat(self._fd).st_size
            if len(header) < _HEADER.size:
                raise UnusableError(self.name, "it is cut off")
            _, _, self.count, _ = _HEADER.unpack(header)
            pages, rest = divmod(length - _HEADER_BYTES, sum(_PAGE_BYTES))
            if rest or self.count > pages * _PAGE:
                raise UnusableError(self.name, "it has another length than it says")
            self._tags_at, fences_at, _ = _places(pages)
            fences = read_at(self._fd, -(-self.count // _PAGE) * _FENCE_BYTES, fences_at)
        except OSError as error:
            raise UnusableError(self.name, str(error)) from error
        if header != _header(identity, self.name, self.count, fences):
            raise UnusableError(self.name, "its header is damaged, or of another vault")
        self._fences = np.frombuffer(fences, dtype="<u8").astype(np.uint64)

    def _read(self, dtype: str, offsets: NDArray[np.int64], length: int) -> NDArray[Any]:
        """(n, ...) what lies at each offset."""
        try:
            data = b"".join([os.pread(self._fd, length, at) for at in offsets.tolist()])
        except OSError as error:
            raise UnusableError(self.name, str(error)) from error
        if len(data) != length * len(offsets):
            raise UnusableError(self.name, "it was cut off")
        values = np.frombuffer(data, dtype=dtype)
        return values.reshape(len(offsets), length // values.itemsize)

    def find(self, prefixes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Which rows of `prefixes` are in, and their places."""
        self._expect(len(prefixes))
        page = np.searchsorted(self._fences, prefixes, side="right") - 1
        asked = np.flatnonzero(page >= 0)
        page = page[asked]
        tags = self._read("<u2", self._tags_at + page * _PAGE * _TAG_BYTES, _PAGE * _TAG_BYTES)
        row, column = np.divmod(np.flatnonzero(tags == _tags(prefixes[asked])[:, None]), _PAGE)
        at = page[row] * _PAGE + column
        entries = self._read("<u8", _HEADER_BYTES + at * _ENTRY_BYTES, _ENTRY_BYTES)
        good = (entries[:, 0] == prefixes[asked[row]]) & (at < self.count)
        return asked[row[good]], entries[good, 1]

    def _expect(self, count: int) -> None:
        """After so many look-ups more will come, as of a first point: have the system read all tags in one go."""
        if self._asked < AHEAD_AFTER <= self._asked + count:
            os.posix_fadvise(self._fd, self._tags_at, self.count * _TAG_BYTES, os.POSIX_FADV_WILLNEED)
        self._asked += count

    def read(self, start: int, count: int) -> Entries:
        """Entries in order, from number `start` on."""
        count = min(count, self.count - start)
        if count <= 0:
            return _NONE
        at = np.array([_HEADER_BYTES + start * _ENTRY_BYTES], np.int64)
        return self._read("<u8", at, count * _ENTRY_BYTES).reshape(-1, 2)

    def chunks(self) -> Iterator[Entries]:
        """All entries, in order."""
        before = -1
        for start in range(0, self.count, READ_AT_ONCE):
            entries = self.read(start, READ_AT_ONCE)
            keys = entries[:, 0]
            if int(keys[0]) <= before or (keys[1:] <= keys[:-1]).any():
                raise UnusableError(self.name, "its entries are out of order")
            before = int(keys[-1])
            yield entries

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _path(folder: str, name: bytes) -> str:
    return os.path.join(folder, FILE_PREFIX + name.hex())


def _places(pages: int) -> tuple[int, int, int]:
    """Where tags and fences begin, and the file ends."""
    tags_at = _HEADER_BYTES + pages * _PAGE_BYTES[0]
    fences_at = tags_at + pages * _PAGE_BYTES[1]
    return tags_at, fences_at, fences_at + pages * _PAGE_BYTES[2]


def _tags(prefixes: NDArray[np.uint64]) -> NDArray[np.uint16]:
    return (prefixes & np.uint64(0xFFFF)).astype("<u2")


def _header(identity: str, name: bytes, count: int, fences: bytes) -> bytes:
    told = blake3.blake3(identity.encode()).digest() + name + count.to_bytes(8, "little")
    return _HEADER.pack(_MAGIC, name, count, blake3.blake3(told + fences).digest())


def write_segment(folder: str, identity: str, chunks: Iterable[Entries], room: int) -> bytes:
    """Make a segment of ascending entries, `room` at most, durably. Returns its name; nobody else knows it yet."""
    name = os.urandom(NAME_BYTES)
    path = _path(folder, name)
    tags_at, fences_at, end = _places(-(-room // _PAGE))
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        count = 0
        fences: list[bytes] = []
        for entries in chunks:
            _write_at(fd, entries.astype("<u8"), _HEADER_BYTES + count * _ENTRY_BYTES)
            _write_at(fd, _tags(entries[:, 0]), tags_at + count * _TAG_BYTES)
            fences.append(entries[-count % _PAGE :: _PAGE, 0].astype("<u8").tobytes())
            count += len(entries)
        assert count <= room
        os.ftruncate(fd, end)
        _write_at(fd, np.frombuffer(b"".join(fences), np.uint8), fences_at)
        _write_at(fd, np.frombuffer(_header(identity, name, count, b"".join(fences)), np.uint8), 0)
        reach("sorted.sync")
        os.fsync(fd)
        sync_folder(folder)
        reach("sorted.written")
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return name


def _write_at(fd: int, values: NDArray[Any], at: int) -> None:
    os.lseek(fd, at, os.SEEK_SET)
    write_all(fd, values.tobytes())


def merge(sources: list[Iterator[Entries]]) -> Iterator[Entries]:
    """Entries of all sources in order, each prefix once: of several that of the last source that has it."""
    heads = [next(source, _NONE) for source in sources]
    while any(len(head) for head in heads):
        # Up to the end of the head that ends first, no source has more to say.
        bound = min(head[-1, 0] for head in heads if len(head))
        parts: list[Entries] = []
        for number, head in enumerate(heads):
            cut = (
                int(np.searchsorted(head[:, 0], bound, side="right"))
                if len(head) and head[-1, 0] != bound
                else len(head)
            )
            parts.append(head[:cut])
            heads[number] = head[cut:] if cut < len(head) else next(sources[number], _NONE)
        yield ascending(np.concatenate(parts))


def ascending(entries: Entries) -> Entries:
    """Sorted by prefix, of equal ones the last."""
    entries = entries[np.argsort(entries[:, 0], kind="stable")]
    last = np.ones(len(entries), np.bool_)
    np.not_equal(entries[1:, 0], entries[:-1, 0], out=last[:-1])
    return entries[last]


def remove_unlisted(folder: str, listed: Iterable[bytes]) -> None:
    """Remove files that killed processes left. Only for the one who may write segments."""
    known = {FILE_PREFIX + name.hex() for name in listed}
    for entry in os.listdir(folder):
        if entry.startswith(FILE_PREFIX) and entry not in known:
            with suppress(FileNotFoundError):  # whoever merged it removes it just now
                os.unlink(os.path.join(folder, entry))
