"""Plain files: real disk images, sparse comparison, listings."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from blockvault import workload

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_READ = 4 * MIB


def real_image(path: Path, size: int = 2 * MIB, seed: int = 1) -> Path:
    """A small disk image of this machine's own files."""
    workload.build_image(str(path), size, seed)
    return path


def noise(size: int, seed: int) -> bytes:
    """Bytes that no compressor shortens: a block of them is stored raw."""
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int) -> bytes:
    """Bytes that compress well and repeat nowhere."""
    rng = random.Random(seed)
    words = b" ".join(b"%x" % rng.getrandbits(20) for _ in range(size // 6 + 8))
    return words[:size]


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def resize(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def punch(path: Path, offset: int, length: int) -> None:
    """Make a hole, as a guest's discard does."""
    subprocess.run(["fallocate", "-p", "-o", str(offset), "-l", str(length), str(path)], check=True)


def keep_copy(path: Path, copy: Path) -> Path:
    """A plain copy that stays sparse."""
    subprocess.run(["cp", "--sparse=always", "--reflink=never", str(path), str(copy)], check=True)
    return copy


def first_difference(left: Path, right: Path) -> int | None:
    """Where two files differ first, None if nowhere; holes cost nothing."""
    if left.stat().st_size != right.stat().st_size:
        return min(left.stat().st_size, right.stat().st_size)
    pieces = sorted({*_data_pieces(left), *_data_pieces(right)})
    with left.open("rb") as a, right.open("rb") as b:
        for start, end in pieces:
            for at in range(start, end, _READ):
                a.seek(at)
                b.seek(at)
                count = min(_READ, end - at)
                one, two = a.read(count), b.read(count)
                if one != two:
                    return at + next(i for i, (x, y) in enumerate(zip(one, two, strict=True)) if x != y)
    return None


def _data_pieces(path: Path) -> list[tuple[int, int]]:
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        size, at = os.fstat(fd).st_size, 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    finally:
        os.close(fd)
    return found


def listing(*folders: str | Path) -> dict[str, bytes]:
    """Every file under the folders with its bytes: what a test compares before and after."""
    found = {}
    for folder in folders:
        for top, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(top, name)
                try:
                    with open(path, "rb") as file:
                        found[path] = file.read()
                except FileNotFoundError:
                    continue
    return found


def names_under(*folders: str | Path) -> set[str]:
    return {os.path.join(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names}


def copy_tree(source: str | Path, target: str | Path) -> None:
    """A copy with times kept, as `cp -a` makes it; links stay links."""
    shutil.copytree(source, target, symlinks=True)


def differing_chunks(left: Path, right: Path, chunk_size: int) -> set[int]:
    """Chunks in which two files differ; what lies beyond an end reads as zeros."""
    rows = {
        chunk
        for path in (left, right)
        for start, end in _data_pieces(path)
        for chunk in range(start // chunk_size, -(-end // chunk_size))
    }
    found = set()
    with left.open("rb") as a, right.open("rb") as b:
        for chunk in rows:
            pair = []
            for file in (a, b):
                file.seek(chunk * chunk_size)
                pair.append(file.read(chunk_size).ljust(chunk_size, b"\0"))
            if pair[0] != pair[1]:
                found.add(chunk)
    return found
