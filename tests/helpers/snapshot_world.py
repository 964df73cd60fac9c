"""A small world for tests of the snapshot tier: images, an item, a tier, and true copies to compare with.

Byte equality with a copy of the image, made at the moment of the capture by nothing of ours, is the only
proof.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import xxhash

from blockvault.errors import CorruptionError
from blockvault.ids import ItemId
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource
from blockvault.model import Consistency, DiskSpec, Item, SnapshotRecord
from blockvault.monitor import Monitor
from blockvault.snapshots.place import Place
from blockvault.snapshots.tier import Capture, SnapshotTier

CHUNK = 16_384
SEED = 0x1234_5678_9ABC_DEF0
VAULT_ID = "5a" * 16
NOW = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def data_chunks_of(path: Path, chunk_size: int) -> dict[int, bytes]:
    """Number -> bytes (padded) of every chunk of a file that is not all zeros, found by SEEK_DATA."""
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        fd, size, position = file.fileno(), path.stat().st_size, 0
        while position < size:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError:
                break
            start = data // chunk_size * chunk_size
            end = os.lseek(fd, data, os.SEEK_HOLE)
            position = -(-end // chunk_size) * chunk_size
            for at in range(start, position, chunk_size):
                chunk = os.pread(fd, chunk_size, at)
                if chunk.count(0) != len(chunk):
                    found[at // chunk_size] = chunk.ljust(chunk_size, b"\0")
    return found


def assert_same(left: Path, right: Path, what: str = "") -> None:
    """The two files have the same size and bytes."""
    assert left.stat().st_size == right.stat().st_size, f"{what}: sizes differ"
    a, b = data_chunks_of(left, CHUNK), data_chunks_of(right, CHUNK)
    if a != b:
        wrong = sorted(index for index in a.keys() | b.keys() if a.get(index) != b.get(index))
        raise AssertionError(f"{what}: {len(wrong)} chunks differ, the first is {wrong[0]}")


class World:
    """One item of one or more disks, its tier, and a true copy of every disk at every capture."""

    def __init__(self, root: Path, images: Path | None = None, disks: int = 1, chunk_size: int = CHUNK) -> None:
        self.root = root
        self.images = images or root / "images"
        self.host = root / "host"
        self.kept = root / "kept"
        self.copies = root / "copies"
        for folder in (self.images, self.host, self.copies):
            folder.mkdir(parents=True, exist_ok=True)
        names = [f"vd{'abcdef'[index]}" for index in range(disks)]
        specs = tuple(DiskSpec(name, str(self.images / f"{name}.img")) for name in names)
        self.item = Item(ItemId("c0ffee" + "0" * 26), "web01", specs, chunk_size, NOW)
        self.digests_dir = self.host / "digests" / self.item.id
        self.monitor = Monitor()
        self.number = max([int(path.name.split("-")[0]) for path in self.copies.iterdir()], default=0)
        self.tier = SnapshotTier(str(self.host), VAULT_ID)

    def image(self, disk: str = "vda") -> Path:
        return self.images / f"{disk}.img"

    def place(self, folder: Path | None = None) -> Place:
        sources = [ImageSource.open(disk.path, self.item.chunk_size) for disk in self.item.disks]
        try:
            return self.tier.place(self.item, sources, str(self.kept), folder=None if folder is None else str(folder))
        finally:
            for source in sources:
                source.close()

    def capture(
        self,
        *,
        consistency: Consistency = Consistency.CRASH,
        days: int = 2,
        place: Place | None = None,
        keep_copy: bool = True,
    ) -> Capture:
        """Take the next snapshot, and keep a true copy of each disk beside it."""
        self.number += 1
        if keep_copy:
            for disk in self.item.disks:
                self.keep_copy(disk.name)
        sources = [ImageSource.open(disk.path, self.item.chunk_size) for disk in self.item.disks]
        try:
            moment = NOW + self.number * DAY
            return self.tier.capture(
                self.item,
                self.number,
                sources,
                place or self.place(),
                now=moment,
                keep_until=moment + days * DAY,
                consistency=consistency,
                tags={"k": "v"},
                comment="a comment",
                retain_until=None,
                seed=SEED,
                digests_dir=str(self.digests_dir),
                monitor=self.monitor,
            )
        finally:
            for source in sources:
                source.close()

    def keep_copy(self, disk: str) -> None:
        command = ["cp", "--sparse=always", "--reflink=never", str(self.image(disk)), str(self.copy(disk))]
        subprocess.run(command, check=True)

    def copy(self, disk: str = "vda", number: int | None = None) -> Path:
        return self.copies / f"{number or self.number}-{disk}.img"

    def record(self, number: int) -> SnapshotRecord:
        return next(record for record in self.tier.records(self.item.id) if record.number == number)

    def numbers(self) -> list[int]:
        return [record.number for record in self.tier.records(self.item.id)]

    def open(self, number: int, disk: str = "vda") -> DiskReader:
        return self.tier.open_disk(self.record(number), disk, digests_dir=str(self.digests_dir))

    def restored(self, number: int, disk: str = "vda", *, fresh: bool = True, direct: bool = False) -> Path:
        """Restore a disk to a file: one that is one hole, or full of other bytes; past the page cache or through it."""
        target = self.root / "restored.img"
        target.unlink(missing_ok=True)
        size = self.copy(disk, number).stat().st_size
        with target.open("w+b") as file:
            if fresh:
                file.truncate(size)
            else:
                for _ in range(0, size, 1 << 20):
                    file.write(b"\xa5" * (1 << 20))
                file.truncate(size)
            file.flush()
            past = os.open(target, os.O_WRONLY | os.O_DIRECT) if direct else None
            try:
                self.tier.restore_disk(self.record(number), disk, file.fileno(), monitor=Monitor(), direct_fd=past)
            finally:
                if past is not None:
                    os.close(past)
        return target

    def check(self, number: int, disk: str = "vda", *, thorough: bool = True) -> None:
        """Whatever way the snapshot is read, it has the bytes of the copy."""
        truth = self.copy(disk, number)
        for direct in (False, True):
            restored = self.restored(number, disk, direct=direct)
            assert_same(restored, truth, f"snapshot {number} {disk} restored, past the page cache: {direct}")
        if thorough:
            if truth.stat().st_size <= 64 << 20:
                for direct in (False, True):
                    restored = self.restored(number, disk, fresh=False, direct=direct)
                    assert_same(restored, truth, f"snapshot {number} {disk} restored over other bytes: {direct}")
            self.check_reader(number, disk)

    def check_reader(self, number: int, disk: str = "vda") -> None:
        truth = self.copy(disk, number)
        size, chunk = truth.stat().st_size, self.item.chunk_size
        wanted = data_chunks_of(truth, chunk)
        reader = self.open(number, disk)
        try:
            assert (reader.size, reader.chunk_size) == (size, chunk)
            count = -(-size // chunk)
            told = {index for first, length in reader.data_runs(0, count) for index in range(first, first + length)}
            assert set(wanted) <= told, f"data_runs leaves out chunks {sorted(set(wanted) - told)[:5]}"
            step = 65_536
            for first in range(0, count, step):
                length = min(step, count - first)
                scan = reader.scan(first, length, None, seed=SEED, threads=2, cancel=None)
                digests = np.zeros((length, 16), np.uint8)
                for index, plain in wanted.items():
                    if first <= index < first + length:
                        digest = xxhash.xxh3_128(plain, SEED).digest()
                        digests[index - first] = np.frombuffer(digest, np.uint8)
                assert np.array_equal(scan.digests, digests)
                assert np.array_equal(np.asarray(scan.states) == 3, digests.any(axis=1))
                same = reader.scan(first, length, digests, seed=SEED, threads=2, cancel=None)
                assert np.array_equal(np.asarray(same.states) == 2, digests.any(axis=1))
            asked = np.array(sorted({*wanted, *range(min(count, 40))}), np.uint64)
            for start in range(0, len(asked), 300):
                part = asked[start : start + 300]
                batch = reader.identify(part, seed=SEED, id_key=bytes(32), cancel=None)
                for row, index in enumerate(part.tolist()):
                    assert batch.chunk(row) == wanted.get(index, bytes(chunk)), f"chunk {index}"
                other = reader.identify(part, seed=0, id_key=bytes(32), cancel=None)
                assert np.array_equal(other.ids, batch.ids)
        finally:
            reader.close()

    def check_all(self, *, thorough: bool = True) -> None:
        for number in self.numbers():
            for disk in self.record(number).disks:
                self.check(number, disk.name, thorough=thorough)

    def files(self) -> list[str]:
        """Every file of the tier but its locks, relative to the root."""
        found = []
        for top in (self.kept, self.images / ".blockvault", self.host / "snapshots"):
            for folder, _, names in os.walk(top):
                found += [os.path.relpath(os.path.join(folder, name), self.root) for name in names]
        return sorted(name for name in found if not name.endswith(".lock"))


class Guest:
    """Writes to an image as a guest does, from a seed."""

    def __init__(self, path: Path, size: int, seed: int) -> None:
        self.path = path
        self.rng = np.random.default_rng(seed)
        with path.open("wb") as file:
            file.truncate(size)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def random(self, length: int) -> bytes:
        return self.rng.integers(0, 256, length, np.uint8).tobytes()

    def fill(self, chunks: int, chunk_size: int = CHUNK) -> None:
        """Data in `chunks` random places."""
        for _ in range(chunks):
            offset = int(self.rng.integers(0, max(1, self.size)))
            length = min(int(self.rng.integers(1, 2 * chunk_size)), self.size - offset)
            self.write(offset, self.random(length))

    def punch(self, offset: int, length: int) -> None:
        subprocess.run(
            ["fallocate", "--punch-hole", "--offset", str(offset), "--length", str(length), str(self.path)],
            check=True,
        )

    def live(self) -> None:
        """One day of a guest: writes, zeros, discards, and sometimes another size."""
        self.fill(int(self.rng.integers(0, 12)))
        kind = int(self.rng.integers(0, 8))
        if self.size and kind < 4:
            offset = int(self.rng.integers(0, self.size))
            length = min(int(self.rng.integers(1, 6 * CHUNK)), self.size - offset)
            if kind < 2:
                self.write(offset, bytes(length))
            else:
                self.punch(offset, length)
        elif kind == 4:
            os.truncate(self.path, self.size + int(self.rng.integers(1, 10 * CHUNK)))
        elif kind == 5:
            os.truncate(self.path, int(self.rng.integers(0, self.size + 1)))


__all__ = ["CHUNK", "DAY", "NOW", "SEED", "CorruptionError", "Guest", "World", "assert_same", "data_chunks_of"]
