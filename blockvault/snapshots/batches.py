"""Chunks of a disk in batches of as many bytes as everywhere (`pipeline.BATCH_BYTES`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blockvault.pipeline import batch_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def pieces_of(total: int, chunk_size: int) -> Iterator[slice]:
    """Slices of at most a batch that cover `total` rows."""
    step = batch_chunks(chunk_size)
    for start in range(0, total, step):
        yield slice(start, min(total, start + step))


def batches_of(first: int, count: int, chunk_size: int) -> Iterator[NDArray[np.uint64]]:
    """The numbers of a run of chunks, at most a batch of them at a time: a dense disk is one run, however large."""
    for piece in pieces_of(count, chunk_size):
        yield np.arange(first + piece.start, first + piece.stop, dtype=np.uint64)


def all_rows(count: int) -> NDArray[np.uint32]:
    """Every row of a batch, as the core takes them."""
    return np.arange(count, dtype=np.uint32)


def runs_of(chunks: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Runs (first, count) of neighbouring numbers in a rising row."""
    if not len(chunks):
        return
    breaks = np.flatnonzero(np.diff(chunks) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(chunks)]])
    yield from zip(chunks[starts].tolist(), (stops - starts).tolist(), strict=True)


def is_stated(digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows of digests are not all zeros: chunks that hold data."""
    pairs = np.ascontiguousarray(digests).view(np.uint64)
    stated: NDArray[np.bool_] = (pairs[:, 0] | pairs[:, 1]) != 0
    return stated
