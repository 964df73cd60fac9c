"""R15: what is damaged goes into quarantine, no later point relies on it, and the next one holds its chunks anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import forge
from helpers.damage import flip, truncate, writable
from helpers.files import noise, resize, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.ids import PackName
from blockvault.model import Codec
from blockvault.monitor import Monitor
from blockvault.store.packs import PackShelf

DELTA, NEW, ALONE, HOLE = 3, 5, 9, 30


@pytest.fixture(params=["plain", "encrypted"])
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Point 1 with full blocks; point 2 with a delta of chunk 3, a new chunk 5, the rest as at point 1."""
    made = make_site(secret=KEY_FILE if request.param == "encrypted" else None)
    image = made.root / "disk.img"
    image.write_bytes(text(16 * CHUNK, 1) + noise(4 * CHUNK, 2))
    resize(image, 40 * CHUNK + 99)
    made.take(image)
    write_at(image, DELTA * CHUNK + 40, b"edited")
    write_at(image, NEW * CHUNK, noise(CHUNK, 4))
    made.take(image)
    assert forge.codecs(made, 2, [DELTA]) == [Codec.DELTA]
    return made


def image_of(site: Site) -> Path:
    return site.root / "disk.img"


def spoil_block(site: Site, label: int, chunk: int) -> tuple[PackName, int]:
    """Flip a bit in the block of a point's chunk."""
    ((pack, slot),) = forge.places(site, label, [chunk])
    flip(forge.pack_path(site, pack), int(forge.table(site, pack).offsets[slot]) + 20)
    site.close()
    return pack, slot


def in_quarantine(site: Site) -> set[str]:
    return {str(path.relative_to(site.folder / "main/quarantine")) for path in site.objects("main/quarantine")}


def check_next_point_is_whole(site: Site, *, chunks: int, kept: tuple[int, ...] = ()) -> None:
    """The next job finds nothing changed, stores the damaged chunks anew, says so; older points stay as they are."""
    result = site.take(image_of(site))
    assert result.job_state == "completed-with-warning"
    assert any(f"{chunks} chunks have damaged or missing blocks" in warning for warning in result.warnings)
    assert site.counters["blocks_stored"] == chunks
    assert site.counters.get("delta_blocks", 0) == 0
    site.check(result.number)
    for label in kept:
        site.check(label)
    again = site.take(image_of(site))
    assert not again.warnings, "what was stored anew is relied on again"
    assert site.counters.get("blocks_stored", 0) == 0
    site.check(again.number)


def test_a_block_that_verify_finds_damaged(site: Site) -> None:
    pack, slot = spoil_block(site, 2, ALONE)
    report = site.vault.verify()
    assert report.quarantined == 1
    assert in_quarantine(site) == {f"{pack.hex()}/{slot}"}
    check_next_point_is_whole(site, chunks=1)
    assert site.outcome(1) is not None
    assert site.vault.verify().quarantined == 0


def test_a_base_takes_its_deltas_with_it(site: Site) -> None:
    """Point 2 needs the full block of point 1 for its delta: both are stored anew, as one full block."""
    pack, slot = spoil_block(site, 1, DELTA)
    site.vault.verify()
    assert in_quarantine(site) == {f"{pack.hex()}/{slot}"}
    check_next_point_is_whole(site, chunks=1)


def test_a_damaged_delta_leaves_its_base(site: Site) -> None:
    spoil_block(site, 2, DELTA)
    site.vault.verify()
    check_next_point_is_whole(site, chunks=1, kept=(1,))


def test_a_restore_that_meets_damage_notes_it(site: Site) -> None:
    pack, slot = spoil_block(site, 2, NEW)
    error = site.outcome(2)
    assert error is not None
    assert error.kind == "vault.block-damaged"
    assert in_quarantine(site) == {f"{pack.hex()}/{slot}"}
    check_next_point_is_whole(site, chunks=1, kept=(1,))


def test_a_transfer_that_wants_a_damaged_base_notes_it(site: Site) -> None:
    """It stores its own chunk in full and tells; nobody had verified before."""
    pack, slot = spoil_block(site, 1, ALONE)
    write_at(image_of(site), ALONE * CHUNK + 10, b"edited")
    result = site.take(image_of(site))
    assert result.warnings
    assert in_quarantine(site) == {f"{pack.hex()}/{slot}"}
    site.check(result.number)


