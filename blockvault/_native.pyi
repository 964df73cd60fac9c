# The boundary to the Rust core. A call carries a batch of many MiB, never a chunk; every call releases
# the GIL once. All arrays are C-contiguous numpy arrays; "(n, 16) u8" gives shape and dtype.
# Signatures are the same as in kernel/reference.py; a property test holds the two equal.
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

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
    def states(self) -> U8: ...  # (n,) 0 hole, 1 zero, 2 unchanged, 3 changed
    @property
    def digests(self) -> U8: ...  # (n, 16); all zero bytes for hole and zero chunks
    @property
    def read_bytes(self) -> int: ...

@final
class PlainBatch:
    # n chunks of plain bytes, each padded with zeros to chunk_size; owns its buffer; immutable
    def __len__(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def states(self) -> U8: ...  # (n,) 1 zero, 3 data
    @property
    def digests(self) -> U8: ...  # (n, 16) XXH3-128, zero bytes for zero chunks; empty (0, 16) from decode
    @property
    def ids(self) -> U8: ...  # (n, 32) keyed BLAKE3-256; empty (0, 32) if made without id_key
    @property
    def read_bytes(self) -> int: ...
    def chunk(self, row: int) -> bytes: ...
    def write_into(self, fd: int, rows: U32, byte_count: int) -> int: ...  # rows in order to a pipe; for `restore -o -`

@final
class BlockBatch:
    @property
    def payload(self) -> memoryview: ...  # the stored bytes of all blocks, back to back
    @property
    def offsets(self) -> U64: ...  # (m + 1,)
    @property
    def codecs(self) -> U8: ...  # (m,) 0 raw, 1 zstd, 2 delta (zstd with the base as prefix)

def scan(
    fd: int,
    *,
    chunk_size: int,
    disk_size: int,
    first_chunk: int,
    chunk_count: int,
    digests: U8 | None,  # (chunk_count, 16) of the parent, None: every data chunk is "changed"
    seed: int,
    threads: int,
    drop_cache: bool,
    cancel: CancelToken | None,
) -> ScanBatch: ...
def identify(
    fds: I32,  # (n,) where each chunk is read from, at chunk * chunk_size
    chunks: U64,  # (n,)
    *,
    chunk_size: int,
    disk_size: int,
    seed: int,
    id_key: bytes | None,  # 32 bytes; None: no ids
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
    rows: U32,  # (m,) which chunks of `plain` become blocks
    *,
    level: int,
    bases: PlainBatch | None,
    base_rows: I32 | None,  # (m,) row in `bases`, -1: no base
    delta_limits: U32 | None,  # (m,) a delta is taken at once if at most so long; else the full block is made too
    cancel: CancelToken | None,
) -> BlockBatch: ...
def encrypt(
    payload: bytes | memoryview,
    offsets: U64,  # (m + 1,)
    *,
    key: bytes,  # 32
    associated: bytes,
    first_slot: int,  # block i is sealed with nonce 4 zero bytes + u64 LE (first_slot + i)
) -> BlockBatch: ...  # each block grows by its 16-byte tag; codecs are all 0 and mean nothing
def decode(
    packs: list[tuple[int, bytes | None, bytes]],  # (fd, key or None when not encrypted, associated data)
    pack_rows: U32,  # (n,) index into packs
    slots: U32,  # (n,)
    offsets: U64,  # (n,) absolute in the pack file
    lengths: U32,  # (n,) stored length, tag included
    codecs: U8,  # (n,)
    ids: U8,  # (n, 32) what each block must be
    *,
    bases: PlainBatch | None,
    base_rows: I32 | None,  # (n,) row in bases; needed where codec is 2
    chunk_size: int,
    id_key: bytes,
    threads: int,
    cancel: CancelToken | None,
) -> tuple[PlainBatch, U8]: ...
# second: (n,) status 0 good, 1 not readable (short, EIO), 2 does not decode (frame, tag, size), 3 identity differs, 4 base missing
def apply(
    plain: PlainBatch,
    rows: U32,  # (m,)
    fd: int,
    chunks: U64,  # (m,) target chunk of each row; neighbours are written in one call
    *,
    disk_size: int,
    fresh: bool,  # the target was freshly made and reads as zeros: zero chunks are left out
    cancel: CancelToken | None,
) -> int: ...  # bytes written
def clear(fd: int, offset: int, byte_count: int) -> str: ...  # "punch", "zeroout" or "write": how it was made to read as zeros
def copy_range(source_fd: int, target_fd: int, offset: int, byte_count: int, cancel: CancelToken | None) -> int: ...
# copies the data extents of [offset, +byte_count) with copy_file_range (read/write where that fails); holes stay as they are
