"""R13: every object has a key of its own, every section is bound to its place, and keys have epochs.

What an encrypted vault does not tell: `test_r13_leaks.py`; key slots: `test_r13_slots.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip, swap, truncate, writable
from helpers.files import noise, resize, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault import kernel
from blockvault.clock import to_text, utc_now
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.format import records
from blockvault.format.envelope import HEAD, HEAD_BYTES, Kind, seal_record, unseal_record
from blockvault.format.layers import ENTRY_SEGMENT
from blockvault.ids import LayerName, PackName
from blockvault.model import LayerRef, Mark, Secret
from blockvault.store.layers import LayerReader
from blockvault.store.packs import read_table

SECRETS = {"plain": None, "encrypted": KEY_FILE}
KINDS = {
    "main/packs": Kind.PACK,
    "main/layers": Kind.LAYER,
    "main/index": Kind.INDEX,
    "points": Kind.POINT,
    "marks": Kind.MARK,
    "items": Kind.ITEM,
    "config": Kind.CONFIG,
    "origins": Kind.ORIGIN,
}


@pytest.fixture(params=SECRETS.values(), ids=SECRETS.keys())
def filled(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """A vault with at least two objects of each kind: full, delta and raw blocks, two cells, marks."""
    site = make_site(secret=request.param)
    fill(site)
    return site


def fill(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1) + text(4 * CHUNK, 2))
    resize(image, (1 << 30) + 4 * CHUNK)
    write_at(image, 1 << 30, noise(2 * CHUNK, 3))
    other = site.root / "other.img"
    other.write_bytes(text(4 * CHUNK, 4))
    site.take(image)
    site.take(other)
    write_at(image, 5 * CHUNK + 9, b"an edit")
    write_at(image, (1 << 30) + 7, b"another")
    write_at(image, 2 * CHUNK, noise(CHUNK, 5))
    site.take(image)
    session = forge.session(site)
    for label in ("1", "3"):
        mark = Mark("note", utc_now())
        session.catalog.put_mark(forge.point(site, label).ref, mark)


@dataclass(frozen=True)
class Thing:
    """One object of the vault."""

    name: str
    kind: Kind
    path: Path


def things(site: Site) -> Iterator[Thing]:
    for prefix, kind in KINDS.items():
        for path in site.objects(prefix):
            yield Thing(str(path.relative_to(site.folder)), kind, path)


def read_whole(site: Site, thing: Thing) -> object:
    """Read an object as the program does, all of it; what comes back is equal only if all that it says is."""
    session = forge.session(site)
    if thing.kind is Kind.PACK:
        reader = read_table(session.store, session.keys, thing.name)
        try:
            table = reader.table
            count = table.slot_count
            # The bases follow the blocks, one for each delta.
            names = [session.shelf.reader(pack) for pack in table.base_packs]
            held = [
                (index, names[index].table, int(slot))
                for index, slot in zip(table.base_pack, table.base_slot, strict=True)
                if index < len(names)
            ]
            deltas = table.codecs == 2
            base_rows = np.where(deltas, count + np.cumsum(deltas) - 1, -1)
            plain, status = kernel.decode(
                [reader.handle, *(name.handle for name in names)],
                np.array([0] * count + [1 + index for index, _, _ in held], np.uint32),
                np.array([*range(count), *(slot for _, _, slot in held)], np.uint32),
                np.array([*table.offsets[:count], *(t.offsets[slot] for _, t, slot in held)], np.uint64),
                np.array([*table.lengths, *(t.lengths[slot] for _, t, slot in held)], np.uint32),
                np.array([*table.codecs, *(t.codecs[slot] for _, t, slot in held)], np.uint8),
                np.array([*table.ids, *(t.ids[slot] for _, t, slot in held)], np.uint8),
                base_rows=np.concatenate([base_rows, np.full(len(held), -1)]).astype(np.int32),
                wanted=np.arange(count, dtype=np.uint32),
                chunk_size=CHUNK, id_key=session.keys.id_key, threads=1, cancel=None,
            )  # fmt: skip
            if np.asarray(status).any():
                raise CorruptionError("vault.block-damaged", f"a block of {thing.name} is damaged")
            return table.ids.tobytes(), [plain.chunk(row) for row in range(count)]
        finally:
            reader.close()
    if thing.kind is Kind.LAYER:
        (ref,) = {
            ref
            for label in site.copies
            for ref in forge.point(site, label).disks[0].layers
            if ref.name.hex() == thing.path.name
        }
        reader = LayerReader(session.store, session.keys, ref, CHUNK)
        try:
            return [
                reader.segment(entry).run_digest.tobytes() for entry in reader.entries if entry["kind"] == ENTRY_SEGMENT
            ]
        finally:
            reader.close()
    return unseal_record(session.keys, thing.kind, thing.name, thing.path.read_bytes())[0]


def test_every_object_is_read(filled: Site) -> None:
    """The other side: undisturbed, each is read, and there are two of each kind to be swapped."""
    kinds = [thing.kind for thing in things(filled)]
    for thing in things(filled):
        assert read_whole(filled, thing)
    assert all(kinds.count(kind) >= 2 for kind in set(kinds) - {Kind.CONFIG, Kind.ORIGIN})
    assert set(kinds) == set(KINDS.values())
    filled.sound()


def test_two_objects_never_share_a_salt(filled: Site) -> None:
    heads = [HEAD.unpack(thing.path.read_bytes()[:HEAD_BYTES]) for thing in things(filled)]
    salts = [head[6] for head in heads]
    assert len(set(salts)) == len(salts)
    assert len({head[7] for head in heads}) == len(heads), "write ids tell writes apart"
    assert all(len(set(salt)) > 8 for salt in salts), "salts are random bytes"


def test_a_flipped_byte_anywhere_is_found(filled: Site) -> None:
    """Each byte of an object of each kind: found, or without effect, as bits of a zstd frame that decode the same."""
    session = forge.session(filled)
    for thing in {thing.kind: thing for thing in things(filled)}.values():
        whole = read_whole(filled, thing)
        data = thing.path.read_bytes()
        step = 1 if len(data) < 2000 else 97
        places = [*range(0, len(data), step), *range(len(data) - min(300, len(data)), len(data))]
        silent = 0
        for at in places:
            flip(thing.path, at, at % 8)
            session.shelf.close()
            try:
                assert read_whole(filled, thing) == whole
                silent += 1
            except BlockVaultError:
                pass
            flip(thing.path, at, at % 8)
        allowed = len(places) // 50 if thing.kind is Kind.PACK and not session.keys.encrypted else 0
        assert silent <= allowed, thing


def test_a_length_that_is_not_its_own_is_found(filled: Site) -> None:
    for thing in list(things(filled)):
        data = thing.path.read_bytes()
        for size in {0, 1, 63, 64, 79, 80, 103, len(data) // 2, len(data) - 24, len(data) - 1}:
            truncate(thing.path, size)
            with pytest.raises(BlockVaultError):
                read_whole(filled, thing)
            writable(thing.path).write_bytes(data)
        for more in (b"\0", b"x" * 24, data[-24:], data):
            thing.path.write_bytes(data + more)
            with pytest.raises(BlockVaultError):
                read_whole(filled, thing)
        thing.path.write_bytes(data)
        read_whole(filled, thing)


def test_objects_that_are_swapped_are_found(filled: Site) -> None:
    """An object under another's name does not unseal, of its own kind or of any other."""
    everything = list(things(filled))
    by_kind = {kind: [thing for thing in everything if thing.kind is kind] for kind in KINDS.values()}
    pairs = [(same[0], same[1]) for same in by_kind.values() if len(same) > 1]
    pairs += [(left[0], right[-1]) for left in by_kind.values() for right in by_kind.values() if left is not right]
    for left, right in pairs:
        swap(left.path, right.path)
        for thing in (left, right):
            with pytest.raises(BlockVaultError):
                read_whole(filled, thing)
        swap(left.path, right.path)