@pytest.mark.parametrize("how", ["deleted", "table", "cut"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_whole_pack(site: Site, how: str, number: int) -> None:
    pack = forge.packs(site)[number - 1]
    path = forge.pack_path(site, pack)
    site.close()
    if how == "deleted":
        path.unlink()
    elif how == "table":
        flip(path, path.stat().st_size - 40)
    else:
        truncate(path, path.stat().st_size // 2)
    (damage,) = site.vault.verify(quick=True).damage
    assert damage.object.startswith(f"main/packs/{path.parent.name}/{pack.hex()}")
    assert in_quarantine(site) == {f"{pack.hex()}/all"}
    check_next_point_is_whole(site, chunks=19 if number == 1 else 2, kept=() if number == 1 else (1,))


def test_a_layer_whose_segment_is_damaged(site: Site) -> None:
    """The cell of which it speaks is stated anew: only ids are compared, and what the vault has is found by them."""
    refs = forge.point(site, 2).disks[0].layers
    path = site.folder / "main/layers" / refs[-1].name.hex()
    site.close()
    flip(path, 100)
    report = site.vault.verify()
    assert [damage.object for damage in report.damage] == [str(path.relative_to(site.folder))]
    assert in_quarantine(site) == {f"{path.name}/all"}
    result = site.take(image_of(site))
    site.check(result.number)
    site.check(site.take(image_of(site)).number)


def test_no_dedup_onto_it(site: Site) -> None:
    spoil_block(site, 1, ALONE)
    spoil_block(site, 1, NEW)
    site.vault.verify()
    twin = site.root / "twin.img"
    twin.write_bytes(site.copies["1"]["disk"].read_bytes()[: 12 * CHUNK])
    result = site.take(twin)
    assert site.counters["blocks_stored"] == 2
    assert site.counters["blocks_known"] == 10
    site.check(result.number)


def test_a_record_that_is_damaged_itself_still_counts(site: Site) -> None:
    spoil_block(site, 2, ALONE)
    site.vault.verify()
    (path,) = site.objects("main/quarantine")
    writable(path).write_bytes(b"")
    site.close()
    check_next_point_is_whole(site, chunks=1)
    assert str(path.relative_to(site.folder)) in {damage.object for damage in site.vault.verify().damage}


def test_where_nothing_is_in_quarantine_no_table_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """R15 costs an unchanged disk nothing: its manifest stays closed, but for the roots of its layers."""
    site.reopen()
    asked: list[PackName] = []
    reader = PackShelf.reader
    monkeypatch.setattr(PackShelf, "reader", lambda shelf, pack: asked.append(pack) or reader(shelf, pack))
    site.take(image_of(site))
    assert asked == []
    spoil_block(site, 2, ALONE)
    site.vault.verify()
    asked.clear()
    site.take(image_of(site))
    assert asked, "the other side: with something in quarantine it does"


def test_so_many_damaged_blocks_make_the_pack_one_entry(make_site: Callable[..., Site]) -> None:
    site = make_site()
    image = image_of(site)
    image.write_bytes(noise(300 * CHUNK, 1))
    site.take(image)
    (pack,) = forge.packs(site)
    path = forge.pack_path(site, pack)
    data = bytearray(path.read_bytes())
    for chunk in range(280):
        data[64 + chunk * CHUNK] ^= 1
    site.close()
    writable(path).write_bytes(bytes(data))
    site.vault.verify()
    assert f"{pack.hex()}/all" in in_quarantine(site)
    assert len(in_quarantine(site)) == 257
    check_next_point_is_whole(site, chunks=300)


def test_a_snapshot_of_another_point_stands_in(make_site: Callable[..., Site]) -> None:
    """Point 1 is restored from the vault; its snapshot is gone, that of point 2 has the same chunk by identity."""
    site = make_site(keep=True)
    image = image_of(site)
    image.write_bytes(noise(12 * CHUNK, 1))
    site.take(image)
    write_at(image, 4 * CHUNK, noise(CHUNK, 2))
    site.take(image)
    tier = site.vault._session.tier
    tier.remove(tier.records()[0])
    spoil_block(site, 1, 7)
    monitor = Monitor()
    target = site.root / "out.img"
    result = site.vault.restore("1", output=str(target), source="vault", monitor=monitor)
    assert target.read_bytes() == site.copies["1"]["disk"].read_bytes()
    assert result.job_state == "completed-with-warning"
    assert any("1 chunks have damaged blocks" in warning for warning in result.warnings)
    assert len(in_quarantine(site)) == 1
    spoil_block(site, 1, 4)
    error = site.outcome(1)
    assert error is not None, "the snapshot's chunk 4 is another by now: it does not stand in"


def test_a_snapshot_is_restored_though_the_vault_lost_its_pack(make_site: Callable[..., Site]) -> None:
    """What the vault can still say is checked; of the rest it is told that it was not."""
    site = make_site(keep=True)
    image = image_of(site)
    image.write_bytes(noise(12 * CHUNK, 1))
    site.take(image)
    write_at(image, 4 * CHUNK, noise(CHUNK, 2))
    site.take(image)
    first = forge.packs(site)[0]
    path = forge.pack_path(site, first)
    site.close()
    path.unlink()
    target = site.root / "out.img"
    result = site.vault.restore("2", output=str(target), source="snapshot")
    assert target.read_bytes() == image.read_bytes()
    assert not result.verified
    assert any("11 chunks could not be checked" in warning for warning in result.warnings)
    assert in_quarantine(site) == {f"{first.hex()}/all"}
    site.keep = False
    result = site.take(image)
    site.check(result.number)


def test_a_base_that_no_point_lists_is_told_with_what_its_deltas_need(site: Site) -> None:
    """Point 1 is gone; its block of chunk 3 is the base of point 2's."""
    spoil_block(site, 1, DELTA)
    site.objects("points")[0].unlink()
    site.lose_index()
    report = site.vault.verify()
    told = {damage.reason: {(touch.label, touch.offset) for touch in damage.touches} for damage in report.damage}
    assert len(told) == 2
    assert set(map(frozenset, told.values())) == {frozenset({("2", DELTA * CHUNK)})}
