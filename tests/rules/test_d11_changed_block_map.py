"""D11: the changed-block map of two clones is used only where all its conditions hold, audited, and never believed over
what the audit reads. On real xfs and btrfs; every point is held against a copy of its image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import flip
from helpers.files import noise, resize, write_at
from helpers.site import CHUNK, Site
from helpers.snapshot_world import Guest

from blockvault.clock import utc_now
from blockvault.engine import claims
from blockvault.image.extent_map import Ranges
from blockvault.model import ChurnSource, SnapshotRecord, SnapshotResult
from blockvault.monitor import Monitor
from blockvault.snapshots.tier import SnapshotTier

pytestmark = pytest.mark.root

MakeSite = Callable[..., Site]
REFLINK, SCAN, IDENTITY = ChurnSource.REFLINK, ChurnSource.SCAN, ChurnSource.IDENTITY


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site(keep=True)


def new_disk(folder: Path, chunks: int, *, name: str = "disk", tail: int = 0) -> Path:
    """An image whose chunks all differ and compress well."""
    path = folder / f"{name}.img"
    folder.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for first in range(0, chunks, 256):
            rows = [(b"%s %d " % (name.encode(), chunk)).ljust(64, b".") for chunk in range(first, first + 256)]
            file.write(b"".join(row * (CHUNK // 64) for row in rows[: chunks - first]))
        file.write(b"t" * tail)
    return path


def write_pages(image: Path, count: int, seed: int) -> set[int]:
    """Overwrite random pages; the chunks that were touched."""
    rng = np.random.default_rng(seed)
    pages = rng.choice(image.stat().st_size // 4096, size=count, replace=False)
    for page in pages.tolist():
        write_at(image, page * 4096, rng.integers(0, 256, 4096, np.uint8).tobytes())
    return {page * 4096 // CHUNK for page in pages.tolist()}


def clone_of(folder: Path, number: int) -> Path:
    (path,) = folder.rglob(f".blockvault/*/{number}/*.img")
    return path


def told(site: Site, label: int) -> tuple[ChurnSource | None, str]:
    point = site.vault.point(str(label)).point
    assert point is not None
    return point.churn_source, point.audit


class Notes(Monitor):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def on_message(self, level: str, message: str) -> None:
        if level == "note":
            self.notes.append(message)


# --- what it costs ---


def test_the_cost_follows_the_churn(site: Site, reflink_path: Path) -> None:
    chunks = 4096
    image = new_disk(reflink_path, chunks)
    assert site.take(image).churn_source is ChurnSource.INITIAL

    same = site.take(image)
    assert same.churn_source is REFLINK
    assert same.statistics.changed_chunks == 0
    read = site.counters["audited_chunks"]
    assert same.audit == f"{read} chunks outside of it were read, and none had changed"
    assert told(site, same.number) == (REFLINK, same.audit)
    assert 2 * (chunks // claims.WINDOWS) - 4 <= read
    assert site.counters["read_bytes"] == read * CHUNK < chunks * CHUNK / 100

    touched = write_pages(image, 60, 1)
    changed = site.take(image)
    assert changed.churn_source is REFLINK
    assert changed.statistics.changed_chunks == len(touched)
    churn_read = site.counters["read_bytes"] - site.counters["audited_chunks"] * CHUNK
    assert len(touched) * CHUNK <= churn_read <= 1.1 * len(touched) * CHUNK

    full = site.take(image, full=True)
    assert full.churn_source is IDENTITY
    assert site.counters["read_bytes"] >= chunks * CHUNK
    assert site.take(image).churn_source is REFLINK
    site.check_all()


def test_every_chunk_is_read_again_in_turn(site: Site, reflink_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockvault.engine.changed_blocks.WINDOWS", 4)
    monkeypatch.setattr(claims, "WINDOWS", 4)
    monkeypatch.setattr(claims, "SAMPLE_LEAST", 0)
    image = new_disk(reflink_path, 40)
    site.take(image)
    opened: list[tuple[int, int]] = []
    true_audit = claims.audit

    def audit(*args: object, **options: object) -> claims.Audit:
        opened.append((args[3].start, args[3].stop))  # type: ignore[attr-defined]
        return true_audit(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("blockvault.engine.changed_blocks.audit", audit)
    now = utc_now()
    for hours in (1, 2, 20, 40, 41, 42, 42 + 72, 0):  # daily and more often one window, later one a day; clocks go back
        assert site.take(image, now=now + timedelta(hours=hours)).churn_source is REFLINK
        site.reopen()
    assert opened == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 1), (1, 2), (2, 4), (0, 1)]


# --- a map that lies ---


def lie(monkeypatch: pytest.MonkeyPatch, hides: Callable[[int, int], bool]) -> None:
    """Have the map leave out the ranges that `hides` says, by first byte and the one after the last."""
    true_ranges = SnapshotTier.changed_ranges

    def changed_ranges(self: SnapshotTier, old: SnapshotRecord, new: SnapshotRecord, disk: str) -> Ranges | str:
        ranges = true_ranges(self, old, new, disk)
        assert not isinstance(ranges, str)
        kept = [pair for pair in ranges.tolist() if not hides(*pair)]
        return np.array(kept, dtype=np.int64).reshape(-1, 2)

    monkeypatch.setattr(SnapshotTier, "changed_ranges", changed_ranges)


def test_a_map_that_lies_is_found_and_not_used_any_more(
    site: Site, reflink_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hides all that changed in the upper half: no audit can miss that."""
    image = new_disk(reflink_path, 512)
    site.take(image)
    site.take(image)
    write_at(image, 0, noise(CHUNK, 1))
    write_at(image, 256 * CHUNK, noise(256 * CHUNK, 2))
    lie(monkeypatch, lambda first, _: first >= 256 * CHUNK)
    found = site.take(image)
    assert found.churn_source is SCAN
    assert found.audit == "every chunk was read: the changed-block map was wrong"
    assert found.job_state == "completed-with-warning"
    assert found.statistics.changed_chunks == 257
    assert [warning.kind for warning in site.monitor.warnings] == ["map.missed-churn"]
    monkeypatch.undo()

    reason = site.vault.map_off("disk")
    assert f"had changed by point {found.number} and was not claimed" in reason
    monitor = Notes()
    site.reopen()
    later = site.vault.snapshot([str(image)], monitor=monitor)
    assert (later.churn_source, later.job_state) == (SCAN, "completed")
    assert later.audit == "every chunk was read: the changed-block map is off"
    assert any("is off" in note for note in monitor.notes)
    site.remember(str(later.number))

    monitor = Notes()
    full = site.vault.snapshot([str(image)], monitor=monitor, full=True)
    site.remember(str(full.number))
    assert any("is on again" in note for note in monitor.notes)
    assert site.vault.map_off("disk") == ""
    assert site.take(image).churn_source is REFLINK
    site.check_all()


