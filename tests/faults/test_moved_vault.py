"""A vault folder that was moved, copied, put back older: noticed, told in one line, and nothing is lost (R17)."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import forge
from helpers.files import copy_tree, first_difference, noise, text, write_at
from helpers.program import Program
from helpers.site import CHUNK, Site

from blockvault.clock import utc_now
from blockvault.ids import OriginId
from blockvault.model import Mark, PointRef
from blockvault.monitor import Monitor
from blockvault.store import seen
from blockvault.store.catalog import Catalog
from blockvault.vault import Vault

MIB = 1 << 20


class Moved:
    """A vault in a folder of its own, and what each point must restore to."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root, self.state = root, root / "state"
        self.folder = folder or root / "vault"
        self.image = root / "disk.img"
        self.image.write_bytes(text(8 * CHUNK, 1) + noise(8 * CHUNK, 2))
        self.copies: dict[tuple[str, int], bytes] = {}
        self.told: list[tuple[str, str]] = []
        Vault.create("home", path=str(self.folder), state_dir=str(self.state), chunk_size=CHUNK).close()

    def open(self) -> Vault:
        vault = Vault.open(str(self.folder), state_dir=str(self.state))
        self.told = [(notice.kind, notice.message) for notice in vault.notices]
        return vault

    @property
    def kinds(self) -> list[str]:
        with self.open():
            return [kind for kind, _ in self.told]

    def take(self, **options: object) -> list[str]:
        """A point with churn before it; the kinds of the job's warnings."""
        number = len(self.copies)
        write_at(self.image, (number % 16) * CHUNK, noise(CHUNK, 100 + number))
        monitor = Monitor()
        with self.open() as vault:
            options.setdefault("keep", False)
            result = vault.snapshot([str(self.image)], monitor=monitor, **options)  # type: ignore[arg-type]
            assert (vault.origin, result.number) not in self.copies, "a number is never given twice"
            self.copies[vault.origin, result.number] = self.image.read_bytes()
        return [warning.kind for warning in monitor.warnings]

    def check(self, *gone: tuple[str, int]) -> None:
        """All points restore but those that are known to be gone; `verify` finds nothing."""
        with self.open() as vault:
            there = {(info.point.ref.origin, info.number): info.label for info in vault.points() if info.point}
            assert set(there) == set(self.copies) - set(gone)
            for key, label in there.items():
                target = self.root / "out.img"
                vault.restore(label, output=str(target), force=True)
                assert target.read_bytes() == self.copies[key]
            assert vault.verify().damage == ()


@pytest.fixture
def moved(tmp_path: Path) -> Moved:
    made = Moved(tmp_path)
    made.take()
    made.take()
    assert made.kinds == []
    return made


def test_moved_on_its_file_system(moved: Moved) -> None:
    """The same folder under another path: told once, and nothing else changes."""
    with moved.open() as vault:
        origin = vault.origin
    there = moved.root / "new" / "place"
    there.parent.mkdir()
    moved.folder.rename(there)
    old, moved.folder = moved.folder, there
    assert moved.kinds == ["vault.moved"]
    assert str(old) in moved.told[0][1]
    assert str(there) in moved.told[0][1]
    assert moved.kinds == []
    assert moved.take() == []
    assert moved.open().__exit__(None, None, None) is None
    assert {key[0] for key in moved.copies} == {origin}
    moved.check()


def test_reached_by_another_path_is_not_moved(moved: Moved) -> None:
    link = moved.root / "link"
    link.symlink_to(moved.folder)
    moved.folder = link
    assert moved.kinds == []


@pytest.mark.root
def test_moved_to_another_file_system(moved: Moved, mounted: Callable[[str, int], Path]) -> None:
    """That is a copy, and the original goes: a new origin, told once, all points are there."""
    there = mounted("ext4", 24 * MIB) / "vault"
    shutil.move(moved.folder, there)
    moved.folder = there
    assert moved.kinds == ["vault.copied"]
    assert moved.kinds == []
    moved.check()
    assert moved.take() == []
    assert len({key[0] for key in moved.copies}) == 2
    moved.check()


def test_copied_and_both_go_on(moved: Moved) -> None:
    """Each opening of the other one is told, no number is given twice, and each has the points that it had."""
    original, copy = moved.folder, moved.root / "copy"
    copy_tree(original, copy)
    before = dict(moved.copies)
    moved.folder = copy
    assert moved.take() == ["vault.copied"]
    assert "a copy of that" in moved.told[0][1]
    in_copy = set(moved.copies) - set(before)
    moved.check()
    moved.folder = original
    kinds = moved.take()
    assert kinds == ["vault.copied", "vault.rolled-back"], "the original lacks what this host has seen in the copy"
    moved.check(*in_copy)
    assert moved.take() == []


