"""What an operation does must not grow with what did not change: counted, not timed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.clock import utc_now
from blockvault.engine import session as session_module
from blockvault.format.index import prefixes_of
from blockvault.ids import PackName
from blockvault.model import PointRef, VerifyBudget
from blockvault.store import briefs as briefs_module
from blockvault.store import catalog, layers, packs
from blockvault.store import index as index_module
from blockvault.store.index import Index
from blockvault.store.leases import live_leases
from blockvault.store.manifest import Manifest

POINTS = 8


@pytest.fixture
def grown(site: Site) -> Site:
    """Points that each changed one chunk: the last one's manifest needs a pack of every one."""
    image = site.root / "disk.img"
    image.write_bytes(noise(POINTS * CHUNK, 1))
    for turn in range(POINTS):
        write_at(image, turn * CHUNK, noise(CHUNK, 10 + turn))
        site.take(image)
    assert len(forge.packs(site)) == POINTS
    return site


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int) -> Counter[str]:
    """How often a function of a module is called, by the argument that names the object."""
    calls: Counter[str] = Counter()
    true = getattr(module, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[arguments[at]] += 1
        return true(*arguments, **named)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_verify_reads_a_table_once_though_few_packs_are_kept_open(grown: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "OPEN_PACKS_MAX", 1)
    calls = counting(monkeypatch, packs, "read_table", 2)
    assert not grown.vault.verify(quick=True).damage
    assert len(calls) == POINTS
    assert sum(calls.values()) == POINTS, calls
    calls.clear()
    budget = VerifyBudget(byte_count=1)
    assert not grown.vault.verify(budget=budget).damage
    assert sum(calls.values()) <= POINTS + 3, calls  # and once more for the pack whose blocks are read


def test_verify_opens_a_layer_once_however_many_points_list_it(grown: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = counting(monkeypatch, layers, "open_sealer", 2)
    merged = counting(monkeypatch, Manifest, "cell", 1)
    assert not grown.vault.verify(quick=True).damage
    assert len(opened) == len(grown.objects("main/layers"))
    assert sum(opened.values()) == len(opened), opened
    assert not merged, "no point's manifest was merged"


def test_opening_decodes_no_point(grown: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.vault.hold("1", reason="kept")
    grown.vault.points()
    grown.close()
    calls = counting(monkeypatch, catalog, "unseal_record", 2)
    assert len(grown.vault.items()) == 1
    assert all(name.startswith("items/") for name in calls), calls
    calls.clear()
    assert grown.vault.point("3").number == 3
    assert set(calls) == {f"points/{grown.vault.origin}/{3:010d}", f"marks/{grown.vault.origin}/{1:010d}/{1:06d}"}


@pytest.mark.parametrize("lost", [False, True])
def test_a_snapshot_decodes_its_parent_alone(grown: Site, monkeypatch: pytest.MonkeyPatch, *, lost: bool) -> None:
    """And all points once where LMDB has no briefs of them: made by an earlier version, or lost."""
    index = grown.vault._session.index
    assert index is not None
    if lost:
        index.change_records((), list(index.records("briefs")))
    grown.close()
    for turn in range(2):
        calls = counting(monkeypatch, catalog, "unseal_record", 2)
        grown.vault.snapshot([str(grown.root / "disk.img")], keep=False)
        read = {name for name in calls if name.startswith("points/")}
        assert len(read) == (POINTS if lost and not turn else 1), read
        grown.close()


def test_briefs_say_what_records_say_whatever_lmdb_has(grown: Site) -> None:
    def compared() -> None:
        records = grown.vault._session.catalog
        records.refresh()
        briefs = {brief.ref: brief for brief in records.briefs()}
        assert briefs == {point.ref: point.brief for point in records.points()}

    compared()
    grown.reopen()
    compared()
    index = grown.vault._session.index
    assert index is not None
    ((name, data),) = index.records("briefs").items()
    for bad in (data[:-30] + bytes(30), b"", index.records("points").popitem()[1]):
        index.change_records([(name, bad)], ())
        grown.reopen()
        compared()
        index = grown.vault._session.index
        assert index is not None
        assert index.records("briefs")[name] not in (bad, b"")
    grown.vault.delete_point("3", purge=True)
    compared()
    assert "3" not in {info.label for info in grown.vault.points()}
    grown.vault.prune(grown.vault.plan_prune())
    grown.reopen()
    compared()
    rows = briefs_module.read_blocks(grown.vault._session.keys, grown.vault._session.index)
    assert [brief.number for brief in rows] == [1, 2, 4, 5, 6, 7, 8], "that of a record that is gone is gone too"


def test_a_damaged_pack_is_told_for_every_point_that_needs_it(grown: Site) -> None:
    """The pack of point 3's chunk is needed by points 3 to 8: what is remembered of sound runs hides none of them."""
    ((pack, _),) = forge.places(grown, 3, [2])
    path = forge.pack_path(grown, pack)
    grown.close()
    flip(path, path.stat().st_size - 30)
    (damage,) = grown.vault.verify(quick=True).damage
    assert {touch.label for touch in damage.touches} == {"3", "4", "5", "6", "7", "8"}


def test_refresh_decodes_only_what_is_new(grown: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    records = grown.vault._session.catalog
    calls = counting(monkeypatch, catalog, "unseal_record", 2)
    before = records.points()
    records.refresh()
    assert not calls
    assert records.points() == before
    grown.vault.hold("1", reason="kept")
    grown.vault.hold("2", reason="kept")
    assert all(name.startswith("marks/") for name in calls), calls
    assert [records.state(point.ref).held for point in records.points()] == [True] * 2 + [False] * (POINTS - 2)


def test_more_points_than_one_lease_can_name_are_read_under_several(
    grown: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "POINTS_OF_A_LEASE", 3)
    opened = grown.vault._session
    found = opened.catalog.points()
    with opened.reading(found):
        leases = live_leases(opened.store, opened.keys)
        named = [ref for lease in leases for ref in lease.parents or ()]
        assert sorted(named) == sorted(point.ref for point in found)
        assert len(leases) == 3
        assert {lease.operation for lease in leases} == {"read"}
    assert not live_leases(opened.store, opened.keys)
    assert not grown.vault.verify().damage


def test_the_points_that_a_lease_may_name_fit_its_record(site: Site) -> None:
    opened = site.vault._session
    origin = opened.origin
    digests = noise(16 * session_module.POINTS_OF_A_LEASE, 5)
    refs = [
        (PointRef(origin, 10**9 + number), digests[16 * number : 16 * number + 16])
        for number in range(session_module.POINTS_OF_A_LEASE)
    ]
    with opened.lease("read", "", refs):
        (lease,) = live_leases(opened.store, opened.keys)
        assert lease.parents is not None
        assert len(lease.parents) == len(refs)


def test_a_commit_to_the_index_is_bounded_and_its_segment_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "ENTRIES_AT_ONCE", 10)
    opened = Index(str(tmp_path / "lmdb"), "identity", now=utc_now(), note=str(tmp_path / "note"))
    ids = np.frombuffer(noise(32 * 25, 3), dtype=np.uint8).reshape(25, 32)
    places = np.arange(25, dtype=np.uint32)
    commits = 0

    def killed_at_the_third(name: str) -> None:
        nonlocal commits
        commits += name == "index.commit"
        if commits == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(index_module, "reach", killed_at_the_third)
    pack = PackName(bytes(16))
    with pytest.raises(KeyboardInterrupt):
        opened.add_blocks([pack], prefixes_of(ids), places % 1, places, "origin/1")
    assert opened.segments() == set()
    assert sum(place is not None for place in opened.find_blocks(ids)) == 20
    opened.add_blocks([pack], prefixes_of(ids), places % 1, places, "origin/1")
    assert opened.segments() == {"origin/1"}
    assert opened.find_blocks(ids) == [(pack, slot) for slot in range(25)]
    opened.add_blocks([], prefixes_of(ids[:0]), places[:0], places[:0], "origin/2")
    assert opened.segments() == {"origin/1", "origin/2"}
    opened.close()