def test_a_record_does_not_pass_for_one_of_another_kind_name_or_vault(
    filled: Site, make_site: Callable[..., Site]
) -> None:
    keys = forge.session(filled).keys
    data, tag = seal_record(keys, Kind.POINT, "points/x/1", b"body")
    assert unseal_record(keys, Kind.POINT, "points/x/1", data) == (b"body", tag)
    stranger = forge.session(make_site(secret=filled.secret)).keys
    for kind, name, other in (
        (Kind.MARK, "points/x/1", keys),
        (Kind.POINT, "points/x/2", keys),
        (Kind.POINT, "points/x/1", stranger),
        (Kind.POINT, "points/x/1", replace(keys, vault_id=stranger.vault_id)),
    ):
        with pytest.raises(CorruptionError):
            unseal_record(other, kind, name, data)


def test_sections_that_are_swapped_are_found(filled: Site) -> None:
    """Two blocks of a pack, two segments of a layer: each is bound to its number."""
    session = forge.session(filled)
    pack = forge.packs(filled)[0]
    table = forge.table(filled, pack)
    raw = np.flatnonzero(table.lengths == table.lengths[0])[:2]
    path = forge.pack_path(filled, pack)
    data = path.read_bytes()
    (a, b), length = (int(table.offsets[slot]) for slot in raw), int(table.lengths[0])
    writable(path).write_bytes(
        data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]
    )
    session.shelf.close()
    with pytest.raises(CorruptionError):
        read_whole(filled, Thing(str(path.relative_to(filled.folder)), Kind.PACK, path))

    (layer,) = forge.point(filled, 1).disks[0].layers
    reader = LayerReader(session.store, session.keys, layer, CHUNK)
    first, second = (entry for entry in reader.entries if entry["kind"] == ENTRY_SEGMENT)
    moved = second.copy()
    moved["cell"] = first["cell"]
    with pytest.raises(CorruptionError):
        reader.segment(moved)
    reader.close()


