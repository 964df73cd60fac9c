"""R15, the other half: what is damaged gets its bytes again where a copy of its identity is left, else is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import forge
from helpers.damage import flip, truncate
from helpers.files import listing, noise, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.clock import utc_now
from blockvault.errors import CorruptionError
from blockvault.ids import PackName
from blockvault.model import Codec, Mark, PointRef, RepairReport
from blockvault.store.packs import generation_of

DELTA, NEW, ALONE = 3, 5, 9


@pytest.fixture(params=["plain", "encrypted"])
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Point 1 with full blocks; point 2 with a delta of chunk 3 and a new chunk 5; the live image is as point 2."""
    return two_points(make_site(secret=KEY_FILE if request.param == "encrypted" else None))


def two_points(made: Site, *, keep: bool = False) -> Site:
    made.keep = keep
    image = made.root / "disk.img"
    image.write_bytes(text(16 * CHUNK, 1) + noise(4 * CHUNK, 2) + b"and a part")
    made.take(image)
    write_at(image, DELTA * CHUNK + 40, b"edited")
    write_at(image, NEW * CHUNK, noise(CHUNK, 4))
    made.take(image)
    assert forge.codecs(made, 2, [DELTA, ALONE]) == [Codec.DELTA, Codec.ZSTD]
    return made


def image_of(site: Site) -> Path:
    return site.root / "disk.img"


def spoil_block(site: Site, label: int, chunk: int) -> tuple[PackName, int]:
    ((pack, slot),) = forge.places(site, label, [chunk])
    flip(forge.pack_path(site, pack), int(forge.table(site, pack).offsets[slot]) + 20)
    site.close()
    return pack, slot


def repair(site: Site, **options: Any) -> RepairReport:
    return site.vault.repair(**options)


def sources(report: RepairReport) -> list[tuple[int, str]]:
    return [(block.slot, block.source) for block in report.healed]


def check_whole(site: Site) -> None:
    """Verify finds nothing, nothing is in quarantine, one generation of each pack, every point restores."""
    site.close()
    report = site.vault.verify()
    assert report.damage == ()
    assert site.objects("main/quarantine") == []
    assert all(len(names) == 1 for _, names in forge.session(site).shelf.all_packs())
    site.check_all()


def test_from_the_live_image(site: Site) -> None:
    pack, slot = spoil_block(site, 1, ALONE)
    site.vault.verify()
    report = repair(site)
    assert sources(report) == [(slot, f"the disk image {image_of(site)}")]
    assert (report.left, report.released) == ((), 1)
    assert generation_of(forge.pack_path(site, pack).name) == 1
    check_whole(site)
    again = repair(site)
    assert (again.healed, again.left, again.released) == ((), (), 0)


def test_the_last_chunk_of_a_disk_is_padded(site: Site) -> None:
    _, slot = spoil_block(site, 1, 19)
    assert image_of(site).stat().st_size % CHUNK
    assert sources(repair(site)) == [(slot, f"the disk image {image_of(site)}")]
    check_whole(site)


def test_from_a_snapshot(make_site: Callable[..., Site]) -> None:
    site = two_points(make_site(), keep=True)
    image_of(site).write_bytes(noise(20 * CHUNK, 77))
    _, slot = spoil_block(site, 2, NEW)
    assert sources(repair(site)) == [(slot, "the snapshot of point 2")]
    check_whole(site)


def test_from_a_block_that_was_stored_anew(site: Site) -> None:
    """The next point stored the chunk again; that block heals the older points, though the image has gone on."""
    _, slot = spoil_block(site, 1, ALONE)
    site.vault.verify()
    site.take(image_of(site))
    image_of(site).write_bytes(noise(20 * CHUNK, 77))
    report = repair(site)
    (found,) = sources(report)
    assert found[0] == slot
    assert found[1].startswith("slot 0 of main/packs/")
    check_whole(site)


def test_from_an_older_generation(make_site: Callable[..., Site]) -> None:
    site = two_points(make_site())
    image_of(site).unlink()
    pack = forge.packs(site)[0]
    older = forge.pack_path(site, pack)
    forge.write_generation(site, pack)
    _, slot = spoil_block(site, 1, ALONE)
    report = repair(site)
    assert sources(report) == [(slot, f"slot {slot} of {older.relative_to(site.folder)}")]
    check_whole(site)


