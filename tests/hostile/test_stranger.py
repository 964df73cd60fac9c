"""Whole vaults that say what cannot be, or ask for more than there is, with true tags.

Each is opened and worked through as a person would.
"""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blake3
import msgspec
import numpy as np
import pytest
import zstandard
from helpers.site import CHUNK

from blockvault.errors import BlockVaultError, CancelledError, CorruptionError
from blockvault.format import records
from blockvault.format.envelope import DIRECTORY_NUMBER, TAG_BYTES, Kind, footer, new_sealer, pack_frame
from blockvault.format.layers import (
    ENTRY,
    ENTRY_HOLE,
    ENTRY_SEGMENT,
    ENTRY_ZERO,
    build_segment,
    encode_root,
    encode_segment,
)
from blockvault.format.tables import NO_BASE, encode_table
from blockvault.ids import PackName
from blockvault.model import Codec
from blockvault.monitor import Monitor
from blockvault.store.folder import open_folder
from blockvault.vault import Vault
from hostile import fuzz
from hostile.targets import work_through
from hostile.world import World

ZEROS_256_MIB = zstandard.ZstdCompressor(level=19).compress(bytes(256 << 20))


@dataclass
class Stranger:
    """A copy of the vault to forge in; `point` is the record that `commit` changes."""

    world: World
    root: Path
    vault: Path = field(init=False)
    state: Path = field(init=False)
    out: Path = field(init=False)

    def __post_init__(self) -> None:
        self.vault = self.world.copy(self.root / "vault")
        self.state, self.out = self.root / "state", self.root / "out"
        self.out.mkdir()
        self.name = self.world.named("points")[-1]
        self.point: records.PointBody = records.decode(
            self.name, self.world.take_apart(self.name).plain, records.PointBody
        )

    def commit(self, **changes: Any) -> None:
        body = msgspec.structs.replace(self.point, **changes)
        self.world.put(self.vault, self.name, self.world.seal(self.name, records.encode(body)))

    def disk(self, **changes: Any) -> records.DiskBody:
        return msgspec.structs.replace(self.point.disks[0], **changes)

    def layer(self, root: bytes, body: bytes | None = None, *, frame: bytes | None = None) -> records.LayerBody:
        name = os.urandom(16).hex()
        data = self.world.seal(f"main/layers/{name}", root, body, frame=frame)
        return self._put_layer(name, data)

    def layer_of(self, segments: dict[int, bytes]) -> records.LayerBody:
        name = os.urandom(16).hex()
        return self._put_layer(name, self.world.layer_with(segments, f"main/layers/{name}", chunks=49))

    def _put_layer(self, name: str, data: bytes) -> records.LayerBody:
        (self.vault / "main/layers" / name).write_bytes(data)
        return records.LayerBody(name, data[-24 - TAG_BYTES : -24].hex(), 1)

    def fills(self, *entries: tuple[int, int, int], chunk_size: int = CHUNK) -> records.LayerBody:
        rows = np.zeros(len(entries), dtype=ENTRY)
        for at, (cell, span, kind) in enumerate(entries):
            rows[at] = (cell, span, kind, 0, 0, 1, np.zeros(16, np.uint8))
        return self.layer(encode_root(chunk_size, 1, rows))

    def pack(self, name: PackName, plain: bytes = b"", frame: bytes | None = None, blocks: bytes = b"") -> None:
        full = f"main/packs/{name.hex()[-2:]}/{name.hex()}.0-00000000"
        sealer = new_sealer(self.world.keys, Kind.PACK, full)
        stored = sealer.seal(DIRECTORY_NUMBER, frame if frame is not None else pack_frame(plain))
        (self.vault / full).parent.mkdir(exist_ok=True)
        (self.vault / full).write_bytes(sealer.head + blocks + stored + footer(64 + len(blocks), len(stored)))

    def deltas(self, name: PackName, bases: list[tuple[PackName, int, int]]) -> np.ndarray:
        """A pack of deltas that are named only: pack and slot of the base, and the depth that the table claims."""
        count = len(bases)
        ids = np.frombuffer(np.random.default_rng(name[0]).bytes(32 * count), np.uint8).reshape(count, 32)
        packs = list(dict.fromkeys(base for base, _, _ in bases))
        frame = pack_frame(bytes(CHUNK))
        table = encode_table(
            chunk_size=CHUNK, generation=0, base_packs=packs, ids=ids,
            lengths=np.full(count, len(frame), np.uint32), codecs=np.full(count, int(Codec.DELTA), np.uint8),
            depths=np.array([depth for _, _, depth in bases], np.uint8),
            base_pack=np.array([packs.index(base) for base, _, _ in bases], np.uint32),
            base_slot=np.array([slot for _, slot, _ in bases], np.uint32),
        )  # fmt: skip
        self.pack(name, table, blocks=frame * count)
        return ids

    def runs(self, pack: PackName, slots: np.ndarray, ids: np.ndarray) -> records.LayerBody:
        """A layer that binds the chunks from 0 on to these slots of a pack, with true digests."""
        count = len(slots)
        segment = build_segment(
            0, self.world.keys.run_key, packs=[pack], chunks=np.arange(count, dtype=np.uint32),
            pack=np.zeros(count, np.uint32), slot=slots.astype(np.uint32), ids=ids,
            base_pack=np.full(count, NO_BASE, np.uint32), base_slot=np.zeros(count, np.uint32), fills=[],
        )  # fmt: skip
        return self.layer_of({0: encode_segment(segment)})

    def worked_through(self, *, image: bool = True) -> list[str]:
        """The kinds of what was refused; the time, the memory and the class of every error are judged."""
        kinds: list[str] = []
        target = fuzz.Target(
            "vault",
            lambda _: kinds.extend(work_through(self.vault, self.state, self.out, self.world.image if image else None)),
            [],
        )
        outcome = fuzz.judge(target, b"", seconds=20)
        assert not outcome.finding, outcome.finding
        assert set(os.listdir(self.root)) <= {"vault", "state", "out"}
        assert all(name.endswith(".img") for name in os.listdir(self.out))
        return kinds

    def open(self) -> Vault:
        return Vault.open(str(self.vault), state_dir=str(self.state))


