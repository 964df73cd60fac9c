"""Which item a command works on, and that each disk's bytes go under that disk's name, however the disks were named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.files import noise
from helpers.site import CHUNK, Site

from blockvault.engine.items import Items
from blockvault.errors import InvalidInputError

if TYPE_CHECKING:
    from datetime import datetime

    from blockvault.model import Item


@pytest.fixture
def disks(site: Site) -> list[Path]:
    """Two images of equal size that differ in every chunk."""
    found = [site.root / "a.img", site.root / "b.img"]
    for seed, path in enumerate(found):
        path.write_bytes(noise(4 * CHUNK, seed))
    return found


def test_disks_named_in_another_order_keep_their_bytes(site: Site, disks: list[Path]) -> None:
    site.take(*disks)
    site.take(*reversed(disks))
    site.take(*reversed(disks), name="other")
    site.take(*disks, name="other")
    assert sorted(item.name for item in site.vault.items()) == ["a", "other"]
    site.sound()


def test_another_name_makes_another_item_of_the_same_disks(site: Site, disks: list[Path]) -> None:
    assert site.take(*disks).item == "a"
    assert site.take(*disks, name="other").item == "other"
    assert site.take(*disks, name="a").item == "a"
    site.sound()


class Meanwhile:
    """Another process that registers the disks between this one's search for them and its registration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, targets: list[Path], name: str | None = None) -> None:
        search = Items.find

        def find(items: Items, *arguments: Any) -> tuple[Item, bool, str | None]:
            monkeypatch.setattr(Items, "find", search)
            found = search(items, *arguments)
            moment: datetime = arguments[2]
            item, _, _ = search(items, [str(path) for path in targets], name, moment)
            items.register(item, name)
            items._session.catalog._items.clear()  # the other's memory is not ours
            return found

        monkeypatch.setattr(Items, "find", find)


def test_disks_that_another_process_registers_in_another_order(
    site: Site, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Meanwhile(monkeypatch, list(reversed(disks)))
    site.take(*disks)
    (item,) = site.vault.items()
    assert [Path(disk.path) for disk in item.disks] == list(reversed(disks))
    site.sound()


def test_a_name_that_another_process_takes_for_other_disks(
    site: Site, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was asked for is had or refused; one that was only proposed gives way."""
    Meanwhile(monkeypatch, disks[1:], "web01")
    with pytest.raises(InvalidInputError) as caught:
        site.take(disks[0], name="web01")
    assert caught.value.kind == "item.other-disks"
    assert [item.name for item in site.vault.items()] == ["web01"]

    copy = site.root / "web01.img"
    copy.write_bytes(disks[0].read_bytes())
    assert site.take(copy).item == "web01-2"
