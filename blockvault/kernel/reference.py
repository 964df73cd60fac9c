"""The core in plain Python: what `blockvault._native` does, written to be read.

Every function has the signature and the meaning of its native twin; property tests hold the two equal.
Nothing here is tuned: one thread, one chunk at a time. Invariants, the same in both:

* A chunk is always treated as `chunk_size` bytes: what lies beyond the end of the disk reads as zeros.
* A chunk's digest, id and block come from one read of one buffer (rule R4).
* An all-zero digest stands for "reads as zeros"; it is never computed.
* A delta block is decoded and compared before it is handed out (rule R3).
* No bytes are handed out as good unless their identity was computed and found equal (`decode`).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blockvault.kernel.reference_batches import (
    CHANGED,
    I32,
    U8,
    U32,
    U64,
    UNCHANGED,
    ZERO,
    BlockBatch,
    CancelToken,
    PlainBatch,
    ScanBatch,
    check_cancel,
    frozen,
    is_zero,
)
from blockvault.kernel.reference_checks import (
    OFFSET_END,
    SCAN_CHUNKS_MAX,
    check_array,
    check_batch,
    check_chunk_size,
    check_descriptor,
    check_rows,
    require,
)
from blockvault.kernel.reference_files import (
    COPY_BYTES,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    data_extents,
    fallocate,
    read_exactly,
    read_or_none,
    write_exactly,
    write_zeros,
)

RAW, ZSTD, DELTA = range(3)
GOOD, UNREADABLE, UNDECODABLE, OTHER_IDENTITY, BASE_MISSING = range(5)

DIGEST_BYTES, ID_BYTES, KEY_BYTES, TAG_BYTES = 16, 32, 32, 16
DEPTH_MAX = 8  # how many blocks a delta may rest on
DELTA_LEVEL, BLIND_LEVEL = 9, 3  # of deltas; the highest at which a full block is tried without a first look


# -- reading ------------------------------------------------------------------------------------------------


def scan(
    fd: int,
    *,
    chunk_size: int,
    disk_size: int,
    first_chunk: int,
    chunk_count: int,
    digests: U8 | None,
    seed: int,
    threads: int,
    drop_cache: bool,
    cancel: CancelToken | None,
) -> ScanBatch:
    """Tell for each chunk if it is a hole, zero, unchanged or changed against the parent's digests.

    Holes are found by SEEK_DATA and cost nothing, however large. A chunk that data touches anywhere is read.
    """
    check_descriptor(fd)
    check_chunk_size(chunk_size)
    require(threads >= 1, "threads must be at least 1")
    require(0 <= seed < 1 << 64, "seed must be a number that fits in 64 bits")
    require(disk_size < OFFSET_END, "disk_size must fit in 63 bits")
    require(
        first_chunk >= 0 and chunk_count >= 0 and first_chunk + chunk_count <= -(-disk_size // chunk_size),
        f"chunks {first_chunk} to {first_chunk + chunk_count} are not all on a disk of {disk_size} bytes",
    )
    require(chunk_count <= SCAN_CHUNKS_MAX, f"a scan may go over at most {SCAN_CHUNKS_MAX} chunks")
    if digests is not None:
        check_array("digests", digests, np.uint8, (chunk_count, DIGEST_BYTES))
    states = np.zeros(chunk_count, np.uint8)  # all HOLE
    found = np.zeros((chunk_count, DIGEST_BYTES), np.uint8)
    read_bytes = 0
    next_row = 0
    end = min((first_chunk + chunk_count) * chunk_size, disk_size)
    for start, stop in data_extents(fd, first_chunk * chunk_size, end):
        # Two extents may meet in one chunk: it was read for the first of them.
        first_row = max(next_row, start // chunk_size - first_chunk)
        next_row = -(-stop // chunk_size) - first_chunk
        for row in range(first_row, next_row):
            check_cancel(cancel)
            offset = (first_chunk + row) * chunk_size
            plain = read_exactly(fd, offset, min(chunk_size, disk_size - offset))
            read_bytes += len(plain)
            if is_zero(plain):
                states[row] = ZERO
                continue
            found[row] = np.frombuffer(_digest(plain, chunk_size, seed), np.uint8)
            same = digests is not None and bool((digests[row] == found[row]).all())
            states[row] = UNCHANGED if same else CHANGED
        if drop_cache:
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
    return ScanBatch(frozen(states), frozen(found), read_bytes)


def identify(
    fds: I32,
    chunks: U64,
    *,
    chunk_size: int,
    disk_size: int,
    seed: int,
    id_key: bytes | None,
    drop_cache: bool = False,
    cancel: CancelToken | None,
) -> PlainBatch:
    """Read the given chunks, each from its own file; digest and id are those of the bytes that were read."""
    _check_identity(chunk_size, seed, id_key)
    require(disk_size < OFFSET_END, "disk_size must fit in 63 bits")
    check_array("chunks", chunks, np.uint64, (len(chunks),))
    check_batch(len(chunks), chunk_size)
    check_array("fds", fds, np.int32, (len(chunks),))
    for fd in fds.tolist():
        check_descriptor(fd)
    plains = []
    read_bytes = 0
    for fd, chunk in zip(fds.tolist(), chunks.tolist(), strict=True):
        check_cancel(cancel)
        offset = chunk * chunk_size
        length = max(0, min(chunk_size, disk_size - offset))
        plains.append(read_exactly(fd, offset, length).ljust(chunk_size, b"\0"))
        read_bytes += length
        if drop_cache and length:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    return _identified(plains, chunk_size, seed, id_key, read_bytes)


def identify_plain(
    plain: bytes | memoryview,
    *,
    chunk_size: int,
    seed: int,
    id_key: bytes | None,
) -> PlainBatch:
    """The same as `identify` for bytes that are already in memory."""
    _check_identity(chunk_size, seed, id_key)
    check_batch(1, len(plain))
    data = bytes(plain)
    require(len(data) % chunk_size == 0, f"{len(data)} bytes are not whole chunks of {chunk_size}")
    plains = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]
    return _identified(plains, chunk_size, seed, id_key, 0)


def _identified(plains: list[bytes], chunk_size: int, seed: int, id_key: bytes | None, read_bytes: int) -> PlainBatch:
    digests = [bytes(DIGEST_BYTES) if is_zero(p) else _digest(p, chunk_size, seed) for p in plains]
    ids = [] if id_key is None else [blake3(p, key=id_key).digest() for p in plains]
    return PlainBatch(chunk_size, plains, _columns(digests, DIGEST_BYTES), _columns(ids, ID_BYTES), read_bytes)


def _check_identity(chunk_size: int, seed: int, id_key: bytes | None) -> None:
    check_chunk_size(chunk_size)
    require(0 <= seed < 1 << 64, "seed must be a number that fits in 64 bits")
    require(id_key is None or len(id_key) == KEY_BYTES, f"id_key must have {KEY_BYTES} bytes")


# -- plain bytes to blocks ----------------------------------------------------------------------------------


def encode(
    plain: PlainBatch,
    rows: U32,
    *,
    level: int,
    bases: PlainBatch | None,
    base_rows: I32 | None,
    delta_limits: U32 | None,
    cancel: CancelToken | None,
) -> BlockBatch:
    """Make a block of each row: a delta against its base where that is short, else a full block."""
    require(1 <= level <= 19, "level must be from 1 to 19")
    wanted = check_rows("rows", rows, len(plain))
    base_chunks = _base_chunks(bases, base_rows, len(wanted), plain.chunk_size)
    limits = [0] * len(wanted)
    if delta_limits is not None:
        limits = check_array("delta_limits", delta_limits, np.uint32, (len(wanted),)).tolist()
    blocks, codecs = [], []
    for row, base, limit in zip(wanted, base_chunks, limits, strict=True):
        check_cancel(cancel)
        codec, block = _encode_chunk(plain.chunk(row), level, base, limit)
        codecs.append(codec)
        blocks.append(block)
    return _block_batch(blocks, codecs)


def _encode_chunk(chunk: bytes, level: int, base: bytes | None, delta_limit: int) -> tuple[int, bytes]:
    delta = None
    if base is not None and (_alike(chunk, base) or _promises(chunk, level, base, delta_limit)):
        delta = _encode_delta(chunk, base)
    if delta is not None and len(delta) <= delta_limit:
        return DELTA, delta
    codec, full = _encode_full(chunk, level)
    if delta is not None and 2 * len(delta) < len(full):
        return DELTA, delta
    return codec, full


def _alike(chunk: bytes, base: bytes) -> bool:
    """Whether half of a chunk stands in its base, in the same place."""
    same = np.frombuffer(chunk, np.uint8).reshape(-1, 256) == np.frombuffer(base, np.uint8).reshape(-1, 256)
    return bool(2 * np.count_nonzero(same.all(axis=1)) >= len(same))


def _promises(chunk: bytes, level: int, base: bytes, delta_limit: int) -> bool:
    """Whether a delta at level 1, which is quickly made, is so short that one at a higher level may be stored."""
    length = len(_compress(chunk, 1, base))
    return length <= delta_limit or 3 * length < 2 * len(_encode_full(chunk, level)[1])


def _encode_full(chunk: bytes, level: int) -> tuple[int, bytes]:
    """A zstd frame, or the chunk as it is when the frame saves less than a sixteenth.

    Above level 3 a look with level 1 comes first: what it cannot shorten at all is not worth the long search.
    """
    if level > BLIND_LEVEL and len(chunk) - len(_compress(chunk, 1)) < len(chunk) // 64:
        return RAW, chunk
    frame = _compress(chunk, level)
    return (RAW, chunk) if len(chunk) - len(frame) < len(chunk) // 16 else (ZSTD, frame)


def _encode_delta(chunk: bytes, base: bytes) -> bytes | None:
    """A zstd frame that has `base` as its prefix, proven to decode (rule R3)."""
    frame = _compress(chunk, DELTA_LEVEL, base)
    return frame if _decompress(frame, len(chunk), base) == chunk else None


def _compress(chunk: bytes, level: int, base: bytes | None = None) -> bytes:
    window_log = max(10, (2 * len(chunk) - 1).bit_length())  # prefix and chunk are both in reach
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(chunk),
        dict_size=len(base or b""),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
        **({"window_log": window_log} if base is not None else {}),
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=_prefix(base)).compress(chunk)


def _decompress(frame: bytes, chunk_size: int, base: bytes | None = None) -> bytes | None:
    """The chunk, or None if the frame is anything but one frame of exactly `chunk_size` bytes.

    The size is looked at before memory is given, so a hostile frame cannot ask for more than a chunk.
    """
    try:
        if zstandard.frame_content_size(frame) != chunk_size:
            return None
        return zstandard.ZstdDecompressor(dict_data=_prefix(base)).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


def _prefix(base: bytes | None) -> zstandard.ZstdCompressionDict | None:
    if base is None:
        return None
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def encrypt(
    payload: bytes | memoryview,
    offsets: U64,
    *,
    key: bytes,
    associated: bytes,
    first_slot: int,
) -> BlockBatch:
    """Seal each block with AES-256-GCM under its slot's nonce; each grows by its 16-byte tag."""
    require(len(key) == KEY_BYTES, f"key must have {KEY_BYTES} bytes")
    require(offsets.ndim == 1 and len(offsets) >= 1, "offsets must be one row of at least one number")
    bounds = check_array("offsets", offsets, np.uint64, (len(offsets),)).tolist()
    require(
        all(a <= b for a, b in pairwise(bounds)) and bounds[-1] <= len(payload),
        "offsets must rise and stay inside the payload",
    )
    require(0 <= first_slot <= (1 << 64) - len(bounds), "slots must fit in 64 bits")
    cipher = AESGCM(key)
    blocks = [
        cipher.encrypt(_nonce(first_slot + index), bytes(payload[start:stop]), associated)
        for index, (start, stop) in enumerate(pairwise(bounds))
    ]
    return _block_batch(blocks, [0] * len(blocks))