def test_put_back_from_an_older_copy_in_its_place(moved: Moved) -> None:
    """Both are told: that it is another folder, and which points it lacks."""
    aside = moved.root / "aside"
    copy_tree(moved.folder, aside)
    moved.take()
    moved.take()
    shutil.rmtree(moved.folder)
    aside.rename(moved.folder)
    gone = [key for key in moved.copies if key[1] > 2]
    assert moved.kinds == ["vault.copied", "vault.rolled-back"]
    assert f"points/{gone[0][0]}/0000000003 to 0000000004" in moved.told[1][1]
    assert moved.kinds == ["vault.rolled-back"], "what is missing is told until a job has told it"
    moved.check(*gone)
    assert moved.take() == ["vault.rolled-back"]
    assert moved.kinds == []
    assert max(key[1] for key in moved.copies) == 5
    moved.check(*gone)


def roll_back(moved: Moved, take: Callable[[], object]) -> tuple[set[str], set[str]]:
    """Names of the records before and after `take`, the new ones of which are taken away again."""

    def names() -> set[str]:
        return {
            str(path.relative_to(moved.folder))
            for top in ("config", "points", "marks", "items")
            for path in (moved.folder / top).rglob("*")
            if path.is_file()
        }

    before = names()
    take()
    after = names()
    for name in after - before:
        (moved.folder / name).unlink()
    return before, after


def test_the_newest_points_are_gone(moved: Moved) -> None:
    with moved.open() as vault:
        origin = vault.origin

    def two() -> None:
        moved.take()
        moved.take()

    roll_back(moved, two)
    assert moved.kinds == ["vault.rolled-back"]
    with moved.open() as vault:
        assert vault.origin != origin
        assert f"points/{origin}/0000000003 to 0000000004" in moved.told[0][1]
    gone = [key for key in moved.copies if key[1] > 2]
    assert moved.take() == ["vault.rolled-back"]
    assert moved.kinds == []
    moved.check(*gone)


def test_a_point_in_the_middle_is_gone(moved: Moved) -> None:
    """Nothing of this host's numbers is in doubt: it goes on as it is, and says which record is missing."""
    moved.take()
    with moved.open() as vault:
        origin = vault.origin
    (moved.folder / "points" / origin / f"{2:010d}").unlink()
    assert moved.kinds == ["vault.rolled-back"]
    assert f"points/{origin}/0000000002)" in moved.told[0][1]
    with moved.open() as vault:
        assert vault.origin == origin
    assert moved.take() == ["vault.rolled-back"]
    assert moved.kinds == []
    moved.check((origin, 2))


def test_points_of_another_host_are_gone(moved: Moved) -> None:
    with Vault.open(str(moved.folder), state_dir=str(moved.root / "other")) as other:
        other.snapshot([str(moved.image)], keep=False)
        theirs = other.origin
    assert moved.kinds == []
    (moved.folder / "points" / theirs / f"{3:010d}").unlink()
    assert moved.kinds == ["vault.rolled-back"]
    assert f"points/{theirs}/0000000003" in moved.told[0][1]


@pytest.mark.parametrize("what", ["config", "item", "mark"])
def test_a_newer_revision_is_gone(moved: Moved, what: str) -> None:
    """An older name, older settings, a mark that was lifted away: each is an older state that looks whole."""

    def newer() -> None:
        if what == "item":
            with moved.open() as vault:
                vault.set_item("disk", comment="newer")
        elif what == "config":
            data = (moved.folder / "config" / "000000").read_bytes()
            (moved.folder / "config" / "000001").write_bytes(data)  # never read: it is taken away again
            with pytest.raises(Exception, match="config/000001"):
                moved.open()
            (moved.folder / "config" / "000001").unlink()
            path = next(moved.state.rglob("seen.json"))
            told = json.loads(path.read_bytes())
            path.write_text(json.dumps({**told, "config": 1}))
        else:
            mark(moved, next(iter(moved.copies)), "hold")
            assert moved.kinds == []

    before, after = roll_back(moved, newer)
    if what == "item":
        (name,) = after - before
        assert moved.kinds == []  # not seen yet: only this host's own job has made it
        with moved.open() as vault:
            vault.set_item("disk", comment="newer")
        assert moved.kinds == []
        (moved.folder / name).unlink()
    else:
        name = next(iter(after - before), "config/000001")
    assert moved.kinds == ["vault.rolled-back"]
    assert name in moved.told[0][1]
    assert moved.take() == ["vault.rolled-back"]
    assert moved.kinds == []
    moved.check()


