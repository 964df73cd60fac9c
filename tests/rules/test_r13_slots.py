"""R13 for key slots: what was altered, moved or taken from elsewhere opens nothing, and costs are bounded first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.damage import flip, swap, truncate, writable
from helpers.files import noise
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault import keys as vault_keys
from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.keys import KeySlot, open_slot, read_slot, unwrap, wrap
from blockvault.model import Secret

MASTER, VAULT_ID, CREATED = bytes(range(32)), bytes(range(16)), "2026-11-20T02:00:00.000000Z"
OTHER = Secret(key_file=b"another key file, 32 bytes long.")
WORDS = Secret(passphrase=b"correct horse")


def made(secret: Secret = KEY_FILE, number: int = 0, vault_id: bytes = VAULT_ID) -> bytes:
    return wrap(MASTER, vault_id, number, secret, label="a label", created=CREATED)


def forged(data: bytes, **changes: Any) -> bytes:
    """The slot with other fields and a check that fits them: what someone writes who knows the format."""
    slot = msgspec.structs.replace(msgspec.json.decode(data, type=KeySlot), **changes)
    return msgspec.json.encode(msgspec.structs.replace(slot, check=vault_keys._check(slot)))


def opens(data: bytes, secret: Secret = KEY_FILE, number: int = 0) -> bool:
    """Whether the slot's file gives the master key; what it gives is never another."""
    try:
        master = open_slot(read_slot(number, data), VAULT_ID, secret)
    except CorruptionError:
        return False
    assert master in (None, MASTER)
    return master is not None


def test_undisturbed_it_opens_with_its_own_secret_alone() -> None:
    assert opens(made())
    assert opens(made(WORDS), WORDS)
    assert not opens(made(), OTHER)
    assert not opens(made(), WORDS)
    assert not opens(made(WORDS), KEY_FILE)
    assert not opens(made(WORDS), Secret(passphrase=b"correct horsf"))
    assert made() != made(), "salt and nonce are drawn for each"


def test_each_altered_bit_is_told_as_damage(tmp_path: Path) -> None:
    """Or says the same as before: the name of a field that is 0 anyway."""
    data = made()
    whole, silent, told = read_slot(0, data), 0, set[str]()
    path = tmp_path / "0"
    path.write_bytes(data)
    for at in range(len(data)):
        for bit in (0, at % 8):
            flip(path, at, bit)
            try:
                assert read_slot(0, path.read_bytes()) == whole
                silent += 1
            except CorruptionError as error:
                told.add(error.message)
            flip(path, at, bit)
    assert told == {"the key slot keys/0 is damaged"}
    assert silent <= 2 * len("memory_kibpasseslanes")
    for size in range(len(data)):
        with pytest.raises(CorruptionError):
            read_slot(0, data[:size])
    for other in (b"", b"null", b"[]", b"{}", data * 2, b"\0" * len(data), b"[" * 20_000):
        with pytest.raises(CorruptionError):
            read_slot(0, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "another"},
        {"label": ""},
        {"created": "2026-11-21T02:00:00.000000Z"},
        {"created": ""},
        {"created": "", "label": ""},
        {"label": "2026", "created": CREATED[:-1]},
        {"salt": "00" * 16},
        {"salt": "00" * 15},
        {"wrapped": "00" * 60},
        {"wrapped": ""},
        {"kind": "passphrase"},
        {"kind": "recipient"},
        {"memory_kib": 64, "passes": 1, "lanes": 1, "kind": "passphrase"},
        {"slot": 1},
    ],
    ids=str,
)
def test_a_slot_that_was_altered_with_care_does_not_open(changes: dict[str, Any]) -> None:
    assert not opens(forged(made(), **changes))
    assert opens(forged(made())), "the forger's own way of writing does not matter"


def test_label_and_time_cannot_change_places_across_their_border() -> None:
    data = wrap(MASTER, VAULT_ID, 0, KEY_FILE, label="b", created=CREATED)
    assert not opens(forged(data, created=CREATED + "\0b", label=""))


