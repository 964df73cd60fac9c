"""R8: before the commit everything that the point refers to is looked at again; after it, the fence.

What reclaim or another host may take away between the work and the commit is taken away here, at the last step before
the look. Then there is a conflict and nothing is committed, and the next run works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import forge
from helpers.files import names_under, noise, punch, text, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import ConflictError
from blockvault.failpoints import Hook
from blockvault.ids import PackName
from blockvault.model import Codec, Mark, MarkKind, PointRef
from blockvault.store.layers import layer_object
from blockvault.store.local import LocalStore

SetHook = Callable[[Hook | None], None]
KNOWN, EDITED, FRESH = 2, 4, 6  # chunks of the new point: a dedup hit, a delta, a new block


class Scene:
    """Item `disk` with points 1 and 2, item `other`; a third point of `disk` is about to be made.

    It will refer to a pack of `other` (dedup), to a base in the pack of point 1, and to layers of points 1 and 2.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.image = site.root / "disk.img"
        self.image.write_bytes(text(40 * CHUNK, 1))
        for chunk in range(33, 40, 2):  # eight pieces in the first layer
            punch(self.image, chunk * CHUNK, CHUNK)
        other = site.root / "other.img"
        other.write_bytes(noise(3 * CHUNK, 2))
        site.take(self.image)
        (self.base_pack,) = forge.packs(site)
        for chunk in range(20, 32, 2):  # six in the second, three in the third: none takes in what lies below
            write_at(self.image, chunk * CHUNK, noise(CHUNK, chunk))
        site.take(self.image)
        site.take(other)
        (self.known_pack,) = (pack for pack, _ in forge.places(site, 3, [1]))
        write_at(self.image, KNOWN * CHUNK, other.read_bytes()[CHUNK : 2 * CHUNK])
        write_at(self.image, EDITED * CHUNK + 5, b"edited")
        write_at(self.image, FRESH * CHUNK, noise(CHUNK, 4))
        self.parent = forge.point(site, 2)

    def pack_files(self, pack: PackName) -> list[Path]:
        return [path for path in self.site.objects("main/packs") if path.name.startswith(pack.hex())]

    def own_pack(self) -> PackName:
        before = {self.base_pack, self.known_pack, *(pack for pack, _ in forge.places(self.site, 2, [20]))}
        (pack,) = {path.name[:32] for path in self.site.objects("main/packs")} - {pack.hex() for pack in before}
        return PackName(bytes.fromhex(pack))

    def condemn(self, name: str) -> None:
        (self.site.folder / "main/condemned").mkdir(exist_ok=True)
        (self.site.folder / f"main/condemned/{name}.{'0' * 32}").write_bytes(b"")


def parent_deleted(scene: Scene) -> None:
    (scene.site.folder / f"points/{scene.parent.ref.origin}/{2:010d}").unlink()


def parent_is_another_record(scene: Scene) -> None:
    """Of the same name and sealed as it must be, but not the one that the churn was computed against."""
    parent_deleted(scene)
    session = forge.session(scene.site)
    session.catalog.commit_point(scene.parent)


def parent_void(scene: Scene) -> None:
    """By another process: this one has not seen the mark."""
    catalog = forge.session(scene.site).catalog
    catalog.put_mark(scene.parent.ref, Mark(MarkKind.VOID, datetime(2026, 1, 1, tzinfo=UTC)))
    catalog._marks.clear()


def layer_deleted(scene: Scene) -> None:
    (scene.site.folder / layer_object(scene.parent.disks[0].layers[0].name)).unlink()


def oldest_layer_deleted(scene: Scene) -> None:
    (scene.site.folder / layer_object(scene.parent.disks[0].layers[-1].name)).unlink()


def layer_condemned(scene: Scene) -> None:
    scene.condemn(scene.parent.disks[0].layers[-1].name.hex())


def own_layer_condemned(scene: Scene) -> None:
    (own,) = {path.name for path in scene.site.objects("main/layers")} - {
        ref.name.hex() for label in ("1", "2", "3") for ref in forge.point(scene.site, label).disks[0].layers
    }
    scene.condemn(own)


def known_pack_deleted(scene: Scene) -> None:
    scene.pack_files(scene.known_pack)[0].unlink()


def known_pack_condemned(scene: Scene) -> None:
    scene.condemn(scene.known_pack.hex())


def known_slot_emptied(scene: Scene) -> None:
    """Reclaim has written the pack's next generation without the slot, and deleted the old one."""
    old = scene.pack_files(scene.known_pack)[0]
    ((_, slot),) = forge.places(scene.site, 3, [1])
    forge.write_generation(scene.site, scene.known_pack, empty=[slot])
    old.unlink()


def base_pack_deleted(scene: Scene) -> None:
    scene.pack_files(scene.base_pack)[0].unlink()


def base_pack_condemned(scene: Scene) -> None:
    scene.condemn(scene.base_pack.hex())


def base_slot_emptied(scene: Scene) -> None:
    old = scene.pack_files(scene.base_pack)[0]
    ((_, slot),) = forge.places(scene.site, 1, [EDITED])
    forge.write_generation(scene.site, scene.base_pack, empty=[slot])
    old.unlink()


def own_pack_deleted(scene: Scene) -> None:
    scene.pack_files(scene.own_pack())[0].unlink()