@pytest.fixture
def stranger(world: World, fast_path: Path) -> Stranger:
    return Stranger(world, fast_path)


def refused(stranger: Stranger) -> None:
    """The point is named as damaged, the other one restores."""
    kinds = stranger.worked_through()
    assert "point.not-found" not in kinds
    with stranger.open() as vault:
        assert [info.number for info in vault.points() if info.number < 3] == [1]
        assert stranger.name in {damage.object for damage in vault.verify().damage}
        with pytest.raises(CorruptionError):
            vault.restore("2", output=str(stranger.out / "refused.img"))


# --- names, sizes, numbers of a point -----------------------------------------------------------------------------

NAMES = ["../../etc/x", "/etc/x", "a/b", "..", ".", "", "a\0b", "a\nb", "-rf", "x" * 81, "\x1b[2J", "é", "disk "]


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_with_a_name_that_is_none_is_refused(stranger: Stranger, name: str) -> None:
    stranger.commit(disks=[stranger.disk(name=name)])
    refused(stranger)


@pytest.mark.parametrize("name", NAMES)
def test_an_item_with_a_name_that_is_none_is_refused(stranger: Stranger, name: str) -> None:
    stranger.commit(item_name=name)
    refused(stranger)


@pytest.mark.parametrize("change", [
    {"chunk_size": 16_385}, {"chunk_size": 24_576}, {"chunk_size": 8192}, {"chunk_size": 8 << 20}, {"chunk_size": 0},
    {"size": -1}, {"size": (1 << 62) + 1}, {"size": 1 << 70},
])  # fmt: skip
def test_a_disk_that_cannot_be_is_refused(stranger: Stranger, change: dict[str, int]) -> None:
    stranger.commit(disks=[stranger.disk(**change)])
    refused(stranger)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-12:00", "0001-01-01", "x", ""])
@pytest.mark.parametrize("field_name", ["taken", "committed", "retain_until"])
def test_a_moment_that_no_clock_shows_is_refused(stranger: Stranger, moment: str, field_name: str) -> None:
    if field_name == "retain_until" and not moment:
        pytest.skip("an empty text stands for none there")
    stranger.commit(**{field_name: moment})
    refused(stranger)


