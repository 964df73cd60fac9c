"""Key slots are added, replaced and removed, epochs begun, the paper key used; beside other processes too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from helpers import forge
from helpers.companion import Companion
from helpers.damage import flip, writable
from helpers.files import listing, noise, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault import keys as vault_keys
from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError, ConflictError, InvalidInputError
from blockvault.failpoints import Hook
from blockvault.format.envelope import HEAD, HEAD_BYTES
from blockvault.format.paper import ALPHABET, paper_lines, paper_text, read_paper
from blockvault.model import Secret
from blockvault.vault import Vault

OTHER = Secret(key_file=b"another key file, 32 bytes long.")
THIRD = Secret(key_file=b"and a third key file of 32 bytes")
WORDS = Secret(passphrase=b"correct horse")


@pytest.fixture
def keyed(make_site: Callable[..., Site]) -> Site:
    """An encrypted vault with one point."""
    site = make_site(secret=KEY_FILE)
    image = site.root / "disk.img"
    image.write_bytes(noise(6 * CHUNK, 1))
    site.take(image)
    return site


def opens(site: Site, secret: Secret | None) -> int | None:
    """The slot that opens the vault with this secret; None for a paper key. Raises as `Vault.open`."""
    site.close()
    site.secret = secret
    slots = [slot.slot for slot in site.vault.keys.slots() if slot.opened]
    return slots[0] if slots else None


def refusal(site: Site, secret: Secret | None) -> str:
    with pytest.raises(BlockVaultError) as caught:
        opens(site, secret)
    return caught.value.kind


def pack_epochs(site: Site) -> list[int]:
    """The epochs of all packs, in order of time."""
    return [HEAD.unpack(path.read_bytes()[:HEAD_BYTES])[5] for path in sorted(site.objects("main/packs"), key=by_name)]


def by_name(path: Path) -> str:
    return path.name


# --- slots


def test_a_vault_has_one_slot_that_opened_it(keyed: Site) -> None:
    (slot,) = keyed.vault.keys.slots()
    assert (slot.slot, slot.kind, slot.label, slot.passes, slot.opened) == (0, "key-file", "first", 0, True)
    assert slot.created is not None
    assert abs((utc_now() - slot.created).total_seconds()) < 60


def test_a_further_secret_opens_and_all_is_there(keyed: Site) -> None:
    made = keyed.vault.keys.add(WORDS, label="on paper in the safe", now=utc_now())
    assert (made.slot, made.kind, made.memory_kib, made.passes, made.lanes) == (1, "passphrase", 64 << 10, 3, 4)
    assert made.label == "on paper in the safe"
    assert opens(keyed, WORDS) == 1
    keyed.sound()
    assert opens(keyed, KEY_FILE) == 0
    keyed.sound()


def test_a_removed_slot_opens_no_more(keyed: Site) -> None:
    keyed.vault.keys.add(OTHER, now=utc_now())
    before = listing(keyed.folder / "keys")
    assert keyed.vault.keys.remove(0, dry_run=True).slot == 0
    assert listing(keyed.folder / "keys") == before
    assert keyed.vault.keys.remove(0).label == "first"
    assert refusal(keyed, KEY_FILE) == "key.wrong"
    assert opens(keyed, OTHER) == 1
    keyed.sound()


def test_a_slot_is_replaced_by_one_of_another_secret(keyed: Site, hook: Callable[[Hook | None], None]) -> None:
    steps: list[tuple[str, int]] = []
    hook(lambda name: steps.append((name, len(keyed.vault.keys.slots()))) if name.startswith("key.") else None)
    made = keyed.vault.keys.replace(0, OTHER, now=utc_now())
    hook(None)
    assert steps == [("key.adding", 1), ("key.added", 2), ("key.proven", 2), ("key.removing", 2), ("key.removed", 1)]
    assert (made.slot, made.label) == (1, "first")
    assert refusal(keyed, KEY_FILE) == "key.wrong"
    assert opens(keyed, OTHER) == 1
    keyed.vault.keys.replace(1, THIRD, label="third", now=utc_now())
    assert opens(keyed, THIRD) == 2
    assert keyed.vault.keys.slot(2).label == "third"


@pytest.mark.parametrize("number", [0, 1])
def test_the_last_slot_stays_and_one_that_is_damaged_does_not_count(keyed: Site, number: int) -> None:
    keys = keyed.vault.keys
    with pytest.raises(InvalidInputError) as caught:
        keys.remove(0)
    assert caught.value.kind == "key.last-slot"
    keys.add(OTHER, now=utc_now())
    flip(keyed.folder / "keys" / str(1 - number), 40)
    before = listing(keyed.folder / "keys")
    with pytest.raises(InvalidInputError) as caught:
        keys.remove(number)
    assert caught.value.kind == "key.last-slot"
    assert listing(keyed.folder / "keys") == before
    assert keys.remove(1 - number).damage  # what opens nothing may go
    assert opens(keyed, (KEY_FILE, OTHER)[number]) == number


def test_a_slot_of_a_later_kind_is_passed_over_and_does_not_count(keyed: Site) -> None:
    later = {"slot": 1, "kind": "recipient", "salt": "", "wrapped": "00", "recipient": "someone"}
    (keyed.folder / "keys" / "1").write_bytes(msgspec.json.encode(later))
    keys = keyed.vault.keys
    assert [(slot.kind, slot.damage) for slot in keys.slots()] == [("key-file", None), ("recipient", None)]
    with pytest.raises(InvalidInputError):
        keys.remove(0)
    assert opens(keyed, KEY_FILE) == 0
    assert refusal(keyed, OTHER) == "key.wrong"


def test_what_cannot_be_a_key_is_refused_before_anything_is_made(keyed: Site, tmp_path: Path) -> None:
    before = listing(keyed.folder)
    for secret, label, kind in (
        (Secret(passphrase=b""), "", "key.empty"),
        (Secret(key_file=bytes(31)), "", "key.file-short"),
        (Secret(), "", "key.none-given"),
        (Secret(master_key=bytes(32)), "", "key.none-given"),
        (OTHER, "x" * 201, "key.bad-label"),
        (OTHER, "two\nlines", "key.bad-label"),
        (OTHER, "\udcff", "key.bad-label"),
    ):
        for change in (
            lambda secret=secret, label=label: keyed.vault.keys.add(secret, label=label, now=utc_now()),
            lambda secret=secret, label=label: keyed.vault.keys.replace(0, secret, label=label, now=utc_now()),
        ):
            with pytest.raises(InvalidInputError) as caught:
                change()
            assert caught.value.kind == kind
    assert listing(keyed.folder) == before
    for secret in (Secret(passphrase=b""), Secret(key_file=b"short")):
        with pytest.raises(InvalidInputError):
            Vault.create("short", state_dir=str(tmp_path / "none"), secret=secret)
    assert not (tmp_path / "none").exists()


def test_there_are_at_most_as_many_slots_as_are_tried(keyed: Site) -> None:
    keys = keyed.vault.keys
    for _ in range(vault_keys.SLOTS_MAX - 1):
        keys.add(OTHER, now=utc_now())
    with pytest.raises(InvalidInputError) as caught:
        keys.add(THIRD, now=utc_now())
    assert caught.value.kind == "key.slots-full"
    keys.remove(7)
    assert keys.add(THIRD, now=utc_now()).slot == vault_keys.SLOTS_MAX
    assert opens(keyed, THIRD) == vault_keys.SLOTS_MAX


def test_no_such_slot(keyed: Site) -> None:
    for change in (
        lambda: keyed.vault.keys.remove(5),
        lambda: keyed.vault.keys.replace(5, OTHER, now=utc_now()),
        lambda: keyed.vault.keys.slot(5),
    ):
        with pytest.raises(BlockVaultError) as caught:
            change()
        assert caught.value.kind == "key.slot-not-found"
    assert len(keyed.vault.keys.slots()) == 1


def test_a_vault_without_encryption_has_no_keys_to_change(site: Site) -> None:
    keys, before = site.vault.keys, listing(site.folder)
    for change in (
        keys.slots,
        lambda: keys.slot(0),
        lambda: keys.add(OTHER, now=utc_now()),
        lambda: keys.replace(0, OTHER, now=utc_now()),
        lambda: keys.remove(0),
        lambda: keys.rotate(now=utc_now()),
        lambda: keys.export(now=utc_now()),
        keys.export_lines,
    ):
        with pytest.raises(InvalidInputError) as caught:
            change()
        assert caught.value.kind == "key.not-encrypted"
    assert listing(site.folder) == before


# --- the paper key


def test_the_paper_key_opens_without_any_slot(keyed: Site) -> None:
    sheet = keyed.vault.keys.export(now=utc_now())
    assert keyed.vault.id in sheet
    assert "default" in sheet
    keyed.close()
    shutil.rmtree(keyed.folder / "keys")
    assert refusal(keyed, KEY_FILE) == "key.slots-damaged"
    assert opens(keyed, Secret(master_key=read_paper(sheet))) is None
    assert keyed.vault.keys.slots() == []
    made = keyed.vault.keys.add(OTHER, label="after the loss", now=utc_now())
    assert made.slot == 0
    assert opens(keyed, OTHER) == 0
    keyed.sound()


def test_the_paper_key_opens_where_every_slot_is_damaged(keyed: Site) -> None:
    sheet = "\n".join(f"{n} {line}" for n, line in enumerate(keyed.vault.keys.export_lines(), 1))
    keyed.close()
    writable(keyed.folder / "keys" / "0").write_bytes(b"\0" * 300)
    assert refusal(keyed, KEY_FILE) == "key.slots-damaged"
    opens(keyed, Secret(master_key=read_paper(sheet)))
    assert [slot.damage is None for slot in keyed.vault.keys.slots()] == [False]
    assert keyed.vault.keys.add(OTHER, now=utc_now()).slot == 1
    keyed.vault.keys.remove(0)
    assert opens(keyed, OTHER) == 1


def test_the_paper_key_of_another_vault_does_not_open(keyed: Site, make_site: Callable[..., Site]) -> None:
    stranger = make_site(secret=KEY_FILE)
    key = read_paper(stranger.vault.keys.export(now=utc_now()))
    assert refusal(keyed, Secret(master_key=key)) == "key.wrong"


def test_a_paper_key_is_read_as_people_type() -> None:
    master = bytes(range(100, 132))
    sheet = paper_text(master, vault_name="safe", vault_id="ab" * 16, made="2026-11-28")
    assert read_paper(sheet) == master
    lines = paper_lines(master)
    assert all(set(line) <= set(ALPHABET + "-") and len(line) == 19 for line in lines)
    assert read_paper("\r\n".join(f" {n}.  {line.lower()} " for n, line in enumerate(lines, 1))) == master
    assert read_paper("\n".join(f"{n}) {line.replace('-', '  ')}" for n, line in enumerate(lines, 1))) == master
    assert read_paper("\n".join(f"{n}: {line}" for n, line in reversed(list(enumerate(lines, 1))))) == master
    confused = [line.replace("1", "l").replace("0", "O") for line in lines]
    assert read_paper("\n".join(f"{n} {line}" for n, line in enumerate(confused, 1))) == master


def test_a_mistake_in_a_paper_key_is_told_with_its_line() -> None:
    """Every sign of every line as another sign, left out or doubled; neighbours and lines changed round."""
    lines = paper_lines(bytes(range(32)))

    def mistake(number: int, line: str) -> str:
        typed = [*lines[: number - 1], line, *lines[number:]]
        with pytest.raises(InvalidInputError) as caught:
            read_paper("\n".join(f"{n} {text}" for n, text in enumerate(typed, 1)))
        assert f"line {number} " in caught.value.message
        return caught.value.kind

    for number, line in enumerate(lines, 1):
        for at, sign in enumerate(line):
            if sign == "-":
                continue
            other = ALPHABET[(ALPHABET.index(sign) + 1 + at) % 32]
            assert mistake(number, line[:at] + other + line[at + 1 :]) == "key.paper-typo"
            assert mistake(number, line[:at] + line[at + 1 :]) == "key.paper-typo"
            assert mistake(number, line[:at] + sign + line[at:]) == "key.paper-typo"
            assert mistake(number, line[:at] + "U" + line[at + 1 :]) == "key.paper-typo"
            if at and line[at - 1] not in ("-", sign):
                assert mistake(number, line[: at - 1] + sign + line[at - 1] + line[at + 1 :]) == "key.paper-typo"
    assert mistake(2, lines[0]) == "key.paper-typo"
    for missing in range(4):
        with pytest.raises(InvalidInputError) as caught:
            read_paper("\n".join(f"{n} {line}" for n, line in enumerate(lines, 1) if n != missing + 1))
        assert caught.value.kind == "key.paper-incomplete"
        assert f"line {missing + 1}" in caught.value.message
    for nothing in ("", "BlockVault paper key\n", "\0\xff"):
        with pytest.raises(InvalidInputError):
            read_paper(nothing)
    twice = paper_lines(bytes(32))
    with pytest.raises(InvalidInputError):
        read_paper("\n".join(f"{n} {line}" for n, line in [*enumerate(lines, 1), (1, twice[0])]))


# --- epochs, and other processes


def test_a_process_that_opened_before_an_epoch_began_reads_and_goes_on(keyed: Site) -> None:
    """It meets points, layers, packs and index segments of an epoch that it did not know of; they are not damage."""
    image = keyed.root / "disk.img"
    with Companion(keyed) as other:
        assert keyed.vault.keys.rotate(now=utc_now()) == 2
        keyed.reopen()
        assert keyed.vault.keys.epochs == 2
        write_at(image, CHUNK + 5, b"an edit")
        write_at(image, 4 * CHUNK, noise(CHUNK, 2))
        keyed.take(image)
        assert pack_epochs(keyed) == [0, 1]
        keyed.close()
        assert other.do("answer = [info.number for info in vault.points()]") == ([1, 2], None)
        for label in ("1", "2"):
            back = keyed.root / f"back-{label}.img"
            _, error = other.do(f"vault.restore('{label}', output={str(back)!r}, source='vault')")
            assert error is None
            assert back.read_bytes() == keyed.copies[label]["disk"].read_bytes()
        assert other.do("answer = len(vault.verify().damage)") == (0, None)
        write_at(image, CHUNK + 5, b"an edit of the edit")
        write_at(image, 2 * CHUNK, noise(CHUNK, 3))
        taken, error = other.do(f"answer = vault.snapshot([{str(image)!r}], keep=False).number")
        assert (taken, error) == (3, None)
    keyed.remember("3")
    assert pack_epochs(keyed) == [0, 1, 0], "it writes on under the epoch that it knows"
    keyed.sound()
    keyed.lose_index()
    keyed.sound()


def test_of_two_that_begin_an_epoch_at_once_one_is_told(keyed: Site) -> None:
    with Companion(keyed) as other:
        assert keyed.vault.keys.rotate(now=utc_now()) == 2
        assert other.do("vault.keys.rotate(now=now)") == (None, "key.rotated-meanwhile")
        assert keyed.vault.keys.rotate(now=utc_now()) == 3
    assert sorted(path.name for path in (keyed.folder / "config").iterdir()) == ["000000", "000001", "000002"]
    keyed.reopen()
    assert keyed.vault.keys.rotate(now=utc_now()) == 4
    keyed.reopen()
    assert keyed.vault.keys.epochs == 4
    heads = [HEAD.unpack(path.read_bytes()[:HEAD_BYTES]) for path in keyed.objects("config")]
    assert [head[5] for head in heads] == [0, 0, 0, 0], "what tells the epochs is readable without knowing them"
    keyed.sound()


def test_a_lost_config_revision_takes_no_point_with_it(keyed: Site) -> None:
    keyed.vault.keys.rotate(now=utc_now())
    keyed.reopen()
    write_at(keyed.root / "disk.img", 0, noise(CHUNK, 9))
    keyed.take(keyed.root / "disk.img")
    assert pack_epochs(keyed) == [0, 1]
    keyed.close()
    (keyed.folder / "config" / "000001").unlink()
    keyed.sound()


def test_a_process_that_has_the_vault_open_is_not_troubled_by_its_slot_being_removed(keyed: Site) -> None:
    image = keyed.root / "disk.img"
    with Companion(keyed) as other:
        keyed.vault.keys.replace(0, OTHER, now=utc_now())
        keyed.close()
        write_at(image, 0, noise(CHUNK, 3))
        assert other.do(f"answer = vault.snapshot([{str(image)!r}], keep=False).number") == (2, None)
    keyed.secret = OTHER
    keyed.remember("2")
    keyed.sound()


def test_changes_of_slots_take_turns(keyed: Site, hook: Callable[[Hook | None], None]) -> None:
    """Two processes remove one each of two slots: the second finds that it would be the last."""
    keyed.vault.keys.add(OTHER, now=utc_now())
    answers = []
    with Companion(keyed) as other:
        shorten = (
            "lock = vault._session.host.lock\n"
            "vault._session.host.lock = lambda name, **more: lock(name, **{**more, 'wait_seconds': 0.1})"
        )
        assert other.do(shorten) == (None, None)
        hook(lambda name: answers.append(other.do("vault.keys.remove(1)")) if name == "key.removing" else None)
        keyed.vault.keys.remove(0)
        hook(None)
        assert answers == [(None, "key.locked")]
        assert other.do("vault.keys.remove(1)") == (None, "key.last-slot")
    assert opens(keyed, OTHER) == 1


def test_two_hosts_that_remove_the_last_two_slots_leave_one(keyed: Site, hook: Callable[[Hook | None], None]) -> None:
    """No lock reaches another host: whoever finds that nothing is left puts its own back."""
    keyed.vault.keys.add(OTHER, now=utc_now())
    path = keyed.folder / "keys" / "1"
    hook(lambda name: path.unlink() if name == "key.removing" else None)
    with pytest.raises(InvalidInputError) as caught:
        keyed.vault.keys.remove(0)
    hook(None)
    assert caught.value.kind == "key.last-slot"
    assert opens(keyed, KEY_FILE) == 0
    keyed.sound()


def test_two_hosts_that_add_at_once_get_a_number_each(keyed: Site, hook: Callable[[Hook | None], None]) -> None:
    session = forge.session(keyed)
    master = session.folder.opened.master
    theirs = vault_keys.wrap(master, session.keys.vault_id, 1, THIRD, label="theirs", created="2026-11-20T02:00:00Z")
    visits = []

    def meanwhile(name: str) -> None:
        if name == "key.adding" and not visits:
            visits.append(name)
            (keyed.folder / "keys" / "1").write_bytes(theirs)

    hook(meanwhile)
    assert keyed.vault.keys.add(OTHER, now=utc_now()).slot == 2
    hook(None)
    for secret, slot in ((KEY_FILE, 0), (THIRD, 1), (OTHER, 2)):
        assert opens(keyed, secret) == slot


@pytest.mark.parametrize("how", ["flipped", "of another master key"])
def test_a_new_slot_that_does_not_read_back_is_told_and_takes_no_other_with_it(
    keyed: Site, hook: Callable[[Hook | None], None], how: str
) -> None:
    path, vault_id = keyed.folder / "keys" / "1", bytes.fromhex(keyed.vault.id)

    def disturb(name: str) -> None:
        if name != "key.added":
            return
        if how == "flipped":
            flip(path, 60)
        else:
            data = vault_keys.wrap(bytes(32), vault_id, 1, OTHER, label="first", created="2026-11-20T02:00:00Z")
            writable(path).write_bytes(data)

    hook(disturb)
    with pytest.raises(BlockVaultError) as caught:
        keyed.vault.keys.replace(0, OTHER, now=utc_now())
    hook(None)
    assert caught.value.kind == "key.slot-damaged"
    assert opens(keyed, KEY_FILE) == 0


def test_a_vault_that_this_version_may_not_write_keeps_its_keys(keyed: Site) -> None:
    forge.session(keyed).min_writer = 99
    before = listing(keyed.folder)
    for change in (
        lambda: keyed.vault.keys.add(OTHER, now=utc_now()),
        lambda: keyed.vault.keys.remove(0),
        lambda: keyed.vault.keys.rotate(now=utc_now()),
    ):
        with pytest.raises(BlockVaultError) as caught:
            change()
        assert caught.value.kind == "vault.newer-format"
        assert not isinstance(caught.value, ConflictError)
    assert listing(keyed.folder) == before
    assert len(keyed.vault.keys.slots()) == 1