def test_a_delta_whose_base_is_lost_becomes_a_full_block(site: Site) -> None:
    """Point 1's chunk is nowhere any more; point 2's is in the live image: 2 is whole again, 1 is named."""
    pack, slot = spoil_block(site, 1, DELTA)
    report = repair(site)
    ((delta_pack, delta_slot),) = forge.places(site, 2, [DELTA])
    assert sources(report) == [(delta_slot, f"the disk image {image_of(site)}")]
    assert forge.codecs(site, 2, [DELTA]) == [Codec.ZSTD]
    (left,) = report.left
    assert (left.slot, [(touch.label, touch.offset, touch.byte_count) for touch in left.touches]) == (
        slot,
        [("1", DELTA * CHUNK, CHUNK)],
    )
    assert pack.hex() in left.object
    site.check(2)
    assert isinstance(site.outcome(1), CorruptionError)
    assert delta_pack != pack


def test_a_base_that_is_healed_brings_its_deltas_back(make_site: Callable[..., Site]) -> None:
    site = two_points(make_site(), keep=True)
    _, slot = spoil_block(site, 1, DELTA)
    report = repair(site)
    assert sources(report) == [(slot, "the snapshot of point 1")]
    assert forge.codecs(site, 2, [DELTA]) == [Codec.DELTA], "it was never damaged itself"
    check_whole(site)


def test_another_identity_is_no_copy(site: Site) -> None:
    """The chunk has changed since: nothing is written, the damage is told as it was."""
    image = image_of(site)
    _, slot = spoil_block(site, 2, NEW)
    write_at(image, NEW * CHUNK, noise(CHUNK, 99))
    before = listing(site.folder / "main/packs")
    report = repair(site)
    assert report.healed == ()
    assert [damage.slot for damage in report.left] == [slot]
    assert listing(site.folder / "main/packs") == before
    site.check(1)


def test_what_cannot_be_healed_beside_what_can(site: Site) -> None:
    """One generation with the healed block; the lost one stays as it was, and the older generation if it must."""
    pack, lost = spoil_block(site, 2, NEW)
    ((_, delta),) = forge.places(site, 2, [DELTA])
    flip(forge.pack_path(site, pack), int(forge.table(site, pack).offsets[delta]) + 5)
    site.close()
    older = forge.pack_path(site, pack)
    write_at(image_of(site), NEW * CHUNK, noise(CHUNK, 99))
    report = repair(site)
    assert [slot for slot, _ in sources(report)] == [delta]
    assert [damage.slot for damage in report.left] == [lost]
    assert older.exists() is (site.secret is not None), "only where the lost block could not be copied"
    site.check(1)
    report = site.vault.verify()
    assert [damage.slot for damage in report.damage] == [lost]


def test_a_dry_run_changes_nothing_and_says_the_same(site: Site) -> None:
    spoil_block(site, 1, ALONE)
    spoil_block(site, 1, DELTA)
    site.vault.verify()
    before = listing(site.folder / "main", site.folder / "points")
    planned = repair(site, dry_run=True)
    assert listing(site.folder / "main", site.folder / "points") == before
    done = repair(site)
    assert planned.dry_run
    assert [(block.slot, block.source) for block in planned.healed] == sources(done)
    assert [(one.object.split(".")[0], one.slot) for one in planned.left] == [
        (one.object.split(".")[0], one.slot) for one in done.left
    ]


def test_only_what_is_in_quarantine(site: Site) -> None:
    """Nothing else is read: of two damaged blocks the one that verify has met is healed."""
    _, slot = spoil_block(site, 1, ALONE)
    site.vault.verify()
    _, other = spoil_block(site, 1, 7)
    report = repair(site, quarantined_only=True)
    assert [found for found, _ in sources(report)] == [slot]
    assert [found for found, _ in sources(repair(site))] == [other]
    check_whole(site)


def test_a_file_that_was_put_back_leaves_quarantine(site: Site) -> None:
    pack = forge.packs(site)[0]
    path = forge.pack_path(site, pack)
    site.close()
    data = path.read_bytes()
    path.unlink()
    site.vault.verify()
    report = repair(site)
    assert report.left
    assert report.released == 0
    path.write_bytes(data)
    site.close()
    report = repair(site)
    assert (report.left, report.released) == ((), 1)
    check_whole(site)


# --- records ---