def _nonce(slot: int) -> bytes:
    return bytes(4) + slot.to_bytes(8, "little")


# -- blocks to plain bytes ----------------------------------------------------------------------------------


def decode(
    packs: list[tuple[int, bytes | None, bytes]],
    pack_rows: U32,
    slots: U32,
    offsets: U64,
    lengths: U32,
    codecs: U8,
    ids: U8,
    *,
    base_rows: I32 | None,
    wanted: U32,
    chunk_size: int,
    id_key: bytes,
    threads: int,
    cancel: CancelToken | None,
) -> tuple[PlainBatch, U8]:
    """Read blocks from their packs, open, decode and check each against its id.

    Damage is told by a status for each block, never by an error; a block that is not good reads as zeros.
    """
    check_chunk_size(chunk_size)
    require(threads >= 1, "threads must be at least 1")
    require(len(id_key) == KEY_BYTES, f"id_key must have {KEY_BYTES} bytes")
    for fd, key, _associated in packs:
        check_descriptor(fd)
        require(key is None or len(key) == KEY_BYTES, f"the key of a pack must have {KEY_BYTES} bytes")
    count = len(pack_rows)
    check_batch(count, chunk_size)
    pack_of = check_rows("pack_rows", pack_rows, len(packs))
    for name, array, dtype in (
        ("slots", slots, np.uint32),
        ("offsets", offsets, np.uint64),
        ("lengths", lengths, np.uint32),
        ("codecs", codecs, np.uint8),
    ):
        check_array(name, array, dtype, (count,))
    check_array("ids", ids, np.uint8, (count, ID_BYTES))
    rows = check_rows("wanted", wanted, count)
    below = [-1] * count
    if base_rows is not None:
        below = check_array("base_rows", base_rows, np.int32, (count,)).tolist()
        require(all(-1 <= row < count for row in below), f"base_rows must be -1 or under {count}")

    read_bytes = 0

    def one(row: int, depth_left: int) -> tuple[int, bytes | None]:
        """Status and chunk of a row, what it rests on first."""
        nonlocal read_bytes
        fd, key, associated = packs[pack_of[row]]
        if int(lengths[row]) > chunk_size + (0 if key is None else TAG_BYTES):  # a block is never longer
            return UNDECODABLE, None
        sealed = read_or_none(fd, int(offsets[row]), int(lengths[row]))
        if sealed is None:
            return UNREADABLE, None
        read_bytes += len(sealed)
        base = None
        if int(codecs[row]) == DELTA and below[row] >= 0 and depth_left:
            base = one(below[row], depth_left - 1)[1]
        if int(codecs[row]) == DELTA and base is None:
            return BASE_MISSING, None
        block = sealed if key is None else _open(sealed, key, associated, int(slots[row]))
        result, chunk = _decode_block(block, int(codecs[row]), base, chunk_size)
        if chunk is not None and blake3(chunk, key=id_key).digest() != ids[row].tobytes():
            return OTHER_IDENTITY, None
        return result, chunk

    plains, found, status = [], [], np.zeros(len(rows), np.uint8)
    for at, row in enumerate(rows):
        check_cancel(cancel)
        status[at], chunk = one(row, DEPTH_MAX)
        plains.append(bytes(chunk_size) if chunk is None else chunk)
        found.append(bytes(ID_BYTES) if chunk is None else ids[row].tobytes())
    batch = PlainBatch(chunk_size, plains, _columns([], DIGEST_BYTES), _columns(found, ID_BYTES), read_bytes)
    return batch, frozen(status)


