"""Sizes and durations as people read and write them; inside the program a size is bytes and a time seconds."""

from __future__ import annotations

import re

from blockvault.errors import InvalidInputError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
PAGE_BYTES = 4096

CHUNK_BYTES_DEFAULT = 64 * KIB
CHUNK_BYTES_MIN = 16 * KIB
CHUNK_BYTES_MAX = 4 * MIB

_IEC = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGTPE]?)(?:i?B)?\s*$", re.IGNORECASE)
_SPAN = re.compile(r"^\s*(\d+)\s*([smhdwy])\s*$")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def format_size(byte_count: float) -> str:
    """`1536` -> `1.50 KiB`; three significant digits, bytes stay whole."""
    value = float(byte_count)
    unit = 0
    while abs(value) >= 1000 and unit < len(_IEC) - 1:
        value /= 1024
        unit += 1
    if unit == 0:
        return f"{int(value)} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {_IEC[unit]}"


def parse_size(text: str) -> int:
    """`64K`, `64KiB`, `1.5G` -> bytes (powers of 1024). Raises `InvalidInputError` (`input.size`)."""
    match = _SIZE.match(text)
    if not match:
        raise InvalidInputError("input.size", f"'{text}' is not a size", do="write it like 64K, 10G or 1.5T")
    power = " KMGTPE".index(match[2].upper() or " ")
    return int(float(match[1]) * (1 << (10 * power)))


def parse_span(text: str) -> int:
    """`30d`, `12h`, `10m` -> seconds. Raises `InvalidInputError` (`input.duration`)."""
    match = _SPAN.match(text)
    if not match:
        raise InvalidInputError("input.duration", f"'{text}' is not a duration", do="write it like 30d, 12h or 10m")
    return int(match[1]) * _SPAN_SECONDS[match[2]]


def format_seconds(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def check_chunk_size(chunk_size: int) -> int:
    """Return `chunk_size` if it is a power of two from 16 KiB to 4 MiB, else raise (`input.chunk-size`)."""
    if not CHUNK_BYTES_MIN <= chunk_size <= CHUNK_BYTES_MAX or chunk_size & (chunk_size - 1):
        raise InvalidInputError(
            "input.chunk-size",
            f"a chunk of {chunk_size} bytes is not possible",
            why="the chunk size is a power of two from 16 KiB to 4 MiB",
            do="leave it out to get 64 KiB",
        )
    return chunk_size
