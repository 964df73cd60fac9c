"""R3: a damaged base is never used as a prefix, every delta decodes, and a layer lists every base that it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip
from helpers.files import noise, text, write_at
from helpers.site import CHUNK, Site

from blockvault.engine.encoding import DELTA_DEPTH
from blockvault.errors import CorruptionError
from blockvault.format.layers import Segment
from blockvault.ids import PackName
from blockvault.model import Codec

CHUNKS = 8
EDITED = 3


def edited(site: Site, content: Callable[[int, int], bytes]) -> Path:
    """Point 1 holds full blocks, point 2 a delta of chunk 3 against the one in point 1."""
    image = site.root / "disk.img"
    image.write_bytes(content(CHUNKS * CHUNK, 1))
    site.take(image)
    write_at(image, EDITED * CHUNK + 100, b"edited once")
    site.take(image)
    assert forge.codecs(site, 2, [EDITED]) == [Codec.DELTA]
    return image


def spoil_base(site: Site) -> PackName:
    """Flip a bit in the block of point 1 that the delta was made against; the rest of its pack stays good."""
    ((pack, slot),) = forge.places(site, 1, [EDITED])
    offset = int(forge.table(site, pack).offsets[slot])
    path = forge.pack_path(site, pack)
    flip(path, offset + 50)
    site.reopen()
    return pack


@pytest.mark.parametrize("content", [noise, text], ids=["raw", "zstd"])
def test_a_delta_of_a_damaged_base_does_not_restore(site: Site, content: Callable[[int, int], bytes]) -> None:
    edited(site, content)
    pack = spoil_base(site)
    for label in ("1", "2"):
        error = site.outcome(label)
        assert isinstance(error, CorruptionError)
        assert ("the block that it is a delta of" in (error.why or "")) == (label == "2")
        assert f"byte {EDITED * CHUNK} of the disk" in (error.why or "")
    report = site.vault.verify()
    assert {(touch.label, touch.offset) for found in report.damage for touch in found.touches} == {
        ("1", EDITED * CHUNK),
        ("2", EDITED * CHUNK),
    }
    assert any(pack.hex() in found.object for found in report.damage)


@pytest.mark.parametrize("change", [b"edited twice", bytes(12_000) + b"all but empty"], ids=["edit", "rewrite"])
@pytest.mark.parametrize("content", [noise, text], ids=["raw", "zstd"])
def test_a_damaged_base_is_no_prefix(site: Site, content: Callable[[int, int], bytes], change: bytes) -> None:
    """The chunk changes again: its base no longer decodes to its id, so it is stored full, and that is told."""
    image = edited(site, content)
    spoil_base(site)
    write_at(image, EDITED * CHUNK + 200, change)
    result = site.take(image)
    assert forge.codecs(site, result.number, [EDITED])[0] is not Codec.DELTA
    assert any("damaged" in warning for warning in result.warnings)
    assert site.outcome(result.number) is None


def test_an_edit_is_a_delta_of_what_was_there_until_that_lies_too_deep(site: Site) -> None:
    """A restore decodes few blocks for a chunk, however often it changes: then it rests on the full block again."""
    image = edited(site, text)
    for i in range(2 * DELTA_DEPTH + 1):
        write_at(image, EDITED * CHUNK + 300 * i, b"edited again")
        site.take(image)
    depths = []
    for label in sorted(site.copies, key=int):
        ((pack, slot),) = forge.places(site, int(label), [EDITED])
        table = forge.table(site, pack)
        depths.append(int(table.depths[slot]))
        if table.codecs[slot] == Codec.DELTA:
            base = forge.table(site, table.base_packs[table.base_pack[slot]])
            assert base.depths[table.base_slot[slot]] == table.depths[slot] - 1
    expected = [0, *(1 + i % DELTA_DEPTH for i in range(2 * DELTA_DEPTH + 2))]
    assert depths == expected
    site.sound()
    for label in list(site.copies):
        site.check(label, source="vault")


def test_a_delta_with_another_base_does_not_restore(site: Site) -> None:
    """The table of a writer with a bug: the delta's frame decodes against the wrong block, the id tells."""
    edited(site, noise)
    ((pack, slot),) = forge.places(site, 2, [EDITED])
    wrong = (int(forge.table(site, pack).base_slot[slot]) + 1) % CHUNKS
    forge.write_generation(site, pack, base_slots={slot: wrong})
    site.reopen()
    assert isinstance(site.outcome("2"), CorruptionError)
    assert site.outcome("1") is None


def needed_bases(site: Site, segment: Segment) -> set[tuple[int, PackName, int]]:
    """(ordinal of the slot, pack, slot) of all that every live delta rests on, taken from the packs' tables."""
    run, slots, _, live = segment.slots()
    needed = set()
    for ordinal in np.flatnonzero(live):
        pack, slot = segment.packs[segment.run_pack[run[ordinal]]], int(slots[ordinal])
        while (table := forge.table(site, pack)).codecs[slot] == Codec.DELTA:
            pack, slot = table.base_packs[table.base_pack[slot]], int(table.base_slot[slot])
            needed.add((int(ordinal), pack, slot))
    return needed


def listed_bases(segment: Segment) -> set[tuple[int, PackName, int]]:
    return {
        (int(ordinal), segment.packs[pack], int(slot))
        for ordinal, pack, slot in zip(segment.base_ordinal, segment.base_pack, segment.base_slot, strict=True)
    }


def test_a_layer_lists_every_base_that_its_blocks_need(site: Site) -> None:
    """Through copies of a delta within a batch, dedup onto other points, and merges that shadow some deltas."""
    image = site.root / "disk.img"
    image.write_bytes(text(CHUNK, 1) * 2 + text((CHUNKS - 2) * CHUNK, 2))
    site.take(image)
    rng = np.random.default_rng(5)
    for i in range(12):
        if i == 0:  # two equal chunks change alike: the second is a copy of the first one's delta
            for chunk in (0, 1):
                write_at(image, chunk * CHUNK + 64, b"alike")
        else:
            for chunk in rng.choice(CHUNKS, 2, replace=False).tolist():
                write_at(image, chunk * CHUNK + int(rng.integers(CHUNK - 16)), rng.bytes(12))
        if i % 4 == 3:
            write_at(image, int(rng.integers(CHUNKS)) * CHUNK, noise(CHUNK, i))
        site.take(image)
    deltas = 0
    for info in site.vault.points():
        (disk,) = forge.point(site, info.label).disks
        for layer in range(len(disk.layers)):
            for segment in forge.segments(site, disk, layer).values():
                needed = needed_bases(site, segment)
                deltas += len(needed)
                assert listed_bases(segment) == needed
    assert deltas > 20
    site.sound()
