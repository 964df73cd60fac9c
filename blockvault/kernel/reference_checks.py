"""Arguments of the reference kernel: each is checked before anything is done, with the core's own error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blockvault.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_SIZE_MIN, CHUNK_SIZE_MAX = 16 << 10, 4 << 20
OFFSET_END = 1 << 63
BATCH_BYTES_MAX = 4 << 30
SCAN_CHUNKS_MAX = 1 << 22


def check_array(name: str, array: NDArray[Any], dtype: type[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The array, proven to have that type and shape."""
    require(
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.shape == shape
        and bool(array.flags.c_contiguous),
        f"{name} must be a contiguous array of {np.dtype(dtype).name}, shape {shape}",
    )
    return array


def check_rows(name: str, rows: NDArray[Any], known: int) -> list[int]:
    """The rows as numbers, each proven to lie in a batch of `known`."""
    wanted: list[int] = check_array(name, rows, np.uint32, (len(rows),)).tolist()
    require(all(row < known for row in wanted), f"{name} must be under {known}")
    return wanted


def check_chunk_size(chunk_size: int) -> None:
    """A power of two from 16 KiB to 4 MiB."""
    require(
        CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX and chunk_size.bit_count() == 1,
        f"chunk_size {chunk_size} is not a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}",
    )


def check_batch(count: int, chunk_size: int) -> None:
    """Far more than is wise, and little enough that a wrong number is an error and not the end of memory."""
    require(count * chunk_size <= BATCH_BYTES_MAX, f"a batch may hold at most {BATCH_BYTES_MAX} bytes")


def check_descriptor(fd: int) -> None:
    """A number that can be a file's; that it is open is the system's to say."""
    require(fd >= 0, f"{fd} is not a file descriptor")


def require(holds: bool, message: str) -> None:
    """Raise unless the argument is as it must be."""
    if not holds:
        raise InvalidInputError("native.bad-argument", message)
