# The boundary to the Rust core. A call carries a batch of many MiB, never a chunk; every call releases
# the GIL once. All arrays are C-contiguous numpy arrays; "(n, 16) u8" gives shape and dtype.
# Signatures are the same as in kernel/reference.py; a property test holds the two equal.
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_U8: TypeAlias = NDArray[np.uint8]
_I32: TypeAlias = NDArray[np.int32]
_U32: TypeAlias = NDArray[np.uint32]
_U64: TypeAlias = NDArray[np.uint64]

__all__ = [
    "ERROR_KINDS",
    "BlockBatch",
    "CancelToken",
    "PlainBatch",
    "ScanBatch",
    "__version__",
    "apply",
    "build_info",
    "clear",
    "copy_range",
    "decode",
    "encode",
    "encrypt",
    "identify",
    "identify_plain",
    "scan",
]

__version__: str
ERROR_KINDS: list[str]

def build_info() -> dict[str, Any]: ...  # version, profile ("release" | "debug"), simd (list of str), threads (int)

@final
class CancelToken:
    def __new__(cls) -> CancelToken: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

@final
class ScanBatch:
    @property
    def states(self) -> _U8: ...  # (n,) 0 hole, 1 zero, 2 unchanged, 3 changed
    @property
    def digests(self) -> _U8: ...  # (n, 16); all zero bytes for hole and zero chunks
    @property
    def read_bytes(self) -> int: ...

@final
class PlainBatch:
    # n chunks of plain bytes, each padded with zeros to chunk_size; owns its buffer; immutable
    def __len__(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def states(self) -> _U8: ...  # (n,) 1 zero, 3 data
    @property
    def digests(self) -> _U8: ...  # (n, 16) XXH3-128, zero bytes for zero chunks; empty (0, 16) from decode
    @property
    def ids(self) -> _U8: ...  # (n, 32) keyed BLAKE3-256; empty (0, 32) if made without id_key
    @property
    def read_bytes(self) -> int: ...
    def chunk(self, row: int) -> bytes: ...
    def write_into(self, fd: int, rows: _U32, byte_count: int) -> int: ...  # rows in order to a pipe

@final
class BlockBatch:
    @property
    def payload(self) -> memoryview: ...  # the stored bytes of all blocks, back to back
    @property
    def offsets(self) -> _U64: ...  # (m + 1,)
    @property
    def codecs(self) -> _U8: ...  # (m,) 0 raw, 1 zstd, 2 delta (zstd with the base as prefix)

def scan(
    fd: int,
    *,
    chunk_size: int,
    disk_size: int,
    first_chunk: int,
    chunk_count: int,
    digests: _U8 | None,  # (chunk_count, 16) of the parent, None: every data chunk is "changed"
    seed: int,
    threads: int,
    drop_cache: bool,  # leave no pages in the system's cache that were not there before, as far as it can tell
    cancel: CancelToken | None,
) -> ScanBatch: ...
def identify(
    fds: _I32,  # (n,) where each chunk is read from, at chunk * chunk_size
    chunks: _U64,  # (n,)
    *,
    chunk_size: int,
    disk_size: int,
    seed: int,
    id_key: bytes | None,  # 32 bytes; None: no ids
    drop_cache: bool = False,  # as for scan
    cancel: CancelToken | None,
) -> PlainBatch: ...
def identify_plain(
    plain: bytes | memoryview,  # n * chunk_size bytes
    *,
    chunk_size: int,
    seed: int,
    id_key: bytes | None,
) -> PlainBatch: ...
def encode(
    plain: PlainBatch,
    rows: _U32,  # (m,) which chunks of `plain` become blocks
    *,
    level: int,
    bases: PlainBatch | None,
    base_rows: _I32 | None,  # (m,) row in `bases`, -1: no base
    delta_limits: _U32 | None,  # (m,) a delta is taken at once if at most so long; else the full block is made too
    cancel: CancelToken | None,
) -> BlockBatch: ...
def encrypt(
    payload: bytes | memoryview,
    offsets: _U64,  # (m + 1,)
    *,
    key: bytes,  # 32
    associated: bytes,
    first_slot: int,  # block i is sealed with nonce 4 zero bytes + u64 LE (first_slot + i)
) -> BlockBatch: ...  # each block grows by its 16-byte tag; codecs are all 0 and mean nothing
def decode(
    packs: list[tuple[int, bytes | None, bytes]],  # (fd, key or None when not encrypted, associated data)
    pack_rows: _U32,  # (n,) index into packs
    slots: _U32,  # (n,)
    offsets: _U64,  # (n,) absolute in the pack file
    lengths: _U32,  # (n,) stored length, tag included
    codecs: _U8,  # (n,)
    ids: _U8,  # (n, 32) what each block must be
    *,
    base_rows: _I32 | None,  # (n,) the row of a block's base, -1: none; needed where codec is 2
    wanted: _U32,  # (m,) the rows asked for; the others are only bases
    chunk_size: int,
    id_key: bytes,
    threads: int,
    cancel: CancelToken | None,
) -> tuple[PlainBatch, _U8]: ...

# second: (m,) status 0 good, 1 not readable (short, EIO), 2 does not decode (frame, tag, size), 3 other identity,
# 4 base missing or not good; a chunk that is not good reads as zeros, and its id too
def apply(
    plain: PlainBatch,
    rows: _U32,  # (m,)
    fd: int,
    chunks: _U64,  # (m,) target chunk of each row; neighbours are written in one call
    *,
    disk_size: int,
    fresh: bool,  # the target was freshly made and reads as zeros: zero chunks are left out
    direct_fd: int | None = None,  # the same target opened with O_DIRECT: whole chunks are written past the page cache
    cancel: CancelToken | None,
) -> int: ...  # bytes written
def clear(fd: int, offset: int, byte_count: int) -> str: ...  # "punch", "zeroout" or "write": how it was done
def copy_range(source_fd: int, target_fd: int, offset: int, byte_count: int, cancel: CancelToken | None) -> int: ...

# copies the data extents of [offset, +byte_count) with copy_file_range (read/write where that fails); holes stay
