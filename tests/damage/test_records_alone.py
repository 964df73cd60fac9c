"""Damaged records where LMDB has no copy of them: what cannot be read is told, and never passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import forge
from helpers.damage import flip, truncate
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import BlockVaultError, CorruptionError, NotFoundError
from blockvault.monitor import Monitor


def three_points(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    for turn in range(3):
        write_at(image, turn * CHUNK, noise(CHUNK, 10 + turn))
        site.take(image)
    return image


def spoil(site: Site, path: Path, how: str) -> str:
    name = str(path.relative_to(site.folder))
    if how == "flip":
        flip(path, path.stat().st_size // 2)
    else:
        truncate(path, 0 if how == "nothing" else 100)
    site.lose_index()
    return name


@pytest.mark.parametrize("how", ["flip", "cut", "nothing"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_point_whose_record_is_damaged_is_named(site: Site, number: int, how: str) -> None:
    """Not "there is no such point": that would send its owner away from what can be put back from a copy."""
    image = three_points(site)
    name = spoil(site, site.objects("points")[number - 1], how)
    for ask in (lambda: site.vault.point(str(number)), lambda: site.restore(str(number))):
        with pytest.raises(CorruptionError) as caught:
            ask()
        assert name in caught.value.message
    del site.copies[str(number)]
    site.check_all()
    assert [damage.object for damage in site.vault.verify().damage] == [name]
    assert site.take(image).number == 4
    site.check_all()


def test_a_point_that_never_was_is_not_called_damaged(site: Site) -> None:
    three_points(site)
    spoil(site, site.objects("points")[1], "flip")
    for ref in ("4", "20", "host:9", "beef"):
        with pytest.raises(NotFoundError):
            site.vault.point(ref)


def test_the_latest_is_not_silently_an_older_one(site: Site) -> None:
    three_points(site)
    name = spoil(site, site.objects("points")[2], "flip")
    monitor = Monitor()
    target = site.root / "out.img"
    result = site.vault.restore("disk@latest", output=str(target), monitor=monitor)
    assert result.number == 2
    assert [name in warning.message for warning in monitor.warnings] == [True]
    assert result.warnings


@pytest.mark.parametrize("how", ["flip", "cut", "nothing"])
def test_an_item_whose_record_is_damaged_is_told_of(site: Site, how: str) -> None:
    """The next job cannot know that the disks have an item: it makes a new one, says so, and loses nothing."""
    image = three_points(site)
    (record,) = site.objects("items")
    name = spoil(site, record, how)
    write_at(image, 5 * CHUNK, noise(CHUNK, 20))
    result = site.take(image)
    assert any(name in warning for warning in result.warnings)
    assert site.counters["blocks_stored"] == 1, "what the vault has is found by its ids"
    assert name in {damage.object for damage in site.vault.verify().damage}
    site.check_all()


def test_an_origin_whose_record_is_damaged_keeps_its_points(site: Site) -> None:
    three_points(site)
    (record,) = site.objects("origins")
    name = spoil(site, record, "flip")
    site.close()
    (site.host / "host.json").unlink()
    labels = [info.label for info in site.vault.points()]
    assert labels == [f"{record.name[:8]}:{number}" for number in (1, 2, 3)]
    assert {damage.object for damage in site.vault.verify().damage} == {name}
    for label in labels:
        site.copies[label] = site.copies[label.rsplit(":", 1)[1]]
        site.check(label)


def test_a_vault_put_back_without_its_newest_points_says_nothing_false(site: Site) -> None:
    """Points that are gone with their records are gone; the host begins anew and never believes its old state."""
    image = three_points(site)
    origin = site.vault.origin
    site.objects("points")[2].unlink()
    site.lose_index()
    with pytest.raises(BlockVaultError):
        site.vault.point("3")
    assert site.vault.origin != origin
    result = site.take(image)
    assert result.number == 4
    assert forge.point(site, result.number).parent is not None
    site.check(result.number)