def test_a_disk_named_twice_and_too_many_disks_are_refused(stranger: Stranger) -> None:
    stranger.commit(disks=[stranger.disk(), stranger.disk()])
    refused(stranger)
    stranger.commit(disks=[stranger.disk(name=f"d{at}") for at in range(257)])
    refused(stranger)


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"x":' * 100_000, b'{"unknown":' + b"[" * 60_000 + b"]" * 60_000 + b"}"]
)
def test_a_record_that_nests_without_end_is_refused(stranger: Stranger, text: bytes) -> None:
    stranger.world.put(stranger.vault, stranger.name, stranger.world.seal(stranger.name, b"", frame=pack_frame(text)))
    refused(stranger)


@pytest.mark.parametrize("change", [
    {"created": "0001-01-01T00:00:00+23:59"}, {"created": "never"}, {"chunk_size": 16_385}, {"snapshot_days": 1 << 62},
    {"agent_socket": "x"}, {"agent_socket": "/a\0b"}, {"freeze_mounts": ["/a", "b"]}, {"freeze_mounts": ["/a"] * 65},
    {"hook_seconds": 0}, {"hook_seconds": 1 << 40}, {"group": "../x"},
    {"snapshot_days": -1}, {"revision": 7}, {"id": "0" * 32}, {"name": "../x"}, {"disks": [("a", "x"), ("a", "y")]},
])  # fmt: skip
def test_an_item_that_cannot_be_is_named_and_in_nobodys_way(stranger: Stranger, change: dict[str, Any]) -> None:
    name = stranger.world.named("items")[0]
    body = records.decode(name, stranger.world.take_apart(name).plain, records.ItemBody)
    data = stranger.world.seal(name, records.encode(msgspec.structs.replace(body, **change)))
    stranger.world.put(stranger.vault, name, data)
    stranger.worked_through()
    with stranger.open() as vault:
        assert name in {damage.object for damage in vault.verify().damage}
        vault.restore("1", output=str(stranger.out / "one.img"))


@pytest.mark.parametrize("change", [
    {"name": "../x"}, {"name": "other"}, {"revision": 7}, {"changed": "never"},
    {"changed": "0001-01-01T00:00:00+23:59"},
    {"schedule": "hourly 5"}, {"schedule": "hourly 99999999999999999999"}, {"schedule": "daily 2\u0662:00"},
    {"schedule": "weekly 02:00"}, {"schedule": "\x1b[2J"}, {"schedule": "weekly " + "sun," * 100_000 + "sun 02:00\x00"},
    {"zone": "../../etc/passwd"}, {"zone": "Nowhere/Land"}, {"retention_zone": "localtime"}, {"keep_daily": 0},
    {"keep_daily": -1}, {"keep_last": 1 << 62}, {"weekly_on": "sunday"}, {"keep_weekly": 3, "weekly_on": "someday"},
    {"keep_monthly": 3, "monthly_on": "day 29"}, {"keep_monthly": 3, "monthly_on": "day " + "9" * 5000},
    {"keep_yearly": 3, "yearly_on": "first sunday of smarch"}, {"snapshot_days": 0}, {"snapshot_days": 31},
    {"window_seconds": 86_400}, {"window_seconds": 1 << 62}, {"retries": 101}, {"retries": -1},
    {"consistency": "total"}, {"on_hook_failure": "explode"},
])  # fmt: skip
def test_a_policy_that_cannot_be_is_named_and_expires_nothing(stranger: Stranger, change: dict[str, Any]) -> None:
    (name,) = stranger.world.named("policies")
    body = json.loads(stranger.world.take_apart(name).plain)
    data = stranger.world.seal(name, json.dumps({**body, **change}).encode())
    stranger.world.put(stranger.vault, name, data)
    stranger.worked_through()
    with stranger.open() as vault:
        assert name in {damage.object for damage in vault.verify().damage}
        assert all(decision.keep for decision in vault.plan_prune().decisions)
        with pytest.raises(CorruptionError):
            vault.policy("default")
        vault.restore("1", output=str(stranger.out / "one.img"))


