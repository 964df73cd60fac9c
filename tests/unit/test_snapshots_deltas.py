"""The list of old chunks: what was appended is found, in pieces and after crashes, and damage is not an answer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from blockvault.errors import CorruptionError
from blockvault.snapshots import deltas
from blockvault.snapshots.batches import batches_of, runs_of
from blockvault.snapshots.deltas import ChunkList, binding, list_path, seed_check

BOUND = binding("v", "i", "vda")


def make(path: Path) -> ChunkList:
    return ChunkList.create(str(path), bound_to=BOUND, number=7, chunk_size=65_536, seed=1)


def reopen(path: Path, **other: object) -> ChunkList:
    options = {"bound_to": BOUND, "number": 7, "chunk_size": 65_536, "write": True, **other}
    return ChunkList.open(str(path), **options)  # type: ignore[arg-type]


def rows(*chunks: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array(chunks, np.uint64)
    digests = np.array([[(chunk * 7 + byte) % 256 for byte in range(16)] for chunk in chunks], np.uint8)
    return numbers, digests.reshape(-1, 16)


def found_in(found: ChunkList, first: int, last: int) -> dict[int, bytes]:
    return {
        int(chunk): digest.tobytes()
        for chunks, digests in found.lookup(first, last)
        for chunk, digest in zip(chunks, digests, strict=True)
    }


def as_dict(*chunks: int) -> dict[int, bytes]:
    numbers, digests = rows(*chunks)
    return {int(chunk): digest.tobytes() for chunk, digest in zip(numbers, digests, strict=True)}


def test_what_was_appended_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "SEGMENT_ROWS_MAX", 3)
    path = tmp_path / "l"
    made = make(path)
    made.append(*rows(1, 2, 5, 6, 9, 10, 70_000))
    made.append(*rows(3, 1 << 40))
    for found in (made, reopen(path)):
        assert found.row_count == 9
        assert found_in(found, 0, 1 << 50) == as_dict(1, 2, 5, 6, 9, 10, 70_000, 3, 1 << 40)
        assert found_in(found, 2, 9) == as_dict(2, 5, 6, 9, 3)
        assert found_in(found, 11, 69_999) == {}
        assert found.names(np.array([0, 1, 3, 4, 10, 11], np.uint64)).tolist() == [
            False,
            True,
            True,
            False,
            True,
            False,
        ]
        assert found.seed_check == seed_check(1) != seed_check(2)
        found.close()


def test_a_reader_takes_in_what_is_appended_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "l"
    made = make(path)
    reader = reopen(path, write=False)
    assert not reader.refresh()
    made.append(*rows(4))
    assert reader.refresh()
    assert found_in(reader, 0, 9) == as_dict(4)
    made.seal(8)
    assert reader.refresh()
    assert reader.successor == 8
    made.unseal()
    made.append(*rows(5))
    assert reader.refresh()
    assert reader.successor is None
    assert found_in(reader, 0, 9) == as_dict(4, 5)
    assert not reader.refresh()


def test_a_torn_end_is_cut_and_built_upon(tmp_path: Path) -> None:
    path = tmp_path / "l"
    made = make(path)
    made.append(*rows(1, 2, 3))
    whole = path.stat().st_size
    made.append(*rows(4, 5))
    made.close()
    full = path.read_bytes()
    for length in range(whole, len(full)):
        for tail in (full[whole:length], bytes(length - whole), b"\xff" * (length - whole)):
            path.write_bytes(full[:whole] + tail)
            found = reopen(path)
            assert found_in(found, 0, 9) == as_dict(1, 2, 3)
            found.cut_torn_end()
            assert path.stat().st_size == whole
            found.append(*rows(6))
            assert found_in(reopen(path), 0, 9) == as_dict(1, 2, 3, 6)


def test_a_head_that_never_became_whole_is_told_from_a_list(tmp_path: Path) -> None:
    path = tmp_path / "l"
    make(path).close()
    head = path.read_bytes()
    for length in range(len(head)):
        path.write_bytes(head[:length])
        assert not reopen(path).is_begun


def test_no_flipped_byte_of_a_sealed_list_goes_unseen(tmp_path: Path) -> None:
    """Either it is damage at once, or the seal is gone, which the reader of a chain takes for damage."""
    path = tmp_path / "l"
    made = make(path)
    made.append(*rows(1, 2, 3))
    made.append(*rows(9))
    made.seal(8)
    made.close()
    whole = path.read_bytes()
    for position in range(40 + 8, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert reopen(path).successor is None, position
    for position in range(8 + 4):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(CorruptionError):
            reopen(path)
    path.write_bytes(whole + bytes(64))
    with pytest.raises(CorruptionError):
        reopen(path)


def test_anothers_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    make(path).close()
    for other in ({"bound_to": binding("v", "i", "vdb")}, {"number": 8}, {"chunk_size": 16_384}):
        with pytest.raises(CorruptionError) as caught:
            reopen(path, **other)
        assert caught.value.kind == "snapshot.damaged"


def test_a_list_that_became_shorter_under_its_reader_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "l"
    made = make(path)
    made.append(*rows(1))
    os.truncate(path, 60)
    with pytest.raises(CorruptionError):
        made.refresh()


def test_names_and_runs(tmp_path: Path) -> None:
    assert list_path("/a/vda", 12) == "/a/vda.12.chunks"
    assert list(runs_of(np.array([1, 2, 3, 7, 9, 10], np.uint64))) == [(1, 3), (7, 1), (9, 2)]
    assert list(runs_of(np.zeros(0, np.uint64))) == []


def test_a_run_of_chunks_is_never_held_as_a_whole() -> None:
    """A dense disk is one run: of 64 TiB its numbers alone would be 8 GiB."""
    batches = batches_of(5, 1 << 40, 64 << 10)
    first, second = next(batches), next(batches)
    assert first.tolist() == list(range(5, 5 + 128))
    assert second[0] == first[-1] + 1
    assert np.concatenate(list(batches_of(3, 300, 64 << 10))).tolist() == list(range(3, 303))
