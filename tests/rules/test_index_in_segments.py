"""A vault whose index keeps next to nothing in LMDB is the same vault: what is restored, freed and met again.

The share of LMDB is set so small that every commit moves it into a sorted segment; beside it the same is done with LMDB
alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip, truncate, zero
from helpers.files import noise, text, write_at
from helpers.needed import nothing_is_left, purge, reclaim
from helpers.site import CHUNK, Site

import blockvault
from blockvault.clock import utc_now
from blockvault.format.index import prefixes_of
from blockvault.ids import PackName
from blockvault.store import index as index_module
from blockvault.store.index import Index

CHUNKS = 24
Harm = Callable[[Path], object]


@pytest.fixture(params=["sorted", "LMDB alone"])
def share(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(index_module, "LMDB_ENTRIES", 8 if request.param == "sorted" else 1 << 40)
    return str(request.param)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LMDB_ENTRIES", 8)


def segments(site: Site) -> list[Path]:
    return sorted((site.folder / "lmdb").glob("sorted-*"))


def known_again(site: Site, image: Path) -> int:
    """How many chunks of a new disk with these bytes are only referred to."""
    copy = Path(shutil.copyfile(image, image.with_name(f"twin-{len(site.copies)}.img")))
    site.take(copy)
    return site.counters["blocks_known"]


def test_snapshot_prune_and_rebuild_do_the_same_with_either(site: Site, share: str) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    for turn in range(4):
        write_at(image, 3 * turn * CHUNK, noise(3 * CHUNK, 10 + turn))
        site.take(image)
    assert bool(segments(site)) == (share == "sorted")
    assert known_again(site, image) == CHUNKS
    site.sound()

    purge(site, 2, 3, 4)
    reclaim(site, 0.0)
    site.copies = {label: copy for label, copy in site.copies.items() if label not in ("2", "3", "4")}
    nothing_is_left(site)
    site.sound()
    assert known_again(site, image) == CHUNKS

    # What was freed is no hit, whatever a segment still says of it.
    lost = site.root / "lost.img"
    write_at(image, 0, noise(3 * CHUNK, 10))
    lost.write_bytes(noise(3 * CHUNK, 999) + noise(3 * CHUNK, 10))
    site.take(lost)
    assert site.counters["blocks_known"] == 3, "the one half is in the newest point"
    site.sound()

    for lose in (site.lose_index, lambda: forge.session(site).rebuild_index()):
        lose()
        assert site.vault.points()
        assert bool(segments(site)) == (share == "sorted")
        assert known_again(site, lost) == 6
        site.sound()
    found = site.vault.check()
    assert found.damage == ()
    assert found.index_entries > CHUNKS


@pytest.mark.usefixtures("tiny")
def test_entries_of_deleted_packs_are_misses_and_leave_with_a_merge(site: Site) -> None:
    image, other = site.root / "disk.img", site.root / "other.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    (pack,) = forge.packs(site)
    ids = forge.table(site, pack).ids.copy()
    other.write_bytes(noise(CHUNKS * CHUNK, 2))
    site.take(other)
    index = forge.session(site).index
    assert index is not None
    assert index.find_blocks(ids) == [(pack, slot) for slot in range(CHUNKS)]
    for info in site.vault.points():
        if info.item == "disk":
            site.vault.delete_point(info.label, purge=True)
            del site.copies[info.label]
    reclaim(site, 0.0)
    assert index.find_blocks(ids) == [None] * CHUNKS
    before = sum(segment.count for segment in index._sorted)
    assert before == 2 * CHUNKS
    third = site.root / "third.img"
    third.write_bytes(noise(CHUNKS * CHUNK, 3))
    site.take(third)
    assert sum(segment.count for segment in index._sorted) == 2 * CHUNKS
    assert index.find_blocks(ids) == [None] * CHUNKS
    # The number of the deleted pack names nothing again.
    names = {name for rows in index.entries(7) for _, name, _ in rows}
    assert names == set(forge.packs(site))
    site.sound()


@pytest.mark.usefixtures("tiny")
def test_a_segment_that_lies_costs_space_and_no_byte(site: Site) -> None:
    """R2: each kind of wrong place, under prefixes that are asked for."""
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    (path,) = segments(site)
    site.close()
    lies = np.array([7, 1 << 20, 0xFFFFFFFF, 1 << 32, 0xFFFFFFFF << 32, (1 << 64) - 1], np.uint64)
    data = bytearray(path.read_bytes())
    rows = np.frombuffer(data, "<u8", 2 * CHUNKS, 4096).reshape(-1, 2)
    rows[:, 1] = np.resize(lies, CHUNKS)
    path.write_bytes(data)
    known = known_again(site, image)
    assert known <= 4, "place 7 is true for one chunk alone"
    assert segments(site), "a place is a hint, and nothing is wrong with the file"
    site.sound()


HARM: dict[str, Harm] = {
    "flip in the header": lambda path: flip(path, 17),
    "flip in the fences": lambda path: flip(path, path.stat().st_size - 2),
    "cut off": lambda path: truncate(path, path.stat().st_size // 2),
    "empty": lambda path: truncate(path, 0),
    "gone": Path.unlink,
    "another's": lambda path: path.write_bytes(b"x" * path.stat().st_size),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
def test_a_segment_that_is_lost_is_made_anew(site: Site, harm: Harm, opened: bool) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    if not opened:
        site.close()
    harm(segments(site)[0])
    if opened:  # what it has open it reads on, or does without
        more = site.root / "more.img"
        more.write_bytes(noise(CHUNKS * CHUNK, 5))
        site.take(more)
        assert site.counters["blocks_stored"] == CHUNKS
        site.reopen()
    assert known_again(site, image) == CHUNKS
    assert all(path.is_file() for path in segments(site))
    site.sound()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("at", ["entries", "tags"])
def test_wrong_content_costs_dedup_alone(site: Site, at: str) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    site.close()
    (path,) = segments(site)
    zero(path, 4096 if at == "entries" else 8192, 64)
    assert known_again(site, image) >= CHUNKS - 32
    other = site.root / "other.img"
    for seed in range(3):  # merges read all of it
        other.write_bytes(noise(CHUNKS * CHUNK, 50 + seed))
        site.take(other)
    site.reopen()
    assert known_again(site, image) == CHUNKS
    site.sound()


def identities(prefixes: np.ndarray) -> np.ndarray:
    ids = np.zeros((len(prefixes), 32), dtype=np.uint8)
    ids[:, :8] = prefixes.astype(">u8").view(np.uint8).reshape(-1, 8)
    return ids


def opened_index(folder: Path) -> Index:
    return Index(str(folder / "lmdb"), "identity", now=utc_now(), note=str(folder / "note"))


MOVING = """
import sys
from pathlib import Path
import numpy as np
from blockvault.clock import utc_now
from blockvault.ids import PackName
from blockvault.store import index as index_module