def test_points_of_an_item_that_was_removed_are_there_all_the_same(stranger: Stranger) -> None:
    name = stranger.world.named("items")[0]
    body = records.decode(name, stranger.world.take_apart(name).plain, records.ItemBody)
    last = f"{name[:-6]}{body.revision + 1:06d}"
    data = stranger.world.seal(
        last, records.encode(msgspec.structs.replace(body, removed=True, revision=body.revision + 1))
    )
    stranger.world.put(stranger.vault, last, data)
    stranger.worked_through()
    with stranger.open() as vault:
        assert body.id not in [item.id for item in vault.items()]
        assert vault.points(body.name)
        vault.restore("1", output=str(stranger.out / "one.img"))


# --- manifests ----------------------------------------------------------------------------------------------------


def test_a_disk_of_four_exbibytes_costs_nothing_until_it_is_asked_for(stranger: Stranger) -> None:
    size = 1 << 62
    layer = stranger.fills((0, 0xFFFF_FFFF, ENTRY_HOLE), (0xFFFF_FFFF, 1, ENTRY_ZERO))
    stranger.commit(disks=[stranger.disk(size=size, layers=[layer])], item_name="huge")
    stranger.worked_through()
    with stranger.open() as vault:
        vault.restore("2", output=str(stranger.out / "huge.img"))
        status = (stranger.out / "huge.img").stat()
        assert (status.st_size, status.st_blocks) == (size, 0)

        class Stopping(Monitor):
            left = 50

            def check(self) -> None:
                self.left -= 1
                if not self.left:
                    raise CancelledError("job.cancelled", "stopped")

        with open("/dev/null", "wb") as nowhere, pytest.raises(CancelledError):
            vault.restore("2", output="-", stream=nowhere.fileno(), monitor=Stopping())


def test_cells_that_no_layer_states_are_found_however_many_there_are(stranger: Stranger) -> None:
    for entries in (
        [(0, 0xFFFF_FFFE, ENTRY_HOLE)],
        [(1, 0xFFFF_FFFF, ENTRY_HOLE)],
        [(0, 5, ENTRY_HOLE), (6, 0xFFFF_FFF0, ENTRY_ZERO)],
        [],
    ):
        layer = stranger.fills(*entries)
        stranger.commit(disks=[stranger.disk(size=1 << 62, layers=[layer])])
        assert "vault.manifest-gap" in stranger.worked_through()


def test_what_lies_beyond_the_disk_is_passed_over(stranger: Stranger) -> None:
    layer = stranger.fills((0, 3, ENTRY_ZERO), (7, 0xFFFF_FFFF, ENTRY_HOLE))
    stranger.commit(disks=[stranger.disk(layers=[layer])])
    stranger.worked_through()
    with stranger.open() as vault:
        assert vault.verify("2").damage == ()
        vault.restore("2", output=str(stranger.out / "zeros.img"))
    assert not any((stranger.out / "zeros.img").read_bytes())


def test_a_segment_of_slots_without_end_is_refused_before_it_is_unrolled(stranger: Stranger) -> None:
    runs = 65_536
    whole = np.full(runs, 1024, "<u4").tobytes()
    first = np.concatenate([[0], np.zeros(runs - 1)]).astype("<u4").tobytes()
    plain = struct.pack("<IIIII", 1, runs, runs, 0, 0) + bytes(16) + bytes(4 * runs) + bytes(4 * runs) + whole
    plain += np.ones(runs, "<u4").tobytes() + bytes(16 * runs) + first + whole + bytes(runs)
    layer = stranger.layer_of({0: plain})
    stranger.commit(disks=[stranger.disk(layers=[layer])])
    assert "vault.object-damaged" in stranger.worked_through()


def test_sixteen_layers_that_say_as_much_as_they_may_do_not_add_up(stranger: Stranger) -> None:
    runs = 2000
    whole = np.full(runs, 1024, "<u4").tobytes()
    plain = struct.pack("<IIIII", 1, runs, runs, 0, 0) + bytes(16) + bytes(4 * runs) + bytes(4 * runs) + whole
    plain += np.ones(runs, "<u4").tobytes() + bytes(16 * runs) + bytes(4 * runs) + whole + bytes(runs)
    layers = [stranger.layer_of({0: plain}) for _ in range(16)]
    stranger.commit(disks=[stranger.disk(layers=layers)])
    assert "vault.object-damaged" in stranger.worked_through()


