"""A second reader of vaults without encryption, to prove that `docs/format.md` suffices.

It was written from that document alone, by somebody who had not read the program, and must stay so: it imports nothing
of blockvault, only the standard library, BLAKE3 and zstandard. Where it cannot read what the program writes, one of
the document and the program is wrong; mend that one, and this reader only from the document's words.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any

import zstandard
from blake3 import blake3

VERSION = 1
CELL_CHUNKS = 65_536
RECORD_MAX, ROOT_MAX, SEGMENT_MAX = 16 << 20, 256 << 20, 32 << 20
RAW, ZSTD, DELTA, EMPTY = 0, 1, 2, 255
NO_BASE = 2**32 - 1
DIRECTORY = 2**64 - 1
SEGMENT, HOLE, ZERO = 0, 1, 2

HEAD = struct.Struct("<4s4sHBBI32s16s")
FOOTER = struct.Struct("<QQ8s")
TABLE = struct.Struct("<5I")
ROOT = struct.Struct("<IIQI")
ENTRY = struct.Struct("<IIBQII16s")
SEGMENT_HEAD = struct.Struct("<5I")

LAYOUT = {  # section 2
    "CONF": r"config/[0-9]{6}",
    "ORIG": r"origins/[0-9a-f]{32}",
    "ITEM": r"items/[0-9a-f]{32}/[0-9]{6}",
    "PLCY": r"policies/[A-Za-z][A-Za-z0-9-]{1,49}/[0-9]{6}",
    "PONT": r"points/[0-9a-f]{32}/[0-9]{10}",
    "MARK": r"marks/[0-9a-f]{32}/[0-9]{10}/[0-9]{6}",
    "PACK": r"main/packs/[0-9a-f]{2}/[0-9a-f]{32}\.[0-9]+-[0-9a-f]{8}",
    "LAYR": r"main/layers/[0-9a-f]{32}",
    "INDX": r"main/index/[0-9a-f]{32}/[0-9]{10}",
}


class Refused(Exception):
    """Something is not what the document says; nothing of it is used."""


class Newer(Refused):
    """An object or vault of a later format version."""


def demand(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise Refused(f"{name}: {what}")


# --- section 7: the fields of records ---

Check = Callable[[Any], bool]


def whole(least: int, most: int = 2**62) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def text(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None


def nullable(check: Check) -> Check:
    return lambda value: value is None or check(value)


def array(check: Check, most: int = 2**32) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(check(one) for one in value)


def fields(needed: dict[str, Check], defaulted: dict[str, Check] | None = None) -> Check:
    checks = needed | (defaulted or {})
    return lambda value: (
        isinstance(value, dict)
        and needed.keys() <= value.keys()
        and all(checks[key](one) for key, one in value.items() if key in checks)
    )


def is_disk_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and DISK_NAME(value[0]) and STRING(value[1])


def is_tags(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def is_chunk_size(value: Any) -> bool:
    return type(value) is int and 16_384 <= value <= 4_194_304 and value.bit_count() == 1


def is_moment_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 2**62


SIZE, NUMBER, STRING = whole(0), whole(1), text(".*")
HEX16 = text("[0-9a-f]{32}")
MOMENT = text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
ITEM_NAME, DISK_NAME = text("[A-Za-z][A-Za-z0-9-]{0,79}"), text("[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
KEEP = nullable(whole(1, 36_500))
REF = fields({"origin": HEX16, "number": NUMBER, "digest": HEX16})
LAYER_REF = fields({"name": HEX16, "tag": HEX16, "pieces": SIZE})
DISK = fields(
    {"name": DISK_NAME, "path": STRING, "size": SIZE, "chunk_size": is_chunk_size, "layers": array(LAYER_REF, 16)}
)
CLOCK, DAY = "([01][0-9]|2[0-3]):[0-5][0-9]", "(mon|tue|wed|thu|fri|sat|sun)"
WEEKDAY = "(mon|tues|wednes|thurs|fri|satur|sun)"
MONTH = "(january|february|march|april|may|june|july|august|september|october|november|december)"
MONTH_DAY = f"(first|second|third|fourth|last) {WEEKDAY}day|day ([1-9]|1[0-9]|2[0-8])|last day"
COUNTS = ("read_bytes", "changed_bytes", "unique_bytes", "stored_bytes", "sent_bytes", "changed_chunks")
RECORDS = {
    "PONT": fields(
        {
            "origin": HEX16,
            "number": NUMBER,
            "id": HEX16,
            "item_id": HEX16,
            "item_name": ITEM_NAME,
            "domain": text("main"),
            "taken": MOMENT,
            "committed": MOMENT,
            "consistency": text("none|crash|fs|app"),
            "churn_source": text("initial|scan|identity"),
            "audit": STRING,
            "disks": array(DISK),
            "statistics": fields({}, dict.fromkeys(COUNTS, SIZE)),
            "refreshed_at": is_moment_number,
        },
        {
            "parent": nullable(REF),
            "tags": is_tags,
            "comment": STRING,
            "retain_until": nullable(MOMENT),
            "freeze_ms": nullable(is_moment_number),
            "skew_ms": nullable(is_moment_number),
            "group": text("([A-Za-z][A-Za-z0-9-]{0,79})?"),
        },
    ),
    "MARK": fields({"kind": STRING, "at": MOMENT}, {"reason": STRING}),
    "ITEM": fields(
        {
            "id": HEX16,
            "name": ITEM_NAME,
            "disks": array(is_disk_pair),
            "chunk_size": is_chunk_size,
            "created": MOMENT,
            "revision": SIZE,
        },
        {
            "snapshot_days": nullable(whole(0)),
            "snapshot_dir": nullable(STRING),
            "comment": STRING,
            "policy": text("([A-Za-z][A-Za-z0-9-]{0,79})?"),
            "protection": text("none|protected|stopped"),
            "group": text("([A-Za-z][A-Za-z0-9-]{0,79})?"),
            "protected_since": nullable(MOMENT),
            "removed": lambda value: isinstance(value, bool),
            "agent_socket": text(r"(/[^\x00]*)?"),
            "freeze_mounts": array(text(r"/[^\x00]*"), 64),
            "hook_seconds": nullable(whole(1, 3600)),
        },
    ),
    "PLCY": fields(
        {
            "name": text("[A-Za-z][A-Za-z0-9-]{1,49}"),
            "revision": SIZE,
            "changed": MOMENT,
            "schedule": text(rf"hourly (1|2|4|6|8|12)|daily {CLOCK}|weekly {DAY}(,{DAY})* {CLOCK}"),
            "zone": STRING,
            "retention_zone": STRING,
        },
        {
            **dict.fromkeys(("keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"), KEEP),
            "weekly_on": nullable(text(f"{WEEKDAY}day")),
            "monthly_on": nullable(text(MONTH_DAY)),
            "yearly_on": nullable(text(f"({MONTH_DAY}) of {MONTH}")),
            "snapshot_days": whole(1, 30),
            "window_seconds": whole(0, 86_399),
            "consistency": text("none|crash|fs|app"),
            "on_hook_failure": text("warn|fail"),
            "retries": whole(0, 100),
            "comment": STRING,
            "by": STRING,
            "note": STRING,
            "deleted": lambda value: isinstance(value, bool),
        },
    ),
    "CONF": fields(
        {
            "name": text("[A-Za-z][A-Za-z0-9-]{1,49}"),
            "min_reader": whole(0),
            "min_writer": whole(0),
            "epochs": whole(1, 1 << 20),
            "created": MOMENT,
        }
    ),
    "ORIG": fields({"origin": HEX16, "label": STRING, "created": MOMENT}),
}


# --- plain forms ---


def unzstd(frame: bytes, limit: int, name: str, prefix: bytes = b"") -> bytes:
    """The plain bytes of one zstd frame (section 1), which declares at most `limit` of them."""
    words = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
    try:
        says = zstandard.get_frame_parameters(frame)
        demand(says.content_size <= limit, name, "a frame declares no size or too much")  # unknown is 2^64 - 1
        demand(not says.has_checksum and not says.dict_id, name, "a frame has a checksum or a dictionary")
        plain = zstandard.ZstdDecompressor(dict_data=words).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(f"{name}: {error}") from error
    demand(len(plain) == says.content_size, name, "a frame holds another size than it declares")
    return plain


class Columns:
    """Takes one column after the other from plain bytes, which must be exactly used up."""

    def __init__(self, plain: bytes, name: str) -> None:
        self.plain, self.name, self.at = plain, name, 0

    def take(self, size: int) -> bytes:
        part = self.plain[self.at : self.at + size]
        demand(len(part) == size, self.name, "too short for what it says")
        self.at += size
        return part

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.take(4 * count))

    def differences(self, count: int) -> list[int]:
        return [value % 2**32 for value in accumulate(self.numbers(count))]

    def items(self, size: int, count: int) -> list[bytes]:
        part = self.take(size * count)
        return [part[at : at + size] for at in range(0, len(part), size)]

    def end(self) -> None:
        demand(self.at == len(self.plain), self.name, "longer than it says")


@dataclass(frozen=True)
class Sealed:
    """An opened object (section 5): its directory is checked, its other sections are not yet."""

    path: str
    name: str
    associated: bytes
    key: bytes
    directory: bytes
    directory_at: int
    digest: bytes

    def tag(self, number: int, plain: bytes) -> bytes:
        nonce = bytes(4) + struct.pack("<Q", number)
        data = struct.pack("<Q", len(self.associated)) + self.associated + nonce + plain
        return blake3(data, key=self.key).digest(16)

    def read(self, offset: int, length: int) -> bytes:
        demand(offset >= 64 and offset + length <= self.directory_at, self.name, "a section lies outside")
        with open(self.path, "rb") as file:
            file.seek(offset)
            stored = file.read(length)
        demand(len(stored) == length, self.name, "cut off")
        return stored


@dataclass(frozen=True)
class Pack:
    """A pack's table (section 8.1), column by column."""

    sealed: Sealed
    chunk_size: int
    names: list[bytes]
    ids: list[bytes]
    places: list[int]
    codecs: bytes
    depths: bytes
    base_packs: tuple[int, ...]
    base_slots: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What a layer's root says of a cell, or of several (section 9.1)."""

    cell: int
    span: int
    kind: int
    offset: int
    length: int
    pieces: int
    tag: bytes