@pytest.mark.parametrize(
    "costs",
    [
        {"memory_kib": 1 << 40},
        {"memory_kib": (1 << 20) + 1},
        {"memory_kib": 1 << 62},
        {"memory_kib": 7},
        {"memory_kib": 0},
        {"memory_kib": -1},
        {"memory_kib": 8, "lanes": 16},
        {"passes": 17},
        {"passes": 1 << 40},
        {"passes": 0},
        {"lanes": 17},
        {"lanes": 0},
    ],
    ids=str,
)
def test_costs_out_of_bounds_are_refused_before_they_are_spent(
    costs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = made(WORDS)
    monkeypatch.setattr(vault_keys, "_wrapping_key", lambda *_: pytest.fail("the costs were spent"))
    with pytest.raises(CorruptionError) as caught:
        read_slot(0, forged(slot, **costs))
    assert "out of bounds" in (caught.value.why or "")


def test_costs_of_the_wrong_type_are_damage() -> None:
    slot = msgspec.json.decode(made(WORDS))
    for name in ("memory_kib", "passes", "lanes", "slot"):
        for value in (1.5, "3", None, [], True, 1e300):
            with pytest.raises(CorruptionError):
                read_slot(0, msgspec.json.encode({**slot, name: value}))


def test_lower_costs_do_not_open() -> None:
    """So that a passphrase cannot be guessed cheaper: the costs are part of the key."""
    slot = made(WORDS)
    assert not opens(forged(slot, memory_kib=64), WORDS)
    assert not opens(forged(slot, passes=1), WORDS)


def test_a_bounded_number_of_slots_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    data = msgspec.json.decode(made(OTHER), type=KeySlot)
    monkeypatch.setattr(vault_keys, "_wrapping_key", lambda slot, _: tried.append(slot.slot) or bytes(32))
    many = {number: msgspec.structs.replace(data, slot=number) for number in range(1000)}
    with pytest.raises(BlockVaultError) as caught:
        unwrap(many, VAULT_ID, KEY_FILE, "default")  # type: ignore[arg-type]
    assert caught.value.kind == "key.wrong"
    assert tried == list(range(vault_keys.SLOTS_MAX))


# --- in a vault


@pytest.fixture
def keyed(make_site: Callable[..., Site]) -> Site:
    """A vault with one point and two slots: 0 of KEY_FILE, 1 of OTHER."""
    site = make_site(secret=KEY_FILE)
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    site.take(image)
    site.vault.keys.add(OTHER, now=utc_now())
    site.close()
    return site


def opened_by(site: Site, secret: Secret) -> int | str:
    """The slot that opens the vault, or the kind of the error; where it opens, all is right."""
    site.close()
    site.secret = secret
    try:
        (slot,) = (slot.slot for slot in site.vault.keys.slots() if slot.opened)
    except BlockVaultError as error:
        return error.kind
    site.sound()
    return slot


def slot_file(site: Site, number: int) -> Path:
    return site.folder / "keys" / str(number)


def test_slots_that_change_places_open_nothing(keyed: Site) -> None:
    swap(slot_file(keyed, 0), slot_file(keyed, 1))
    assert opened_by(keyed, KEY_FILE) == opened_by(keyed, OTHER) == "key.slots-damaged"
    swap(slot_file(keyed, 0), slot_file(keyed, 1))
    assert (opened_by(keyed, KEY_FILE), opened_by(keyed, OTHER)) == (0, 1)


def test_a_slot_under_another_number_is_told(keyed: Site) -> None:
    slot_file(keyed, 0).rename(slot_file(keyed, 7))
    assert opened_by(keyed, KEY_FILE) == "key.wrong"
    assert opened_by(keyed, OTHER) == 1
    assert "slot 0" in (keyed.vault.keys.slot(7).damage or "")
    slot_file(keyed, 7).write_bytes(forged(writable(slot_file(keyed, 7)).read_bytes(), slot=7))
    assert opened_by(keyed, KEY_FILE) == "key.wrong"
    assert opened_by(keyed, OTHER) == 1


def test_a_slot_of_another_vault_opens_nothing(keyed: Site, make_site: Callable[..., Site]) -> None:
    """Whoever put it there knows its secret, and would choose the master key."""
    stranger = make_site(secret=OTHER)
    stranger.close()
    writable(slot_file(keyed, 0)).write_bytes(slot_file(stranger, 0).read_bytes())
    slot_file(keyed, 1).unlink()
    assert opened_by(keyed, OTHER) == "key.wrong"


def test_a_master_key_that_someone_chose_is_refused_by_the_header(keyed: Site) -> None:
    """A whole slot made for this vault, but with another master key."""
    keyed.secret = OTHER
    vault_id = bytes.fromhex(keyed.vault.id)
    keyed.close()
    slot = wrap(bytes(32), vault_id, 0, KEY_FILE, label="first", created=CREATED)
    writable(slot_file(keyed, 0)).write_bytes(slot)
    assert opened_by(keyed, KEY_FILE) == "key.wrong"
    assert opened_by(keyed, OTHER) == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: truncate(path, 0),
        lambda path: truncate(path, 100),
        lambda path: writable(path).write_bytes(b"{" * (1 << 20)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["deleted", "empty", "cut", "huge", "a folder"],
)
def test_a_slot_that_is_lost_leaves_the_others(keyed: Site, harm: Callable[[Path], object]) -> None:
    harm(slot_file(keyed, 0))
    assert opened_by(keyed, KEY_FILE) == "key.wrong"
    assert opened_by(keyed, OTHER) == 1


def test_what_is_no_slots_name_is_passed_over(keyed: Site) -> None:
    data = slot_file(keyed, 0).read_bytes()
    for name in ("00", "01", "9999999", "-1", "0.bak", "x", "4294967296"):
        (keyed.folder / "keys" / name).write_bytes(data)
    assert (opened_by(keyed, KEY_FILE), opened_by(keyed, OTHER)) == (0, 1)
    assert [slot.slot for slot in keyed.vault.keys.slots()] == [0, 1]
