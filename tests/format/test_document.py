"""What `docs/format.md` says of names, records, limits and databases, against the code and a vault that it made."""

from __future__ import annotations

import importlib
import json
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blake3
import lmdb
import msgspec
import numpy as np
import pytest
from format_document import TEXT, plain, table

from blockvault import keys as vault_keys
from blockvault.clock import utc_now
from blockvault.format import records
from blockvault.format.envelope import FORMAT_VERSION, Kind, open_sealer, unseal_record
from blockvault.ids import LayerName, OriginId, PackName
from blockvault.model import Mark, MarkKind, PointRef, Secret
from blockvault.store import folder as vault_folder
from blockvault.store import index as index_module
from blockvault.store.host import HostRecord, folder_identity
from blockvault.store.index import Index
from blockvault.store.packs import pack_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.site import Site

HEX16 = "ab" * 16
EXAMPLES: dict[str, Any] = {
    "hex16": HEX16,
    "size": 1 << 62,
    "number": 1,
    "integer": 16_384,
    "integer or null": 5,
    "milliseconds or null": 1.5,
    "string": "x",
    "boolean": True,
    "moment": "2026-11-20T02:00:00.000000Z",
    "moment or null": None,
    "string or null": None,
    "object or null": None,
    "array": [],
    "array or null": [],
    "object": {},
}
WRONG: dict[str, Any] = {  # 3 for all others
    "hex16": HEX16[1:],
    "size": -1,
    "number": 0,
    "integer": "x",
    "integer or null": "x",
    "milliseconds or null": -0.5,
}
BODIES = {
    "RefBody": records.RefBody,
    "LayerBody": records.LayerBody,
    "DiskBody": records.DiskBody,
    "StatisticsBody": records.StatisticsBody,
    "PointBody": records.PointBody,
    "MarkBody": records.MarkBody,
    "ItemBody": records.ItemBody,
    "PolicyBody": records.PolicyBody,
    "ConfigBody": records.ConfigBody,
    "OriginBody": records.OriginBody,
    "LeaseBody": records.LeaseBody,
    "QuarantineBody": records.QuarantineBody,
    "CondemnedBody": records.CondemnedBody,
    "RoundBody": records.RoundBody,
    "HostRecord": HostRecord,
}


# --- records ---------------------------------------------------------------------------------------------------


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return json.dumps(value)


@pytest.mark.parametrize("name", BODIES)
def test_a_record_has_the_fields_of_its_table(name: str) -> None:
    fields = msgspec.structs.fields(BODIES[name])
    rows = table(name)
    assert [row["field"] for row in rows] == [field.encode_name for field in fields]
    assert [row["default"] for row in rows] == [_default(field) for field in fields]


def test_every_record_of_the_code_is_in_the_document() -> None:
    bodies = {name for name, thing in vars(records).items() if isinstance(thing, type) and name.endswith("Body")}
    assert bodies == set(BODIES) - {"HostRecord"}


@pytest.mark.parametrize("name", BODIES)
def test_a_record_takes_what_the_table_says_and_no_other_type(name: str) -> None:
    rows = table(name)
    body = {row["field"]: EXAMPLES[row["type"]] for row in rows}
    body.update(
        {
            "consistency": "crash",
            "churn_source": "scan",
            "statistics": {},
            "domain": "main",
            "revision": 0,
            "soft_delete_days": 14,
            "protection": "none",
            "snapshot_days": 5,
            "on_hook_failure": "fail",
            "retries": 4,
        }
    )
    if name == "PointBody":
        body["refreshed_at"] = 1.5
    body = {field: body[field] for field in (row["field"] for row in rows)}
    kind = BODIES[name]
    text = json.dumps(body).encode()
    assert msgspec.json.decode(text, type=kind) is not None
    unknown = json.dumps({**body, "of a later version": 1}).encode()
    assert msgspec.json.decode(unknown, type=kind) == msgspec.json.decode(text, type=kind)
    for row in rows:
        wrong = "yesterday" if row["field"] == "refreshed_at" else WRONG.get(row["type"], 3)
        with pytest.raises(msgspec.MsgspecError):
            msgspec.json.decode(json.dumps({**body, row["field"]: wrong}), type=kind)
        if row["type"].endswith(" or null"):
            msgspec.json.decode(json.dumps({**body, row["field"]: None}), type=kind)
        else:
            with pytest.raises(msgspec.MsgspecError):
                msgspec.json.decode(json.dumps({**body, row["field"]: None}), type=kind)
        if not row["default"]:
            with pytest.raises(msgspec.MsgspecError):
                msgspec.json.decode(json.dumps({k: v for k, v in body.items() if k != row["field"]}), type=kind)


