"""Both kernels side by side, and disk images to hold them equal over."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from hypothesis import strategies as st

from blockvault.kernel import native, reference
from helpers.files import noise

NATIVE: Any = native
REFERENCE: Any = reference
KERNELS = [NATIVE, REFERENCE]

SEED, ID_KEY = 0x0123_4567_89AB_CDEF, bytes(range(32))
KIB = 1 << 10
CHUNK_SIZES = [16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 1024 * KIB]


def text(size: int, seed: int) -> bytes:
    """Bytes that compress well and repeat nowhere."""
    return random.Random(seed).randbytes(size).hex().encode()[:size]


class Image:
    """A sparse file of pieces, open for reading and writing; gone when closed."""

    def __init__(self, size: int, pieces: list[tuple[str, int, int]], seed: int) -> None:
        self.size = size
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        os.ftruncate(self.fd, size)
        for number, (kind, offset, length) in enumerate(pieces):
            self.write(kind, offset, length, seed * 1000 + number)

    @property
    def fd(self) -> int:
        return self.file.fileno()

    def write(self, kind: str, offset: int, length: int, seed: int) -> None:
        length = max(0, min(length, self.size - offset))
        make = {"zero": lambda n, _: bytes(n), "noise": noise, "text": text}[kind]
        os.pwrite(self.fd, make(length, seed), offset)

    def content(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()


@dataclass(frozen=True)
class Recipe:
    """What to make an image of: drawn by Hypothesis, shown when a test fails."""

    chunk_size: int
    size: int
    pieces: list[tuple[str, int, int]]
    seed: int

    def make(self) -> Image:
        return Image(self.size, self.pieces, self.seed)

    @property
    def chunk_count(self) -> int:
        return -(-self.size // self.chunk_size)


@st.composite
def recipes(draw: st.DrawFn, chunk_count_max: int = 12) -> Recipe:
    """Images with holes, zeros, data that shrinks and data that does not, and a ragged end."""
    chunk_size = draw(st.sampled_from(CHUNK_SIZES))
    # Large chunks are dear for the reference; few of them show the same.
    count = draw(st.integers(0, max(2, chunk_count_max * 16 * KIB // chunk_size)))
    size = count * chunk_size + draw(st.sampled_from([0, 1, 511, 4096, chunk_size - 1]))
    piece = st.tuples(
        st.sampled_from(["zero", "noise", "text"]),
        st.integers(0, max(0, size - 1)).map(lambda at: at // 512 * 512),
        st.sampled_from([1, 4096, chunk_size // 2, chunk_size, 3 * chunk_size]),
    )
    pieces = draw(st.lists(piece, max_size=8)) if size else []
    return Recipe(chunk_size, size, pieces, draw(st.integers(0, 5)))


@dataclass(frozen=True)
class Chunks:
    """Some chunks of one size: drawn by Hypothesis, shown when a test fails."""

    size: int
    kinds: list[str]
    seed: int

    def make(self) -> list[bytes]:
        return [self._chunk(kind, self.seed + number) for number, kind in enumerate(self.kinds)]

    def _chunk(self, kind: str, seed: int) -> bytes:
        half = self.size // 2
        return {
            "text": lambda: text(self.size, seed),
            "noise": lambda: noise(self.size, seed),
            "zero": lambda: bytes(self.size),
            "mixed": lambda: noise(half, seed) + bytes(half - 9) + text(9, seed),
        }[kind]()


def chunk_lists() -> st.SearchStrategy[Chunks]:
    """One to four chunks of text, noise, zeros, or some of each; large ones seldom."""
    return st.builds(
        Chunks,
        st.sampled_from(CHUNK_SIZES[:4] * 3 + CHUNK_SIZES[4:]),
        st.lists(st.sampled_from(["text", "noise", "zero", "mixed"]), min_size=1, max_size=4),
        st.integers(0, 9),
    )


def scan(kernel: Any, fd: int, chunk_size: int, size: int, **changes: Any) -> Any:
    arguments = {
        "chunk_size": chunk_size,
        "disk_size": size,
        "first_chunk": 0,
        "chunk_count": -(-size // chunk_size),
        "digests": None,
        "seed": SEED,
        "threads": 2,
        "drop_cache": False,
        "cancel": None,
    }
    return kernel.scan(fd, **{**arguments, **changes})


def plain(kernel: Any, chunks: list[bytes], chunk_size: int) -> Any:
    """A batch of these chunks, made by that kernel."""
    return kernel.identify_plain(b"".join(chunks), chunk_size=chunk_size, seed=SEED, id_key=ID_KEY)


def all_rows(batch: Any) -> np.ndarray:
    return np.arange(len(batch), dtype=np.uint32)


def encode(kernel: Any, batch: Any, level: int = 1, **changes: Any) -> Any:
    arguments = {
        "level": level,
        "bases": None,
        "base_rows": None,
        "delta_limits": None,
        "cancel": None,
    }
    return kernel.encode(batch, all_rows(batch), **{**arguments, **changes})


def chunks_of(batch: Any) -> list[bytes]:
    return [batch.chunk(row) for row in range(len(batch))]


@dataclass
class Pack:
    """A pack file that holds the blocks of one batch behind a head of some bytes, and all that decoding needs."""

    chunk_size: int
    blocks: Any
    ids: np.ndarray
    key: bytes | None = None
    associated: bytes = b"pack"
    first_slot: int = 0
    head: bytes = b"some head"

    def __post_init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        os.write(self.file.fileno(), self.head)
        os.write(self.file.fileno(), self.blocks.payload)
        self.offsets = self.blocks.offsets[:-1] + np.uint64(len(self.head))
        self.lengths = np.diff(self.blocks.offsets).astype(np.uint32)
        self.codecs = self.blocks.codecs
        self.slots = np.arange(self.first_slot, self.first_slot + len(self.codecs), dtype=np.uint32)

    def decode(
        self, kernel: Any, *, bases: list[bytes] | None = None, base_rows: Any = None, **changes: Any
    ) -> tuple[Any, list[int]]:
        """Decode the blocks, with some of the arguments replaced.

        With `bases` these lie in a second pack, as raw blocks, and `base_rows` counts in them.
        """
        if bases is not None:
            with raw_pack(bases, self.chunk_size) as below:
                return self._decode_on(below, kernel, base_rows, changes)
        return self._decode(kernel, {"base_rows": base_rows, **changes})

    def _decode_on(self, below: Pack, kernel: Any, base_rows: Any, changes: dict[str, Any]) -> tuple[Any, list[int]]:
        count = len(self.codecs)
        columns: dict[str, Any] = {
            name: np.concatenate([changes.get(name, getattr(self, name)), getattr(below, name)])
            for name in ("slots", "offsets", "lengths", "codecs", "ids")
        }
        columns["pack_rows"] = np.repeat(np.array([0, 1], np.uint32), [count, len(below.codecs)])
        columns["packs"] = [(pack.file.fileno(), pack.key, pack.associated) for pack in (self, below)]
        on = np.where(base_rows < 0, -1, base_rows + count)
        columns["base_rows"] = np.concatenate([on, np.full(len(below.codecs), -1)]).astype(np.int32)
        return self._decode(kernel, {**changes, **columns})

    def _decode(self, kernel: Any, changes: dict[str, Any]) -> tuple[Any, list[int]]:
        count = len(self.codecs)
        arguments = {
            "packs": [(self.file.fileno(), self.key, self.associated)],
            "pack_rows": np.zeros(count, np.uint32),
            "slots": self.slots,
            "offsets": self.offsets,
            "lengths": self.lengths,
            "codecs": self.codecs,
            "ids": self.ids,
            "base_rows": None,
            "wanted": np.arange(count, dtype=np.uint32),
            "chunk_size": self.chunk_size,
            "id_key": ID_KEY,
            "threads": 2,
            "cancel": None,
        }
        batch, status = kernel.decode(**{**arguments, **changes})
        return batch, status.tolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()


def raw_pack(chunks: list[bytes], chunk_size: int) -> Pack:
    """A pack of chunks as they are."""
    blocks = SimpleNamespace(
        payload=b"".join(chunks),
        offsets=np.arange(len(chunks) + 1, dtype=np.uint64) * np.uint64(chunk_size),
        codecs=np.zeros(len(chunks), np.uint8),
    )
    ids = NATIVE.identify_plain(blocks.payload, chunk_size=chunk_size, seed=0, id_key=ID_KEY).ids
    return Pack(chunk_size, blocks, ids)


def edited(chunk: bytes, seed: int) -> bytes:
    """A later version of a chunk: a page of it replaced, and a few bytes elsewhere."""
    rng = random.Random(seed)
    bytes_ = bytearray(chunk)
    page = rng.randrange(len(chunk) // 4096) * 4096
    bytes_[page : page + 4096] = rng.randbytes(4096)
    bytes_[rng.randrange(len(chunk))] ^= 0xFF
    return bytes(bytes_)