@pytest.mark.parametrize("how", ["flip", "cut", "nothing"])
@pytest.mark.parametrize("what", ["points", "items", "origins", "main/index", "main/quarantine"])
def test_a_record_is_put_back(site: Site, what: str, how: str) -> None:
    image = image_of(site)
    forge.session(site).quarantine.note(bytes(16), 3, "an example")
    path = site.objects(what)[0]
    whole = path.read_bytes()
    site.close()
    if how == "flip":
        flip(path, path.stat().st_size // 2)
    else:
        truncate(path, 0 if how == "nothing" else 90)
    name = str(path.relative_to(site.folder))
    assert name in {damage.object for damage in site.vault.verify().damage}
    report = repair(site)
    assert report.records == (name,)
    if what in ("points", "items"):
        assert path.read_bytes() == whole
    site.lose_index()
    assert site.vault.verify().damage == ()
    site.check_all()
    twin = site.root / "twin.img"
    twin.write_bytes(image.read_bytes()[: 12 * CHUNK])
    site.take(twin)
    known = site.counters["blocks_known"]
    assert known == 11, "all but the delta: an index segment that was made anew tells of all full blocks"


def test_two_records_that_were_swapped_are_told_apart(site: Site) -> None:
    one, two = site.objects("points")
    first, second = one.read_bytes(), two.read_bytes()
    site.close()
    for path, data in ((one, second), (two, first)):
        path.chmod(0o600)
        path.write_bytes(data)
    assert len(repair(site).records) == 2
    assert (one.read_bytes(), two.read_bytes()) == (first, second)
    check_whole(site)


@pytest.mark.parametrize("kind", ["void", "purge"])
def test_a_point_that_has_ended_does_not_come_back(site: Site, kind: str) -> None:
    opened = forge.session(site)
    ref = PointRef(opened.origin, 2)
    opened.catalog.put_mark(ref, Mark(kind, utc_now()))
    path = site.objects("points")[1]
    site.close()
    flip(path, 80)
    damaged = path.read_bytes()
    assert repair(site).records == ()
    assert path.read_bytes() == damaged


def test_a_point_whose_mark_cannot_be_read_does_not_come_back(site: Site) -> None:
    """The mark may have ended it; LMDB has no copy of it."""
    opened = forge.session(site)
    opened.catalog.put_mark(PointRef(opened.origin, 2), Mark("hold", utc_now()))
    point, mark = site.objects("points")[1], site.objects("marks")[0]
    site.close()
    truncate(mark, 50)
    flip(point, 80)
    damaged = point.read_bytes()
    report = repair(site)
    assert report.records == ()
    assert point.read_bytes() == damaged
    assert {str(path.relative_to(site.folder)) for path in (point, mark)} <= {one.object for one in report.left}


def test_a_record_that_is_gone_stays_gone(site: Site) -> None:
    path = site.objects("points")[1]
    site.close()
    path.unlink()
    report = repair(site)
    assert (report.records, report.left) == ((), ())
    assert not path.exists()


def test_the_index_is_made_anew(site: Site) -> None:
    report = repair(site, rebuild_index=True)
    assert report.index_rebuilt
    check_whole(site)
    twin = site.root / "twin.img"
    twin.write_bytes(image_of(site).read_bytes()[: 12 * CHUNK])
    site.take(twin)
    assert site.counters["blocks_known"] == 11


def deep(made: Site) -> list[tuple[PackName, int]]:
    """Points 2 to 4 have chunk 3 as a delta of a delta ...; the places of its blocks, the full one first."""
    for edit in (1, 2):
        write_at(image_of(made), DELTA * CHUNK + 500 * edit, b"edited again")
        made.take(image_of(made))
    places = [forge.places(made, label, [DELTA])[0] for label in (1, 2, 3, 4)]
    assert [int(forge.table(made, pack).depths[slot]) for pack, slot in places] == [0, 1, 2, 3]
    return places


@pytest.mark.parametrize("level", [0, 1, 2])
def test_healing_one_block_of_a_chain_brings_back_what_rests_on_it(make_site: Callable[..., Site], level: int) -> None:
    """The earlier bytes are found in a snapshot; each delta above is good again, and stays a delta."""
    site = two_points(make_site(), keep=True)
    places = deep(site)
    spoil_block(site, level + 1, DELTA)
    assert len(site.vault.verify().damage) >= 1
    report = repair(site)
    assert sources(report) == [(places[level][1], f"the snapshot of point {level + 1}")]
    assert (report.left, report.released) == ((), 1), "the others were never damaged themselves"
    check_whole(site)
    codecs = [forge.table(site, pack).codecs[slot] for pack, slot in places]
    assert codecs[level] != Codec.DELTA
    assert [codec == Codec.DELTA for codec in codecs[level + 1 :]] == [True] * (3 - level)


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_rests_on_a_lost_block_is_healed_by_itself(make_site: Callable[..., Site], dry_run: bool) -> None:
    """The full block's bytes are nowhere: the newest delta is healed from the live image, the others are named."""
    site = two_points(make_site())
    places = deep(site)
    spoil_block(site, 1, DELTA)
    site.vault.verify()
    report = repair(site, dry_run=dry_run)
    assert sources(report) == [(places[3][1], f"the disk image {image_of(site)}")]
    assert len(report.left) == 3
    if not dry_run:
        assert site.outcome("4") is None
        assert [isinstance(site.outcome(label), CorruptionError) for label in "123"] == [True] * 3
