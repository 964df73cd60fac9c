"""R2: a dedup hit counts only after the full id was read equal in the pack's table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.format.index import prefixes_of
from blockvault.ids import PackName, random_name

CHUNKS = 10


def known_image(site: Site) -> Path:
    """An image whose every chunk is in the vault; returns another of the same bytes that no point knows."""
    image = site.root / "first.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    site.take(image)
    return Path(shutil.copyfile(image, site.root / "second.img"))


def tell_index(site: Site, pack: PackName, slots: np.ndarray, prefixes: np.ndarray) -> None:
    index = forge.session(site).index
    assert index is not None
    index.add_blocks([pack], prefixes, np.zeros(len(slots), np.uint32), slots.astype(np.uint32), None)


def wrong_slot(site: Site, pack: PackName, prefixes: np.ndarray) -> None:
    tell_index(site, pack, np.roll(np.arange(CHUNKS), 1), prefixes)


def slot_beyond_the_pack(site: Site, pack: PackName, prefixes: np.ndarray) -> None:
    tell_index(site, pack, np.arange(CHUNKS) + CHUNKS, prefixes)


def missing_pack(site: Site, pack: PackName, prefixes: np.ndarray) -> None:
    tell_index(site, PackName(random_name()), np.arange(CHUNKS), prefixes)


def other_pack(site: Site, pack: PackName, prefixes: np.ndarray) -> None:
    other = site.root / "other.img"
    other.write_bytes(noise(CHUNKS * CHUNK, 2))
    site.take(other)
    (name,) = set(forge.packs(site)) - {pack}
    tell_index(site, name, np.arange(CHUNKS), prefixes)


def test_what_the_vault_has_is_only_referred_to(site: Site) -> None:
    """The other side of the rule, without which the tests below would show nothing."""
    second = known_image(site)
    site.take(second)
    assert site.counters["blocks_known"] == CHUNKS
    assert site.counters.get("blocks_stored", 0) == 0
    assert len(forge.packs(site)) == 1
    site.sound()


@pytest.mark.parametrize("lie", [wrong_slot, slot_beyond_the_pack, missing_pack, other_pack])
def test_an_index_that_lies_costs_space_and_no_byte(
    site: Site, lie: Callable[[Site, PackName, np.ndarray], None]
) -> None:
    second = known_image(site)
    (pack,) = forge.packs(site)
    lie(site, pack, prefixes_of(forge.table(site, pack).ids))

    site.take(second)

    assert site.counters["blocks_known"] == 0
    assert site.counters["blocks_stored"] == CHUNKS
    site.sound()


def test_an_emptied_slot_is_no_hit(site: Site) -> None:
    """A slot keeps its id when reclaim empties it: the id alone does not say that the block is there."""
    second = known_image(site)
    (pack,) = forge.packs(site)
    forge.write_generation(site, pack, empty=[3])
    site.reopen()
    site.take(second)
    assert site.counters["blocks_known"] == CHUNKS - 1
    assert site.counters["blocks_stored"] == 1
    site.check(site.vault.points()[-1].label)


def test_equal_chunks_of_one_image_are_stored_once(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNK, 1) * CHUNKS)
    site.take(image)
    assert site.counters["blocks_stored"] == 1
    write_at(image, 2 * CHUNK, noise(CHUNK, 2) * 3)
    site.take(image)
    assert site.counters["blocks_stored"] == 1
    site.sound()
