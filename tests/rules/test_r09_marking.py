"""R9: marking is exact. What it calls needed is what restores of the roots would read, no slot more and none less."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip, truncate
from helpers.files import noise, resize, text, write_at
from helpers.needed import NOW, Churn, Slots, listed_layers, needed_by, nothing_is_left, purge, reclaim, roots
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.engine import marking, structure
from blockvault.engine.marking import Marker
from blockvault.engine.reclaim import Reclaimer
from blockvault.engine.verifying import make_verifier
from blockvault.errors import ConflictError, CorruptionError
from blockvault.format import outlines
from blockvault.format.envelope import Kind, seal_record
from blockvault.format.records import LAYERS_MAX
from blockvault.format.tables import SLOTS_MAX
from blockvault.model import Codec, Mark, MarkKind, Point
from blockvault.monitor import Monitor
from blockvault.store.layers import layer_object
from blockvault.store.outlines import OutlineShelf


def marked(site: Site, *batches: Iterable[Point]) -> Marker:
    session = forge.session(site)
    marker = Marker(session.store, session.keys, Monitor())
    for batch in batches:
        marker.add(batch)
    return marker


def as_sets(site: Site, marker: Marker) -> Slots:
    found = {}
    for pack in forge.packs(site):
        slots = np.flatnonzero(marker.needed.of(pack, SLOTS_MAX)).tolist()
        if slots:
            found[pack] = set(slots)
    assert {pack for pack in marker.needed.packs() if marker.needed.of(pack, SLOTS_MAX).any()} == set(found)
    return found


def agrees(site: Site, points: list[Point]) -> None:
    """By the layers themselves, by their outlines (kept by now or not), and in the smallest windows."""
    expected, layers = needed_by(site, points), listed_layers(points)
    session = forge.session(site)
    shelf = OutlineShelf(session.store, session.keys, session.index)
    for window in (marking.WINDOW_PIECES, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(marking, "WINDOW_PIECES", window)
            for outlines in (None, shelf):
                marker = Marker(session.store, session.keys, Monitor(), outlines)
                marker.add(points)
                assert as_sets(site, marker) == expected
                assert {layer.hex() for layer in marker.layers} == layers
            patch.setattr(structure, "WINDOW_PIECES", window)
            assert proved(site, points) == expected


def proved(site: Site, points: list[Point]) -> Slots:
    """What verify finds that points need; nothing of them may be in doubt."""
    session = forge.session(site)
    session.shelf.refresh()
    verifier = make_verifier(session, Monitor(), NOW)
    by_layer = structure.Structure(session.store, session.keys, session.shelf, Monitor(), verifier._mark)
    assert not list(by_layer.doubtful([(str(point.number), point) for point in points]))
    verifier._add_bases()
    return {pack: set(np.flatnonzero(slots).tolist()) for pack, slots in verifier.needed.items() if slots.any()}


def agrees_for_any_roots(site: Site, rng: random.Random, tries: int = 6) -> None:
    """For all points, and for any choice of them: which of them are roots is what deleting decides."""
    points = roots(site)
    agrees(site, points)
    for _ in range(tries):
        agrees(site, rng.sample(points, rng.randint(1, len(points))))


@pytest.mark.parametrize("seed", range(4))
def test_over_any_history(make_site: Callable[..., Site], seed: int) -> None:
    """Several items and disks, edits, holes, zeros, growth, shrinkage, dedup, `--full`, points purged on the way."""
    rng = random.Random(seed)
    site = make_site(secret=KEY_FILE if seed % 2 else None)
    items = [Churn(site, rng, disks=2, name="one"), Churn(site, rng, name="two", chunks=20)]
    for step in range(14):
        item = rng.choice(items)
        item.change()
        if step == 9:  # a copy of another item's image: everything of it is known
            items[1].paths[0].write_bytes(items[0].paths[0].read_bytes())
        item.take(full=rng.random() < 0.2)
        if rng.random() < 0.15 and len(site.copies) > 2:
            purge(site, rng.choice(list(site.copies)))
            reclaim(site, rng.choice([0.0, 0.3, 0.6]))
        agrees(site, roots(site))
    agrees_for_any_roots(site, rng)
    purge(site, *rng.sample(list(site.copies), len(site.copies) // 2))
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_over_stacks_that_are_full_and_merged(site: Site) -> None:
    """Layers that shrink geometrically fill the stack to its limit; then it is merged, and older points still see."""
    rng = random.Random(5)
    image = site.root / "disk.img"
    chunks = 140
    image.write_bytes(text(chunks * CHUNK, 1))
    site.take(image)
    deepest = 0
    for step in range(24):
        count = max(1, 30 - 2 * step)  # smaller each time: nothing is taken in
        for chunk in rng.sample(range(0, chunks, 2), count):
            write_at(image, chunk * CHUNK + 50, noise(40, step * 1000 + chunk))
        site.take(image)
        deepest = max(deepest, len(roots(site)[-1].disks[0].layers))
    assert deepest >= 10
    assert deepest <= LAYERS_MAX
    agrees_for_any_roots(site, rng, tries=25)
    codecs = {codec for pack in forge.packs(site) for codec in forge.table(site, pack).codecs.tolist()}
    assert Codec.DELTA in codecs


def test_over_many_cells(site: Site) -> None:
    """Cells that are one hole, that became one, that few layers speak of; a disk that loses and regains its cells."""
    rng = random.Random(9)
    cell = 65_536 * CHUNK
    image = site.root / "disk.img"
    image.write_bytes(b"")
    resize(image, 2 * cell + 30 * CHUNK)
    for at in (0, cell - CHUNK, cell, 2 * cell, 2 * cell + 29 * CHUNK):
        write_at(image, at, noise(CHUNK, at % 97))
    site.take(image)
    write_at(image, cell + 100, b"an edit in the second cell")
    site.take(image)
    resize(image, cell - 5)
    site.take(image)
    resize(image, 2 * cell + 30 * CHUNK)
    write_at(image, 2 * cell, noise(CHUNK, 3))
    site.take(image)
    write_at(image, 2 * cell + 5 * CHUNK, noise(CHUNK, 4))
    site.take(image)
    agrees_for_any_roots(site, rng, tries=12)
    purge(site, 1, 4)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_over_another_chunk_size(site: Site) -> None:
    """An item of another chunk size shares nothing; each pack is asked with its own."""
    small, large = site.root / "small.img", site.root / "large.img"
    small.write_bytes(text(20 * CHUNK, 1))
    large.write_bytes(text(20 * CHUNK, 1))
    site.take(small)
    site.close()
    from blockvault.vault import Vault

    site._vault = Vault.open(state_dir=str(site.state))
    site.vault._session.chunk_size = 4 * CHUNK
    site.take(large)
    write_at(large, 5 * CHUNK, b"edited")
    site.take(large)
    write_at(small, 5 * CHUNK, b"edited")
    site.take(small)
    assert {disk.chunk_size for point in roots(site) for disk in point.disks} == {CHUNK, 4 * CHUNK}
    agrees_for_any_roots(site, random.Random(1))
    purge(site, 1, 2)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_in_batches_it_comes_to_the_same(site: Site) -> None:
    """Roots that are marked later add to what is needed, and nothing is marked twice."""
    rng = random.Random(3)
    item = Churn(site, rng)
    for _ in range(8):
        item.change()
        item.take()
    points = roots(site)
    whole = as_sets(site, marked(site, points))
    session = forge.session(site)
    marker = Marker(session.store, session.keys, Monitor())
    assert marker.add(points[:3]) == 3
    assert marker.add(points) == len(points) - 3
    assert marker.add(points) == 0
    assert as_sets(site, marker) == whole


# --- which points are roots ------------------------------


def three_points(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(text(20 * CHUNK, 1))
    site.take(image)
    for number in (2, 3):
        write_at(image, number * CHUNK, noise(2 * CHUNK, number))
        site.take(image)
    return image


def test_deleted_and_held_points_are_roots_purged_and_void_ones_are_not(site: Site) -> None:
    three_points(site)
    session = forge.session(site)
    first, second, third = roots(site)
    site.vault.delete_point("1")
    site.vault.hold("2")
    assert roots(site) == [first, second, third]
    marker, _ = Reclaimer(session, Monitor())._mark()
    assert as_sets(site, marker) == needed_by(site, [first, second, third])
    session.catalog.put_mark(third.ref, Mark(MarkKind.VOID, third.taken))
    site.vault.undelete_point("1")
    site.vault.delete_point("1", purge=True)
    marker, _ = Reclaimer(session, Monitor())._mark()
    assert as_sets(site, marker) == needed_by(site, [second])


def test_what_a_lease_names_is_a_root_ended_or_not(site: Site) -> None:
    three_points(site)
    session = forge.session(site)
    points = roots(site)
    with session.lease("transfer", "disk", [(points[0].ref, points[0].digest)]):
        purge(site, 1, 2)
        marker, leases = Reclaimer(session, Monitor())._mark()
        assert [lease.operation for lease in leases] == ["transfer"]
        assert as_sets(site, marker) == needed_by(site, [points[0], points[2]])
    marker, leases = Reclaimer(session, Monitor())._mark()
    assert leases == []
    assert as_sets(site, marker) == needed_by(site, [points[2]])


# --- what cannot be read stops everything ------------------------------


def stopped(site: Site, name: str) -> None:
    """Nothing is freed, nothing is condemned, and what cannot be read is named."""
    before = {path for path in site.folder.rglob("*") if path.is_file()}
    for run in (lambda: reclaim(site, 0.0), lambda: Reclaimer(forge.session(site), Monitor()).plan(0.0)):
        with pytest.raises(CorruptionError) as caught:
            run()
        assert caught.value.kind == "reclaim.stopped"
        assert name in f"{caught.value.message} {caught.value.why}"
        assert caught.value.do
    after = {path for path in site.folder.rglob("*") if path.is_file()}
    assert {path for path in before ^ after if path.parent.name != "lmdb"} <= {site.folder / "reclaim.lock"}


def damage_segment(path: Path) -> None:
    flip(path, 70)


def damage_root(path: Path) -> None:
    flip(path, path.stat().st_size - 30)


def cut_off(path: Path) -> None:
    truncate(path, path.stat().st_size - 1)


def remove(path: Path) -> None:
    path.unlink()


def make_newer(path: Path) -> None:
    """A version that this program does not know."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(bytes(data))


