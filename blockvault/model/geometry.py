"""The grid on which digests and layers are cut: cells of 65,536 chunks.

A cell is 4 GiB of disk at chunks of 64 KiB. Whatever walks a disk does so cell by cell, so that memory follows
the cell and never the disk: at 16 bytes a digest, one cell is 1 MiB.
"""

from __future__ import annotations

CELL_CHUNKS = 65_536


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks a disk of `size` bytes has, the last one perhaps short."""
    return -(-size // chunk_size)


def cell_count(chunks: int) -> int:
    """How many cells a disk of so many chunks has."""
    return -(-chunks // CELL_CHUNKS)


def cell_bounds(cell_index: int, chunks: int) -> tuple[int, int]:
    """First chunk of the cell and how many chunks of the disk lie in it."""
    first = cell_index * CELL_CHUNKS
    return first, max(0, min(CELL_CHUNKS, chunks - first))
