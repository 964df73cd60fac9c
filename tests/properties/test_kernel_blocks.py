"""What one kernel encodes the other decodes; what is damaged neither takes for good."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from helpers.files import noise
from helpers.kernels import (
    ID_KEY,
    KERNELS,
    NATIVE,
    REFERENCE,
    Chunks,
    Pack,
    all_rows,
    chunk_lists,
    chunks_of,
    edited,
    encode,
    plain,
)
from hypothesis import given, settings
from hypothesis import strategies as st

RAW, ZSTD, DELTA = range(3)
sides = st.sampled_from([(NATIVE, REFERENCE), (REFERENCE, NATIVE), (NATIVE, NATIVE)])
keys = st.sampled_from([None, bytes(range(1, 33))])
levels = st.sampled_from([1, 2, 3, 4, 9, 15, 19])


def sealed(kernel: Any, blocks: Any, key: bytes | None, first_slot: int) -> Any:
    if key is None:
        return blocks
    return kernel.encrypt(blocks.payload, blocks.offsets, key=key, associated=b"pack", first_slot=first_slot)


def packed(kernel: Any, batch: Any, blocks: Any, key: bytes | None, first_slot: int = 5) -> Pack:
    """A pack of the blocks, whose codecs are those before they were sealed."""
    stored = sealed(kernel, blocks, key, first_slot)
    pack = Pack(batch.chunk_size, stored, batch.ids, key=key, first_slot=first_slot)
    pack.codecs = blocks.codecs
    return pack


@settings(max_examples=60, deadline=None)
@given(chunk_lists(), sides, keys, levels)
def test_full_blocks_cross(drawn: Chunks, kernels: tuple[Any, Any], key: bytes | None, level: int) -> None:
    writer, reader = kernels
    chunks, size = drawn.make(), drawn.size
    batch = plain(writer, chunks, size)
    blocks = encode(writer, batch, level)
    for row, length in enumerate(np.diff(blocks.offsets).tolist()):
        if blocks.codecs[row] == RAW:
            assert blocks.payload[int(blocks.offsets[row]) :][:length] == chunks[row]
        else:
            assert blocks.codecs[row] == ZSTD
            assert size - length >= size // 16
    assert encode(reader, plain(reader, chunks, size), level).codecs.tolist() == blocks.codecs.tolist()
    with packed(writer, batch, blocks, key) as pack:
        decoded, status = pack.decode(reader)
        assert status == [0] * len(chunks)
        assert chunks_of(decoded) == chunks
        assert decoded.states.tolist() == batch.states.tolist()
        assert decoded.digests.shape == (0, 16)
        np.testing.assert_array_equal(decoded.ids, batch.ids)
        assert decoded.read_bytes == pack.lengths.sum()


@settings(max_examples=60, deadline=None)
@given(chunk_lists(), sides, keys, st.sampled_from([0, 5000, 2**32 - 1]), st.data())
def test_delta_blocks_cross(
    drawn: Chunks, kernels: tuple[Any, Any], key: bytes | None, limit: int, data: st.DataObject
) -> None:
    writer, reader = kernels
    chunks, size = drawn.make(), drawn.size
    later = [edited(chunk, number) for number, chunk in enumerate(chunks)]
    base_rows = np.array([data.draw(st.sampled_from([row, -1])) for row in range(len(chunks))], np.int32)
    batch = plain(writer, later, size)
    full_lengths = np.diff(encode(writer, batch).offsets)
    limits = np.full(len(chunks), limit, np.uint32)
    options = {"bases": plain(writer, chunks, size), "base_rows": base_rows, "delta_limits": limits}
    blocks = encode(writer, batch, **options)
    for row, length in enumerate(np.diff(blocks.offsets)):
        if blocks.codecs[row] == DELTA:
            assert base_rows[row] >= 0
            assert length <= limit or 2 * length < full_lengths[row]
        else:
            assert length == full_lengths[row]
            # An edited page in a chunk that does not compress is always worth a delta.
            assert base_rows[row] < 0 or full_lengths[row] < 2 * size // 3
    with packed(writer, batch, blocks, key) as pack:
        decoded, status = pack.decode(reader, bases=chunks, base_rows=base_rows)
        assert status == [0] * len(chunks)
        assert chunks_of(decoded) == later
        # Without its base a delta says so; with another base it is not taken for good.
        _, missing = pack.decode(reader)
        assert missing == [4 if codec == DELTA else 0 for codec in blocks.codecs]
        others = [noise(size, 100 + row) for row in range(len(chunks))]
        decoded, wrong = pack.decode(reader, bases=others, base_rows=base_rows)
        for row, status in enumerate(wrong):
            assert status == 0 or decoded.chunk(row) == bytes(size)
            assert status != 0 or decoded.chunk(row) == later[row]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), sides, keys, st.data())
def test_chains_of_deltas(depth: int, kernels: tuple[Any, Any], key: bytes | None, data: st.DataObject) -> None:
    """Versions of a chunk, each a delta of the one before, in any order in the pack; one of them may be damaged."""
    writer, reader = kernels
    size = 16 << 10
    versions = [noise(size, 5)]
    for number in range(depth):
        versions.append(edited(versions[-1], number))
    order = data.draw(st.permutations(range(depth + 1)))  # row -> version
    rows = data.draw(st.lists(st.integers(0, depth), max_size=2 * depth + 2))
    wanted = np.array(rows, np.uint32)
    row_of = {version: row for row, version in enumerate(order)}
    before = np.array([version - 1 for version in order], np.int32)
    batch = plain(writer, [versions[version] for version in order], size)
    blocks = encode(writer, batch, bases=plain(writer, versions, size), base_rows=before)
    assert [codec == DELTA for codec in blocks.codecs] == [version > 0 for version in order]
    base_rows = np.array([row_of.get(version - 1, -1) for version in order], np.int32)
    hurt = data.draw(st.one_of(st.none(), st.sampled_from(range(depth + 1))))
    with packed(writer, batch, blocks, key) as pack:
        ids = pack.ids.copy()
        if hurt is not None:
            ids[row_of[hurt], data.draw(st.integers(0, 31))] ^= 1
        decoded, status = pack.decode(reader, base_rows=base_rows, ids=ids, wanted=wanted)
        assert len(decoded) == len(status) == len(rows)
        for at, version in enumerate(order[row] for row in rows):
            if hurt == version and version <= 8:
                expected = 3
            else:  # what rests on more than 8 others, or on the damaged one, has no base
                expected = 4 if version > 8 or (hurt is not None and hurt < version) else 0
            assert status[at] == expected
            assert decoded.chunk(at) == (bytes(size) if expected else versions[version])
        if hurt is None and depth and rows:
            base_rows[row_of[0]] = row_of[depth]  # a base that is named but not needed
            assert pack.decode(reader, base_rows=base_rows, ids=ids, wanted=wanted)[1] == status
            codecs = pack.codecs.copy()
            codecs[row_of[0]] = DELTA  # a circle
            circle = pack.decode(reader, base_rows=base_rows, ids=ids, wanted=wanted, codecs=codecs)[1]
            assert circle == [4] * len(rows)


@settings(max_examples=150, deadline=None)
@given(chunk_lists(), st.sampled_from(KERNELS), keys, st.data())
def test_no_damage_is_taken_for_good(drawn: Chunks, writer: Any, key: bytes | None, data: st.DataObject) -> None:
    chunks, size = drawn.make(), drawn.size
    later = [edited(chunk, number) for number, chunk in enumerate(chunks)]
    batch = plain(writer, later, size)
    base_rows = np.array([data.draw(st.sampled_from([row, -1])) for row in range(len(chunks))], np.int32)
    options = {"bases": plain(writer, chunks, size), "base_rows": base_rows}
    blocks = encode(writer, batch, **options)
    with packed(writer, batch, blocks, key) as pack:
        row = data.draw(st.integers(0, len(chunks) - 1))
        start, length = int(pack.offsets[row]), int(pack.lengths[row])
        fd = pack.file.fileno()
        harm = data.draw(st.sampled_from(["flip", "cut", "overwrite", "shorter", "longer", "codec", "id", "slot"]))
        changes: dict[str, Any] = {}
        hurt = {row}
        # A frame has bits that mean nothing: what decodes to the very same bytes is no damage.
        harmless = key is None
        if harm == "flip":
            at = start + data.draw(st.integers(0, length - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ bit]), at)
        elif harm == "cut":
            os.ftruncate(fd, start + data.draw(st.integers(0, length - 1)))
            hurt = set(range(row, len(chunks)))
            harmless = False
        elif harm == "overwrite":
            at = data.draw(st.integers(0, length - 1))
            os.pwrite(fd, noise(length - at, 42), start + at)
        elif harm in {"shorter", "longer"}:
            by = data.draw(st.sampled_from([1, 16, 4096, length, 2**31]))
            lengths = pack.lengths.copy()
            lengths[row] = max(0, length - by) if harm == "shorter" else min(2**32 - 1, length + by)
            changes["lengths"] = lengths
            harmless = False
        elif harm == "codec":
            codecs = pack.codecs.copy()
            codecs[row] = data.draw(st.sampled_from([c for c in [0, 1, 2, 3, 255] if c != codecs[row]]))
            changes["codecs"] = codecs
            harmless = True  # a delta that uses nothing of its base is also a full frame
        elif harm == "id":
            ids = pack.ids.copy()
            ids[row, data.draw(st.integers(0, 31))] ^= 1
            changes["ids"] = ids
            harmless = False
        elif key is not None:
            slots = pack.slots.copy()
            slots[row] += 1
            changes["slots"] = slots
        for kernel in KERNELS:
            decoded, status = pack.decode(kernel, bases=chunks, base_rows=base_rows, **changes)
            for other in range(len(chunks)):
                if status[other] == 0:
                    assert decoded.chunk(other) == later[other]
                    assert other not in hurt or harmless
                else:
                    assert other in hurt
                    assert decoded.chunk(other) == bytes(size)
                    assert decoded.states[other] == 1


@settings(max_examples=25, deadline=None)
@given(chunk_lists(), st.integers(0, 2**64 - 10), st.binary(max_size=40))
def test_sealed_bytes_are_equal(drawn: Chunks, first_slot: int, associated: bytes) -> None:
    chunks = drawn.make()
    blocks = encode(NATIVE, plain(NATIVE, chunks, drawn.size))
    both = [
        kernel.encrypt(payload, blocks.offsets, key=ID_KEY, associated=associated, first_slot=first_slot)
        for kernel, payload in [(NATIVE, blocks.payload), (REFERENCE, bytes(blocks.payload))]
    ]
    assert both[0].payload == both[1].payload
    np.testing.assert_array_equal(both[0].offsets, both[1].offsets)
    assert not both[0].codecs.any()
    assert len(both[0].payload) == len(blocks.payload) + 16 * len(chunks)


@settings(max_examples=25, deadline=None)
@given(chunk_lists(), st.data())
def test_rows_may_come_in_any_order_and_more_than_once(drawn: Chunks, data: st.DataObject) -> None:
    chunks, size = drawn.make(), drawn.size
    rows = np.array(data.draw(st.lists(st.integers(0, len(chunks) - 1), max_size=6)), np.uint32)
    for kernel in KERNELS:
        batch = plain(kernel, chunks, size)
        blocks = kernel.encode(batch, rows, level=1, bases=None, base_rows=None, delta_limits=None, cancel=None)
        with Pack(size, blocks, batch.ids[rows]) as pack:
            order = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
            changes = {
                name: np.ascontiguousarray(getattr(pack, name)[order])
                for name in ("slots", "offsets", "lengths", "codecs", "ids")
            }
            decoded, status = pack.decode(kernel, **changes)
            assert status == [0] * len(rows)
            assert chunks_of(decoded) == [chunks[row] for row in rows[order]]
            assert all_rows(decoded).tolist() == list(range(len(rows)))