def test_a_layer_of_another_point_does_not_pass(filled: Site) -> None:
    """A point's record names the tag of its layer's root: an older layer put under the name is not it."""
    session = forge.session(filled)
    old, new = (forge.point(filled, label).disks[0].layers[0] for label in ("1", "3"))
    with pytest.raises(CorruptionError):
        LayerReader(session.store, session.keys, LayerRef(new.name, old.tag, new.piece_count), CHUNK)
    assert isinstance(old.name, bytes)
    assert LayerName(old.name) != new.name


def test_equal_disks_of_two_vaults_look_different(make_site: Callable[..., Site]) -> None:
    """No key is shared: ids, seeds and stored bytes of one vault say nothing of another's."""
    sites = [make_site(secret=secret) for secret in (KEY_FILE, KEY_FILE, None, None)]
    seen = []
    for site in sites:
        image = site.root / "disk.img"
        image.write_bytes(noise(2 * CHUNK, 1))
        site.take(image)
        keys = forge.session(site).keys
        seen.append((keys.id_key, keys.run_key, keys.digest_seed, keys.data_key(0), keys.vault_id))
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(sites)


def test_equal_blocks_are_stored_differently(make_site: Callable[..., Site]) -> None:
    """The key is the object's own and the nonce the slot: equal bytes never look equal."""
    site = make_site(secret=KEY_FILE)
    keys = forge.session(site).keys
    one, _ = seal_record(keys, Kind.POINT, "points/x/1", b"body")
    two, _ = seal_record(keys, Kind.POINT, "points/x/1", b"body")
    assert one[HEAD_BYTES:-24] != two[HEAD_BYTES:-24]


def test_data_keys_have_epochs_and_the_id_key_has_none(make_site: Callable[..., Site]) -> None:
    """After the second epoch began, new objects use its key; old ones are read, and blocks are found again."""
    site = make_site(secret=KEY_FILE)
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    site.take(image)
    session = forge.session(site)
    config = records.ConfigBody(name="default", min_reader=1, min_writer=1, epochs=2, created=to_text(utc_now()))
    data, _ = seal_record(session.keys, Kind.CONFIG, "config/000001", records.encode(config))
    session.store.put_new("config/000001", data)
    first = session.keys
    site.reopen()
    second = forge.session(site).keys
    assert (second.id_key, second.run_key, second.digest_seed) == (first.id_key, first.run_key, first.digest_seed)
    assert second.data_key(0) == first.data_key(0) != second.data_key(1)
    assert (first.epoch, second.epoch) == (0, 1)
    copy = site.root / "copy.img"
    copy.write_bytes(image.read_bytes() + noise(CHUNK, 2))
    site.take(copy)
    assert (site.counters["blocks_known"], site.counters["blocks_stored"]) == (4, 1)
    epochs = {
        thing.name: HEAD.unpack(thing.path.read_bytes()[:HEAD_BYTES])[5]
        for thing in things(site)
        if thing.kind is Kind.PACK
    }
    assert sorted(epochs.values()) == [0, 1]
    site.sound()


def test_a_secret_of_another_vault_does_not_open(make_site: Callable[..., Site]) -> None:
    site = make_site(secret=KEY_FILE)
    site.close()
    site.secret = Secret(key_file=bytes(32))
    with pytest.raises(BlockVaultError) as caught:
        site.reopen()
    assert caught.value.kind == "key.wrong"
    site.secret = None
    with pytest.raises(BlockVaultError) as caught:
        site.reopen()
    assert caught.value.kind == "key.missing"
    site.secret = KEY_FILE
    site.reopen()
    assert PackName(bytes(16)) not in forge.packs(site)