def test_the_header_is_two_lines() -> None:
    fields = [row["field"] for row in table("vault.json")]
    header = vault_folder.Header("blockvault", 1, HEX16, 65_536, "none", "f" * 32, "2026-11-20T02:00:00Z", "0" * 64)
    data = vault_folder.encode_header(header)
    line, check, rest = data.split(b"\n")
    assert rest == b""
    assert list(json.loads(line)) == fields
    assert check == blake3.blake3(line).hexdigest().encode()
    assert FORMAT_VERSION == 1
    assert TEXT.startswith("# The vault format, version 1\n")


def test_key_slots_have_the_fields_of_their_table() -> None:
    fields = [row["field"] for row in table("key slot")]
    for secret, kind in ((Secret(key_file=bytes(32)), "key-file"), (Secret(passphrase=b"a"), "passphrase")):
        slot = json.loads(vault_keys.wrap(bytes(32), bytes(16), 0, secret, label="x", created="2026-11-20T02:00:00Z"))
        assert list(slot) == fields
        assert slot["kind"] == kind
        assert (len(bytes.fromhex(slot["salt"])), len(bytes.fromhex(slot["wrapped"]))) == (16, 12 + 32 + 16)


# --- limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table("limits"), ids=lambda row: row["in the code"])
def test_a_limit_is_the_codes(row: dict[str, str]) -> None:
    module, _, name = row["in the code"].rpartition(".")
    assert getattr(importlib.import_module(f"blockvault.{module}"), name) == int(row["value"])


# --- names -----------------------------------------------------------------------------------------------------


def _kind_of(name: str) -> str:
    found = [row for row in table("layout") if re.fullmatch(plain(row["pattern"]), name)]
    assert len(found) == 1, f"{name} fits {len(found)} lines of the layout"
    return found[0]["name"]


def test_every_object_of_a_vault_fits_one_line_of_the_layout(make_site: Callable[..., Site], hook: Any) -> None:
    """All that a vault holds, in its life and at rest, is told; and all that is told and not reserved is made."""
    met: set[str] = set()

    def look(site: Site) -> None:
        for top, _, names in os.walk(site.folder):
            met.update(_kind_of(str(Path(top, name).relative_to(site.folder))) for name in names)

    site = make_site(secret=Secret(key_file=bytes(range(32))))
    hook(lambda reached: look(site) if reached.startswith("transfer.") else None)
    image = site.image(size=1 << 20)
    site.take(image)
    with image.open("r+b") as file:
        file.seek(100_000)
        file.write(b"changed")
    result = site.take(image)
    hook(None)
    look(site)
    mark = Mark(MarkKind.VOID, utc_now())
    site.vault._session.catalog.put_mark(PointRef(OriginId(site.vault.origin), result.number), mark)
    site.vault._session.quarantine.note(bytes(16), 7, "an example")
    site.vault._session.quarantine.note(bytes(16), None, "an example")
    site.vault.assign_policy(["disk"], "default")
    look(site)
    told = {row["name"] for row in table("layout")}
    assert met | {"condemned", "round", "reclaim lock", "scratch"} == told


def test_objects_open_under_their_names_and_kinds_alone(site: Site) -> None:
    """The kind in the layout is the one in the head, and a record renamed is refused."""
    site.take(site.image(size=1 << 20))
    site.vault.assign_policy(["disk"], "default")
    opened = site.vault._session
    opened.quarantine.note(bytes(16), 7, "an example")
    by_name = {row["name"]: plain(row["kind"]) for row in table("layout")}
    checked = set()
    for top, _, names in os.walk(site.folder):
        for name in names:
            path = Path(top, name)
            full = str(path.relative_to(site.folder))
            what = _kind_of(full)
            if by_name[what] == "-" or what == "lease":
                continue
            data = path.read_bytes()
            assert data[:8] == b"BVLT" + by_name[what].encode()
            open_sealer(opened.keys, Kind(by_name[what]), full, data[:64])
            if what in ("config", "origin", "item", "policy", "point", "index segment", "quarantine"):
                _, digest = unseal_record(opened.keys, Kind(by_name[what]), full, data)
                assert digest == data[-40:-24]
                checked.add(what)
    assert checked == {"config", "origin", "item", "policy", "point", "index segment", "quarantine"}


def test_a_packs_folder_is_its_last_two_digits() -> None:
    pack = PackName(bytes(15) + b"\xc7")
    assert _kind_of(f"{pack_folder(pack)}/{pack.hex()}.0-01234567") == "pack"
    assert pack_folder(pack).endswith("/c7")