def _open(sealed: bytes, key: bytes, associated: bytes, slot: int) -> bytes | None:
    if len(sealed) < TAG_BYTES:
        return None
    try:
        return AESGCM(key).decrypt(_nonce(slot), sealed, associated)
    except InvalidTag:
        return None


def _decode_block(block: bytes | None, codec: int, base: bytes | None, chunk_size: int) -> tuple[int, bytes | None]:
    chunk = None
    if block is None:
        return UNDECODABLE, None
    if codec == RAW:
        chunk = block if len(block) == chunk_size else None
    elif codec == ZSTD:
        chunk = _decompress(block, chunk_size)
    elif codec == DELTA:
        if base is None:
            return BASE_MISSING, None
        chunk = _decompress(block, chunk_size, base)
    return (UNDECODABLE, None) if chunk is None else (GOOD, chunk)


# -- writing ------------------------------------------------------------------------------------------------


def apply(
    plain: PlainBatch,
    rows: U32,
    fd: int,
    chunks: U64,
    *,
    disk_size: int,
    fresh: bool,
    direct_fd: int | None = None,
    cancel: CancelToken | None,
) -> int:
    """Write rows to their chunks of the target, clipped to the disk; return the bytes of data written.

    A zero chunk is left out where the target is known to read as zeros, else made to read as zeros (R14). Everything
    goes through the page cache, whether it could go past it or not.
    """
    check_descriptor(fd)
    if direct_fd is not None:
        check_descriptor(direct_fd)
    wanted = check_rows("rows", rows, len(plain))
    check_array("chunks", chunks, np.uint64, (len(wanted),))
    written = 0
    for row, chunk in zip(wanted, chunks.tolist(), strict=True):
        check_cancel(cancel)
        offset = chunk * plain.chunk_size
        length = max(0, min(plain.chunk_size, disk_size - offset))
        if plain.states[row] != ZERO:
            write_exactly(fd, offset, memoryview(plain.chunk(row))[:length])
            written += length
        elif not fresh and length:
            clear(fd, offset, length)
    return written


