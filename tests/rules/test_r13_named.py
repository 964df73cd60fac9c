"""R13 seen from the front door: whatever is done to an object of a vault, opening, restoring or verifying names it.

`test_r13_keys.py` reads single objects. Here the vault is opened with one of them altered in each region of its bytes,
put in another's place, given another's tail, moved: never a wrong byte is restored, and what is wrong is named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.damage import writable
from helpers.site import KEY_FILE, Site
from test_r13_keys import KINDS, Thing, fill, things

from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError
from blockvault.format.envelope import FOOTER, FOOTER_BYTES, HEAD_BYTES, TAG_BYTES, Kind

Change = Callable[[bytes, bytes], bytes]


def flipped(at: Callable[[bytes], int]) -> Change:
    def change(data: bytes, _: bytes) -> bytes:
        place = at(data)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


def directory(data: bytes) -> int:
    return int(FOOTER.unpack(data[-FOOTER_BYTES:])[0])


REGIONS: dict[str, Change] = {
    "magic": flipped(lambda _: 0),
    "kind": flipped(lambda _: 4),
    "version": flipped(lambda _: 8),
    "cipher": flipped(lambda _: 10),
    "reserved": flipped(lambda _: 11),
    "epoch": flipped(lambda _: 12),
    "epoch, high": flipped(lambda _: 15),
    "salt": flipped(lambda _: 16),
    "write id": flipped(lambda _: 63),
    "first section": flipped(lambda _: HEAD_BYTES),
    "end of the last section": flipped(lambda data: directory(data) - 1),
    "directory": flipped(directory),
    "end of the directory": flipped(lambda data: len(data) - FOOTER_BYTES - TAG_BYTES - 1),
    "tag of the directory": flipped(lambda data: len(data) - FOOTER_BYTES - 1),
    "footer, offset": flipped(lambda data: len(data) - 24),
    "footer, length": flipped(lambda data: len(data) - 16),
    "footer, magic": flipped(lambda data: len(data) - 1),
}
EXCHANGES: dict[str, Change] = {
    "another of its kind": lambda _, other: other,
    "the head of another": lambda data, other: other[:HEAD_BYTES] + data[HEAD_BYTES:],
    "the salt of another": lambda data, other: data[:16] + other[16:48] + data[48:],
    "the tail of another": lambda data, other: data[: directory(data)] + other[directory(other) :],
    "the tag of another": lambda data, other: data[:-40] + other[-40:-24] + data[-24:],
    "longer by the tail of another": lambda data, other: data + other[directory(other) :],
}


@pytest.fixture(params=[None, KEY_FILE], ids=["plain", "encrypted"])
def filled(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    site = make_site(secret=request.param)
    fill(site)
    if site.secret is not None:
        site.vault.keys.rotate(now=utc_now())
        site.reopen()
        site.vault.set_item("other", comment="under the second data key")
    return site


def by_kind(site: Site) -> dict[Kind, list[Thing]]:
    everything = list(things(site))
    return {kind: [thing for thing in everything if thing.kind is kind] for kind in KINDS.values()}


def named(site: Site) -> set[str]:
    """What opening, every restore and verify tell of; a restore that goes through is right byte for byte."""
    site.close()
    told: set[str] = set()
    try:
        for label in site.copies:
            error = site.outcome(label)
            if error is not None:
                told.add(f"{error.message} {error.why or ''}")
        told.update(damage.object for damage in site.vault.verify().damage)
    except BlockVaultError as error:
        told.add(f"{error.message} {error.why or ''}")
    return told


def check(site: Site, path: Path, data: bytes, changed: bytes, names: list[str], where: str) -> None:
    writable(path).write_bytes(changed)
    try:
        told = named(site)
        assert any(name in text for name in names for text in told), f"{where}: {told or 'nothing was told'}"
    finally:
        path.write_bytes(data)


@pytest.mark.slow
def test_a_flip_in_each_region_of_each_kind_of_object_is_named(filled: Site) -> None:
    for kind, (thing, *_) in by_kind(filled).items():
        data = thing.path.read_bytes()
        for region, change in REGIONS.items():
            check(filled, thing.path, data, change(data, b""), [thing.name], f"{kind}, {region}")
    filled.reopen()
    filled.sound()


@pytest.mark.slow
def test_what_is_another_objects_is_named(filled: Site) -> None:
    """Two records of one kind are exchanged, whole and in parts."""
    for kind, found in by_kind(filled).items():
        if len(found) < 2:
            continue
        one, other = found[0], found[1]
        data, theirs = one.path.read_bytes(), other.path.read_bytes()
        for exchange, change in EXCHANGES.items():
            check(filled, one.path, data, change(data, theirs), [one.name], f"{kind}, {exchange}")
        writable(other.path).write_bytes(data)
        check(filled, one.path, data, theirs, [one.name, other.name], f"{kind}, both exchanged")
        other.path.write_bytes(theirs)
    filled.reopen()
    filled.sound()


@pytest.mark.slow
def test_an_object_under_another_name_is_named(filled: Site) -> None:
    """Moved away, or copied beside itself: under the name that it does not have, or as missing under its own."""
    for kind, found in by_kind(filled).items():
        thing = found[-1]
        elsewhere = moved_name(thing)
        thing.path.rename(elsewhere)
        try:
            told = named(filled)
            known = [thing.name, str(elsewhere.relative_to(filled.folder)), thing.name.split("/")[-1].split(".")[0]]
            assert any(name in text for name in known for text in told), f"{kind}: {told or 'nothing was told'}"
        finally:
            elsewhere.rename(thing.path)
    # A point's record under a higher number was seen: this host takes the vault for one that was rolled back (R12).
    filled.reopen()
    assert filled.vault.verify().damage == ()
    assert {info.number for info in filled.vault.points()} == {1, 2, 3}


def moved_name(thing: Thing) -> Path:
    """A name of the same form that nothing has."""
    name = thing.path.name
    if thing.kind is Kind.PACK:
        return thing.path.with_name("0" * 30 + name[30:])
    if len(name) == 32:
        return thing.path.with_name("f" * 32)
    return thing.path.with_name(f"{int(name) + 5:0{len(name)}d}")
