"""Records: LMDB has copies, the objects decide; what is no record is passed over; a newer vault is not written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.damage import flip
from helpers.files import listing, noise
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.clock import utc_now
from blockvault.engine import verify
from blockvault.errors import BlockVaultError, UnsupportedError
from blockvault.format import records
from blockvault.format.envelope import FORMAT_VERSION, Kind, seal_record
from blockvault.model import Mark
from blockvault.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def image(site: Site) -> Path:
    path = site.root / "disk.img"
    path.write_bytes(noise(4 * CHUNK, 1))
    return path


# --- copies in LMDB --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["points", "items", "marks"])
def test_a_flipped_byte_in_a_copy_hides_nothing(site: Site, image: Path, kind: str) -> None:
    """The bytes of a record in LMDB's file are flipped wherever it has them; the object is whole."""
    first = site.take(image)
    site.take(image)
    mark = Mark("a later one", utc_now())
    opened = site.vault._session
    opened.catalog.put_mark(site.vault.point("1").point.ref, mark)  # type: ignore[union-attr]
    opened.catalog.refresh()
    (record, *_) = site.objects(kind)
    sealed = record.read_bytes()
    site.close()
    lmdb = site.folder / "lmdb" / "data.mdb"
    data = lmdb.read_bytes()
    flipped, at = 0, data.find(sealed)
    while at >= 0:
        flip(lmdb, at + 70)
        flipped, at = flipped + 1, data.find(sealed, at + 1)
    assert flipped, "LMDB has no copy"
    site.reopen()
    assert [info.label for info in site.vault.points()] == ["1", "2"]
    assert site.vault.item(first.item).name == "disk"
    site.sound()
    site.reopen()
    index = site.vault._session.index
    assert index is not None
    assert index.records(kind)[str(record.relative_to(site.folder))] == sealed, "the copy is made good"


def test_a_flipped_byte_in_the_object_is_told_although_the_copy_is_good(site: Site, image: Path) -> None:
    site.take(image)
    for kind in ("points", "items", "origins", "config", "main/index"):
        (record, *_) = site.objects(kind)
        flip(record, 70)
        name = str(record.relative_to(site.folder))
        assert name in {damage.object for damage in site.vault.verify().damage}
        flip(record, 70)
    site.sound()


# --- what is no record -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", ["points", "leases", "items", "marks", "origins", "config", "main/index", "main/index/{origin}"]
)
def test_what_fits_no_name_is_no_part_of_the_vault(site: Site, image: Path, folder: str) -> None:
    """Files and folders that someone put there, and a folder whose first record was never written."""
    site.take(image)
    place = site.folder / folder.format(origin=site.vault.origin)
    place.mkdir(exist_ok=True)
    for name in ("README", "0000000001.bak", ".DS_Store", "two words", "1"):
        (place / name).write_text("not a record")
    (place / "folder").mkdir()
    if folder != "origins":  # else it has the name of a record
        (place / ("ab" * 16)).mkdir()
    before = listing(place)
    site.reopen()
    site.take(image)
    site.sound()
    assert before.items() <= listing(place).items()
    assert [info.number for info in site.vault.points()] == [1, 2]


def test_what_fits_no_name_is_no_key_slot(make_site: Callable[..., Site]) -> None:
    site = make_site(secret=KEY_FILE)
    site.take(site.image(size=8 * CHUNK))
    for name in ("README", "0~", "0.bak"):
        (site.folder / "keys" / name).write_text("not a slot")
    site.reopen()
    site.sound()


# --- a vault for a newer writer --------------------------------------------------------------------------------


def test_a_vault_that_asks_for_a_newer_writer_is_read_and_not_written(site: Site, image: Path) -> None:
    site.take(image)
    opened = site.vault._session
    body = records.ConfigBody(
        name="default", min_reader=1, min_writer=FORMAT_VERSION + 1, epochs=1, created="2026-11-20T02:00:00Z"
    )
    name = "config/000001"
    data, _ = seal_record(opened.keys, Kind.CONFIG, name, records.encode(body))
    opened.store.put_new(name, data)
    site.close()
    for path in (site.folder / "lmdb").iterdir():
        path.unlink()  # what a newer version keeps there is unknown
    for path in (site.host / "host.json", *site.objects("origins")):
        path.unlink()  # a host that was never here
    before = listing(site.folder)

    site.reopen()
    attempts = [
        lambda: site.vault.snapshot([str(image)]),
        lambda: site.vault.snapshot([str(image)], keep=False, name="other"),
        lambda: site.vault.set_item("disk", new_name="web01"),
    ]
    for attempt in attempts:
        with pytest.raises(UnsupportedError) as caught:
            attempt()
        assert caught.value.kind == "vault.newer-format"
    label = site.vault.points()[0].label
    site.copies = {label: site.copies["1"]}
    site.sound()
    site.vault.diff(label, str(image))
    site.vault.usage()
    site.close()
    assert listing(site.folder) == before


def test_a_vault_that_asks_for_a_newer_reader_is_not_opened(site: Site, image: Path) -> None:
    site.take(image)
    opened = site.vault._session
    body = records.ConfigBody(
        name="default", min_reader=FORMAT_VERSION + 1, min_writer=1, epochs=1, created="2026-11-20T02:00:00Z"
    )
    data, _ = seal_record(opened.keys, Kind.CONFIG, "config/000001", records.encode(body))
    opened.store.put_new("config/000001", data)
    with pytest.raises(BlockVaultError) as caught:
        site.reopen()
    assert caught.value.kind == "vault.newer-format"


def test_an_index_segment_that_goes_while_verify_lists_is_no_damage(
    site: Site, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune beside it deletes the segment of packs that are all gone."""
    site.take(image)
    true = verify.record_names

    def listed_before_a_prune(store: LocalStore, kind: Kind) -> list[str]:
        names = list(true(store, kind))
        if kind is Kind.INDEX:
            assert names
            for name in names:
                store.delete(name)
        return names

    monkeypatch.setattr(verify, "record_names", listed_before_a_prune)
    assert site.vault.verify().damage == ()
    site.check_all()
