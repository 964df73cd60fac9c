"""Real disk images and real churn from a seed: what demo, bench, tests and benchmarks work on.

An image is an ext4 file system made of this machine's own files, so it compresses, repeats and scatters as
disks do. Churn changes it in place as guests do. The same seed on the same machine gives the same bytes.

Invariants:
- New content is real too: it is spliced from other data of the image (`_Donors`), never random bytes, which
  no compressor could shrink, and never a plain copy of one page, which an identity could find again.
- Only pages that hold data are touched, except by `Churn.APPEND`, whose purpose is to use free ones.
- `ChurnReport.pages_changed` counts pages whose bytes differ afterwards, each once.

Images differ between machines: their files do. A figure made here is compared only within one machine.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.errors import InvalidInputError
from blockvault.units import MIB, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

DEFAULT_TREES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/local", "/usr/libexec")
DATA_SHARE = 0.75  # of an image's size, if not said otherwise: an ext4 file system needs the rest as room
EDIT_BYTES = 256
BUILD_TIME = 1_700_000_000  # every time in a built file system: the seed decides its bytes, not the clock
_FILE_TOOLS = ("mkfs.ext4", "debugfs")
_READ_BYTES = 4 * MIB


class Churn(StrEnum):
    """How a guest changes its disk between two points."""

    NOTHING = "nothing"
    RANDOM_PAGES = "random-pages"  # whole pages all over the data: a database's own files
    SMALL_EDITS = "small-edits"  # 256 bytes inside pages: counters, headers, time stamps
    RUNS = "runs"  # neighbouring pages: files rewritten
    APPEND = "append"  # free pages filled: logs, new files
    REWRITE_20 = "rewrite-20"  # a fifth of the data in long runs: an upgrade


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What was built. `kind` is `ext4`, or `packed` (page-aligned files in a row) without mkfs.ext4."""

    path: str
    size: int
    data_bytes: int
    file_count: int
    kind: str


@dataclass(frozen=True, slots=True)
class ChurnReport:
    """What was changed. `changed_bytes` is pages times 4,096: the guest writes whole pages."""

    model: Churn
    pages_changed: int
    changed_bytes: int
    data_pages: int