def mark(moved: Moved, key: tuple[str, int], kind: str) -> None:
    with moved.open() as vault:
        catalog: Catalog = vault._session.catalog
        catalog.put_mark(PointRef(OriginId(key[0]), key[1]), Mark(kind, utc_now(), "test"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_purged_point_is_not_missed(moved: Moved, number: int) -> None:
    """Its mark stays as a tombstone; what ended by a mark has not vanished. That of the newest keeps its number too."""
    (origin,) = {key[0] for key in moved.copies}
    mark(moved, (origin, number), "purge")
    assert moved.kinds == []
    (moved.folder / "points" / origin / f"{number:010d}").unlink()
    assert moved.kinds == []
    assert moved.take() == []
    with moved.open() as vault:
        assert vault.origin == origin
    assert (origin, 3) in moved.copies
    # A tombstone that vanishes brings the question back.
    shutil.rmtree(moved.folder / "marks" / origin / f"{number:010d}")
    assert moved.kinds == ["vault.rolled-back"]


def test_another_mark_does_not_excuse_a_point(moved: Moved) -> None:
    (origin,) = {key[0] for key in moved.copies}
    mark(moved, (origin, 1), "delete")
    assert moved.kinds == []
    (moved.folder / "points" / origin / f"{1:010d}").unlink()
    assert moved.kinds == ["vault.rolled-back"]


def test_a_host_that_has_seen_nothing_misses_nothing(moved: Moved) -> None:
    (origin,) = {key[0] for key in moved.copies}
    (moved.folder / "points" / origin / f"{1:010d}").unlink()
    with Vault.open(str(moved.folder), state_dir=str(moved.root / "fresh")) as vault:
        assert vault.notices == ()
    next(moved.state.rglob("seen.json")).write_bytes(b"torn")
    assert moved.kinds == []
    assert moved.take() == []


def test_a_snapshot_of_a_point_that_the_vault_lost_is_transferred_again(tmp_path: Path) -> None:
    """The snapshot tier still has what the vault was put back to before: it goes into the vault once more."""
    moved = Moved(tmp_path)
    moved.take(keep=True)
    roll_back(moved, lambda: moved.take(keep=True))
    (lost,) = [key for key in moved.copies if key[1] == 2]
    with moved.open() as vault:
        assert [(info.number, info.tier.value) for info in vault.points()] == [(1, "snapshot+vault"), (2, "snapshot")]
        results = vault.transfer()
        assert [result.number for result in results] == [2]
        moved.copies[vault.origin, 2] = moved.copies[lost]
        assert vault.transfer() == []
    moved.check(lost)


def test_the_command_line_tells_it_in_one_line_and_ends_with_3(tmp_path: Path) -> None:
    program = Program(tmp_path)
    image = program.folder / "disk.img"
    image.write_bytes(text(8 * CHUNK, 1))
    program.run("vault", "create", "home", "--path", "v", "--no-encryption", code=0)
    for _ in range(2):
        program.run("snapshot", image, "--vault", "./v", "--no-keep", code=0)
    (program.folder / "v").rename(program.folder / "w")
    ended = program.run("points", "--vault", "./w", code=3)
    assert [line for line in ended.err.splitlines() if "has moved from" in line] == ended.err.splitlines()
    program.run("points", "--vault", "./w", code=0)
    newest = max((program.folder / "w" / "points").rglob("0*"))
    newest.unlink()
    ended = program.run("points", "--json", "--vault", "./w", code=3)
    assert len(ended.documents) == 1
    assert "0000000002" in ended.err
    ended = program.run("restore", "--point", "2", "--vault", "./w", code=13)
    assert "0000000002" in ended.err, "why it is not there is told before that it is not there"
    ended = program.run("snapshot", image, "--vault", "./w", "--json", code=3)
    assert [document["message_type"] for document in ended.documents].count("warning") == 1
    assert ended.document["job_state"] == "completed-with-warning"
    ended = program.run("snapshot", image, "--vault", "./w", code=0)


# -- what is remembered ---------------------------------------------------------------------------------------


def test_the_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "ENTRIES_MAX", 10)
    many = seen.Seen(
        3,
        {"a": [(at, at) for at in range(1, 60, 2)], "b": [(1, 1000)]},
        {"a": dict.fromkeys(range(1, 40), 1)},
        {f"{number:032x}": 1 for number in range(30)},
    )
    kept = seen.united(seen.Seen(), many)
    assert sum(len(rows) for rows in kept.points.values()) == 10
    assert (1, 1000) in kept.points["b"]
    assert (59, 59) in kept.points["a"]
    assert sorted(kept.marks["a"]) == list(range(30, 40))
    assert len(kept.items) == 10


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_sets_of_numbers(seed: int) -> None:
    rng = random.Random(seed)
    left = {rng.randrange(60) for _ in range(rng.randrange(50))}
    right = {rng.randrange(60) for _ in range(rng.randrange(50))}

    def numbers(ranges: list[tuple[int, int]]) -> set[int]:
        assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))
        return {number for first, last in ranges for number in range(first, last + 1)}

    one, two = seen._ranges(left), seen._ranges(right)
    assert numbers(one) == left
    assert numbers(seen._united(one, two)) == left | right
    assert numbers(seen._without(one, two)) == left - right


def test_a_vault_that_goes_on_is_looked_at_without_writing_anything(site: Site) -> None:
    """Only what is new is written down."""
    site.take(site.image())
    site.reopen()
    files = {path: path.stat().st_mtime_ns for path in site.host.iterdir() if path.is_file()}
    site.reopen()
    assert {path: path.stat().st_mtime_ns for path in site.host.iterdir() if path.is_file()} == files
    assert forge.point(site, 1)
    assert first_difference(site.restore("1"), site.copies["1"]["disk"]) is None