def clear(fd: int, offset: int, byte_count: int) -> str:
    """Make a range read as zeros, freeing its space where the file system or device can; tell how.

    A device takes only whole sectors, so its ragged ends are written.
    """
    require(offset >= 0 and byte_count >= 0 and offset + byte_count < OFFSET_END, "the range is out of bounds")
    end = offset + byte_count
    align = 4096 if stat.S_ISBLK(os.fstat(fd).st_mode) else 1
    start, stop = -(-offset // align) * align, end // align * align
    ways = {"punch": FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE}
    if align > 1:
        ways["zeroout"] = FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE
    for how, mode in ways.items():
        if start < stop and fallocate(fd, mode, start, stop):
            write_zeros(fd, offset, start)
            write_zeros(fd, stop, end)
            return how
    write_zeros(fd, offset, end)
    return "write"


def copy_range(source_fd: int, target_fd: int, offset: int, byte_count: int, cancel: CancelToken | None) -> int:
    """Copy the data extents of a range from one file to the same place in another; return the bytes copied.

    Holes of the source are left out: the target keeps there what it has.
    """
    require(offset >= 0 and byte_count >= 0 and offset + byte_count < OFFSET_END, "the range is out of bounds")
    copied = 0
    for start, stop in data_extents(source_fd, offset, offset + byte_count):
        position = start
        while position < stop:
            check_cancel(cancel)
            count = min(COPY_BYTES, stop - position)
            moved = 0
            with suppress(OSError):  # not between these two files: copy by hand, which tells the true error
                moved = os.copy_file_range(source_fd, target_fd, count, position, position)
            if moved == 0:
                piece = read_exactly(source_fd, position, count)
                write_exactly(target_fd, position, memoryview(piece))
                moved = count
            position += moved
        copied += stop - start
    return copied


def build_info() -> dict[str, Any]:
    """What this kernel is: version, profile, SIMD in use, worker threads."""
    return {"version": "reference", "profile": "reference", "simd": [], "threads": 1}


# -- small steps --------------------------------------------------------------------------------------------


def _digest(plain: bytes, chunk_size: int, seed: int) -> bytes:
    return xxhash.xxh3_128(plain.ljust(chunk_size, b"\0"), seed).digest()


def _block_batch(blocks: list[bytes], codecs: list[int]) -> BlockBatch:
    offsets = np.cumsum([0, *map(len, blocks)], dtype=np.uint64)
    return BlockBatch(memoryview(b"".join(blocks)), frozen(offsets), frozen(np.array(codecs, np.uint8)))


def _base_chunks(bases: PlainBatch | None, base_rows: I32 | None, count: int, chunk_size: int) -> list[bytes | None]:
    """The plain bytes of each row's base, None where it has none."""
    if base_rows is None:
        return [None] * count
    rows = check_array("base_rows", base_rows, np.int32, (count,)).tolist()
    known = 0 if bases is None else len(bases)
    require(all(-1 <= row < known for row in rows), f"base_rows must be -1 or under {known}")
    require(bases is None or bases.chunk_size == chunk_size, "bases must have the same chunk size")
    return [None if bases is None or row < 0 else bases.chunk(row) for row in rows]


def _columns(values: list[bytes], width: int) -> U8:
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)
