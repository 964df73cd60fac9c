"""What transfer and restore read a disk's bytes from, whatever lies beneath: image, clone or raw snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from blockvault.kernel import CancelToken, PlainBatch

    U8 = NDArray[np.uint8]
    U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One state (`ChunkState`) and one digest a chunk, and how many bytes were read to know them."""

    states: U8
    digests: U8
    read_bytes: int


class DiskReader(Protocol):
    """One disk, to be read.

    Calls may come from several threads at once. `scan` and `identify` see the same state of the disk unless
    the reader is of a live image; whoever reads a live image asks it afterwards whether it stayed the same.
    """

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk."""

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

    def identify(self, chunks: U64, *, seed: int, id_key: bytes | None, cancel: CancelToken | None) -> PlainBatch:
        """Plain bytes, digests and (with `id_key`) ids of the given chunks, from one read each (R4)."""

    def data_runs(self, first_chunk: int, chunk_count: int) -> Iterator[tuple[int, int]]:
        """Runs (first chunk, count) that may hold data, in order; what lies between reads as zeros."""

    def close(self) -> None:
        """Let go of the files; safe to call again."""
