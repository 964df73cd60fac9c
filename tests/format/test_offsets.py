"""The binary tables of `docs/format.md` against the code: structs, dtypes, columns, numbers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from format_document import plain, read_columns, struct_format, table, table_names

from blockvault import keys as vault_keys
from blockvault.format import envelope, layers, tables
from blockvault.format import index as index_format
from blockvault.ids import PackName
from blockvault.model import Codec, FillKind
from blockvault.model.geometry import CELL_CHUNKS

RUN_KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("name", "code", "size"),
    [
        ("head", envelope.HEAD, envelope.HEAD_BYTES),
        ("footer", envelope.FOOTER, envelope.FOOTER_BYTES),
        ("pack table head", tables.TABLE_HEAD, 20),
        ("root head", layers.ROOT_HEAD, 20),
        ("segment head", layers.SEGMENT_HEAD, 20),
        ("index head", index_format.INDEX_HEAD, 8),
    ],
)
def test_a_head_is_the_codes_struct(name: str, code: struct.Struct, size: int) -> None:
    assert struct_format(name) == code.format
    assert code.size == size


@pytest.mark.parametrize("encrypted", [False, True])
def test_head_and_footer_hold_what_they_are_told_to(encrypted: bool) -> None:
    magics = {name: plain(table(name)[row]["meaning"]).encode() for name, row in (("head", 0), ("footer", 2))}
    keys = vault_keys.derive(bytes(32), bytes(16), encrypted=encrypted, epochs=4)
    write_id = bytes(range(16))
    data, _ = envelope.seal_record(keys, envelope.Kind.ITEM, "items/a/000000", b"{}", write_id)
    names = [row["name"] for row in table("head")]
    head = dict(zip(names, struct.unpack_from(struct_format("head"), data), strict=True))
    assert len(head.pop("salt")) == 32
    assert head == {
        "magic": magics["head"],
        "kind": b"ITEM",
        "version": 1,
        "cipher": int(encrypted),
        "reserved": 0,
        "epoch": 3,
        "write id": write_id,
    }
    assert envelope.write_id_of(data[:64]) == write_id
    names = [row["name"] for row in table("footer")]
    footer = dict(zip(names, struct.unpack(struct_format("footer"), data[-24:]), strict=True))
    assert footer == {
        "directory offset": 64,
        "directory length": len(data) - 64 - 24,
        "magic": magics["footer"],
    }


def test_root_entries_are_the_codes_dtype() -> None:
    rows = table("root entry")
    fields = layers.ENTRY.fields
    assert fields is not None
    assert [row["name"] for row in rows] == list(layers.ENTRY.names or ())
    for row in rows:
        dtype, offset = fields[row["name"]][:2]
        assert (int(row["offset"]), int(row["size"])) == (offset, dtype.itemsize)
        kind = {"u8": "|u1", "u32": "<u4", "u64": "<u8"}.get(row["type"])
        assert dtype == (np.dtype(kind) if kind else np.dtype(("u1", (16,))))
    assert struct.calcsize(struct_format("root entry")) == layers.ENTRY.itemsize == 41


def test_numbers_that_stand_for_something() -> None:
    assert {row["codec"]: int(row["number"]) for row in table("codecs")} == {c.name: c.value for c in Codec}
    assert {row["kind"]: int(row["number"]) for row in table("entry kinds")} == {
        "SEGMENT": layers.ENTRY_SEGMENT,
        "HOLE": layers.ENTRY_HOLE,
        "ZERO": layers.ENTRY_ZERO,
    }
    stored = {kind.name: kind.value for kind in (FillKind.HOLE, FillKind.ZERO)}
    assert {row["kind"]: int(row["number"]) for row in table("fill kinds")} == stored
    (directory,) = [row for row in table("sections") if row["section"] == "directory"]
    assert int(directory["number"]) == envelope.DIRECTORY_NUMBER
    kinds = {kind.value for kind in envelope.Kind} - {
        envelope.Kind.OUTLINE.value,
        envelope.Kind.BRIEFS.value,
    }  # in LMDB alone
    assert {plain(row["kind"]) for row in table("layout")} - {"-"} == kinds
    assert {plain(row["kind"]) for row in table("sections")} - {"any"} <= kinds


def _random(seed: int, high: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, count, dtype=np.uint64).astype(np.uint32)


def _names(count: int) -> list[PackName]:
    return [PackName(bytes([i + 1]) * 16) for i in range(count)]


def test_a_packs_table_reads_as_the_document_says() -> None:
    count, bases = 7, _names(3)
    codecs = np.array([0, 1, 2, 255, 2, 2, 1], np.uint8)
    delta = codecs == Codec.DELTA
    columns = {
        "ids": np.random.default_rng(1).integers(0, 256, (count, 32), dtype=np.uint8),
        "lengths": np.where(codecs == Codec.EMPTY, 0, _random(2, 1 << 16, count) + 1).astype(np.uint32),
        "codecs": codecs,
        "depths": np.where(delta, 1 + np.arange(count) % 8, 0).astype(np.uint8),
        "base_pack": np.where(delta, np.arange(count) % 3, tables.NO_BASE).astype(np.uint32),
        "base_slot": np.where(delta, _random(3, 1 << 32, count), 0).astype(np.uint32),
    }
    data = tables.encode_table(chunk_size=16_384, generation=5, base_packs=bases, **columns)  # type: ignore[arg-type]
    read = read_columns("pack table head", "pack table columns", data)
    assert (read["slots"], read["chunk size"], read["generation"], read["reserved"]) == (count, 16_384, 5, 0)
    assert read["base pack name"] == bases
    assert read["id"] == [row.tobytes() for row in columns["ids"]]
    for name, column in (
        ("length", "lengths"),
        ("codec", "codecs"),
        ("depth", "depths"),
        ("base pack", "base_pack"),
        ("base slot", "base_slot"),
    ):
        assert read[name] == columns[column].tolist(), name
    end = 64 + sum(read["length"])
    decoded = tables.decode_table("t", data, end)
    assert decoded.offsets.tolist() == [64 + sum(read["length"][:slot]) for slot in range(count + 1)]


def _segment(cell: int) -> layers.Segment:
    """A segment with several packs, runs, pieces both live and shadowed, both fills, and bases that fall and rise."""
    rng = np.random.default_rng(cell)
    parts = []
    for seed, names in ((1, _names(2)), (2, _names(3))):
        chunks = np.sort(rng.choice(3_000, 1_500, replace=False)).astype(np.uint32)
        count = len(chunks)
        pack = (np.arange(count) // 1_100).astype(np.uint32)
        delta = _random(seed, 4, count) == 0
        parts.append(
            layers.build_segment(
                cell,
                RUN_KEY,
                packs=names,
                chunks=chunks,
                pack=pack,
                slot=(np.arange(count) % 1_100 + 17).astype(np.uint32),
                ids=rng.integers(0, 256, (count, 32), dtype=np.uint8),
                base_pack=np.where(delta, len(names) - 1, tables.NO_BASE).astype(np.uint32),
                base_slot=np.where(delta, _random(seed, 1 << 32, count), 0).astype(np.uint32),
                fills=[(4_000 + 100 * seed, 150, FillKind.HOLE), (60_000, 5_536, FillKind.ZERO)],
            )
        )
    return layers.merge_segments(parts)


def test_a_segment_reads_as_the_document_says() -> None:
    segment = _segment(3)
    assert not segment.piece_live.all(), "the example must have shadowed pieces"
    assert len(segment.base_ordinal) > 9
    read = read_columns("segment head", "segment columns", layers.encode_segment(segment))
    assert read["pack name"] == list(segment.packs)
    for name, values in (
        ("run pack", segment.run_pack),
        ("run first slot", segment.run_first_slot),
        ("run count", segment.run_count),
        ("run pieces", np.bincount(segment.piece_run, minlength=len(segment.run_count))),
        ("piece first", segment.piece_first),
        ("piece length", segment.piece_length),
        ("piece live", segment.piece_live.astype(int)),
        ("fill first", segment.fill_first),
        ("fill length", segment.fill_length),
        ("fill kind", segment.fill_kind),
        ("base ordinal", segment.base_ordinal),
        ("base pack", segment.base_pack),
        ("base slot", segment.base_slot),
    ):
        assert read[name] == values.tolist(), name
    assert read["run digest"] == [row.tobytes() for row in segment.run_digest]
    assert (np.diff(segment.base_slot.astype(np.int64)) < 0).any(), "differences must be seen to fall"


def test_merging_keeps_every_runs_digest_true() -> None:
    """A run's digest covers its shadowed slots too: read by the document's columns, it is that of the beginning."""
    from blake3 import blake3

    cell, count = 3, 1_500
    rng = np.random.default_rng(cell)  # as in `_segment`
    wanted = set()
    for _ in range(2):
        chunks = np.sort(rng.choice(3_000, count, replace=False))
        ids = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        for first, stop in ((0, 1_024), (1_024, 1_100), (1_100, count)):
            data = b"".join(
                struct.pack("<Q", cell * CELL_CHUNKS + int(chunk)) + name.tobytes()
                for chunk, name in zip(chunks[first:stop], ids[first:stop], strict=True)
            )
            wanted.add(blake3(data, key=RUN_KEY).digest()[:16])
    read = read_columns("segment head", "segment columns", layers.encode_segment(_segment(cell)))
    assert set(read["run digest"]) == wanted
    at = 0
    for slots, pieces in zip(read["run count"], read["run pieces"], strict=True):
        assert sum(read["piece length"][at : at + pieces]) == slots
        at += pieces


def test_an_index_segment_reads_as_the_document_says() -> None:
    ids = np.random.default_rng(4).integers(0, 256, (20, 32), dtype=np.uint8)
    pack, slot = _random(5, 3, 20), _random(6, 1 << 32, 20)
    data = index_format.encode_index(_names(3), index_format.prefixes_of(ids), pack, slot)
    read = read_columns("index head", "index columns", data)
    order = sorted(range(20), key=lambda row: ids[row, :8].tobytes())
    assert read["pack name"] == _names(3)
    assert read["prefix"] == [ids[row, :8].tobytes() for row in order]
    assert read["pack"] == pack[order].tolist()
    assert read["slot"] == slot[order].tolist()


def test_a_root_reads_as_the_document_says() -> None:
    entries = np.zeros(2, layers.ENTRY)
    entries[0] = (0, 1, layers.ENTRY_SEGMENT, 64, 500, 12, np.arange(16, dtype=np.uint8))
    entries[1] = (1, 9, layers.ENTRY_HOLE, 0, 0, 1, np.zeros(16, np.uint8))
    data = layers.encode_root(16_384, 65_536 * 10, entries)
    head, entry = struct_format("root head"), struct_format("root entry")
    assert struct.unpack_from(head, data) == (16_384, 65_536, 655_360, 2)
    at = struct.calcsize(head)
    assert struct.unpack_from(entry, data, at) == (0, 1, 0, 64, 500, 12, bytes(range(16)))
    assert struct.unpack_from(entry, data, at + 41) == (1, 9, 1, 0, 0, 1, bytes(16))
    assert len(data) == at + 2 * struct.calcsize(entry)


def test_every_table_is_named_once() -> None:
    names = table_names()
    assert len(names) == len(set(names)) >= 25
    for name in names:
        table(name)