def test_a_segment_that_lies_in_a_hole_of_a_long_file_is_not_read(stranger: Stranger) -> None:
    """A sparse file is as long as it likes; the root may name 4 GiB of it as one segment."""
    name = os.urandom(16).hex()
    path = stranger.vault / "main/layers" / name
    sealer = new_sealer(stranger.world.keys, Kind.LAYER, f"main/layers/{name}")
    length = (1 << 32) - 1
    rows = np.zeros(1, dtype=ENTRY)
    rows[0] = (0, 1, ENTRY_SEGMENT, 64, length, 1, np.zeros(16, np.uint8))
    stored = sealer.seal(DIRECTORY_NUMBER, pack_frame(encode_root(CHUNK, 49, rows)))
    with path.open("wb") as file:
        file.write(sealer.head)
        file.seek(64 + length)
        file.write(stored + footer(64 + length, len(stored)))
    layer = records.LayerBody(name, stored[-TAG_BYTES:].hex(), 1)
    stranger.commit(disks=[stranger.disk(layers=[layer])])
    assert "vault.object-damaged" in stranger.worked_through()


# --- packs --------------------------------------------------------------------------------------------------------

A, B = PackName(b"\x01" * 16), PackName(b"\x02" * 16)


@pytest.mark.parametrize("shape", ["itself", "circle", "long chain", "depth lies", "two depths of one base"])
def test_bases_that_go_round_or_on_without_end_are_refused(stranger: Stranger, shape: str) -> None:
    count = 49
    if shape == "itself":
        ids = stranger.deltas(A, [(A, slot, 8) for slot in range(count)])
    elif shape == "circle":
        ids = stranger.deltas(A, [(B, slot, 8) for slot in range(count)])
        stranger.deltas(B, [(A, (slot + 1) % count, 8) for slot in range(count)])
    elif shape == "long chain":  # every step needs one more slot of the other pack
        count = 60_000
        ids = stranger.deltas(A, [(B, slot, 8) for slot in range(count)])
        stranger.deltas(B, [(A, min(slot + 1, count - 1), 8) for slot in range(count)])
    elif shape == "depth lies":
        ids = stranger.deltas(A, [(B, slot, 1) for slot in range(count)])
        stranger.deltas(B, [(A, slot, 5) for slot in range(count)])
    else:
        ids = stranger.deltas(A, [(B, 0, 1 + slot % 8) for slot in range(count)])
        stranger.deltas(B, [(A, 0, 7)])
    layer = stranger.runs(A, np.arange(49), ids[:49])
    stranger.commit(disks=[stranger.disk(layers=[layer])])
    begun = time.monotonic()
    assert "vault.block-damaged" in stranger.worked_through()
    assert time.monotonic() - begun < 15


# --- bombs --------------------------------------------------------------------------------------------------------


def declared(frame: bytes, size: int) -> bytes:
    """The frame with another declared size."""
    assert frame[4] == 0x80  # a window, and a size of 4 bytes; now of 8
    return frame[:4] + bytes([0xC0]) + frame[5:6] + struct.pack("<Q", size) + frame[10:]


@pytest.mark.parametrize("size", [256 << 20, 100, 0, 1 << 20, 16 << 20, 1 << 40, 1 << 62])
@pytest.mark.parametrize("where", ["point", "root", "segment", "table", "index", "item", "policy", "config"])
def test_a_frame_that_unpacks_to_more_than_its_kind_may_is_refused(stranger: Stranger, where: str, size: int) -> None:
    world, bomb = stranger.world, declared(ZEROS_256_MIB, size)
    if where in ("point", "item", "policy", "config", "index"):
        parts = {"item": "items", "policy": "policies"}
        name = {"point": stranger.name}.get(where) or world.named(parts.get(where, where))[0]
        world.put(stranger.vault, name, world.seal(name, b"", frame=bomb))
    elif where == "root":
        stranger.commit(disks=[stranger.disk(layers=[stranger.layer(b"", frame=bomb)])])
    elif where == "segment":
        name = os.urandom(16).hex()
        sealer = new_sealer(world.keys, Kind.LAYER, f"main/layers/{name}")
        stored = sealer.seal(0, bomb)
        rows = np.zeros(1, dtype=ENTRY)
        rows[0] = (0, 1, ENTRY_SEGMENT, 64, len(stored), 1, np.frombuffer(stored[-TAG_BYTES:], np.uint8))
        directory = sealer.seal(DIRECTORY_NUMBER, pack_frame(encode_root(CHUNK, 49, rows)))
        data = sealer.head + stored + directory + footer(64 + len(stored), len(directory))
        stranger.commit(disks=[stranger.disk(layers=[stranger._put_layer(name, data)])])
    else:
        stranger.pack(A, frame=bomb)
        ids = np.zeros((49, 32), np.uint8)
        stranger.commit(disks=[stranger.disk(layers=[stranger.runs(A, np.arange(49), ids)])])
    kinds = stranger.worked_through()
    assert kinds or where in ("index", "item", "point")


