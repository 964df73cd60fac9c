"""What the host remembers of snapshots: kept, changed, expired, and told when it is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.snapshot_world import CHUNK, DAY, NOW, VAULT_ID, Guest, World

from blockvault.errors import NotFoundError
from blockvault.model import SnapshotRecord
from blockvault.snapshots.records import record_digest
from blockvault.snapshots.tier import SnapshotTier


def a_world(tmp_path: Path, captures: int = 4) -> World:
    world = World(tmp_path)
    guest = Guest(world.image(), 40 * CHUNK, 1)
    for _ in range(captures):
        guest.fill(4)
        world.capture(days=2)
    return world


def test_a_record_survives_the_process(tmp_path: Path) -> None:
    world = a_world(tmp_path, 1)
    record = SnapshotTier(str(world.host), VAULT_ID).records()[0]
    assert record == world.record(1)
    assert (record.number, record.item_name, record.taken) == (1, "web01", NOW + DAY)
    assert record.keep_until == NOW + 3 * DAY


def test_another_vaults_records_are_not_taken(tmp_path: Path) -> None:
    world = a_world(tmp_path, 1)
    other = SnapshotTier(str(world.host), "ff" * 16)
    assert other.records() == []
    assert list(other.damaged.values()) == ["it belongs to another vault"]


def test_marking_and_keeping(tmp_path: Path) -> None:
    world = a_world(tmp_path, 2)
    assert world.tier.mark_transferred(world.record(1)).transferred
    stale = world.record(2)
    later = world.tier.set_keep_until(world.record(2), NOW + 20 * DAY)
    assert later.keep_until == NOW + 20 * DAY
    assert world.tier.mark_transferred(stale).keep_until == NOW + 20 * DAY  # a stale copy overwrites nothing
    assert [record.transferred for record in world.tier.records()] == [True, True]


def test_what_may_change_is_not_in_the_digest_and_the_rest_is(tmp_path: Path) -> None:
    record = a_world(tmp_path, 1).record(1)
    same = replace(record, transferred=True, keep_until=NOW + 9 * DAY, comment="other", item_name="renamed")
    assert record_digest(same) == record_digest(record)
    others: list[SnapshotRecord] = [
        replace(record, number=2),
        replace(record, taken=NOW),
        replace(record, vault_id="00" * 16),
        replace(record, chunk_size=2 * CHUNK),
        replace(record, disks=(replace(record.disks[0], size=1),)),
        replace(record, disks=(replace(record.disks[0], file="/elsewhere"),)),
    ]
    assert len({record_digest(entry) for entry in [record, *others]}) == len(others) + 1


def test_expiry_goes_by_days_and_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    assert world.tier.expire(NOW + 3 * DAY - DAY / 24, keep_numbers=set()) == []
    assert world.tier.expire(NOW + 4 * DAY, keep_numbers={1}) == [2]
    assert world.numbers() == [1, 3, 4]
    world.check_all(thorough=False)
    # the removed one's files stay while snapshot 1 reads through them
    assert [name for name in world.files() if "vda.2." in name]
    assert world.tier.expire(NOW + 4 * DAY, keep_numbers=set()) == [1]
    assert not [name for name in world.files() if "vda.2." in name or "vda.1." in name]
    world.check_all(thorough=False)
    assert world.tier.expire(NOW + 60 * DAY, keep_numbers={4}) == [3]
    world.check_all()
    assert world.tier.expire(NOW + 60 * DAY, keep_numbers=set()) == [4]
    assert world.files() == []


def test_the_newest_may_go_first_and_is_built_upon_all_the_same(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    world.tier.remove(world.record(4))
    world.tier.remove(world.record(3))
    assert world.numbers() == [1, 2]
    world.check_all(thorough=False)
    Guest(world.image(), 30 * CHUNK, 9).fill(9)
    world.capture(days=9)
    assert world.numbers() == [1, 2, 5]
    world.check_all()
    assert not world.monitor.warnings


def test_what_is_not_there(tmp_path: Path) -> None:
    world = a_world(tmp_path, 1)
    record = world.record(1)
    with pytest.raises(NotFoundError) as caught:
        world.tier.open_disk(record, "vdz", digests_dir=str(world.digests_dir))
    assert caught.value.kind == "disk.not-found"
    world.tier.remove(record)
    for call in (
        lambda: world.tier.remove(record),
        lambda: world.tier.mark_transferred(record),
        lambda: world.tier.open_disk(record, "vda", digests_dir=str(world.digests_dir)),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.kind == "snapshot.not-found"
    assert world.tier.records() == []
    assert SnapshotTier(str(tmp_path / "nowhere"), VAULT_ID).records() == []
