"""Work in batches on all cores, results in order, memory bounded.

The native core releases the GIL for each batch, so plain threads keep every core busy. At most `depth` batches are
under way: memory is a few batches, whatever the disk's size.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from blockvault.units import MIB

BATCH_BYTES = 8 * MIB
SCAN_BYTES = 256 * MIB
RESTORE_BATCH_BYTES = (
    2 * MIB
)  # still in the cache when the writing thread copies it: 8 MiB took up to three times its time

In = TypeVar("In")
Out = TypeVar("Out")


def worker_count() -> int:
    """One worker a core that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def batch_chunks(chunk_size: int, batch_bytes: int | None = None) -> int:
    """Chunks in a batch of so many bytes (None: `BATCH_BYTES`), at least two."""
    return max(2, (batch_bytes or BATCH_BYTES) // chunk_size)


@contextmanager
def in_order(
    work: Callable[[In], Out], inputs: Iterable[In], *, workers: int | None = None
) -> Generator[Iterator[Out]]:
    """Apply `work` to each input on a pool of threads; gives the results in the order of the inputs.

    The first exception ends it: batches not yet begun are dropped, those under way are waited for, so that no thread
    touches a file after the `with` block. That is why it is one: a generator that is left half used is ended when the
    system comes across it, perhaps while a thread is just being started, and to wait for threads there never ends.
    """
    count = workers or worker_count()
    pool = ThreadPoolExecutor(count, thread_name_prefix="blockvault")
    try:
        yield _results(pool, work, inputs, count + 2)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(pool: ThreadPoolExecutor, work: Callable[[In], Out], inputs: Iterable[In], depth: int) -> Iterator[Out]:
    waiting: deque[Future[Out]] = deque()
    for item in inputs:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
