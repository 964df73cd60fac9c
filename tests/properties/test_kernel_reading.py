"""The native core and its reference read alike: states, digests, ids, bytes, whatever the image looks like."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kernels import CHUNK_SIZES, ID_KEY, NATIVE, REFERENCE, SEED, Recipe, chunks_of, recipes, scan
from hypothesis import given, settings
from hypothesis import strategies as st

seeds = st.sampled_from([0, 1, SEED, 2**64 - 1])


def same_scan(left: object, right: object) -> None:
    np.testing.assert_array_equal(left.states, right.states)
    np.testing.assert_array_equal(left.digests, right.digests)
    assert left.read_bytes == right.read_bytes


@settings(deadline=None)
@given(recipes(), seeds, st.integers(1, 3), st.booleans())
def test_scan_of_a_whole_disk(recipe: Recipe, seed: int, threads: int, drop_cache: bool) -> None:
    with recipe.make() as image:
        arguments = (image.fd, recipe.chunk_size, recipe.size)
        options = {"seed": seed, "threads": threads, "drop_cache": drop_cache}
        first = scan(NATIVE, *arguments, **options)
        same_scan(first, scan(REFERENCE, *arguments, **options))
        assert set(first.states.tolist()) <= {0, 1, 3}
        assert first.digests[first.states != 3].any(axis=None) == False  # noqa: E712 - numpy's bool


@settings(deadline=None)
@given(recipes(), st.data())
def test_scan_finds_the_churn_and_nothing_else(recipe: Recipe, data: st.DataObject) -> None:
    with recipe.make() as image:
        arguments = (image.fd, recipe.chunk_size, recipe.size)
        parent = scan(NATIVE, *arguments).digests
        if recipe.size:
            for number in range(data.draw(st.integers(0, 3))):
                kind = data.draw(st.sampled_from(["noise", "text", "zero"]))
                image.write(kind, data.draw(st.integers(0, recipe.size - 1)), 700, 77 + number)
        first = data.draw(st.integers(0, recipe.chunk_count))
        count = data.draw(st.integers(0, recipe.chunk_count - first))
        options = {"first_chunk": first, "chunk_count": count, "digests": parent[first : first + count].copy()}
        found = scan(NATIVE, *arguments, **options)
        same_scan(found, scan(REFERENCE, *arguments, **options))
        fresh = scan(REFERENCE, *arguments).digests[first : first + count]
        differs = (fresh != options["digests"]).any(axis=1)
        np.testing.assert_array_equal(found.states == 3, differs & fresh.any(axis=1))
        np.testing.assert_array_equal(found.states == 2, ~differs & fresh.any(axis=1))


@settings(deadline=None)
@given(recipes(chunk_count_max=8), recipes(chunk_count_max=8), seeds, st.booleans(), st.data())
def test_identify(left: Recipe, right: Recipe, seed: int, with_ids: bool, data: st.DataObject) -> None:
    with left.make() as one, right.make() as other:
        disk_size = min(left.size, right.size)
        beyond = disk_size // left.chunk_size + 3
        chunk = st.one_of(st.integers(0, beyond), st.sampled_from([2**40, 2**63, 2**64 - 1]))
        chunks = np.array(data.draw(st.lists(chunk, max_size=8)), np.uint64)
        if data.draw(st.booleans()):  # a run that is read together
            chunks = np.arange(len(chunks), dtype=np.uint64)
        fds = np.array([data.draw(st.sampled_from([one.fd, other.fd])) for _ in chunks], np.int32)
        options = {
            "chunk_size": left.chunk_size,
            "disk_size": disk_size,
            "seed": seed,
            "id_key": ID_KEY if with_ids else None,
            "drop_cache": data.draw(st.booleans()),
            "cancel": None,
        }
        batches = [kernel.identify(fds, chunks, **options) for kernel in (NATIVE, REFERENCE)]
        same_batch(*batches)
        assert batches[0].ids.shape == (len(chunks) if with_ids else 0, 32)


def same_batch(left: object, right: object) -> None:
    assert len(left) == len(right)
    assert left.chunk_size == right.chunk_size
    assert left.read_bytes == right.read_bytes
    np.testing.assert_array_equal(left.states, right.states)
    np.testing.assert_array_equal(left.digests, right.digests)
    np.testing.assert_array_equal(left.ids, right.ids)
    assert chunks_of(left) == chunks_of(right)


@settings(max_examples=30, deadline=None)
@given(recipes(), seeds, st.booleans(), st.sampled_from([bytes, bytearray, memoryview]))
def test_identify_plain(recipe: Recipe, seed: int, with_ids: bool, kind: type) -> None:
    with recipe.make() as image:
        content = image.content()
    content = content[: len(content) // recipe.chunk_size * recipe.chunk_size]
    options = {"chunk_size": recipe.chunk_size, "seed": seed, "id_key": ID_KEY if with_ids else None}
    batches = [kernel.identify_plain(kind(content), **options) for kernel in (NATIVE, REFERENCE)]
    same_batch(*batches)
    assert b"".join(chunks_of(batches[0])) == content


@pytest.mark.parametrize("chunk_size", [*CHUNK_SIZES, 2 << 20, 4 << 20])
def test_every_chunk_size_with_two_pieces_of_the_scan(chunk_size: int) -> None:
    size = (16 << 20) + 2 * chunk_size + 5
    pieces = [("noise", 0, 4096), ("text", (16 << 20) - 100, 200), ("noise", size - 3, 3)]
    with Recipe(chunk_size, size, pieces, 1).make() as image:
        found = [scan(kernel, image.fd, chunk_size, size) for kernel in (NATIVE, REFERENCE)]
        same_scan(*found)
        assert (found[0].states == 3).sum() >= 3