def own_pack_condemned(scene: Scene) -> None:
    scene.condemn(scene.own_pack().hex())


LOSSES = [
    parent_deleted,
    parent_is_another_record,
    parent_void,
    layer_deleted,
    oldest_layer_deleted,
    layer_condemned,
    own_layer_condemned,
    known_pack_deleted,
    known_pack_condemned,
    known_slot_emptied,
    base_pack_deleted,
    base_pack_condemned,
    base_slot_emptied,
    own_pack_deleted,
    own_pack_condemned,
]


def test_the_scene_refers_to_all_that_is_taken_away(site: Site) -> None:
    """The other side of the rule: undisturbed, the third point is committed and refers to what the tests remove."""
    scene = Scene(site)
    result = site.take(scene.image)
    ((known, _), (_, _), (fresh, _)) = forge.places(site, result.number, [KNOWN, EDITED, FRESH])
    assert known == scene.known_pack
    assert fresh not in (scene.known_pack, scene.base_pack)
    assert forge.codecs(site, result.number, [EDITED]) == [Codec.DELTA]
    layers = forge.point(site, result.number).disks[0].layers
    assert layers[1:] == scene.parent.disks[0].layers
    assert len(layers) == 3
    site.sound()


@pytest.mark.parametrize("lose", LOSSES)
def test_what_went_away_is_a_conflict(site: Site, hook: SetHook, lose: Callable[[Scene], None]) -> None:
    scene = Scene(site)
    folders = (site.folder, site.host / "digests")
    before = names_under(*folders)
    changed: set[str] = set()

    def take_away(name: str) -> None:
        if name == "transfer.layers":
            hook(None)
            held = names_under(*folders)
            lose(scene)
            changed.update(held ^ names_under(*folders))

    hook(take_away)
    with pytest.raises(ConflictError) as caught:
        site.vault.snapshot([str(scene.image)], keep=False)

    assert caught.value.kind == "transfer.conflict"
    left = (names_under(*folders) ^ before) - changed
    assert left <= {str(site.folder / "lmdb" / name) for name in ("data.mdb", "lock.mdb")}, "nothing is left behind"
    labels = {info.label for info in site.reopen().points()}
    assert labels <= {"1", "2", "3"}, "nothing was committed"

    shutil.rmtree(site.folder / "main/condemned", ignore_errors=True)
    result = site.take(scene.image, full=True)
    site.check(result.number)
    for label in labels:
        site.outcome(label)


@pytest.mark.parametrize("jump", [24 * 3600 + 1, 400 * 24 * 3600, -1], ids=["half-the-grace", "a-year", "backwards"])
def test_the_fence(site: Site, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    """The store's clock tells that the commit came too late: the point is taken back, for good."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    write_at(image, 0, noise(CHUNK, 2))
    true = LocalStore.now
    asked: list[float] = []

    def now(self: LocalStore) -> float:
        asked.append(true(self) + (jump if asked else 0))
        return asked[-1]

    monkeypatch.setattr(LocalStore, "now", now)
    with pytest.raises(ConflictError) as caught:
        site.vault.snapshot([str(image)], keep=False)
    assert caught.value.kind == "transfer.fenced"
    assert len(asked) == 2
    monkeypatch.undo()

    for _ in range(2):
        assert [info.label for info in site.vault.points()] == ["1"], "a void point is never listed"
        assert site.vault.verify().damage == ()
        assert forge.session(site).catalog.point(PointRef(site.vault.origin, 2)) is None
        site.lose_index()
    result = site.take(image)
    assert result.number == 3, "its number is not given again"
    parent = forge.point(site, result.number).parent
    assert parent is not None
    assert parent.number == 1, "a void point is never a parent"
    site.sound()


def test_within_the_grace_the_point_stands(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    true = LocalStore.now
    asked: list[float] = []

    def now(self: LocalStore) -> float:
        asked.append(true(self) + (24 * 3600 - 60 if asked else 0))
        return asked[-1]

    monkeypatch.setattr(LocalStore, "now", now)
    site.take(image)
    point = forge.point(site, 1)
    assert point.refreshed_at == asked[0]
    site.sound()


def test_the_stores_clock_decides_and_not_the_hosts(site: Site) -> None:
    """A host whose clock is decades off commits as any other: `refreshed_at` is the store's time."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image, now=datetime(1999, 1, 1, tzinfo=UTC))
    point = forge.point(site, 1)
    assert point.taken.year == 1999
    assert abs(point.refreshed_at - site.folder.stat().st_mtime) < 3600
    site.sound()


def test_an_orphan_of_an_earlier_try_is_looked_at_too(site: Site, hook: SetHook) -> None:
    """A killed transfer left a pack and an index segment; the next try refers to it, and it goes away meanwhile."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    (pack,) = forge.packs(site)
    (record,) = site.objects("points")
    record.unlink()  # the try died before its commit: pack and index segment are there, the point is not
    site.copies.clear()
    site.lose_index()

    def take_away(name: str) -> None:
        if name == "transfer.layers":
            hook(None)
            forge.pack_path(site, pack).unlink()

    hook(take_away)
    with pytest.raises(ConflictError):
        site.vault.snapshot([str(image)], keep=False)
    assert site.vault.points() == []
    site.reopen()
    site.take(image)
    assert site.counters["blocks_stored"] == 8
    site.sound()