def build_image(
    path: str,
    size: int,
    seed: int,
    *,
    data_bytes: int | None = None,
    trees: tuple[str, ...] = DEFAULT_TREES,
) -> ImageReport:
    """Make a disk image of `size` bytes at `path` (overwritten), with about `data_bytes` of files of `trees`.

    Less data is placed if the trees hold less. Raises `InvalidInputError` if the trees hold nothing readable.
    """
    budget = int(size * DATA_SHARE) if data_bytes is None else data_bytes
    chosen = list(_choose_files(trees, budget, file_count_max=max(16, size // 20_480), seed=seed))
    if not chosen:
        raise InvalidInputError("workload.no-files", f"no readable files under {', '.join(trees)}")
    tools = [_tool(name) for name in _FILE_TOOLS]
    if all(tools) and size >= 8 * MIB:
        folder = os.path.dirname(os.path.abspath(path))
        with tempfile.TemporaryDirectory(prefix=".workload-", dir=folder) as stage:
            placed = _stage_files(chosen, stage)
            _make_ext4(path, size, seed, stage, *[tool for tool in tools if tool])
        kind = "ext4"
    else:
        placed = _pack_files(path, size, chosen)
        kind = "packed"
    return ImageReport(path, size, placed, len(chosen), kind)


def apply_churn(path: str, model: Churn, seed: int, fraction: float | None = None) -> ChurnReport:
    """Change `fraction` of the image's data pages (1%; `REWRITE_20`: 20%) in place, as `model` says."""
    import numpy as np

    if fraction is None:
        fraction = 0.2 if model is Churn.REWRITE_20 else 0.01
    fd = os.open(path, os.O_RDWR)
    try:
        pages = _data_pages(fd)
        wanted = min(len(pages), max(1, round(len(pages) * fraction))) if len(pages) else 0
        if model is Churn.NOTHING or wanted == 0:
            return ChurnReport(model, 0, 0, len(pages))
        rng = np.random.default_rng([seed, list(Churn).index(model)])
        donors = _Donors(fd, pages, rng)
        if model is Churn.RANDOM_PAGES:
            changed = _replace_pages(fd, rng.choice(pages, wanted, replace=False), donors)
        elif model is Churn.SMALL_EDITS:
            changed = _edit_pages(fd, rng.choice(pages, wanted, replace=False), donors, rng)
        elif model is Churn.APPEND:
            changed = _append_pages(fd, pages, wanted, donors)
        else:
            run_pages = 1024 if model is Churn.REWRITE_20 else 48
            changed = _replace_pages(fd, _pick_runs(pages, wanted, run_pages, rng), donors)
        os.fsync(fd)
    finally:
        os.close(fd)
    return ChurnReport(model, changed, changed * PAGE_BYTES, len(pages))


# --- files of the machine --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ChosenFile:
    source: str
    name: str  # path inside the image
    size: int


def _choose_files(trees: tuple[str, ...], budget: int, file_count_max: int, seed: int) -> Iterator[_ChosenFile]:
    """Walk the trees in an order drawn from the seed and take folder after folder until the budget is spent.

    No single file takes more than an eighth of the budget, so that a small image has variety too.
    """
    rng = random.Random(seed)  # noqa: S311 - a seeded draw is the purpose
    pending = [tree for tree in trees if os.path.isdir(tree) and not os.path.islink(tree)]
    rng.shuffle(pending)
    spent = taken = 0
    while pending and spent < budget and taken < file_count_max:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        rng.shuffle(entries)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
                continue
            if not entry.is_file(follow_symlinks=False) or not os.access(entry.path, os.R_OK):
                continue
            size = entry.stat(follow_symlinks=False).st_size
            on_disk = -(-size // PAGE_BYTES) * PAGE_BYTES
            if size == 0 or on_disk > budget // 8 or spent + on_disk > budget or taken >= file_count_max:
                continue
            spent += on_disk
            taken += 1
            yield _ChosenFile(entry.path, entry.path.lstrip("/"), size)
        if pending:  # the next folder is drawn from all that are known, not only from this one's children
            pick = rng.randrange(len(pending))
            pending[pick], pending[-1] = pending[-1], pending[pick]


def _stage_files(chosen: list[_ChosenFile], stage: str) -> int:
    """Copy the chosen files under `stage` with fixed modes and times; returns their bytes."""
    placed = 0
    for file in sorted(chosen, key=lambda file: file.name):
        target = os.path.join(stage, file.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(file.source, target)
        os.chmod(target, 0o644)  # never a set-uid copy
        placed += os.stat(target).st_size
    for folder, _, names in os.walk(stage, topdown=False):
        for name in names:
            os.utime(os.path.join(folder, name), (BUILD_TIME, BUILD_TIME))
        os.chmod(folder, 0o755)  # noqa: S103 - the mode that a guest's folders have
        os.utime(folder, (BUILD_TIME, BUILD_TIME))
    return placed


def _make_ext4(path: str, size: int, seed: int, stage: str, mkfs: str, debugfs: str) -> None:
    _empty_file(path, size)
    name = str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4))  # noqa: S311 - seeded on purpose
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": str(BUILD_TIME), "SOURCE_DATE_EPOCH": str(BUILD_TIME)}
    extended = f"hash_seed={name},root_owner=0:0,nodiscard"
    _run([mkfs, "-q", "-F", "-U", name, "-E", extended, "-d", stage, path], environment)
    # mke2fs takes each file's change time from the staged copy, and that is always the present: set it after.
    with open(path, "rb") as image:
        image.seek(1024)
        superblock = image.read(20)
    used = int.from_bytes(superblock[0:4], "little") - int.from_bytes(superblock[16:20], "little")
    with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as script:
        for inode in range(11, used + 1):  # 1 to 10 are reserved; mke2fs hands out the others in order
            script.write(f"sif <{inode}> ctime @{BUILD_TIME}\nsif <{inode}> atime @{BUILD_TIME}\n")
        script.flush()
        _run([debugfs, "-w", "-f", script.name, path], environment)


def _pack_files(path: str, size: int, chosen: list[_ChosenFile]) -> int:
    _empty_file(path, size)
    offset = 0
    with open(path, "r+b") as image:
        for file in chosen:
            if offset + file.size > size:
                break
            image.seek(offset)
            with open(file.source, "rb") as source:
                shutil.copyfileobj(source, image, _READ_BYTES)
            offset = -(-image.tell() // PAGE_BYTES) * PAGE_BYTES
        image.truncate(size)
    return min(offset, size)


def _empty_file(path: str, size: int) -> None:
    with open(path, "wb") as image:
        image.truncate(size)


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidInputError(
            "workload.mkfs",
            f"{os.path.basename(command[0])} could not make the disk image (exit {done.returncode})",
            why=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else None,
        )


# --- churn --------------------------------------------------------------------------------


def _data_pages(fd: int) -> NDArray[np.int64]:
    """Indexes of all pages that are not all zero, in order."""
    import numpy as np

    found = []
    for offset, byte_count in _data_extents(fd):
        first = offset - offset % PAGE_BYTES
        while first < offset + byte_count:
            piece = os.pread(fd, min(_READ_BYTES, offset + byte_count - first), first)
            if not piece:
                break
            whole = len(piece) // PAGE_BYTES  # a last part of a page is left alone
            words = np.frombuffer(piece, np.uint64, whole * PAGE_BYTES // 8).reshape(whole, -1)
            found.append(np.flatnonzero(words.any(axis=1)) + first // PAGE_BYTES)
            first += len(piece)
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _data_extents(fd: int) -> Iterator[tuple[int, int]]:
    status = os.fstat(fd)
    size = status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:
            # ENXIO: only holes are left; a device without SEEK_DATA is all data.
            if not stat.S_ISREG(status.st_mode):
                yield offset, size - offset
            return
        yield start, end - start
        offset = end


class _Donors:
    """Makes new pages out of the image's own data: two other pages, cut at a random place and joined."""

    def __init__(self, fd: int, pages: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._fd = fd
        self._pages = pages
        self._rng = rng

    def page(self) -> bytes:
        """One page that most likely exists nowhere else, made of real data."""
        head, tail = self._rng.integers(len(self._pages), size=2)
        cut = int(self._rng.integers(1, PAGE_BYTES // 64)) * 64
        return self._read(head)[:cut] + self._read(tail)[cut:]

    def run(self, page_count: int) -> bytes:
        """Neighbouring pages of real data, moved by half a page: none equals the page it came from."""
        start = int(self._rng.integers(max(1, len(self._pages) - page_count - 1)))
        offset = int(self._pages[start]) * PAGE_BYTES + PAGE_BYTES // 2
        piece = os.pread(self._fd, page_count * PAGE_BYTES, offset)
        return piece + bytes(page_count * PAGE_BYTES - len(piece))

    def edit(self) -> bytes:
        """256 bytes out of a random place of the data."""
        row = int(self._rng.integers(len(self._pages)))
        start = int(self._rng.integers(PAGE_BYTES - EDIT_BYTES))
        return self._read(row)[start : start + EDIT_BYTES]

    def _read(self, row: int) -> bytes:
        return os.pread(self._fd, PAGE_BYTES, int(self._pages[row]) * PAGE_BYTES)


def _replace_pages(fd: int, targets: NDArray[np.int64], donors: _Donors) -> int:
    """Overwrite the target pages, neighbours by neighbouring data; returns how many really changed."""
    changed = 0
    for first, count in _neighbours(targets):
        old = os.pread(fd, count * PAGE_BYTES, first * PAGE_BYTES)
        new = donors.page() if count == 1 else donors.run(count)
        os.pwrite(fd, new, first * PAGE_BYTES)
        changed += _pages_differing(old, new)
    return changed


def _edit_pages(fd: int, targets: NDArray[np.int64], donors: _Donors, rng: np.random.Generator) -> int:
    changed = 0
    for page in sorted(targets.tolist()):
        offset = page * PAGE_BYTES + int(rng.integers(PAGE_BYTES - EDIT_BYTES))
        old = os.pread(fd, EDIT_BYTES, offset)
        new = donors.edit()
        if new == old:
            new = bytes(byte ^ 0xFF for byte in old)
        os.pwrite(fd, new, offset)
        changed += 1
    return changed


def _append_pages(fd: int, pages: NDArray[np.int64], wanted: int, donors: _Donors) -> int:
    """Fill the longest run of free pages from its start; what does not fit there makes the image grow."""
    import numpy as np

    size_pages = os.lseek(fd, 0, os.SEEK_END) // PAGE_BYTES
    bounds = np.concatenate([[-1], pages, [size_pages]])
    gaps = np.diff(bounds) - 1
    widest = int(gaps.argmax())
    first = int(bounds[widest]) + 1 if gaps[widest] >= wanted else size_pages
    changed = 0
    for start in range(0, wanted, 256):
        count = min(256, wanted - start)
        new = donors.run(count)
        os.pwrite(fd, new, (first + start) * PAGE_BYTES)
        changed += _pages_differing(bytes(len(new)), new)
    return changed


def _pick_runs(pages: NDArray[np.int64], wanted: int, run_pages: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`wanted` data pages in runs of `run_pages` on average, no page twice."""
    import numpy as np

    taken = np.zeros(len(pages), dtype=bool)
    count = 0
    while count < wanted:
        length = min(wanted - count, int(rng.geometric(1 / run_pages)))
        start = int(rng.integers(len(pages)))
        piece = taken[start : start + length]
        count += int((~piece).sum())
        piece[:] = True
    return pages[taken]


def _neighbours(targets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Sorted page indexes as (first, count) of neighbouring ones, at most 1,024 at a time."""
    import numpy as np

    ordered = np.sort(targets)
    for run in np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1):
        for start in range(0, len(run), 1024):
            yield int(run[start]), min(1024, len(run) - start)


def _pages_differing(old: bytes, new: bytes) -> int:
    import numpy as np

    left = np.frombuffer(old, np.uint64).reshape(-1, PAGE_BYTES // 8)
    right = np.frombuffer(new, np.uint64).reshape(-1, PAGE_BYTES // 8)
    return int((left != right).any(axis=1).sum())
