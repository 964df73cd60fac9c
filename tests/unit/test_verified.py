"""What a host remembers of when blocks were verified, and a run with a budget that goes by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers import forge
from helpers.damage import flip, truncate
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.engine.verified import VerifiedState, verified_state
from blockvault.errors import CancelledError
from blockvault.model import VerifyBudget, VerifyReport
from blockvault.monitor import Monitor

DAY = timedelta(days=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
ONE_PACK = VerifyBudget(byte_count=1)
PACKS = 4


@pytest.fixture
def packs(site: Site) -> Site:
    """Four points, each with a pack of its own; the last needs all of them."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    for turn in range(1, PACKS):
        write_at(image, turn * CHUNK, noise(CHUNK, 10 + turn))
        site.take(image)
    assert len(forge.packs(site)) == PACKS
    return site


def verify(site: Site, day: int, budget: VerifyBudget | None = None, point: str | None = None) -> VerifyReport:
    site.monitor = Monitor()
    return site.vault.verify(point, budget=budget, now=START + day * DAY, monitor=site.monitor)


def state(site: Site) -> VerifiedState:
    return verified_state(site.vault._session)


def days(site: Site) -> list[int | None]:
    """For each pack the day on which it was verified."""
    entries = state(site).entries
    found = [entries[pack].at for pack in forge.packs(site)]
    return [(datetime.fromtimestamp(at, UTC) - START).days if at else None for at in found]


def test_runs_go_on_where_the_last_one_stopped(packs: Site) -> None:
    for day in range(PACKS):
        report = verify(packs, day, ONE_PACK)
        assert packs.counters["packs_verified"] == 1
        assert report.complete is (PACKS == 1)
        assert report.coverage is not None
        assert (report.coverage.never_bytes == 0) is (day == PACKS - 1)
    assert days(packs) == [0, 1, 2, 3]
    verify(packs, 10, VerifyBudget(share=0.5))
    assert days(packs)[0] == 10, "the least recently verified one comes first"
    assert packs.counters["packs_verified"] == 1, "the first pack is more than half of all"
    verify(packs, 11, VerifyBudget(seconds=3600))
    assert days(packs) == [11] * PACKS
    assert packs.counters["packs_verified"] == PACKS


def test_a_run_without_time_reads_one_pack(packs: Site) -> None:
    """Whatever the budget, every pack has its turn."""
    for day in range(PACKS):
        assert not verify(packs, day, VerifyBudget(seconds=0)).complete
    assert sorted(days(packs)) == [0, 1, 2, 3]  # type: ignore[type-var]


def test_coverage_counts_what_was_read_of_late(packs: Site) -> None:
    before = packs.vault.coverage(now=START)
    assert (before.counted, before.oldest, before.needed_bytes) == (None, None, 0)
    verify(packs, 0, ONE_PACK)
    total = packs.vault.coverage(now=START).needed_bytes
    assert total == packs.vault.verify().stored_bytes
    (packs.host / "verified").unlink()
    verify(packs, 0, ONE_PACK)
    verify(packs, 20, VerifyBudget(share=0.1))
    found = packs.vault.coverage(now=START + 25 * DAY)
    assert found.oldest == START
    assert found.newest == START + 20 * DAY
    assert 0 < found.verified_bytes < total
    assert found.verified_bytes + found.never_bytes == total
    later = packs.vault.coverage(now=START + 40 * DAY, within_days=30)
    assert 0 < later.verified_bytes < found.verified_bytes


def test_one_point_counts_for_what_it_needs(packs: Site) -> None:
    verify(packs, 0)
    verify(packs, 5, point="1")
    assert days(packs) == [5, 0, 0, 0]
    write_at(packs.root / "disk.img", 6 * CHUNK, noise(CHUNK, 30))
    packs.take(packs.root / "disk.img")
    verify(packs, 9, point="5")
    assert days(packs) == [5, 9, 9, 9, 9], "of the first pack it needs less than was read on day 5: that moment stays"


def test_new_slots_of_a_known_pack_come_first(packs: Site) -> None:
    """A point that begins to need a block nobody read yet: its pack is as if it had never been verified."""
    verify(packs, 0)
    memory = state(packs)
    first = forge.packs(packs)[0]
    entry = memory.entries[first]
    fewer = entry.slots.copy()
    fewer[2] = False
    memory.verified(first, entry.generation, fewer, forge.table(packs, first).lengths, now=START, all_needed=True)
    memory.save()
    verify(packs, 3, ONE_PACK)
    assert days(packs) == [3, 0, 0, 0]


def test_a_pack_that_was_written_anew_is_unknown(packs: Site) -> None:
    verify(packs, 0)
    second = forge.packs(packs)[1]
    old = forge.pack_path(packs, second)
    forge.write_generation(packs, second)
    packs.close()
    old.unlink()
    verify(packs, 4, ONE_PACK)
    assert days(packs) == [0, 4, 0, 0]


def test_damage_does_not_hold_the_others_up(packs: Site) -> None:
    """A pack with damage is read in its turn, not again and again before all others."""
    path = forge.pack_path(packs, forge.packs(packs)[0])
    packs.close()
    flip(path, 200)
    for day in range(PACKS):
        verify(packs, day, ONE_PACK)
    assert days(packs) == [0, 1, 2, 3]
    report = verify(packs, 9, ONE_PACK)
    assert [damage.slot for damage in report.damage] == [0]


@pytest.mark.parametrize("how", ["deleted", "flipped", "cut", "empty", "of another folder"])
def test_memory_that_is_lost_costs_reading_again(packs: Site, how: str) -> None:
    verify(packs, 0)
    path = Path(state(packs).path)
    if how == "deleted":
        path.unlink()
    elif how == "flipped":
        flip(path, path.stat().st_size // 2)
    elif how == "cut":
        truncate(path, path.stat().st_size - 5)
    elif how == "empty":
        truncate(path, 0)
    else:
        known = VerifiedState(packs.vault._session.host, "1:2")
        assert known.entries == {}
        known.save()
    assert packs.vault.coverage(now=START).counted is None
    verify(packs, 2, ONE_PACK)
    assert sorted(days(packs), key=bool) == [None, None, None, 2]


def test_a_run_that_is_cancelled_keeps_what_it_read(packs: Site) -> None:
    class Stops(Monitor):
        def count(self, counter: str, amount: int = 1) -> None:
            super().count(counter, amount)
            if self.counters["packs_verified"] == 2:
                self.cancel()

    with pytest.raises(CancelledError):
        packs.vault.verify(now=START, monitor=Stops())
    assert [day is None for day in days(packs)] == [False, False, True, True]


def test_packs_that_no_point_needs_are_forgotten(packs: Site) -> None:
    verify(packs, 0)
    for path in packs.objects("points")[1:]:
        path.unlink()
    packs.lose_index()
    verify(packs, 1)
    assert len(state(packs).entries) == 1
    assert state(packs).coverage(START + DAY, 30).never_bytes == 0
