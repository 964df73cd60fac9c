"""The newest-state file of a raw chain: opened for the next capture only in the state of its last snapshot.

A capture that was broken off left the file partly overwritten, and in its parent's list what was there
before. It is rolled back here, and proven; as is a file whose time says that something else has written to
it.

Invariants:
- The file reads as its snapshot's state followed by zeros without end: its size only grows, in whole chunks.
- Rolling back may be repeated and broken off at any place: the list and its delta are removed only after it,
  and only while nobody reads through them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blockvault import kernel
from blockvault.failpoints import reach
from blockvault.image.source import next_data
from blockvault.image.system import sync_folder
from blockvault.model.geometry import CELL_CHUNKS, cell_bounds, chunk_count
from blockvault.pipeline import in_order, worker_count
from blockvault.snapshots.batches import all_rows, is_stated, pieces_of, runs_of
from blockvault.snapshots.deltas import ChunkList, delta_path, list_path
from blockvault.snapshots.overlay import damage_mark, stem_of
from blockvault.snapshots.refusals import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.image.reader import U64
    from blockvault.store.digests import DigestState


@dataclass(frozen=True, slots=True)
class Parent:
    """The snapshot whose state a newest-state file holds."""

    number: int
    size: int
    mtime_ns: int


def open_newest(
    path: str,
    parent: Parent,
    chunk_size: int,
    *,
    bound_to: bytes,
    digests: DigestState | None,
    seed: int,
) -> tuple[int, ChunkList | None]:
    """Open a newest-state file for writing, in its parent's state; and the parent's list if it must be kept.

    A capture that was broken off is rolled back first. What was rolled back, or touched by anything else, is
    compared with the parent's digests.

    Raises:
        CorruptionError: `snapshot.damaged`; the chain cannot be built upon, a new one must be begun.
    """
    if os.path.exists(damage_mark(path)):
        raise damaged(path, "bytes of it were found wrong before")
    stem = stem_of(path)
    os.chmod(path, 0o600)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    found: ChunkList | None = None
    try:
        status = os.fstat(fd)
        if status.st_size < chunk_count(parent.size, chunk_size) * chunk_size:
            raise damaged(path, f"it ends at byte {status.st_size}, before the end of the disk")
        found = _open_list(stem, parent.number, bound_to, chunk_size)
        if found is not None and found.successor is not None:
            raise damaged(path, f"it holds the state of snapshot {found.successor}, of which the host has no record")
        if found is None and status.st_mtime_ns == parent.mtime_ns:
            return fd, None
        if found is not None:
            found.cut_torn_end()
            _roll_back_from(fd, stem, found, chunk_size)
        elif digests is None:
            raise damaged(path, "something else has written to it since it was captured")
        if digests is not None:
            _prove(path, fd, parent, chunk_size, digests, seed)
        os.utime(fd, ns=(parent.mtime_ns, parent.mtime_ns))
        os.fsync(fd)
        if found is not None and drop_list(fd, found, path):
            found = None
        return fd, found
    except BaseException:
        os.close(fd)
        if found is not None:
            found.close()
        raise


def _open_list(stem: str, number: int, bound_to: bytes, chunk_size: int) -> ChunkList | None:
    """The parent's list, if a capture after it ever began to write."""
    try:
        found = ChunkList.open(
            list_path(stem, number), bound_to=bound_to, number=number, chunk_size=chunk_size, write=True
        )
    except FileNotFoundError:
        return None
    if found.is_begun:
        return found
    found.close()
    os.unlink(list_path(stem, number))
    return None


def _roll_back_from(fd: int, stem: str, found: ChunkList, chunk_size: int) -> None:
    try:
        delta_fd = os.open(delta_path(stem, found.number), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if found.row_count:
            raise damaged(delta_path(stem, found.number), "it is gone") from None
        return
    try:
        roll_back(fd, delta_fd, found, chunk_size)
    finally:
        os.close(delta_fd)


def roll_back(fd: int, delta_fd: int, found: ChunkList, chunk_size: int) -> None:
    """Put every chunk that the list names back into the newest state; durable when this returns.

    It may be done again and again, and may be broken off: the list and its delta stay as they are.
    """
    padded = os.fstat(fd).st_size
    for chunks, digests in found.pieces():
        for first, count in runs_of(chunks[~is_stated(digests)]):
            kernel.clear(fd, first * chunk_size, count * chunk_size)

    def put_back(wanted: U64) -> None:
        batch = kernel.identify(
            np.full(len(wanted), delta_fd, np.int32),
            wanted,
            chunk_size=chunk_size,
            disk_size=padded,
            seed=0,
            id_key=None,
            cancel=None,
        )
        kernel.apply(batch, all_rows(len(batch)), fd, wanted, disk_size=padded, fresh=False, cancel=None)

    def held() -> Iterator[U64]:
        for chunks, digests in found.pieces():
            wanted = chunks[is_stated(digests)]
            for piece in pieces_of(len(wanted), chunk_size):
                yield np.ascontiguousarray(wanted[piece])

    with in_order(put_back, held()) as results:
        for _ in results:
            reach("snapshot.raw.rolling-back")
    os.fsync(fd)
    reach("snapshot.raw.rolled-back")


def drop_list(fd: int, found: ChunkList, path: str) -> bool:
    """Remove a list and delta that the newest state no longer needs, unless someone is reading through them."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        stem = stem_of(path)
        # The list goes first: a list without its delta would be damage, a delta without its list is nothing.
        for gone in (list_path(stem, found.number), delta_path(stem, found.number)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(gone)
        sync_folder(os.path.dirname(path))
        found.close()
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _prove(path: str, fd: int, parent: Parent, chunk_size: int, digests: DigestState, seed: int) -> None:
    """Compare the whole newest state with the digests of what was captured. Raises `CorruptionError`."""
    chunks = chunk_count(parent.size, chunk_size)
    padded = os.fstat(fd).st_size
    cells = set(cells_with_data(fd, padded, chunk_size)) | set(digests.stated_cells())
    for cell in sorted(cells):
        first, count = cell_bounds(cell, chunk_count(padded, chunk_size))
        expected = np.zeros((count, 16), np.uint8)
        known = cell_bounds(cell, chunks)[1]
        expected[:known] = digests.cell(cell, known)
        batch = kernel.scan(
            fd,
            chunk_size=chunk_size,
            disk_size=padded,
            first_chunk=first,
            chunk_count=count,
            digests=None,
            seed=seed,
            threads=worker_count(),
            drop_cache=False,
            cancel=None,
        )
        wrong = np.flatnonzero((batch.digests != expected).any(axis=1))
        if len(wrong):
            raise damaged(path, f"chunk {first + int(wrong[0])} is not what was captured")


def cells_with_data(fd: int, size: int, chunk_size: int) -> Iterator[int]:
    """The cells of a file that may hold data; one call each, and none for a hole of any size between."""
    cell_bytes = CELL_CHUNKS * chunk_size
    cell = 0
    while (data := next_data(fd, cell * cell_bytes, size)) is not None:
        cell = data // cell_bytes
        yield cell
        cell += 1