def test_many_small_bombs_do_not_add_up(stranger: Stranger) -> None:
    """A thousand records of 100 bytes, each of which would be a mebibyte."""
    text = b'{"tags":{' + b",".join(b'"%d":""' % at for at in range(120_000)) + b"}}"
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 20))
    folder = Path(stranger.name).parent
    for number in range(100, 600):
        name = f"{folder}/{number:010d}"
        stranger.world.put(stranger.vault, name, stranger.world.seal(name, text, frame=bomb))
    stranger.worked_through(image=False)


# --- header, keys, config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"chunk_size": 0}, {"chunk_size": 16_385}, {"chunk_size": 1 << 62}, {"master_key": "not hex"}, {"master_key": ""},
    {"master_key": None}, {"master_key": "ab"}, {"vault_id": " " * 32}, {"vault_id": "AB" * 16},
    {"vault_id": "../" * 10},
    {"created": "0001-01-01T00:00:00+23:59"}, {"created": "\x1b[2J"}, {"encryption": "rot13"}, {"encryption": ""},
    {"format_version": True}, {"format_version": -1}, {"format_version": 10**30}, {"x": [[]]},
])  # fmt: skip
def test_a_header_that_says_what_cannot_be_is_refused(stranger: Stranger, change: dict[str, Any]) -> None:
    header = json.loads((stranger.vault / "vault.json").read_bytes().partition(b"\n")[0])
    line = json.dumps(header | change).encode()
    if "x" in change:
        line = line[:-1] + b"," + b'"y":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    (stranger.vault / "vault.json").chmod(0o600)
    (stranger.vault / "vault.json").write_bytes(line + b"\n" + blake3.blake3(line).hexdigest().encode() + b"\n")
    kinds = stranger.worked_through()
    assert kinds in (["vault.header-damaged"], ["vault.newer-format"])


def test_a_million_epochs_cost_nothing(stranger: Stranger) -> None:
    name = stranger.world.named("config")[0]
    body = records.decode(name, stranger.world.take_apart(name).plain, records.ConfigBody)
    stranger.world.put(
        stranger.vault, name, stranger.world.seal(name, records.encode(msgspec.structs.replace(body, epochs=1 << 20)))
    )
    begun = time.process_time()
    keys = open_folder(str(stranger.vault), None).keys
    assert keys.epoch == (1 << 20) - 1
    assert len(keys.data_key(keys.epoch)) == 32
    assert time.process_time() - begun < 0.5
    stranger.worked_through()


@pytest.mark.parametrize("name", ["../../etc", "\x1b]0;x\x07", "", "a" * 51, "a b"])
def test_a_vault_with_a_name_that_is_none_is_refused(stranger: Stranger, name: str) -> None:
    config = stranger.world.named("config")[0]
    body = records.decode(config, stranger.world.take_apart(config).plain, records.ConfigBody)
    data = stranger.world.seal(config, records.encode(msgspec.structs.replace(body, name=name)))
    stranger.world.put(stranger.vault, config, data)
    assert stranger.worked_through() == ["vault.object-damaged"]


def test_what_no_reader_would_take_is_not_written(stranger: Stranger) -> None:
    with stranger.open() as vault:
        with pytest.raises(BlockVaultError) as error:
            vault.snapshot([str(stranger.world.image)], keep=False, comment="x" * (1 << 20))
        assert error.value.kind == "input.record-too-large"
        assert len(vault.points()) == 2
        vault.snapshot([str(stranger.world.image)], keep=False, comment="x" * 50_000)
        assert vault.points()[-1].comment == "x" * 50_000
