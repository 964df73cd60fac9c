"""The next generation of a pack: slots keep numbers and ids, what is kept decodes as before, what is not is empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import forge
from helpers.files import noise, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.engine.blocks import STATUS_UNREADABLE, fetch
from blockvault.errors import CorruptionError
from blockvault.ids import PackName
from blockvault.model import Codec
from blockvault.store.generations import FullBlock, write_generation
from blockvault.store.packs import read_table

CHUNKS = 24


@pytest.fixture(params=["plain", "encrypted"])
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Point 1 with full blocks, point 2 with one delta."""
    made = make_site(secret=KEY_FILE if request.param == "encrypted" else None)
    image = made.root / "disk.img"
    image.write_bytes(text(CHUNKS * CHUNK, 3))
    made.take(image)
    write_at(image, 5 * CHUNK + 100, b"edited")
    write_at(image, 7 * CHUNK, noise(CHUNK, 7))
    made.take(image)
    return made


def chunks_of(site: Site, pack: PackName, slots: list[int]) -> tuple[list[bytes], list[int]]:
    opened = forge.session(site)
    opened.shelf.newest_reader(pack)
    index = np.zeros(len(slots), dtype=np.int64)
    got = fetch(opened.shelf, opened.keys, [pack], index, np.array(slots), CHUNK)
    return [got.plain.chunk(row) for row in range(len(slots))], got.status.tolist()


def rewrite(site: Site, pack: PackName, keep: list[int], **options: Any) -> str:
    opened = forge.session(site)
    reader = opened.shelf.newest_reader(pack)
    mask = np.zeros(reader.table.slot_count, dtype=np.bool_)
    mask[keep] = True
    return write_generation(opened.store, opened.keys, reader, keep=mask, **options)


def test_what_is_kept_decodes_and_what_is_not_is_empty(site: Site) -> None:
    first = forge.packs(site)[0]
    before, _ = chunks_of(site, first, list(range(CHUNKS)))
    keep = [0, 1, 2, 9, 23]
    name = rewrite(site, first, keep)
    after, status = chunks_of(site, first, list(range(CHUNKS)))
    for slot in range(CHUNKS):
        if slot in keep:
            assert status[slot] == 0
            assert after[slot] == before[slot]
        else:
            assert status[slot] == STATUS_UNREADABLE
    opened = forge.session(site)
    table = read_table(opened.store, opened.keys, name).table
    assert table.generation == 1
    assert int(np.count_nonzero(table.codecs == Codec.EMPTY)) == CHUNKS - len(keep)


def test_a_delta_keeps_its_base(site: Site) -> None:
    second = forge.packs(site)[1]
    opened = forge.session(site)
    codecs = opened.shelf.reader(second).table.codecs
    (delta,) = np.flatnonzero(codecs == Codec.DELTA).tolist()
    before, _ = chunks_of(site, second, [delta])
    rewrite(site, second, [delta])
    after, status = chunks_of(site, second, [delta])
    assert (after, status) == (before, [0])
    full = next(slot for slot in range(len(codecs)) if slot != delta)
    name = rewrite(site, second, [])
    assert read_table(opened.store, opened.keys, name).table.base_packs == ()
    assert chunks_of(site, second, [full])[1] == [STATUS_UNREADABLE]


def test_a_slot_can_be_given_a_full_block(site: Site) -> None:
    second = forge.packs(site)[1]
    opened = forge.session(site)
    codecs = opened.shelf.reader(second).table.codecs
    (delta,) = np.flatnonzero(codecs == Codec.DELTA).tolist()
    (plain,), _ = chunks_of(site, second, [delta])
    rewrite(site, second, list(range(len(codecs))), replace={delta: FullBlock(Codec.RAW, plain)})
    after, status = chunks_of(site, second, list(range(len(codecs))))
    assert after[delta] == plain
    assert not any(status)
    assert opened.shelf.newest_reader(second).table.codecs[delta] == Codec.RAW
    site.check(1)
    site.check(2)


def test_generations_count_up(site: Site) -> None:
    first = forge.packs(site)[0]
    everything = list(range(CHUNKS))
    names = [rewrite(site, first, everything) for _ in range(3)]
    assert [name.rsplit(".", 1)[1].split("-")[0] for name in names] == ["1", "2", "3"]
    assert forge.session(site).shelf.newest_reader(first).name == names[-1]
    site.check(1)


def test_a_block_that_does_not_unseal_is_not_copied(make_site: Callable[..., Site]) -> None:
    site = make_site(secret=KEY_FILE)
    image = site.root / "disk.img"
    image.write_bytes(text(CHUNKS * CHUNK, 3))
    site.take(image)
    (pack,) = forge.packs(site)
    (path,) = site.objects("main/packs")
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptionError):
        rewrite(site, pack, [0])
    assert site.objects("main/packs") == [path]
    rewrite(site, pack, [1, 2])
