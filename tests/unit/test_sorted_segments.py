"""Sorted segments by themselves: what is written is found, little is read for it, no other file is taken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import flip, truncate, zero

from blockvault.store import sorted_segments
from blockvault.store.sorted_segments import SortedSegment, UnusableError, merge, remove_unlisted, write_segment

IDENTITY = "1:2"


def entries(count: int, seed: int = 1) -> np.ndarray:
    keys = np.unique(np.random.default_rng(seed).integers(1, 1 << 64, 2 * count + 8, dtype=np.uint64))
    keys = np.random.default_rng(seed).permutation(keys)[:count]
    return np.stack((np.sort(keys), np.arange(count, dtype=np.uint64)), axis=1)


def made(folder: Path, rows: np.ndarray, pieces: int = 3, room: int = 0) -> SortedSegment:
    return SortedSegment(
        str(folder),
        IDENTITY,
        write_segment(str(folder), IDENTITY, iter(np.array_split(rows, pieces)), len(rows) + room),
    )


@pytest.mark.parametrize("room", [0, 1, 700])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 512, 5000])
def test_what_is_in_is_found_and_nothing_else(tmp_path: Path, count: int, room: int) -> None:
    rows = entries(count)
    segment = made(tmp_path, rows, room=room)
    assert segment.count == count
    order = np.random.default_rng(2).permutation(count)
    found, places = segment.find(rows[order, 0])
    assert found.tolist() == list(range(count))
    assert places.tolist() == rows[order, 1].tolist()
    # Neighbours have the same page, and those 2^16 apart the same tag.
    others = np.concatenate((rows[:, 0] + np.uint64(1), rows[:, 0] ^ np.uint64(1 << 16), np.zeros(1, np.uint64)))
    others = others[~np.isin(others, rows[:, 0])]
    assert len(segment.find(others)[0]) == 0
    assert np.array_equal(np.concatenate([rows[:0], *segment.chunks()]), rows)
    segment.close()


def test_a_miss_reads_one_page_of_tags_and_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = made(tmp_path, entries(100_000))
    reads: Counter[int] = Counter()

    def counted(fd: int, length: int, at: int, true: Callable[..., bytes] = os.pread) -> bytes:
        reads[length] += 1
        return true(fd, length, at)

    monkeypatch.setattr(sorted_segments.os, "pread", counted)
    misses = np.random.default_rng(9).integers(1, 1 << 64, 20_000, dtype=np.uint64)
    assert len(segment.find(misses)[0]) == 0
    assert reads[512] <= 20_000
    assert reads[16] < 20_000 * 2 * 256 / 65_536  # tags that are equal by chance
    segment.close()


def test_of_equal_prefixes_a_merge_keeps_the_last_source_s(tmp_path: Path) -> None:
    rows = entries(1000)
    newer = rows[::3].copy()
    newer[:, 1] += np.uint64(1 << 40)
    merged = np.concatenate(list(merge([made(tmp_path, rows).chunks(), iter([newer])])))
    wanted = {**dict(rows.tolist()), **dict(newer.tolist())}
    assert dict(merged.tolist()) == wanted
    assert (np.diff(merged[:, 0].astype(object)) > 0).all()


def test_sources_out_of_order_end_a_merge(tmp_path: Path) -> None:
    rows = entries(600)
    rows[100], rows[300] = rows[300].copy(), rows[100].copy()
    segment = made(tmp_path, rows)
    with pytest.raises(UnusableError, match="out of order"):
        list(merge([segment.chunks()]))
    list(merge([iter([rows]), iter([entries(600, 2)])]))  # ends


HARM: dict[str, Callable[[Path], object]] = {
    "magic": lambda path: flip(path, 0),
    "name": lambda path: flip(path, 9),
    "count": lambda path: flip(path, 16, 3),
    "digest": lambda path: flip(path, 30),
    "fence": lambda path: flip(path, path.stat().st_size - 3),
    "fences zeroed": lambda path: zero(path, path.stat().st_size - 8, 8),
    "cut off": lambda path: truncate(path, path.stat().st_size - 1),
    "cut to the head": lambda path: truncate(path, 20),
    "empty": lambda path: truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "gone": Path.unlink,
    "a link": lambda path: (path.rename(path.with_suffix(".aside")), path.symlink_to(path.with_suffix(".aside"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    segment = made(tmp_path, entries(700))
    segment.close()
    harm(Path(segment.path))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UnusableError):
        SortedSegment(str(tmp_path), IDENTITY, segment.name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_of_another_vault_or_name_is_refused(tmp_path: Path) -> None:
    segment, other = made(tmp_path, entries(10)), made(tmp_path, entries(10, 2))
    with pytest.raises(UnusableError):
        SortedSegment(str(tmp_path), "3:4", segment.name)
    os.replace(other.path, segment.path)
    with pytest.raises(UnusableError):
        SortedSegment(str(tmp_path), IDENTITY, segment.name)


def test_a_file_that_is_cut_off_while_it_is_open_is_told(tmp_path: Path) -> None:
    """A mapped one would end the process."""
    rows = entries(5000)
    segment = made(tmp_path, rows)
    truncate(Path(segment.path), 4096 + 100)
    with pytest.raises(UnusableError):
        segment.find(rows[:, 0])


def test_a_file_that_could_not_be_finished_is_removed(tmp_path: Path) -> None:
    def source() -> object:
        yield entries(300)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        write_segment(str(tmp_path), IDENTITY, source(), 600)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_only_files_that_are_not_listed_are_removed(tmp_path: Path) -> None:
    kept, gone = made(tmp_path, entries(3)), made(tmp_path, entries(3))
    (tmp_path / "data.mdb").touch()
    remove_unlisted(str(tmp_path), [kept.name])
    assert {path.name for path in tmp_path.iterdir()} == {"data.mdb", os.path.basename(kept.path)}
    assert gone.find(np.zeros(1, np.uint64))[0].tolist() == []  # who has it open reads on
