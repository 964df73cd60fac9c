"""What an older raw snapshot holds that the newer has not: old chunks, and the list that says which.

Beside the newest-state file `<stem>.newest` of a disk, snapshot N has `<stem>.N.delta`, a sparse file with
its old chunks at their own offsets, and `<stem>.N.chunks`, an append-only list of them. The list is what
counts: a chunk that it does not name is not in the delta, whatever bytes lie there.

A list is a head and segments. Head: 8 bytes `BVDELTA1`, u32 chunk size, u32 zero, u64 N, 16 bytes binding
(digest of vault, item, disk), 8 bytes check value of the digest seed. Segment: u32 kind, u32 count, u64
number, then `count` chunk numbers (u64, rising), then `count` digests (16 bytes, all zero: the chunk reads as
zeros and has no bytes in the delta), then 16 bytes BLAKE3 over the check before it and all of this segment.
All little-endian. Kinds:

    CHUNKS  the chunks named were saved: they are durable in the delta
    SEALED  the list is whole: the newest state now is that of snapshot `number`
    OPENED  the seal before is void: that snapshot was never completed

Invariants:
- A segment is appended after its chunks are durable, and is durable before the newest state is overwritten
  (R18).
- Only complete segments whose check matches count, up to the first that is not so. What a crash cut off was
  never durable, so nothing was overwritten on its account; a list that lost more than that has lost its seal.
- The digests are those that the snapshot's digest state has: who reads a chunk of the delta can tell if it is
  right.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import blake3
import numpy as np

from blockvault.failpoints import reach
from blockvault.snapshots.refusals import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]
    U64 = NDArray[np.uint64]

_HEAD = struct.Struct("<8sIIQ16s8s")
_MAGIC = b"BVDELTA1"
_SEGMENT = struct.Struct("<IIQ")
_CHECK_BYTES = 16
_ROW_BYTES = 8 + 16
SEGMENT_ROWS_MAX = 65_536


class Kind(IntEnum):
    """What a segment says."""

    CHUNKS = 1
    SEALED = 2
    OPENED = 3


_KINDS = tuple(Kind)


def list_path(stem: str, number: int) -> str:
    """The list of old chunks of snapshot `number`."""
    return f"{stem}.{number}.chunks"


def delta_path(stem: str, number: int) -> str:
    """The old chunks of snapshot `number`."""
    return f"{stem}.{number}.delta"


def binding(vault_id: str, item_id: str, disk_name: str) -> bytes:
    """Ties a list to its disk: that of another, put in its place, is refused."""
    return blake3.blake3(f"{vault_id}\0{item_id}\0{disk_name}".encode()).digest(length=16)


def seed_check(seed: int) -> bytes:
    """Tells two digest seeds apart without giving either away."""
    return blake3.blake3(seed.to_bytes(8, "little"), derive_key_context="blockvault snapshot list seed check 1").digest(
        length=8
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where the rows of one CHUNKS segment lie."""

    first_chunk: int
    last_chunk: int
    offset: int
    count: int


