"""Clocks that jump: nothing is lost, numbers rise, the order stays, no snapshot goes early; and it is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.engine import backup
from blockvault.engine.dating import expiry_moment, in_order
from blockvault.errors import ConflictError
from blockvault.store.local import LocalStore

DAY = timedelta(days=1)
NOW = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
YEAR = 365 * DAY


class Clock:
    """The host's clock, as the tests set it."""

    def __init__(self, site: Site, image: Path, patch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.site, self.image = site, image
        self.taken: dict[int, datetime] = {}
        patch.setattr(backup, "utc_now", lambda: self.now)

    def take(self, now: datetime) -> list[str]:
        """A point at that moment; the kinds of what was warned of."""
        self.now = now
        write_at(self.image, (len(self.taken) % 8) * CHUNK, noise(CHUNK, 1000 + len(self.taken)))
        number = self.site.take(self.image, now=now).number
        assert number == max(self.taken, default=0) + 1
        self.taken[number] = now
        return [warning.kind for warning in self.site.monitor.warnings]

    def snapshots(self) -> set[int]:
        return {record.number for record in self.site.vault._session.tier.records()}


@pytest.fixture
def clock(make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Clock:
    site = make_site(keep=True)
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    return Clock(site, image, monkeypatch)


def test_a_year_ahead_and_back(clock: Clock) -> None:
    site = clock.site
    assert [clock.take(NOW + day * DAY) for day in range(3)] == [[], [], []]
    kept = clock.snapshots()
    assert kept == {2, 3}, "point 1 was two days old"
    assert clock.take(NOW + 2 * DAY + YEAR) == []
    assert clock.snapshots() == {2, 3, 4}, "none goes on the word of a clock that has just jumped"
    assert clock.take(NOW + 3 * DAY) == ["clock.went-back"]
    assert "point 5 is dated 2026-11-23" in site.monitor.warnings[0].message
    assert "its parent, point 4 (2027-11-22" in site.monitor.warnings[0].message
    assert clock.take(NOW + 4 * DAY) == []
    assert clock.snapshots() == {4, 5, 6}, "two days are two days"
    assert clock.take(NOW + 5 * DAY) == []
    item = site.vault.items()[0].name
    assert [info.number for info in site.vault.points()] == list(range(1, 8))
    assert site.vault.point(f"{item}@latest").number == 7
    assert [site.vault.point(f"{item}@-{back}").number for back in range(7)] == list(range(7, 0, -1))
    assert site.vault.point(f"{item}@2026-11-23T12:00:00+00:00").number == 5
    assert site.vault.point(f"{item}@2027-11-30T12:00:00+00:00").number == 7
    site.reopen()
    site.sound()
    for info in site.vault.points():
        if info.number in clock.snapshots():
            site.check(info.label, source="snapshot")


def test_each_point_after_the_jump_builds_on_the_one_before(clock: Clock) -> None:
    """The digest state speaks of the point committed last, whatever its date; so no run compares by identity."""
    for moment in (NOW, NOW + YEAR, NOW + DAY, NOW + 2 * DAY, NOW - YEAR, NOW + 3 * DAY):
        clock.take(moment)
        (info,) = [info for info in clock.site.vault.points() if info.number == max(clock.taken)]
        assert info.point is not None
        if info.number > 1:
            assert info.point.parent is not None
            assert info.point.parent.number == info.number - 1
            assert info.churn_source is not None
            assert info.churn_source.value != "identity"
            assert info.statistics.changed_chunks == 1
    clock.site.sound()


def test_a_host_that_was_off_for_long_removes_with_the_next_run(clock: Clock) -> None:
    """A pause looks like a jump: what is over goes one run later."""
    clock.take(NOW)
    clock.take(NOW + DAY)
    clock.take(NOW + 60 * DAY)
    assert clock.snapshots() == {1, 2, 3}
    clock.take(NOW + 61 * DAY)
    assert clock.snapshots() == {3, 4}
    clock.site.sound()


def test_a_rare_schedule_is_no_jump(clock: Clock) -> None:
    for month in range(4):
        clock.take(NOW + month * 30 * DAY)
    assert clock.snapshots() == {4}
    clock.site.sound()


def test_a_waiting_snapshot_that_is_transferred_late_is_no_clock_that_went_back(clock: Clock) -> None:
    site = clock.site
    clock.take(NOW)
    clock.now = NOW + DAY
    write_at(clock.image, 0, noise(CHUNK, 5))
    waiting = site.vault.snapshot([str(clock.image)], snapshot_only=True, now=clock.now)
    clock.taken[waiting.number] = clock.now
    clock.take(NOW + 2 * DAY)
    (late,) = site.vault.transfer()
    assert late.warnings == ()
    site.check("3")


@pytest.mark.parametrize("offset", [-YEAR, -60 * DAY, YEAR], ids=["long-ago", "behind", "ahead"])
def test_a_store_whose_clock_is_another(clock: Clock, monkeypatch: pytest.MonkeyPatch, offset: timedelta) -> None:
    """A server's time and the host's are a year apart: only differences of the store's time count."""
    real = LocalStore.now
    monkeypatch.setattr(LocalStore, "now", lambda self: real(self) + offset.total_seconds())
    for day in range(3):
        assert clock.take(NOW + day * DAY) == []
    clock.site.sound()


@pytest.mark.parametrize("jump", [-3600.0, 25 * 3600.0], ids=["back", "past-the-fence"])
def test_a_store_whose_clock_jumps_in_the_commit(clock: Clock, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """How long the commit took is not known then: the point is taken back, and that is told (R8)."""
    clock.take(NOW)
    before = clock.snapshots()
    real = LocalStore.now
    calls: list[float] = []

    def now(self: LocalStore) -> float:
        calls.append(0)
        return real(self) + (jump if len(calls) > 1 else 0)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "now", now)
        with pytest.raises(ConflictError) as caught:
            clock.site.vault.snapshot([str(clock.image)], keep=False, now=NOW + DAY)
    assert caught.value.kind == "transfer.fenced"
    assert "run the command again" in str(caught.value.do)
    clock.taken[2] = NOW + DAY
    assert clock.snapshots() == before
    clock.site.reopen()
    assert clock.take(NOW + 2 * DAY) == []
    assert set(clock.site.copies) == {"1", "3"}
    clock.site.sound()


@pytest.mark.parametrize("moment", [datetime(1970, 1, 2, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)])
def test_a_clock_that_was_never_set(clock: Clock, moment: datetime) -> None:
    """A board without a battery, a virtual machine of the far future."""
    clock.take(moment)
    clock.take(NOW)
    clock.take(NOW + DAY)
    clock.site.reopen()
    clock.site.sound()
    item = clock.site.vault.items()[0].name
    assert clock.site.vault.point(f"{item}@latest").number == 3


# -- the pure functions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    origin: str
    number: int
    taken: datetime


@pytest.mark.parametrize("seed", range(30))
def test_an_order_that_keeps_every_origins_numbers(seed: int) -> None:
    rng = random.Random(seed)
    entries = [
        Entry(origin, number, NOW + rng.randrange(-400, 400) * DAY)
        for origin in "abc"
        for number in rng.sample(range(1, 30), rng.randrange(1, 12))
    ]
    rng.shuffle(entries)
    found = in_order(
        entries, origin=lambda entry: entry.origin, number=lambda entry: entry.number, taken=lambda entry: entry.taken
    )
    assert sorted(found, key=repr) == sorted(entries, key=repr)
    for origin in "abc":
        numbers = [entry.number for entry in found if entry.origin == origin]
        assert numbers == sorted(numbers)


def test_an_order_by_date_where_clocks_are_right() -> None:
    rng = random.Random(3)
    moments = sorted(NOW + timedelta(minutes=rng.randrange(100_000)) for _ in range(40))
    numbers = {"a": 0, "b": 0}
    entries = []
    for moment in moments:
        origin = rng.choice("ab")
        numbers[origin] += rng.randrange(1, 5)
        entries.append(Entry(origin, numbers[origin], moment))
    mixed = rng.sample(entries, len(entries))
    found = in_order(mixed, origin=lambda e: e.origin, number=lambda e: e.number, taken=lambda e: e.taken)
    assert [entry.taken for entry in found] == moments


@pytest.mark.parametrize(
    ("recorded", "now", "expected"),
    [
        ([], 500, 500),
        ([0], 13, 13),
        ([0], 15, 0),
        ([0, 1, 2], 366, 2),
        ([0, 30, 60], 91, 91),
        ([0, 30, 60], 151, 60),
        ([0, 1, 366], 3, 3),  # a date ahead of now says nothing
        ([0, 1, 366], 367, 367),
    ],
)
def test_up_to_which_moment_snapshots_expire(recorded: list[int], now: int, expected: int) -> None:
    assert expiry_moment(NOW + now * DAY, [NOW + at * DAY for at in recorded]) == NOW + expected * DAY