def test_one_hidden_chunk_is_found_in_turn_and_the_points_in_doubt_are_named(
    site: Site, reflink_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockvault.engine.changed_blocks.WINDOWS", 4)
    monkeypatch.setattr(claims, "WINDOWS", 4)
    monkeypatch.setattr(claims, "SAMPLE_LEAST", 0)
    monkeypatch.setattr(claims, "SAMPLE_CELLS", 0)
    image = new_disk(reflink_path, 40)
    site.take(image)
    hidden = 35  # in the last of the four windows
    write_at(image, hidden * CHUNK, noise(CHUNK, 1))
    lie(monkeypatch, lambda first, _: first == hidden * CHUNK)
    sources = []
    for seed in range(4):
        write_at(image, seed * CHUNK, noise(CHUNK, 10 + seed))
        sources.append(site.take(image).churn_source)
    assert sources == [REFLINK, REFLINK, REFLINK, SCAN]
    (warning,) = site.monitor.warnings
    assert "points 2 to 4 of the item, told by it, may lack changes" in warning.message
    for label in (2, 3, 4):
        with pytest.raises(AssertionError, match=f"wrong from byte {hidden * CHUNK} on"):
            site.check(label)
    site.check(1)
    site.check(5)
    assert told(site, 5)[0] is SCAN


def test_a_full_point_that_fails_leaves_the_map_off(
    site: Site, reflink_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Callable[..., None]
) -> None:
    image = new_disk(reflink_path, 64)
    site.take(image)
    image.write_bytes(noise(64 * CHUNK, 5))
    lie(monkeypatch, lambda *_: True)
    assert site.take(image).churn_source is SCAN
    monkeypatch.undo()

    def fail(name: str) -> None:
        if name == "transfer.commit":
            raise OSError(5, "Input/output error")

    hook(fail)
    with pytest.raises(OSError, match="refused while transferring"):
        site.take(image, full=True)
    hook(None)
    assert site.vault.map_off("disk")


# --- clones that are not what was made ---


def _write(path: Path) -> None:
    """With the mode and the time as they were."""
    status = path.stat()
    path.chmod(0o600)
    write_at(path, 7 * CHUNK, b"written behind the back")
    path.chmod(0o400)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    subprocess.run(["cp", "-a", "--reflink=always", str(path), str(copy)], check=True)
    copy.rename(path)


def _new_time(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


TOUCHES: dict[str, Callable[[Path], None]] = {
    "written": _write,
    "mode": lambda path: path.chmod(0o440),
    "replaced": _replace,
    "time": _new_time,
    "linked": lambda path: os.link(path, path.with_suffix(".link")),
}


@pytest.mark.parametrize("which", ["older", "newer"])
@pytest.mark.parametrize("touch", TOUCHES)
def test_a_touched_clone_means_a_scan(site: Site, reflink_path: Path, touch: str, which: str) -> None:
    image = new_disk(reflink_path, 20)
    site.take(image)
    write_at(image, 3 * CHUNK, noise(CHUNK, 1))
    if which == "older":
        TOUCHES[touch](clone_of(reflink_path, 1))
        result = site.take(image)
    else:
        site.take(image, snapshot_only=True)
        clone = clone_of(reflink_path, 2)
        TOUCHES[touch](clone)
        if touch == "written":  # the snapshot is what it is now, and so is its point
            shutil.copyfile(clone, site.copies["2"]["disk"])
        (result,) = site.vault.transfer()
    assert result.churn_source is SCAN
    assert result.audit == "every chunk was read: a snapshot was touched, or replaced, since it was taken"
    assert not result.warnings
    site.check_all()
    site.copies.clear()
    image.unlink()


def test_a_clone_that_is_gone_or_cut_means_a_scan(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 20)
    site.take(image)
    clone = clone_of(reflink_path, 1)
    clone.unlink()
    assert site.take(image).churn_source is SCAN
    clone = clone_of(reflink_path, 2)
    clone.chmod(0o600)
    resize(clone, 3 * CHUNK)
    write_at(image, 9 * CHUNK, noise(CHUNK, 1))
    assert site.take(image).churn_source is SCAN
    assert site.take(image).churn_source is REFLINK
    site.check_all()


# --- where there is no map, or not that of the parent ---


def test_a_parent_that_was_read_live(site: Site, reflink_path: Path) -> None:
    """Its number has no snapshot; an older snapshot is of another point."""
    image = new_disk(reflink_path, 20)
    site.take(image)
    write_at(image, 3 * CHUNK, noise(CHUNK, 1))
    site.take(image, keep=False)
    result = site.take(image)
    assert result.churn_source is SCAN
    assert result.audit == "every chunk was read: no snapshot of point 2 is kept to be compared with"
    site.check_all()


def test_snapshots_that_wait_go_by_the_map_in_any_order(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 40)
    site.take(image)
    for seed in range(3):
        write_at(image, seed * 2 * CHUNK, noise(3 * CHUNK, seed))
        site.take(image, snapshot_only=True)
    write_at(image, 0, b"again")
    last = site.take(image)  # its parent is point 1; those between wait
    assert last.churn_source is REFLINK
    waiting = site.vault.transfer()
    assert [result.number for result in waiting] == [2, 3, 4]
    assert {result.churn_source for result in waiting} == {REFLINK}
    assert site.take(image).churn_source is REFLINK
    site.check_all()


def test_two_items_by_turns(site: Site, reflink_path: Path) -> None:
    images = [new_disk(reflink_path / name, 30, name=name) for name in ("one", "two")]
    for turn in range(3):
        for index, image in enumerate(images):
            write_at(image, turn * CHUNK, noise(2 * CHUNK, 10 * turn + index))
            result = site.take(image)
            assert result.churn_source is (REFLINK if turn else ChurnSource.INITIAL)
    site.check_all()


def test_another_size_is_scanned_once(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 30, tail=777)
    site.take(image)
    for size in (30 * CHUNK + 900, 12 * CHUNK + 5, 40 * CHUNK + 1):
        resize(image, size)
        write_at(image, size - 1, b"e")
        result = site.take(image)
        assert result.churn_source is SCAN
        assert result.audit == "every chunk was read: disk 'disk' changed its size"
        write_at(image, size - 1, b"f")  # the last chunk is short
        result = site.take(image)
        assert (result.churn_source, result.statistics.changed_chunks) == (REFLINK, 1)
    site.check_all()


def test_a_disk_that_moved_is_scanned_once(site: Site, reflink_path: Path, mounted: Callable[[str, int], Path]) -> None:
    image = new_disk(reflink_path, 30)
    site.take(image)
    elsewhere = mounted("xfs", 320 << 20) / "disk.img"
    shutil.move(image, elsewhere)
    site.vault.set_item("disk", disks={"disk": str(elsewhere)})
    write_at(elsewhere, 0, noise(CHUNK, 1))
    moved = site.take(elsewhere)
    assert moved.churn_source is SCAN
    assert moved.audit == "every chunk was read: the two snapshots lie on different file systems"
    assert site.take(elsewhere).churn_source is REFLINK
    site.vault.set_item("disk", snapshot_dir=str(elsewhere.parent / "other"))
    write_at(elsewhere, CHUNK, noise(CHUNK, 2))
    assert site.take(elsewhere).churn_source is REFLINK  # another folder of the same file system
    site.vault.set_item("disk", snapshot_dir=str(site.root / "kept"))
    assert site.take(elsewhere).churn_source is SCAN  # raw copies have no map
    site.check_all()


def test_all_disks_go_by_the_map_or_none(site: Site, reflink_path: Path) -> None:
    images = [new_disk(reflink_path, 30, name=name) for name in ("system", "data")]
    site.take(*images, name="web")
    write_at(images[0], CHUNK, noise(CHUNK, 1))
    assert site.take(*images).churn_source is REFLINK
    (data,) = reflink_path.rglob(".blockvault/*/2/data.img")
    _new_time(data)
    write_at(images[0], CHUNK, noise(CHUNK, 2))
    write_at(images[1], CHUNK, noise(CHUNK, 3))
    assert site.take(*images).churn_source is SCAN
    site.check_all()


def test_without_the_digest_state_identity_decides(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 30)
    site.take(image)
    site.lose_digests()
    write_at(image, CHUNK, noise(CHUNK, 1))
    assert site.take(image).churn_source is IDENTITY
    assert site.take(image).churn_source is REFLINK
    site.check_all()


def test_a_damaged_cell_of_the_digest_state(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 30)
    site.take(image)
    (cells,) = (site.host / "digests").rglob("*.cells")
    flip(cells, 40)
    write_at(image, CHUNK, noise(CHUNK, 1))
    assert site.take(image).churn_source is IDENTITY
    site.check_all()


def test_compressed_data_is_scanned(site: Site, mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("btrfs", 128 << 20)
    subprocess.run(["mount", "-o", "remount,compress-force=zstd", str(folder)], check=True)
    image = new_disk(folder, 40)
    site.take(image)
    write_at(image, CHUNK, b"changed" * 1000)
    result = site.take(image)
    assert result.churn_source is SCAN
    assert result.audit == "every chunk was read: most of the disk is compressed, or its addresses are not told"
    site.check_all()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_file_system_that_was_mounted_again_is_still_trusted(
    site: Site, mounted: Callable[[str, int], Path], kind: str
) -> None:
    """What tells a clone is the same after that: also the fractions of its time."""
    folder = mounted(kind, 320 << 20)
    image = new_disk(folder, 40)
    site.take(image)
    site.close()
    backing = folder.parent / f"{kind}.fs"
    subprocess.run(["umount", str(folder)], check=True)
    subprocess.run(["mount", "-o", "loop", str(backing), str(folder)], check=True)
    write_at(image, CHUNK, noise(CHUNK, 1))
    result = site.take(image)
    assert (result.churn_source, result.statistics.changed_chunks) == (REFLINK, 1)
    site.check_all()


# --- the host's state ---


def test_audits_that_cannot_be_remembered_stop_nothing(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 30)
    site.take(image)
    (site.host / "audits").symlink_to(site.root / "nowhere")
    monitor = Notes()
    result = site.vault.snapshot([str(image)], monitor=monitor)
    site.remember(str(result.number))
    assert result.churn_source is REFLINK
    assert any("the next audit reads the same chunks again" in note for note in monitor.notes)
    site.check_all()


def test_an_audit_record_that_cannot_be_read_may_have_said_off(site: Site, reflink_path: Path) -> None:
    image = new_disk(reflink_path, 30)
    site.take(image)
    site.take(image)
    (record,) = (site.host / "audits").iterdir()
    record.write_bytes(record.read_bytes()[:-3])
    assert site.take(image).churn_source is SCAN
    assert "cannot be read" in site.vault.map_off("disk")
    site.take(image, full=True)
    assert site.take(image).churn_source is REFLINK
    site.check_all()


# --- many rounds ---


def test_points_are_right_after_everything_that_happens_to_an_item(site: Site, reflink_path: Path) -> None:
    """Guest writes, discards and sizes; restores over the disk from snapshot and vault, and in place; live points,
    full points, snapshots that wait, sharing and deduplication: every point has the bytes of its image.
    """
    guest = Guest(reflink_path / "disk.img", 60 * CHUNK + 321, 7)
    guest.fill(60)
    image = guest.path
    sources: list[ChurnSource | None] = []

    def take(**options: object) -> SnapshotResult:
        result = site.take(image, **options)
        sources.append(result.churn_source)
        return result

    take()
    for turn in range(14):
        for _ in range(2):
            guest.live() if turn % 5 == 0 else guest.fill(3)
        if turn == 2:
            site.vault.restore("1", output=str(image), force=True)  # a clone of a snapshot takes the disk's place
        elif turn == 4:
            site.vault.restore("2", output=str(image), source="vault", force=True)
        elif turn == 6:
            site.vault.restore_in_place("3", undo=False)
        elif turn == 8:
            take(keep=False)
        elif turn == 9:
            take(snapshot_only=True)
        elif turn == 10:
            subprocess.run(["cp", "--reflink=always", str(image), str(image) + ".copy"], check=True)
            os.replace(str(image) + ".copy", image)
        elif turn == 12:
            take(full=True)
        take()
    for result in site.vault.transfer():
        sources.append(result.churn_source)
    assert sources.count(REFLINK) >= 7
    site.sound()