@dataclass(frozen=True)
class Layer:
    """A layer's root."""

    sealed: Sealed
    chunk_size: int
    entries: list[Entry]

    def entry(self, cell: int) -> Entry | None:
        return next((one for one in self.entries if one.cell <= cell < one.cell + one.span), None)


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring slots of a pack and the chunks of one cell that they hold (section 9.2)."""

    pack: bytes
    first_slot: int
    count: int
    digest: bytes
    pieces: list[tuple[int, int, bool]]

    def chunks(self) -> list[int]:
        return [chunk for first, length, _ in self.pieces for chunk in range(first, first + length)]


@dataclass(frozen=True)
class Segment:
    """What a layer says of one cell; fills are (first, length, kind), bases (ordinal, pack, slot)."""

    runs: list[Run]
    fills: list[tuple[int, int, int]]
    bases: list[tuple[int, bytes, int]]


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt, secret, hashlib.sha256), info + b"\x01", hashlib.sha256)


class Vault:
    """A vault without encryption, opened for reading (section 13, steps 1 and 2)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(os.path.join(folder, "vault.json"), "rb") as file:
            lines = file.read(65_537)
        header, self.id, master = self._header(lines)
        self.run_key = hkdf(master, self.id, b"blockvault/1 run")
        self.id_key = hkdf(master, self.id, b"blockvault/1 id")
        fingerprint = blake3(b"fingerprint", key=self.run_key).digest(16)
        demand(fingerprint.hex() == header["fingerprint"], "vault.json", "these are not the keys of this vault")
        self.master = master
        self.packs: dict[bytes, Pack] = {}
        revisions = [name for kind, name in self.objects() if kind == "CONF"]
        demand(bool(revisions), "config", "there is none")
        config = self.record(max(revisions), "CONF")
        if config["min_reader"] > VERSION:
            raise Newer(f"the vault asks for a reader of version {config['min_reader']}")

    @staticmethod
    def _header(lines: bytes) -> tuple[dict[str, Any], bytes, bytes]:
        name = "vault.json"
        demand(len(lines) <= 65_536, name, "too long")
        first, _, second = lines.partition(b"\n")
        demand(second == blake3(first).hexdigest().encode() + b"\n", name, "its digest does not fit")
        header = json.loads(first)
        demand(header["magic"] == "blockvault", name, "not a vault's header")
        if header["format_version"] > VERSION:
            raise Newer(f"{name}: format version {header['format_version']}")
        demand(header["format_version"] == VERSION, name, "not a format version")
        demand(header["encryption"] == "none", name, "this reader reads no encrypted vault")
        master = bytes.fromhex(header["master_key"])
        demand(len(master) == 32 and bool(HEX16(header["vault_id"])), name, "wrong key or vault id")
        return header, bytes.fromhex(header["vault_id"]), master

    def files(self, folder: str) -> list[str]:
        path = os.path.join(self.folder, folder)
        return os.listdir(path) if os.path.isdir(path) else []

    def objects(self) -> Iterator[tuple[str, str]]:
        """Kind and full name of every object of the vault but leases."""
        for folder, _, files in os.walk(self.folder):
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), self.folder).replace(os.sep, "/")
                for kind, pattern in LAYOUT.items():
                    if re.fullmatch(pattern, name):
                        yield kind, name

    def open(self, name: str, kind: str) -> Sealed:
        """Section 5.4."""
        path = os.path.join(self.folder, *name.split("/"))
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                demand(size >= 88, name, "too small")
                head = file.read(64)
                file.seek(size - 24)
                offset, length, tail = FOOTER.unpack(file.read(24))
                demand(tail == b"BVLTTAIL" and offset >= 64 and length >= 16, name, "its footer is wrong")
                demand(offset + length + 24 == size, name, "its size is wrong")
                file.seek(offset)
                stored = file.read(length)
        except FileNotFoundError as error:
            raise Refused(f"{name}: missing") from error
        magic, has_kind, version, cipher, reserved, epoch, salt, _ = HEAD.unpack(head)
        demand(magic == b"BVLT" and has_kind == kind.encode(), name, "its head is wrong")
        if version > VERSION:
            raise Newer(f"{name}: format version {version}")
        demand(version == VERSION and not cipher and not reserved, name, "its head is wrong")
        demand(kind != "CONF" or epoch == 0, name, "a config of a later epoch")
        demand(offset == 64 or kind in ("PACK", "LAYR"), name, "it has sections")
        key = hkdf(hkdf(self.master, self.id, f"blockvault/1 data {epoch}".encode()), salt, b"blockvault/1 " + head[:8])
        full = name.encode()
        associated = b"blockvault/1\0" + self.id + head + struct.pack("<H", len(full)) + full
        sealed = Sealed(path, name, associated, key, b"", offset, stored[-16:])
        demand(sealed.tag(DIRECTORY, stored[:-16]) == sealed.digest, name, "its directory's tag is wrong")
        directory = unzstd(stored[:-16], ROOT_MAX if kind in ("PACK", "LAYR") else RECORD_MAX, name)
        return Sealed(path, name, associated, key, directory, offset, sealed.digest)

    def record(self, name: str, kind: str) -> dict[str, Any]:
        """Section 7."""
        try:
            body: dict[str, Any] = json.loads(self.open(name, kind).directory.decode())
        except ValueError as error:
            raise Refused(f"{name}: no JSON") from error
        demand(RECORDS[kind](body), name, "its fields are not those of its kind")
        parts = name.split("/")
        demand(kind not in ("ORIG", "PONT") or body["origin"] == parts[1], name, "of another origin")
        demand(kind != "PONT" or body["number"] == int(parts[2]), name, "of another number")
        demand(kind != "PLCY" or [body["name"], body["revision"]] == [parts[1], int(parts[2])], name, "of another name")
        demand(kind != "ITEM" or [body["id"], body["revision"]] == [parts[1], int(parts[2])], name, "of another name")
        return body

    def point(self, origin: str, number: int) -> dict[str, Any] | None:
        """The point's record; None where it was taken back."""
        name = f"points/{origin}/{number:010}"
        body = self.record(name, "PONT")
        derived = b"blockvault point" + self.id + bytes.fromhex(origin) + struct.pack("<Q", number)
        demand(body["id"] == blake3(derived).digest(16).hex(), name, "its id is wrong")
        disks = [disk["name"] for disk in body["disks"]]
        demand(bool(disks) and len(set(disks)) == len(disks), name, "its disks' names are not different")
        marks = f"marks/{origin}/{number:010}"
        there = sorted(file for file in self.files(marks) if re.fullmatch("[0-9]{6}", file))
        demand(there == [f"{at:06}" for at in range(1, len(there) + 1)], marks, "a mark is missing")
        kinds = [self.record(f"{marks}/{file}", "MARK")["kind"] for file in there]
        return None if {"void", "purge"} & set(kinds) else body

    def points(self, number: int | None = None) -> list[dict[str, Any]]:
        """The points that count, or those of one number."""
        names = sorted(name.split("/")[::-1] for kind, name in self.objects() if kind == "PONT")
        found = (self.point(origin, int(at)) for at, origin, _ in names if number in (None, int(at)))
        return [body for body in found if body is not None]

    def layer(self, name: str) -> Layer:
        """Section 9.1."""
        sealed = self.open(f"main/layers/{name}", "LAYR")
        columns = Columns(sealed.directory, sealed.name)
        chunk_size, cell_chunks, _, count = ROOT.unpack(columns.take(ROOT.size))
        demand(cell_chunks == CELL_CHUNKS, sealed.name, "cells of another size")
        entries = [Entry(*ENTRY.unpack(one)) for one in columns.items(ENTRY.size, count)]
        columns.end()
        for one in entries:
            demand(one.span >= 1 and one.kind in (SEGMENT, HOLE, ZERO), sealed.name, "an entry is wrong")
            nothing = (one.offset, one.length, one.pieces, one.tag) == (0, 0, 1, bytes(16))
            inside = one.span == 1 and one.offset >= 64 and one.offset + one.length <= sealed.directory_at
            demand(inside if one.kind == SEGMENT else nothing, sealed.name, "an entry is wrong")
        rising = all(one.cell + one.span <= other.cell for one, other in pairwise(entries))
        demand(rising, sealed.name, "its entries do not rise")
        return Layer(sealed, chunk_size, entries)

    def segment(self, layer: Layer, entry: Entry) -> Segment:
        """Sections 9.3 and 9.4."""
        name = f"{layer.sealed.name}, cell {entry.cell}"
        stored = layer.sealed.read(entry.offset, entry.length)
        plain, tag = stored[:-16], stored[-16:]
        demand(tag == entry.tag and layer.sealed.tag(entry.cell, plain) == tag, name, "its tag is wrong")
        columns = Columns(unzstd(plain, SEGMENT_MAX, name), name)
        packs, runs, pieces, fills, bases = SEGMENT_HEAD.unpack(columns.take(SEGMENT_HEAD.size))
        names = columns.items(16, packs)
        run_pack, run_first = columns.numbers(runs), columns.numbers(runs)
        run_count, run_pieces, digests = columns.numbers(runs), columns.numbers(runs), columns.items(16, runs)
        all_pieces = list(zip(columns.differences(pieces), columns.numbers(pieces), columns.take(pieces), strict=True))
        all_fills = list(zip(columns.differences(fills), columns.numbers(fills), columns.take(fills), strict=True))
        all_bases = list(
            zip(columns.differences(bases), columns.numbers(bases), columns.differences(bases), strict=True)
        )
        columns.end()
        demand(entry.pieces == pieces + fills and sum(run_pieces) == pieces, name, "its pieces do not add up")
        stretches = all_pieces + all_fills
        demand(all(length and first + length <= CELL_CHUNKS for first, length, _ in stretches), name, "out of the cell")
        demand(all(live in (0, 1) for _, _, live in all_pieces), name, "a piece is neither live nor shadowed")
        demand(all(kind in (HOLE, ZERO) for _, _, kind in all_fills), name, "a fill of no kind")
        stated = sorted([one for one in all_pieces if one[2]] + all_fills)
        apart = all(one[0] + one[1] <= other[0] for one, other in pairwise(stated))
        demand(apart, name, "says two things of a chunk")
        demand(all(pack < packs for pack in run_pack), name, "a run of no pack")
        fits = all(ordinal < sum(run_count) and pack < packs for ordinal, pack, _ in all_bases)
        demand(fits, name, "a base of no slot or pack")
        told = []
        rest = iter(all_pieces)
        for pack, first, count, many, digest in zip(run_pack, run_first, run_count, run_pieces, digests, strict=True):
            mine = [(chunk, length, bool(live)) for chunk, length, live in islice(rest, many)]
            run = Run(names[pack], first, count, digest, mine)
            demand(1 <= count <= 1024 and sum(length for _, length, _ in mine) == count, name, "a run is wrong")
            demand(len(set(run.chunks())) == count, name, "a chunk is twice in a run")
            told.append(run)
        return Segment(told, all_fills, [(ordinal, names[pack], slot) for ordinal, pack, slot in all_bases])

    def pack(self, name: bytes) -> Pack:
        """Section 8: the highest whole generation."""
        if name not in self.packs:
            self.packs[name] = self._newest_pack(name.hex())
        return self.packs[name]

    def _newest_pack(self, name: str) -> Pack:
        folder = f"main/packs/{name[-2:]}"
        matches = [
            match for file in self.files(folder) if (match := re.fullmatch(rf"{name}\.([0-9]+)-[0-9a-f]{{8}}", file))
        ]
        why: Refused = Refused(f"{folder}/{name}: missing")
        for match in sorted(matches, key=lambda match: int(match[1]), reverse=True):
            try:
                return self._pack(f"{folder}/{match[0]}", bytes.fromhex(name), int(match[1]))
            except Newer:
                raise
            except Refused as error:
                why = error
        raise why

    def _pack(self, name: str, pack: bytes, generation: int) -> Pack:
        sealed = self.open(name, "PACK")
        columns = Columns(sealed.directory, name)
        slots, packs, chunk_size, has_generation, reserved = TABLE.unpack(columns.take(TABLE.size))
        demand(slots <= 1 << 22 and not reserved and has_generation == generation, name, "its table's head is wrong")
        names, ids, lengths = columns.items(16, packs), columns.items(32, slots), columns.numbers(slots)
        codecs, depths = columns.take(slots), columns.take(slots)
        base_packs, base_slots = columns.numbers(slots), columns.numbers(slots)
        columns.end()
        places = list(accumulate(lengths, initial=64))
        demand(places[-1] == sealed.directory_at, name, "its blocks do not fill it")
        demand(pack not in names, name, "names itself for bases")
        demand(set(codecs) <= {RAW, ZSTD, DELTA, EMPTY}, name, "an unknown codec")
        for slot, codec in enumerate(codecs):
            if codec == DELTA:
                demand(base_packs[slot] < packs and 1 <= depths[slot] <= 8, name, f"slot {slot}: a wrong base")
            elif codec == EMPTY:
                demand(not lengths[slot], name, f"slot {slot}: empty, but has bytes")
            else:
                without = (base_packs[slot], base_slots[slot], depths[slot]) == (NO_BASE, 0, 0)
                demand(without, name, f"slot {slot}: a base where there is none")
        return Pack(sealed, chunk_size, names, ids, places, codecs, depths, base_packs, base_slots)

    def block(self, pack: Pack, slot: int) -> bytes:
        """The plain bytes of a block, its id compared (section 8.2)."""
        name = f"{pack.sealed.name}, slot {slot}"
        demand(slot < len(pack.ids), name, "there is no such slot")
        codec = pack.codecs[slot]
        stored = pack.sealed.read(pack.places[slot], pack.places[slot + 1] - pack.places[slot])
        demand(codec != EMPTY, name, "was taken away")
        if codec == RAW:
            plain = stored
        elif codec == ZSTD:
            plain = unzstd(stored, pack.chunk_size, name)
        else:
            base, base_slot = self.pack(pack.names[pack.base_packs[slot]]), pack.base_slots[slot]
            prefix = self.block(base, base_slot)
            demand(base.depths[base_slot] < pack.depths[slot], name, "its depth is wrong")
            demand(base.chunk_size == pack.chunk_size, name, "a base of another size")
            plain = unzstd(stored, pack.chunk_size, name, prefix)
        demand(len(plain) == pack.chunk_size, name, "decodes to another size")
        demand(blake3(plain, key=self.id_key).digest() == pack.ids[slot], name, "decodes to other bytes")
        return plain

    def index(self, name: str) -> list[tuple[bytes, bytes, int]]:
        """Section 11: the first bytes of a block's id, its pack and its slot."""
        columns = Columns(self.open(name, "INDX").directory, name)
        packs, entries = struct.unpack("<II", columns.take(8))
        names, prefixes = columns.items(16, packs), columns.items(8, entries)
        pack, slot = columns.numbers(entries), columns.numbers(entries)
        columns.end()
        demand(prefixes == sorted(prefixes), name, "its entries do not rise")
        demand(all(one < packs for one in pack), name, "an entry of no pack")
        return [(prefix, names[one], at) for prefix, one, at in zip(prefixes, pack, slot, strict=True)]

    def check_run(self, run: Run, cell: int, chunk_size: int) -> Pack:
        """The run's pack, its ids and chunks compared with the run's digest (section 9.5)."""
        pack = self.pack(run.pack)
        name = pack.sealed.name
        demand(pack.chunk_size == chunk_size, name, "chunks of another size than the disk's")
        ids = pack.ids[run.first_slot : run.first_slot + run.count]
        demand(len(ids) == run.count, name, "a run goes beyond it")
        pairs = zip(run.chunks(), ids, strict=True)
        said = b"".join(struct.pack("<Q", cell * CELL_CHUNKS + chunk) + block for chunk, block in pairs)
        demand(blake3(said, key=self.run_key).digest(16) == run.digest, name, f"a run of cell {cell} is wrong")
        return pack

    def layers(self, disk: dict[str, Any]) -> list[Layer]:
        """The disk's manifest, newest first, each layer held against the digest that the point lists."""
        demand(bool(disk["layers"] or not disk["size"]), disk["name"], "a disk without layers")
        layers = [self.layer(one["name"]) for one in disk["layers"]]
        for one, layer in zip(disk["layers"], layers, strict=True):
            demand(layer.sealed.digest.hex() == one["tag"], layer.sealed.name, "not the layer that the point lists")
            demand(layer.chunk_size == disk["chunk_size"], layer.sealed.name, "chunks of another size")
        return layers

    def cell(self, layers: list[Layer], cell: int, count: int) -> dict[int, tuple[Run, int]]:
        """Section 10: run and slot of the chunks of a cell that have one; the other ones are zeros."""
        stated, places = bytearray(count), dict[int, tuple[Run, int]]()
        for layer in layers:
            entry = layer.entry(cell)
            if entry is None:
                continue
            if entry.kind != SEGMENT:
                return places
            segment = self.segment(layer, entry)
            for run in segment.runs:
                live = [is_live for _, length, is_live in run.pieces for _ in range(length)]
                for at, chunk in enumerate(run.chunks()):
                    if live[at] and chunk < count and not stated[chunk]:
                        stated[chunk] = 1
                        places[chunk] = run, run.first_slot + at
            for first, length, _ in segment.fills:
                end = min(first + length, count)
                stated[first:end] = bytes([1]) * max(0, end - first)
            if 0 not in stated:
                return places
        raise Refused(f"cell {cell}: chunk {stated.index(0)} is stated by no layer")

    def blocks(self, disk: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
        """Section 13, steps 4 to 7: number and plain bytes of each chunk that has a block."""
        layers = self.layers(disk)
        count = -(-disk["size"] // disk["chunk_size"])
        for cell in range(-(-count // CELL_CHUNKS)):
            places = self.cell(layers, cell, min(CELL_CHUNKS, count - cell * CELL_CHUNKS))
            runs = {run: self.check_run(run, cell, disk["chunk_size"]) for run, _ in places.values()}
            for chunk, (run, slot) in sorted(places.items(), key=lambda one: one[0]):
                yield cell * CELL_CHUNKS + chunk, self.block(runs[run], slot)


def points(vault_folder: str) -> list[dict[str, Any]]:
    """The records of the points that count, by number."""
    return Vault(vault_folder).points()


def restore(vault_folder: str, number: int, disk: str | None, target: str) -> None:
    """Write a disk of a point (its only one without a name) to a file that is not there yet."""
    vault = Vault(vault_folder)
    found = vault.points(number)
    if len(found) != 1:
        raise LookupError(f"{len(found)} points have number {number}")
    disks = [one for one in found[0]["disks"] if disk in (None, one["name"])]
    if len(disks) != 1:
        raise LookupError(f"{len(disks)} disks of point {number} are {disk or 'its only one'}")
    size, chunk_size = disks[0]["size"], disks[0]["chunk_size"]
    with open(target, "xb") as file:
        file.truncate(size)
        try:
            for chunk, plain in vault.blocks(disks[0]):
                file.seek(chunk * chunk_size)
                file.write(plain[: size - chunk * chunk_size])
        except Refused:
            os.unlink(target)
            raise