CHANGES = [damage_segment, damage_root, cut_off, remove, make_newer]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("age", [0, -1], ids=["newest", "oldest"])
def test_a_layer_that_cannot_be_read(site: Site, change: Callable[[Path], None], age: int) -> None:
    three_points(site)
    purge(site, 1)
    name = layer_object(roots(site)[-1].disks[0].layers[age].name)
    change(site.folder / name)
    stopped(site, name)


@pytest.mark.parametrize("change", [damage_segment, damage_root, cut_off, make_newer])
def test_a_point_record_that_cannot_be_read(site: Site, change: Callable[[Path], None]) -> None:
    """LMDB has a copy of it; without that, nobody knows what the point needs."""
    three_points(site)
    purge(site, 1)
    (path,) = (path for path in site.objects("points") if path.name == f"{2:010d}")
    site.close()
    change(path)
    site.lose_index()
    stopped(site, f"points/{path.parent.name}/{path.name}")


def test_a_damaged_record_of_an_ended_point_stops_nothing(site: Site) -> None:
    three_points(site)
    purge(site, 1)
    (path,) = (path for path in site.objects("points") if path.name == f"{1:010d}")
    flip(path, 70)
    site.lose_index()
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_a_lease_that_cannot_be_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held, and says nothing: whatever it builds on must stay."""
    from blockvault.store import leases

    three_points(site)
    purge(site, 1)
    monkeypatch.setattr(leases, "READ_TRIES", 2)
    session = forge.session(site)
    with session.lease("transfer", "disk", []):
        (path,) = site.objects("leases")
        flip(path, 70)
        before = site.objects("main")
        with pytest.raises(ConflictError) as caught:
            reclaim(site, 0.0)
        assert caught.value.kind == "reclaim.lease-unreadable"
        assert path.name in (caught.value.why or "")
        assert site.objects("main") == before
    reclaim(site, 0.0)
    nothing_is_left(site)


def test_a_layer_that_names_slots_beyond_every_pack_is_refused(site: Site) -> None:
    """A forged layer must not make the marking take memory for slots that no pack can have."""
    from dataclasses import replace

    three_points(site)
    label = forge.point_with(
        site,
        3,
        lambda cells: {
            number: replace(segment, run_first_slot=segment.run_first_slot + np.uint32(4_000_000_000))
            for number, segment in cells.items()
        },
    )
    layer = forge.point(site, label).disks[0].layers[0]
    stopped(site, layer_object(layer.name))


# --- outlines: layers are read once ------------------------------------------------------------------------------


def counted(site: Site) -> tuple[int, int]:
    """How many segments and tables a plan reads."""
    monitor = Monitor()
    Reclaimer(forge.session(site), monitor).plan(0.0)
    return monitor.counters.get("segments_marked", 0), monitor.counters.get("tables_read", 0)


def test_the_next_marking_reads_what_is_new_and_no_more(make_site: Callable[..., Site]) -> None:
    site = make_site(secret=KEY_FILE)
    image = three_points(site)
    assert counted(site) == (3, 3)
    site.reopen()
    assert counted(site) == (0, 0)
    write_at(image, 9 * CHUNK, noise(CHUNK, 9))
    site.take(image)
    assert counted(site) == (1, 1)
    purge(site, 2)
    assert counted(site) == (0, 1), "the one table that has something dead is read"
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.lose_index()
    assert counted(site)[0] == len({name for point in roots(site) for name in listed_layers([point])})
    site.sound()


@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_an_outline_does_not_answer_for_a_layer_that_is_not_there(site: Site, how: str) -> None:
    three_points(site)
    counted(site)
    purge(site, 1)
    layer = forge.point(site, 2).disks[0].layers[0]
    path = site.folder / layer_object(layer.name)
    if how == "missing":
        path.unlink()
    else:
        truncate(path, path.stat().st_size - 1)
    stopped(site, layer_object(layer.name))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("how", ["flipped", "swapped", "another tag", "too short"])
def test_an_outline_that_is_not_the_layers_own_is_passed_over(
    make_site: Callable[..., Site], encrypted: bool, how: str
) -> None:
    site = make_site(secret=KEY_FILE if encrypted else None)
    three_points(site)
    counted(site)
    session = forge.session(site)
    assert session.index is not None
    one, other = (forge.point(site, number).disks[0].layers[0] for number in (2, 3))
    data = session.index.outline(one.name)
    assert data is not None
    if how == "flipped":
        changed = data[:80] + bytes([data[80] ^ 1]) + data[81:]
    elif how == "swapped":
        changed = session.index.outline(other.name) or b""
    elif how == "another tag":
        layer_bytes = session.store.size(layer_object(one.name))
        empty = outlines.joined([], outlines.no_ranges())
        body = outlines.encode_outline(empty, bytes(16), layer_bytes)
        changed, _ = seal_record(session.keys, Kind.OUTLINE, layer_object(one.name), body)
    else:
        changed, _ = seal_record(session.keys, Kind.OUTLINE, layer_object(one.name), b"short")
    session.index.add_outlines({one.name: changed}, {})
    assert counted(site) == (1, 0)
    agrees(site, roots(site))


def test_outlines_of_layers_that_are_gone_go_too(site: Site) -> None:
    three_points(site)
    counted(site)
    gone = forge.point(site, 3).disks[0].layers[0].name
    index = forge.session(site).index
    assert index is not None
    assert index.outline(gone) is not None
    purge(site, 3)
    reclaim(site, 0.0)
    assert index.outline(gone) is None
    assert counted(site) == (0, 0)


def test_a_large_outline_is_not_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockvault.store.outlines.ROWS_MAX", 1)
    three_points(site)
    assert counted(site)[0] == counted(site)[0] > 0
    agrees(site, roots(site))
