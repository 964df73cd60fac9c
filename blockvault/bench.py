"""A short measurement of this machine: what BlockVault does beside what the machine could do at best.

Each figure stands beside a ceiling measured in the same minute on the same bytes: reading the image, compressing it
with zstd -1 on all cores, copying it with a sync. The ratios say more than the rates. The image is in the page cache,
so the disk's own speed is left out; the full benchmarks are in the `benchmarks` folder of the source.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault import kernel
from blockvault.errors import UnsupportedError
from blockvault.monitor import Monitor
from blockvault.units import MIB, PAGE_BYTES, format_size
from blockvault.vault import Vault
from blockvault.workload import Churn, apply_churn, build_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIZE = 1024 * MIB
SIZE_QUICK = 256 * MIB
SEED = 1
_BUFFER_BYTES = MIB


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One thing measured: its rate over the image's size, beside that of its ceiling."""

    name: str
    seconds: float
    rate: float  # bytes a second
    ceiling: str
    ceiling_rate: float

    @property
    def ratio(self) -> float:
        """Rate over the ceiling's rate."""
        return self.rate / self.ceiling_rate


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All rows, and what they were measured with."""

    size_bytes: int
    data_bytes: int
    threads: int
    build: dict[str, Any]
    rows: tuple[BenchRow, ...]
    stored_per_changed: float  # bytes stored for each byte of the pages that changed


def run_bench(
    folder: str, *, tell: Callable[[str], None], monitor: Monitor, size: int = SIZE, seed: int = SEED
) -> BenchReport:
    """Measure in an existing empty folder. Raises `UnsupportedError` on a debug build of the core."""
    build = release_build()
    disk = os.path.join(folder, "disk.img")
    threads = os.cpu_count() or 1
    tell(f"making a disk image of {format_size(size)} from this machine's files")
    image = build_image(disk, size, seed)

    tell("reading, compressing and copying it: the ceilings")
    reading = size / min(_timed(lambda: _read_all(disk)) for _ in range(3))
    compressing = size / _timed(lambda: _compress_all(disk, threads))
    copying = size / _timed(lambda: _copy_with_sync(disk, os.path.join(folder, "copy.img")))
    os.unlink(os.path.join(folder, "copy.img"))
    rows: list[BenchRow] = []

    def row(name: str, seconds: float, ceiling: str, ceiling_rate: float) -> None:
        rows.append(BenchRow(name, seconds, size / seconds, ceiling, ceiling_rate))
        monitor.check()

    with Vault.create("bench", state_dir=os.path.join(folder, "state")) as vault:

        def take() -> float:
            return _timed(lambda: vault.snapshot([disk], keep=False, monitor=monitor))

        tell("taking the first point")
        row("first point", take(), "zstd -1, all cores", compressing)
        tell("taking a point with nothing changed")
        row("point, nothing changed", min(take() for _ in range(3)), "reading", reading)
        tell("changing 1% of the pages and taking a point")
        churn = apply_churn(disk, Churn.RANDOM_PAGES, seed)
        before = folder_bytes(vault.path)
        row("point, 1% of the pages changed", take(), "reading", reading)
        stored = folder_bytes(vault.path) - before
        tell("restoring from the vault")
        newest = vault.points()[-1].label
        target = os.path.join(folder, "restored.img")
        restoring = _timed(lambda: vault.restore(newest, output=target, source="vault", monitor=monitor))
        row("restore from the vault", restoring, "copy with sync", copying)
    per_changed = stored / max(1, churn.pages_changed * PAGE_BYTES)
    return BenchReport(size, image.data_bytes, threads, build, tuple(rows), per_changed)


def release_build() -> dict[str, Any]:
    """What the core was built with. Raises `UnsupportedError` (`bench.debug-build`) if not in release mode."""
    build = dict(kernel.build_info())
    if build["profile"] != "release":
        raise UnsupportedError(
            "bench.debug-build",
            "the core is a debug build",
            why="it is many times slower than a release build, its figures would mislead",
            do="install a release build: pip install .",
        )
    return {"kernel": kernel.KERNEL, **build}


def folder_bytes(folder: str) -> int:
    """The sizes of all files under a folder together."""
    return sum(os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return max(time.perf_counter() - began, 1e-6)


def _read_all(path: str) -> None:
    buffer = bytearray(_BUFFER_BYTES)
    with open(path, "rb", buffering=0) as source:
        while source.readinto(buffer):
            pass


def _compress_all(path: str, threads: int) -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1, threads=threads)
    with open(path, "rb", buffering=0) as source, open(os.devnull, "wb", buffering=0) as nowhere:
        compressor.copy_stream(source, nowhere, read_size=_BUFFER_BYTES, write_size=_BUFFER_BYTES)


def _copy_with_sync(source_path: str, target_path: str) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with open(source_path, "rb", buffering=0) as source, open(target_path, "wb", buffering=0) as target:
        while count := source.readinto(buffer):
            target.write(buffer[:count])
        os.fsync(target.fileno())