index_module.LMDB_ENTRIES = 64
index = index_module.Index(sys.argv[1] + "/lmdb", "identity", now=utc_now(), note=sys.argv[1] + "/note")
for line in sys.stdin:
    first, step = map(int, line.split())
    numbers = np.arange(first, first + 40 * step, step, dtype=np.uint64)
    keys, slots = numbers << np.uint64(32), numbers.astype(np.uint32)
    index.add_blocks([PackName(bytes(16))], keys, np.zeros(40, np.uint32), slots, None)
    print("moved", flush=True)
"""


@pytest.mark.usefixtures("tiny")
def test_look_ups_beside_two_processes_that_move_and_merge(tmp_path: Path) -> None:
    reading = opened_index(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(blockvault.__file__).parents[1])}
    others = [
        subprocess.Popen(
            [sys.executable, "-c", MOVING, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    told: list[int] = [0, 0]  # how many rounds of each are in for good
    failed: list[str] = []

    def feed(number: int) -> None:
        process: Any = others[number]
        for turn in range(40):
            print(80 * turn + number, 2, file=process.stdin, flush=True)
            if process.stdout.readline().strip() != "moved":
                failed.append(f"process {number}, turn {turn}")
                return
            told[number] = turn + 1

    threads = [threading.Thread(target=feed, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    rounds = 0
    while any(thread.is_alive() for thread in threads):
        wanted = [80 * turn + number + 2 * i for number in (0, 1) for turn in range(told[number]) for i in range(40)]
        places = reading.find_blocks(identities(np.array(wanted, np.uint64) << np.uint64(32)))
        assert [place and place[1] for place in places] == wanted
        rounds += 1
    for thread, process in zip(threads, others, strict=True):
        thread.join()
        process.communicate(timeout=60)
    assert failed == []
    assert rounds > 3
    reading.find_blocks(identities(np.zeros(1, np.uint64)))
    assert reading._sorted
    names = {path.name for path in (tmp_path / "lmdb").glob("sorted-*")}
    assert {os.path.basename(segment.path) for segment in reading._sorted} == names
    reading.close()


def test_beyond_the_bound_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LMDB_ENTRIES", 10), ("SORTED_ENTRIES_MAX", 200), ("MERGED_ENTRIES_MAX", 50)):
        monkeypatch.setattr(index_module, name, value)
    index = opened_index(tmp_path)
    pack = PackName(bytes(16))
    for first in range(0, 1000, 10):
        numbers = np.arange(first, first + 10, dtype=np.uint64)
        slots = numbers.astype(np.uint32)
        index.add_blocks([pack], numbers, np.zeros(10, np.uint32), slots, f"o/{first}")
        there = [place is not None for place in index.find_blocks(identities(np.arange(first + 10, dtype=np.uint64)))]
        kept = there.count(True)
        assert there == [False] * (len(there) - kept) + [True] * kept, "the newest, without a gap"
        assert kept >= min(first + 10, 150)
        assert sum(segment.count for segment in index._sorted) <= 200
        assert len(index._sorted) <= 8
    assert index.segments() == {f"o/{first}" for first in range(0, 1000, 10)}, "none is taken in again"
    index.close()


def test_many_commits_at_once_go_past_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an index is made anew: what exceeds the share is never put into LMDB."""
    monkeypatch.setattr(index_module, "LMDB_ENTRIES", 1000)
    index = opened_index(tmp_path)
    put = 0
    true = Index.add_blocks

    def counted(self: Index, packs: Any, prefixes: np.ndarray, *more: Any) -> None:
        nonlocal put
        put += len(prefixes)
        true(self, packs, prefixes, *more)

    monkeypatch.setattr(Index, "add_blocks", counted)
    pack = PackName(bytes(16))
    ids = np.frombuffer(noise(32 * 10_500, 3), dtype=np.uint8).reshape(-1, 32)
    keys = prefixes_of(ids)
    slots = np.arange(len(keys), dtype=np.uint32)
    commits = [
        ([pack], keys[at : at + 100], np.zeros(100, np.uint32), slots[at : at + 100], f"o/{at}")
        for at in range(0, len(keys), 100)
    ]
    index.take_in(iter(commits))
    assert put == 500
    assert index.find_blocks(ids) == [(pack, int(slot)) for slot in slots]
    assert index.segments() == {f"o/{at}" for at in range(0, len(keys), 100)}
    before = [segment.name for segment in index._sorted]
    put = 0
    index.take_in(commits[:20])  # as another process does that began at the same time
    assert [segment.name for segment in index._sorted] == before
    assert put == 0
    index.close()


def test_a_failing_or_full_disk_while_moving_leaves_everything_in_lmdb(
    site: Site, tiny: None, hook: Callable[..., object]
) -> None:
    image = site.root / "disk.img"
    image.write_bytes(text(CHUNKS * CHUNK, 1))

    def full(name: str) -> None:
        if name == "sorted.sync":
            raise OSError(28, "No space left on device")

    hook(full)
    result = site.take(image)
    assert any(warning.kind == "store.no-space" for warning in site.monitor.warnings), result
    hook(None)
    assert segments(site) == []
    assert known_again(site, image) == CHUNKS
    image.write_bytes(noise(CHUNKS * CHUNK, 2))
    site.take(image)
    assert segments(site), "the next commit that adds something moves all of it"
    site.sound()