@pytest.mark.parametrize("document", ["format.md", "concurrency.md"])
def test_the_files_that_a_document_points_to_are_there(document: str) -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]*\.(?:py|md))`", text)
    assert named
    for name in named:
        assert (root / name).exists() or (root / "blockvault" / name).exists(), name


# --- LMDB ------------------------------------------------------------------------------------------------------


def test_the_databases_hold_what_the_table_says(tmp_path: Path) -> None:
    header = tmp_path / "vault.json"
    header.write_bytes(b"{}")
    identity = folder_identity(str(header))
    assert identity == f"{header.stat().st_ino}:{header.stat().st_mtime_ns}"
    pack, ids = PackName(bytes(range(16))), np.arange(64, dtype=np.uint8).reshape(2, 32)
    index = Index(str(tmp_path / "lmdb"), identity, now=utc_now(), note=str(tmp_path / "note"))
    prefixes = np.array([int.from_bytes(row[:8].tobytes(), "big") for row in ids], np.uint64)
    index.add_blocks([pack], prefixes, np.zeros(2, np.uint32), np.array([5, 1 << 31], np.uint32), f"{HEX16}/0000000001")
    index.change_records([(f"points/{HEX16}/0000000001", b"sealed bytes")], ())
    index.add_outlines({LayerName(pack): b"a sealed outline"}, {"main/packs/0f/generation": 7})
    index.close()
    with lmdb.open(str(tmp_path / "lmdb"), max_dbs=8, readonly=True, lock=False, lib_version=0) as environment:
        with environment.begin() as transaction:
            names = [bytes(key).decode() for key, _ in transaction.cursor()]
        assert sorted(names) == sorted({row["database"] for row in table("databases")})
        found = {}
        for name in names:
            database = environment.open_db(name.encode(), create=False)
            with environment.begin(db=database) as transaction:
                found[name] = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
    number = struct.pack(">I", 0)
    assert found == {
        "meta": [(b"identity", identity.encode())],
        "pack-name": [(number, pack)],
        "pack-number": [(pack, number)],
        "blocks": [
            (ids[0, :8].tobytes(), number + struct.pack(">I", 5)),
            (ids[1, :8].tobytes(), number + struct.pack(">I", 1 << 31)),
        ],
        "segments": [(f"{HEX16}/0000000001".encode(), b"")],
        "records": [(f"points/{HEX16}/0000000001".encode(), b"sealed bytes")],
        "outlines": [(pack, b"a sealed outline")],
        "filled": [(b"main/packs/0f/generation", struct.pack(">I", 7))],
    }


def test_a_sorted_segment_lies_as_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LMDB_ENTRIES", 300)
    pack, other = PackName(bytes(range(16))), PackName(bytes(16))
    index = Index(str(tmp_path / "lmdb"), "1:2", now=utc_now(), note=str(tmp_path / "note"))
    prefixes = np.arange(300, 0, -1, dtype=np.uint64) << np.uint64(40)
    slots = np.arange(300, dtype=np.uint32)
    index.add_blocks([other, pack], prefixes, np.ones(300, np.uint32), slots, f"{HEX16}/0000000001")
    index.forget_pack(other)
    index.close()
    with (
        lmdb.open(str(tmp_path / "lmdb"), max_dbs=8, readonly=True, lock=False, lib_version=0) as environment,
        environment.begin() as transaction,
    ):
        name = transaction.get(b"sorted", db=environment.open_db(b"meta", transaction, create=False))
        names = environment.open_db(b"pack-name", transaction, create=False)
        assert [bytes(value) for _, value in transaction.cursor(names)] == [b"", pack]
        assert transaction.stat(environment.open_db(b"blocks", transaction, create=False))["entries"] == 0
    data = (tmp_path / "lmdb" / f"sorted-{name.hex()}").read_bytes()
    pages = (len(data) - 4096) // (4096 + 512 + 8)
    # An offset is a number, or a sum of a number and so many bytes for each page.
    places = [tuple(int(part.strip(" P")) for part in row["offset"].split("+")) for row in table("sorted segment")]
    offsets = [place[0] + pages * (place[1] if len(place) > 1 else 0) for place in places]
    assert len(data) == offsets[-1] + 8 * pages
    assert data[offsets[0] :][:8] == b"BVSORTED"
    assert data[offsets[1] :][:8] == name
    assert struct.unpack_from("<Q", data, offsets[2]) == (300,)
    fences = data[offsets[6] :][:16]
    told = blake3.blake3(b"1:2").digest() + name + struct.pack("<Q", 300) + fences
    assert data[offsets[3] :][:32] == blake3.blake3(told).digest()
    entries = struct.unpack_from("<600Q", data, offsets[4])
    assert entries[::2] == tuple(sorted(prefixes.tolist()))
    assert entries[1::2] == tuple((1 << 32) + slot for slot in range(299, -1, -1))
    assert struct.unpack_from("<300H", data, offsets[5]) == tuple(prefix & 0xFFFF for prefix in entries[::2])
    assert struct.unpack("<2Q", fences) == (entries[0], entries[512])


def test_a_host_record_begins_at_number_one() -> None:
    record = HostRecord(HEX16, HEX16, "h", "1:2", "/v")
    assert (record.next_number, record.newest_number) == (1, 0)
