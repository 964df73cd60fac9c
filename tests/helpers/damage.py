"""What happens to files: flipped, cut off, zeroed, swapped, deleted."""

from __future__ import annotations

import os
from pathlib import Path


def writable(path: Path) -> Path:
    """Objects are read-only for their owner too."""
    path.chmod(0o600)
    return path


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with writable(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def truncate(path: Path, size: int) -> None:
    os.truncate(writable(path), size)


def zero(path: Path, offset: int, length: int = 4096) -> None:
    """A lost page: zeros where bytes were, the file as long as before."""
    with writable(path).open("r+b") as file:
        length = max(0, min(length, path.stat().st_size - offset))
        file.seek(offset)
        file.write(bytes(length))


def swap(left: Path, right: Path) -> None:
    aside = left.with_name(left.name + ".aside")
    os.rename(left, aside)
    os.rename(right, left)
    os.rename(aside, right)
