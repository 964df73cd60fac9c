"""Each kernel against its ceiling: the same bytes through memcpy, raw XXH3, raw BLAKE3, raw zstd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np
import pytest
import xxhash
import zstandard

from benchmarks.conftest import Bench
from benchmarks.measure import in_turns
from blockvault import kernel

CHUNK = 65_536
ROUNDS = 7
SAMPLE_BYTES = 256 << 20
ID_KEY = bytes(range(32))
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Sample:
    """A stretch of the image's data: open for the kernels, in memory for the ceilings."""

    fd: int
    disk_size: int
    chunks: np.ndarray
    plain: bytes

    @property
    def first(self) -> int:
        return int(self.chunks[0])


@pytest.fixture(scope="module")
def sample(bench: Bench) -> Iterator[Sample]:
    fd = os.open(bench.image, os.O_RDONLY)
    count = min(SAMPLE_BYTES, bench.size // 2) // CHUNK
    first = bench.size // 8 // CHUNK  # past the file system's tables, inside its files
    plain = os.pread(fd, count * CHUNK, first * CHUNK)
    yield Sample(fd, bench.size, np.arange(first, first + count, dtype=np.uint64), plain)
    os.close(fd)


def pieces(plain: bytes) -> list[memoryview]:
    view = memoryview(plain)
    return [view[start : start + CHUNK] for start in range(0, len(plain), CHUNK)]


def scan(sample: Sample, threads: int, digests: Any = None) -> Any:
    return kernel.scan(
        sample.fd,
        chunk_size=CHUNK,
        disk_size=sample.disk_size,
        first_chunk=sample.first,
        chunk_count=len(sample.chunks),
        digests=digests,
        seed=7,
        threads=threads,
        drop_cache=False,
        cancel=None,
    )


def identify(sample: Sample, rows: slice = slice(None)) -> Any:
    chunks = sample.chunks[rows]
    return kernel.identify(
        np.full(len(chunks), sample.fd, dtype=np.int32),
        chunks,
        chunk_size=CHUNK,
        disk_size=sample.disk_size,
        seed=7,
        id_key=ID_KEY,
        cancel=None,
    )


def test_scan_against_memcpy(benchmark: Any, sample: Sample) -> None:
    known = scan(sample, CORES).digests
    source = np.frombuffer(sample.plain, np.uint8)
    target = np.empty_like(source)
    in_turns(
        benchmark,
        lambda: scan(sample, CORES, known),
        lambda: np.copyto(target, source),
        ceiling_name="memcpy, 1 core",
        byte_count=len(sample.plain),
        rounds=ROUNDS,
    )


def test_scan_against_xxh3(benchmark: Any, sample: Sample) -> None:
    known = scan(sample, CORES).digests
    view = memoryview(sample.plain)
    step = 1 << 20  # xxhash lets other threads run only for pieces above 64 KiB

    def hash_part(core: int) -> None:
        for start in range(core * step, len(view), CORES * step):
            xxhash.xxh3_128_digest(view[start : start + step], 7)

    with ThreadPoolExecutor(CORES) as pool:
        in_turns(
            benchmark,
            lambda: scan(sample, CORES, known),
            lambda: list(pool.map(hash_part, range(CORES))),
            ceiling_name="XXH3 in memory, all cores",
            byte_count=len(sample.plain),
            rounds=ROUNDS,
        )


def test_identify_against_blake3(benchmark: Any, sample: Sample) -> None:
    parts = pieces(sample.plain)
    in_turns(
        benchmark,
        lambda: identify(sample),
        lambda: [blake3.blake3(part, key=ID_KEY).digest() for part in parts],
        ceiling_name="BLAKE3 in memory, 1 core",
        byte_count=len(sample.plain),
        rounds=ROUNDS,
    )


def test_encode_against_zstd(benchmark: Any, sample: Sample) -> None:
    plain = identify(sample)
    rows = np.flatnonzero(plain.states == 3).astype(np.uint32)
    parts = [part for part, state in zip(pieces(sample.plain), plain.states, strict=True) if state == 3]
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    in_turns(
        benchmark,
        lambda: kernel.encode(plain, rows, level=1, bases=None, base_rows=None, delta_limits=None, cancel=None),
        lambda: [compressor.compress(part) for part in parts],
        ceiling_name="zstd -1 in memory, 1 core",
        byte_count=len(rows) * CHUNK,
        rounds=ROUNDS,
    )


def test_decode_against_zstd(benchmark: Any, sample: Sample, bench: Bench) -> None:
    plain = identify(sample)
    rows = np.flatnonzero(plain.states == 3).astype(np.uint32)
    blocks = kernel.encode(plain, rows, level=1, bases=None, base_rows=None, delta_limits=None, cancel=None)
    path = bench.path("blocks.bin")
    with open(path, "w+b") as file:
        file.write(blocks.payload)
        file.flush()
        compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
        parts = [part for part, state in zip(pieces(sample.plain), plain.states, strict=True) if state == 3]
        frames = [compressor.compress(part) for part in parts]
        decompressor = zstandard.ZstdDecompressor()

        def decode() -> None:
            _, status = kernel.decode(
                [(file.fileno(), None, b"")],
                np.zeros(len(rows), np.uint32),
                np.arange(len(rows), dtype=np.uint32),
                np.ascontiguousarray(blocks.offsets[:-1]),
                np.diff(blocks.offsets).astype(np.uint32),
                blocks.codecs,
                np.ascontiguousarray(plain.ids[rows]),
                base_rows=None,
                wanted=np.arange(len(rows), dtype=np.uint32),
                chunk_size=CHUNK,
                id_key=ID_KEY,
                threads=1,
                cancel=None,
            )
            assert not status.any()

        in_turns(
            benchmark,
            decode,
            lambda: [decompressor.decompress(frame) for frame in frames],
            ceiling_name="zstd in memory, 1 core, nothing checked",
            byte_count=len(rows) * CHUNK,
            rounds=ROUNDS,
        )
    os.unlink(path)
