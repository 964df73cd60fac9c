"""Claims and audits: what a map covers, and that no chunk can go unread for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.files import noise, write_at
from hypothesis import given
from hypothesis import strategies as st

from blockvault.engine import claims
from blockvault.engine.claims import Claims, audit
from blockvault.image.source import ImageSource
from blockvault.monitor import Monitor
from blockvault.store.digests import DigestState, DigestWriter

CHUNK, SEED = 16_384, 99
EDGES = st.lists(st.integers(0, 400), max_size=12, unique=True)


def ranges_of(edges: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    even = sorted(edges)[: len(edges) // 2 * 2]
    return np.array(even, dtype=np.int64).reshape(-1, 2)


@given(EDGES, st.integers(1, 60), st.integers(0, 30), st.integers(1, 30))
def test_a_chunk_is_claimed_if_a_claimed_byte_is_in_it(edges: list[int], chunk: int, first: int, count: int) -> None:
    ranges = ranges_of(edges)
    bytes_claimed = {byte for low, high in ranges.tolist() for byte in range(low, high)}
    expected = [
        any(byte in bytes_claimed for byte in range((first + i) * chunk, (first + i + 1) * chunk)) for i in range(count)
    ]
    claim = Claims(ranges, chunk)
    assert claim.mask(first, count).tolist() == expected
    assert claim.claimed_bytes() == len(bytes_claimed)


class Disk:
    """An image, and the digest state of what it held when this was made."""

    def __init__(self, root: Path, chunks: int, data: range) -> None:
        self.path = root / "disk.img"
        with self.path.open("wb") as file:
            file.truncate(chunks * CHUNK)
        for chunk in data:
            write_at(self.path, chunk * CHUNK, noise(CHUNK, chunk))
        self.folder = str(root / "digests")
        with ImageSource.open(str(self.path), CHUNK) as source:
            seen = source.scan(0, chunks, None, seed=SEED, threads=1, cancel=None)
        told = {"vault_id": "ab" * 16, "disk": "disk", "size": chunks * CHUNK, "chunk_size": CHUNK, "seed": SEED}
        writer = DigestWriter(self.folder, base=None, **told)  # type: ignore[arg-type]
        writer.put(0, np.ascontiguousarray(np.asarray(seen.digests)))
        writer.finish()
        writer.switch("point", b"r" * 16)
        writer.close()
        state = DigestState.open(self.folder, "point", record_digest=b"r" * 16, **told)  # type: ignore[arg-type]
        assert state is not None
        self.digests = state
        self.monitor = Monitor()

    def audit(self, window: int, claimed: list[list[int]] | None = None, count: int = 1) -> claims.Audit:
        found = Claims(np.array(claimed or [], dtype=np.int64).reshape(-1, 2) * CHUNK, CHUNK)
        with ImageSource.open(str(self.path), CHUNK) as source:
            return audit(source, self.digests, found, range(window, window + count), seed=SEED, monitor=self.monitor)


@pytest.fixture
def _in_turn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SAMPLE_CELLS", 0)


@pytest.mark.usefixtures("_in_turn_only")
def test_in_as_many_runs_as_there_are_windows_every_chunk_with_data_is_read_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 700, range(100, 450))
    read = [disk.audit(window).chunks_read for window in range(claims.WINDOWS)]
    assert sum(read) == 350
    assert max(read) <= 3
    assert disk.monitor.counters["read_bytes"] == 350 * CHUNK
    assert sum(disk.audit(window, count=32).chunks_read for window in range(0, claims.WINDOWS, 32)) == 350


@pytest.mark.usefixtures("_in_turn_only")
@pytest.mark.parametrize(
    ("chunk", "data"), [(120, b"new"), (120, bytes(CHUNK)), (600, b"new")], ids=["other", "cleared", "hole-filled"]
)
def test_any_one_change_that_is_not_claimed_is_found_in_one_turn(tmp_path: Path, chunk: int, data: bytes) -> None:
    disk = Disk(tmp_path, 700, range(100, 450))
    write_at(disk.path, chunk * CHUNK, data)
    missed = [number for window in range(claims.WINDOWS) for number in disk.audit(window).missed]
    assert missed == [chunk]
    assert not any(disk.audit(window, [[chunk, chunk + 1]]).missed for window in range(claims.WINDOWS))


def test_what_is_drawn_at_random_held_data_and_is_another_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, 700, range(100, 450))
    read: list[list[int]] = []
    true_identify = ImageSource.identify

    def identify(self: ImageSource, chunks: np.ndarray[tuple[int], np.dtype[np.uint64]], **options: object) -> object:
        read.append(chunks.tolist())
        return true_identify(self, chunks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageSource, "identify", identify)
    for _ in range(30):
        disk.audit(0)  # the first window is a hole
    numbers = [set(part) for part in read]
    assert all(len(part) == claims.SAMPLE_LEAST for part in numbers)
    drawn = set.union(*numbers)
    assert drawn <= set(range(100, 450))
    assert len(drawn) > 150


def test_on_a_large_disk_they_are_drawn_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading at random what a large disk has of them would take longer than the rest."""
    monkeypatch.setattr(claims, "SAMPLE_PLACES", 4)
    disk = Disk(tmp_path, 700, range(100, 450))
    done = disk.audit(0)
    assert claims.SAMPLE_LEAST - 4 <= done.chunks_read <= claims.SAMPLE_LEAST
    held = np.zeros(700, dtype=np.bool_)
    held[100:450] = True
    rows = np.sort(claims._random_rows(held, 16, 4))
    assert len(np.flatnonzero(np.diff(rows) > 1)) <= 3
    assert held[rows].all()


def test_a_disk_of_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 5, range(0))
    assert disk.audit(3) == claims.Audit(0, ())
