"""What the reference kernel hands out: batches of states, of plain chunks, of blocks; the cancel token."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import CancelledError
from blockvault.kernel.reference_checks import check_descriptor, check_rows, require
from blockvault.kernel.reference_files import raise_write_error

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
A = TypeVar("A", bound=NDArray[Any])

HOLE, ZERO, UNCHANGED, CHANGED = range(4)


class CancelToken:
    """Asks a running call to stop at its next chunk; may be used from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask every call that holds this token to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()


@dataclass(frozen=True, slots=True)
class ScanBatch:
    """What a scan found: one state and one digest a chunk."""

    states: U8
    digests: U8
    read_bytes: int


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Blocks as they will be stored, back to back: block i is `payload[offsets[i]:offsets[i + 1]]`."""

    payload: memoryview
    offsets: U64
    codecs: U8


class PlainBatch:
    """Chunks of plain bytes, each padded with zeros to `chunk_size`; immutable."""

    def __init__(self, chunk_size: int, chunks: list[bytes], digests: U8, ids: U8, read_bytes: int) -> None:
        self._chunks = chunks
        self.chunk_size = chunk_size
        self.states = frozen(np.array([ZERO if is_zero(chunk) else CHANGED for chunk in chunks], np.uint8))
        self.digests = frozen(digests)
        self.ids = frozen(ids)
        self.read_bytes = read_bytes

    def __len__(self) -> int:
        return len(self._chunks)

    def chunk(self, row: int) -> bytes:
        """The plain bytes of one chunk."""
        require(0 <= row < len(self), f"row {row} is not in a batch of {len(self)}")
        return self._chunks[row]

    def write_into(self, fd: int, rows: U32, byte_count: int) -> int:
        """Write the rows in order to a pipe or file at its position, at most `byte_count` bytes in all."""
        check_descriptor(fd)
        written = 0
        for row in check_rows("rows", rows, len(self)):
            piece = memoryview(self._chunks[row])[: byte_count - written]
            while piece:
                try:
                    count = os.write(fd, piece)
                except OSError as error:
                    raise_write_error(fd, None, error)
                written += count
                piece = piece[count:]
        return written


def is_zero(plain: bytes) -> bool:
    """Whether every byte is zero."""
    return not plain or (plain[0] == 0 and plain.count(0) == len(plain))


def frozen(array: A) -> A:
    """The array, from now on read-only."""
    array.flags.writeable = False
    return array


def check_cancel(cancel: CancelToken | None) -> None:
    """Stop here if it was asked for."""
    if cancel is not None and cancel.cancelled:
        raise CancelledError("job.cancelled", "stopped on request")
