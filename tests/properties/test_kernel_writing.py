"""The native core and its reference leave the same bytes behind, on fresh targets and on used ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from helpers.files import noise
from helpers.kernels import KERNELS, SEED, Recipe, recipes
from hypothesis import given, settings
from hypothesis import strategies as st


@contextmanager
def target(content: bytes | int) -> Iterator[int]:
    """A file with that content, or a fresh one of that size."""
    with tempfile.TemporaryFile() as file:
        if isinstance(content, int):
            os.ftruncate(file.fileno(), content)
        else:
            os.write(file.fileno(), content)
        yield file.fileno()


def content_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


@settings(deadline=None)
@given(recipes(), st.booleans(), st.booleans(), st.data())
def test_apply(recipe: Recipe, fresh: bool, past_the_cache: bool, data: st.DataObject) -> None:
    with recipe.make() as image:
        chunks = np.arange(recipe.chunk_count, dtype=np.uint64)
        expected = image.content()
        order = np.array(data.draw(st.permutations(range(recipe.chunk_count))), np.int64)
        if data.draw(st.booleans()):  # runs of neighbours
            order.sort()
        written, blocks_used = [], []
        for kernel in KERNELS:
            plain = kernel.identify(
                np.full(len(chunks), image.fd, np.int32),
                chunks,
                chunk_size=recipe.chunk_size,
                disk_size=recipe.size,
                seed=SEED,
                id_key=None,
                cancel=None,
            )
            with target(recipe.size if fresh else noise(recipe.size, 9)) as fd:
                rows, places = order.astype(np.uint32), chunks[order]
                direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT) if past_the_cache else None
                options = {"disk_size": recipe.size, "fresh": fresh, "direct_fd": direct, "cancel": None}
                written.append(kernel.apply(plain, rows, fd, places, **options))
                if direct is not None:
                    os.close(direct)
                assert content_of(fd) == expected
                blocks_used.append(os.fstat(fd).st_blocks)
        data_bytes = sum(
            min(recipe.chunk_size, recipe.size - chunk * recipe.chunk_size)
            for chunk in range(recipe.chunk_count)
            if any(expected[chunk * recipe.chunk_size :][: recipe.chunk_size])
        )
        assert written == [data_bytes, data_bytes]
        # What is zero takes no space, whatever was there before.
        assert all(used * 512 <= data_bytes + 8192 for used in blocks_used)


@settings(deadline=None)
@given(recipes(), st.data())
def test_clear(recipe: Recipe, data: st.DataObject) -> None:
    before = noise(recipe.size, 3)
    start = data.draw(st.integers(0, recipe.size))
    length = data.draw(st.integers(0, recipe.size - start))
    for kernel in KERNELS:
        with target(before) as fd:
            assert kernel.clear(fd, start, length) in {"punch", "write"}
            assert content_of(fd) == before[:start] + bytes(length) + before[start + length :]


@settings(deadline=None)
@given(recipes(), st.data())
def test_copy_range_copies_data_and_leaves_holes(recipe: Recipe, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, recipe.size))
    length = data.draw(st.integers(0, recipe.size - start))
    with recipe.make() as image:
        source = image.content()
        results = []
        for kernel in KERNELS:
            with target(recipe.size) as fd:
                copied = kernel.copy_range(image.fd, fd, start, length, None)
                assert content_of(fd)[start : start + length] == source[start : start + length]
                assert not any(content_of(fd)[:start] + content_of(fd)[start + length :])
            with target(b"\xaa" * recipe.size) as fd:
                assert kernel.copy_range(image.fd, fd, start, length, None) == copied
                results.append((copied, content_of(fd)))
        assert results[0] == results[1]


@settings(max_examples=40, deadline=None)
@given(recipes(chunk_count_max=6), st.data())
def test_write_into_a_pipe(recipe: Recipe, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, max(0, recipe.chunk_count - 1)), max_size=4)), np.uint32)
    rows = rows[: recipe.chunk_count]
    with recipe.make() as image:
        content = image.content().ljust(recipe.chunk_count * recipe.chunk_size, b"\0")
        whole = b"".join(content[row * recipe.chunk_size :][: recipe.chunk_size] for row in rows.tolist())
        byte_count = data.draw(st.integers(0, len(whole) + 10))
        for kernel in KERNELS:
            plain = kernel.identify_plain(content, chunk_size=recipe.chunk_size, seed=SEED, id_key=None)
            with tempfile.TemporaryFile() as file:
                assert plain.write_into(file.fileno(), rows, byte_count) == min(byte_count, len(whole))
                assert content_of(file.fileno()) == whole[:byte_count]
