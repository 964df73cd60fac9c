"""Chunks of a disk in batches of 8 MiB on all cores, with a bounded number under way."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from blockvault.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

BATCH_BYTES = 8 * MIB

In = TypeVar("In")
Out = TypeVar("Out")


def worker_count() -> int:
    """One worker a core that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def batch_count(chunk_size: int) -> int:
    """Chunks in a batch."""
    return max(1, BATCH_BYTES // chunk_size)


def in_order(work: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[Out]:
    """Apply `work` to each input on a pool of threads; yields the results in the order of the inputs.

    Whatever ends it, threads under way are waited for: none touches a file after this returns.
    """
    workers = worker_count()
    waiting: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="blockvault-snapshot")
    try:
        for item in inputs:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pieces_of(total: int, chunk_size: int) -> Iterator[slice]:
    """Slices of at most a batch that cover `total` rows."""
    step = batch_count(chunk_size)
    for start in range(0, total, step):
        yield slice(start, min(total, start + step))


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