class ChunkList:
    """A list being read; `refresh` takes in what was appended since.

    Memory holds a line per segment and the rows of the segment last looked at, however long the list is.
    """

    def __init__(self, path: str, fd: int, *, bound_to: bytes, number: int, chunk_size: int) -> None:
        self.path = path
        self.fd = fd
        self.number = number
        self.seed_check = b""
        self.successor: int | None = None  # whose state the newest file holds, once sealed
        self.row_count = 0
        self._bound_to = bound_to
        self._chunk_size = chunk_size
        self._pieces: list[_Piece] = []
        self._position = 0
        self._check = bytes(_CHECK_BYTES)
        self._cached: tuple[_Piece, U64, U8] | None = None

    @classmethod
    def open(cls, path: str, *, bound_to: bytes, number: int, chunk_size: int, write: bool = False) -> ChunkList:
        """Open an existing list and read it. Raises `FileNotFoundError`, `CorruptionError`, `OSError`."""
        flags = os.O_RDWR if write else os.O_RDONLY
        found = cls(path, os.open(path, flags | os.O_CLOEXEC), bound_to=bound_to, number=number, chunk_size=chunk_size)
        try:
            found.refresh()
        except BaseException:
            found.close()
            raise
        return found

    @property
    def is_begun(self) -> bool:
        """Whether its head is whole; what has none was never relied on."""
        return self._position > 0

    @classmethod
    def create(cls, path: str, *, bound_to: bytes, number: int, chunk_size: int, seed: int) -> ChunkList:
        """Begin a list; the caller makes its name durable."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        found = cls(path, fd, bound_to=bound_to, number=number, chunk_size=chunk_size)
        head = _HEAD.pack(_MAGIC, chunk_size, 0, number, bound_to, seed_check(seed))
        try:
            _write_at(fd, 0, head)
            os.fsync(fd)
            found.refresh()
        except BaseException:
            found.close()
            raise
        return found

    def refresh(self) -> bool:
        """Take in what was appended; whether there was anything.

        Raises:
            CorruptionError: `snapshot.damaged`.
        """
        size = os.fstat(self.fd).st_size
        if size < self._position:
            raise damaged(self.path, f"it ends at byte {size}, and was longer")
        if self._position == 0 and not self._read_head(size):
            return False
        before = self._position
        while self._position + _SEGMENT.size + _CHECK_BYTES <= size:
            head = self._read(self._position, _SEGMENT.size)
            kind, count, number = _SEGMENT.unpack(head)
            length = _SEGMENT.size + count * _ROW_BYTES + _CHECK_BYTES
            if kind not in _KINDS or count > SEGMENT_ROWS_MAX or (count == 0) is (kind == Kind.CHUNKS):
                self._damage_unless_torn(size)
                break
            if self._position + length > size:
                break  # not all of it is there yet
            body = self._read(self._position, length - _CHECK_BYTES)
            check = blake3.blake3(self._check + body).digest(length=_CHECK_BYTES)
            if check != self._read(self._position + length - _CHECK_BYTES, _CHECK_BYTES):
                self._damage_unless_torn(size)
                break
            self._take(Kind(kind), count, number, body)
            self._check = check
            self._position += length
        return self._position > before

    def _damage_unless_torn(self, size: int) -> None:
        """What is wrong after a seal is damage, but for an unfinished attempt to take the seal back.

        Without a seal, a crash may have cut off what was being appended; whoever knows that the list must
        have its seal (`overlay.RawReader`) sees that it is missing.
        """
        if self.successor is not None and size - self._position > _SEGMENT.size + _CHECK_BYTES:
            raise damaged(self.path, f"the segment at byte {self._position} is not what was written")

    def _read_head(self, size: int) -> bool:
        if size < _HEAD.size:
            return False  # its maker has not come so far
        magic, chunk_size, _, number, bound_to, self.seed_check = _HEAD.unpack(self._read(0, _HEAD.size))
        if (magic, chunk_size, number, bound_to) != (_MAGIC, self._chunk_size, self.number, self._bound_to):
            raise damaged(self.path, "its head is not that of this snapshot's list")
        self._position = _HEAD.size
        return True

    def _take(self, kind: Kind, count: int, number: int, body: bytes) -> None:
        if kind is Kind.SEALED:
            self.successor = number
        else:
            self.successor = None
        if kind is Kind.CHUNKS:
            chunks = np.frombuffer(body, "<u8", count, _SEGMENT.size)
            offset = self._position + _SEGMENT.size
            self._pieces.append(_Piece(int(chunks[0]), int(chunks[-1]), offset, count))
            self.row_count += count

    def lookup(self, first_chunk: int, last_chunk: int) -> Iterator[tuple[U64, U8]]:
        """Rows (chunk numbers, digests) that the list has between two chunks, both included, in pieces."""
        for piece in self._pieces:
            if piece.first_chunk <= last_chunk and first_chunk <= piece.last_chunk:
                chunks, digests = self._rows(piece)
                low = int(np.searchsorted(chunks, np.uint64(first_chunk), "left"))
                high = int(np.searchsorted(chunks, np.uint64(last_chunk), "right"))
                if high > low:
                    yield chunks[low:high], digests[low:high]

    def names(self, chunks: U64) -> NDArray[np.bool_]:
        """Which of these chunks (rising) the list has."""
        named = np.zeros(len(chunks), np.bool_)
        if self.row_count and len(chunks):
            for listed, _ in self.lookup(int(chunks[0]), int(chunks[-1])):
                named |= np.isin(chunks, listed, assume_unique=True)
        return named

    def pieces(self) -> Iterator[tuple[U64, U8]]:
        """All rows, a segment at a time."""
        for piece in self._pieces:
            yield self._rows(piece)

    def ranges(self) -> list[tuple[int, int]]:
        """First and last chunk of each segment."""
        return [(piece.first_chunk, piece.last_chunk) for piece in self._pieces]

    def _rows(self, piece: _Piece) -> tuple[U64, U8]:
        cached = self._cached
        if cached is None or cached[0] is not piece:
            data = self._read(piece.offset, piece.count * _ROW_BYTES)
            chunks = np.frombuffer(data, "<u8", piece.count).astype(np.uint64, copy=False)
            digests = np.frombuffer(data, np.uint8, piece.count * 16, piece.count * 8).reshape(-1, 16)
            self._cached = cached = (piece, chunks, digests)
        return cached[1], cached[2]

    def _read(self, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = os.pread(self.fd, length - len(data), offset + len(data))
            if not part:
                raise damaged(self.path, f"it ends at byte {offset + len(data)}")
            data += part
        return data

    def append(self, chunks: U64, digests: U8) -> None:
        """Name chunks (rising) as saved; durable when this returns."""
        for start in range(0, len(chunks), SEGMENT_ROWS_MAX):
            stop = start + SEGMENT_ROWS_MAX
            rows = chunks[start:stop].astype("<u8").tobytes() + np.ascontiguousarray(digests[start:stop]).tobytes()
            self._append(Kind.CHUNKS, len(chunks[start:stop]), 0, rows)
        os.fsync(self.fd)

    def seal(self, successor: int) -> None:
        """Say that the newest state is now that of `successor`; durable when this returns."""
        self._append(Kind.SEALED, 0, successor, b"")
        os.fsync(self.fd)

    def unseal(self) -> None:
        """Take the last seal back; durable when this returns."""
        if self.successor is not None:
            self._append(Kind.OPENED, 0, 0, b"")
            os.fsync(self.fd)

    def cut_torn_end(self) -> None:
        """Drop what a crash left of a segment that never became durable."""
        if os.fstat(self.fd).st_size > self._position:
            os.ftruncate(self.fd, self._position)
            os.fsync(self.fd)

    def _append(self, kind: Kind, count: int, number: int, rows: bytes) -> None:
        body = _SEGMENT.pack(kind, count, number) + rows
        check = blake3.blake3(self._check + body).digest(length=_CHECK_BYTES)
        reach("snapshot.raw.append")
        _write_at(self.fd, self._position, body + check)
        self.refresh()

    def close(self) -> None:
        """Let go of the file; safe to call again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _write_at(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        offset, view = offset + count, view[count:]
