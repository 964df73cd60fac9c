"""Every way in which a kernel can fail is the same exception in both: class, kind, errno, byte offset."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.files import noise
from helpers.kernels import ID_KEY, KERNELS, NATIVE, REFERENCE, SEED, Pack, encode, plain, scan

from blockvault import errors

SIZE = 16 << 10
CLASSES = {
    "native.bad-argument": errors.InvalidInputError,
    "job.cancelled": errors.CancelledError,
    "image.read-error": errors.DeviceError,
    "image.changed": errors.DeviceError,
    "target.write-error": errors.DeviceError,
    "target.no-space": errors.DeviceError,
    "native.internal": errors.InternalError,
}
both = pytest.mark.parametrize("kernel", KERNELS, ids=["native", "reference"])


def test_the_kinds_of_the_core_are_those_of_this_table() -> None:
    assert sorted(NATIVE.ERROR_KINDS) == sorted(CLASSES)


def raises(kind: str, call: Any) -> Any:
    with pytest.raises(CLASSES[kind]) as caught:
        call()
    assert type(caught.value) is CLASSES[kind]
    assert caught.value.kind == kind
    return caught.value


def identify(kernel: Any, fd: int, disk_size: int, chunks: list[int] | None = None, **changes: Any) -> Any:
    numbers = np.array([0] if chunks is None else chunks, np.uint64)
    arguments = {
        "chunk_size": SIZE,
        "disk_size": disk_size,
        "seed": SEED,
        "id_key": None,
        "cancel": None,
    }
    return kernel.identify(np.full(len(numbers), fd, np.int32), numbers, **{**arguments, **changes})


def apply(kernel: Any, fd: int, chunk: bytes, place: int = 0, *, fresh: bool = True, **changes: Any) -> int:
    batch = plain(kernel, [chunk], SIZE)
    rows, places = np.zeros(1, np.uint32), np.array([place], np.uint64)
    arguments = {"disk_size": 1 << 40, "fresh": fresh, "cancel": None}
    return kernel.apply(batch, rows, fd, places, **{**arguments, **changes})


@both
def test_an_image_that_became_shorter_names_the_byte_where_it_ends(kernel: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(noise(SIZE + 5, 1))
    with path.open("rb") as file:
        for call in (
            lambda: scan(kernel, file.fileno(), SIZE, 3 * SIZE),
            lambda: identify(kernel, file.fileno(), 3 * SIZE, [1]),
            lambda: kernel.copy_range(file.fileno(), file.fileno(), 2 * SIZE, SIZE, None),
        ):
            error = raises("image.changed", call)
            assert str(error) == f"{path} ends at byte {SIZE + 5}, before the end of the disk"
            assert error.errno == errno.EIO
            assert error.filename == str(path)


@both
def test_a_hole_does_not_hide_that_an_image_became_shorter(kernel: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE)
    with path.open("rb") as file:
        raises("image.changed", lambda: scan(kernel, file.fileno(), SIZE, 2 * SIZE))
        assert scan(kernel, file.fileno(), SIZE, SIZE).states.tolist() == [0]


@both
def test_a_read_error_names_the_byte_and_keeps_the_number(kernel: Any, tmp_path: Path) -> None:
    # Nothing is mapped at the start of a process: reading it is a true EIO, without any device.
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        for call in (
            lambda: scan(kernel, memory, SIZE, 4 * SIZE),
            lambda: identify(kernel, memory, 4 * SIZE),
        ):
            error = raises("image.read-error", call)
            assert error.errno == errno.EIO
            assert str(error) == f"cannot read /proc/{os.getpid()}/mem at byte 0"
            assert error.why == "Input/output error"
    finally:
        os.close(memory)
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    error = raises("image.read-error", lambda: identify(kernel, closed, SIZE))
    assert error.errno == errno.EBADF
    assert str(error) == f"cannot read file descriptor {closed} at byte 0"


@both
def test_a_full_target_has_a_kind_of_its_own(kernel: Any) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        error = raises("target.no-space", lambda: apply(kernel, full.fileno(), noise(SIZE, 1), 3))
        assert error.errno == errno.ENOSPC
        assert str(error) == f"cannot write /dev/full at byte {3 * SIZE}"
        assert error.why == "No space left on device"
        batch = plain(kernel, [noise(SIZE, 1)], SIZE)
        error = raises("target.no-space", lambda: batch.write_into(full.fileno(), np.zeros(1, np.uint32), SIZE))
        assert str(error) == "cannot write /dev/full"
        raises("target.no-space", lambda: kernel.clear(full.fileno(), 0, SIZE))


@both
def test_a_write_error_names_the_byte_and_keeps_the_number(kernel: Any, tmp_path: Path) -> None:
    path = tmp_path / "target.img"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as readable:
        error = raises("target.write-error", lambda: apply(kernel, readable.fileno(), noise(SIZE, 1), 2))
        assert error.errno == errno.EBADF
        assert str(error) == f"cannot write {path} at byte {2 * SIZE}"
        raises("target.write-error", lambda: kernel.clear(readable.fileno(), 0, SIZE))
        with (tmp_path / "source.img").open("w+b") as source:
            source.write(noise(SIZE, 1))
            source.flush()
            raises(
                "target.write-error",
                lambda: kernel.copy_range(source.fileno(), readable.fileno(), 0, SIZE, None),
            )


@both
def test_a_pipe_whose_reader_left_is_a_write_error(kernel: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    batch = plain(kernel, [noise(SIZE, 1)], SIZE)
    error = raises("target.write-error", lambda: batch.write_into(writer, np.zeros(1, np.uint32), SIZE))
    assert error.errno == errno.EPIPE
    os.close(writer)


@both
def test_a_cancelled_token_stops_every_verb(kernel: Any, tmp_path: Path) -> None:
    token = kernel.CancelToken()
    assert not token.cancelled
    token.cancel()
    assert token.cancelled
    batch = plain(kernel, [noise(SIZE, 1)], SIZE)
    blocks = encode(kernel, batch)
    with (tmp_path / "disk.img").open("w+b") as file, Pack(SIZE, blocks, batch.ids) as pack:
        file.write(noise(SIZE, 1))
        file.flush()
        for call in (
            lambda: scan(kernel, file.fileno(), SIZE, SIZE, cancel=token),
            lambda: identify(kernel, file.fileno(), SIZE, cancel=token),
            lambda: encode(kernel, batch, cancel=token),
            lambda: pack.decode(kernel, cancel=token),
            lambda: apply(kernel, file.fileno(), noise(SIZE, 1), cancel=token),
            lambda: kernel.copy_range(file.fileno(), file.fileno(), 0, SIZE, token),
        ):
            assert str(raises("job.cancelled", call)) == "stopped on request"


def u32(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


BAD_SCANS: dict[str, dict[str, Any]] = {
    "chunk size too small": {"chunk_size": 8192},
    "chunk size too large": {"chunk_size": 8 << 20},
    "chunk size no power of two": {"chunk_size": 3 * SIZE},
    "no threads": {"threads": 0},
    "seed too large": {"seed": 1 << 64},
    "seed negative": {"seed": -1},
    "range beyond the disk": {"first_chunk": 1},
    "range wraps": {"first_chunk": 2**64 - 1},
    "disk too large": {"disk_size": 1 << 63},
    "more chunks than memory": {"disk_size": 1 << 62, "chunk_count": 1 << 48},
    "digests too few": {"digests": np.zeros((1, 16), np.uint8)},
    "digests too narrow": {"digests": np.zeros((2, 8), np.uint8)},
    "digests of another type": {"digests": np.zeros((2, 16), np.int8)},
    "digests not contiguous": {"digests": np.zeros((2, 32), np.uint8)[:, ::2]},
    "digests not an array": {"digests": [0] * 32},
}


@both
@pytest.mark.parametrize("changes", BAD_SCANS.values(), ids=BAD_SCANS.keys())
def test_scan_refuses(kernel: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("w+b") as file:
        file.truncate(2 * SIZE)
        arguments = {"disk_size": 2 * SIZE, "chunk_count": 2, "chunk_size": SIZE, **changes}
        size, chunk_size = arguments.pop("disk_size"), arguments.pop("chunk_size")
        raises("native.bad-argument", lambda: scan(kernel, file.fileno(), chunk_size, size, **arguments))


@both
def test_batches_refuse_rows_that_they_do_not_have(kernel: Any, tmp_path: Path) -> None:
    batch = plain(kernel, [noise(SIZE, 1), noise(SIZE, 2)], SIZE)
    other = plain(kernel, [noise(2 * SIZE, 1)], 2 * SIZE)
    path = tmp_path / "target.img"
    path.touch()
    deltas = {"bases": batch, "base_rows": np.array([-1, 1], np.int32)}

    def encode_rows(rows: Any, **changes: Any) -> Any:
        arguments = {"level": 1, "bases": None, "base_rows": None, "delta_limits": None, "cancel": None}
        return kernel.encode(batch, rows, **{**arguments, **changes})

    with path.open("r+b") as file:
        options: dict[str, Any] = {"disk_size": SIZE, "fresh": True, "cancel": None}
        for call in (
            lambda: batch.chunk(2),
            lambda: batch.chunk(-1),
            lambda: batch.write_into(file.fileno(), u32(2), SIZE),
            lambda: encode_rows(u32(0, 2)),
            lambda: encode_rows(np.array([0, 1], np.int32)),
            lambda: encode_rows(u32(0, 1), level=0),
            lambda: encode_rows(u32(0, 1), level=20),
            lambda: encode_rows(u32(0), **deltas),
            lambda: encode_rows(u32(0, 1), bases=None, base_rows=np.array([-1, 0], np.int32)),
            lambda: encode_rows(u32(0, 1), bases=batch, base_rows=np.array([-1, 2], np.int32)),
            lambda: encode_rows(u32(0, 1), bases=batch, base_rows=np.array([-2, 0], np.int32)),
            lambda: encode_rows(u32(0, 1), bases=other, base_rows=np.array([-1, 0], np.int32)),
            lambda: encode_rows(u32(0, 1), delta_limits=u32(1), **deltas),
            lambda: kernel.apply(batch, u32(0, 2), file.fileno(), np.zeros(2, np.uint64), **options),
            lambda: kernel.apply(batch, u32(0), file.fileno(), np.zeros(2, np.uint64), **options),
            lambda: kernel.apply(batch, u32(0), file.fileno(), u32(0), **options),
            lambda: kernel.clear(file.fileno(), 2**63, 1),
            lambda: kernel.clear(file.fileno(), -1, 1),
            lambda: kernel.copy_range(file.fileno(), file.fileno(), 2**63 - 1, 1, None),
            lambda: kernel.identify_plain(bytes(SIZE + 1), chunk_size=SIZE, seed=0, id_key=None),
            lambda: kernel.identify_plain(bytes(SIZE), chunk_size=SIZE, seed=0, id_key=b"short"),
            lambda: identify(kernel, file.fileno(), SIZE, id_key=bytes(31)),
            lambda: identify(kernel, -1, SIZE),
            lambda: identify(kernel, file.fileno(), SIZE, [0] * ((4 << 30) // SIZE + 1)),
        ):
            raises("native.bad-argument", call)
    assert path.read_bytes() == b""


BAD_SEALS: dict[str, dict[str, Any]] = {
    "key too short": {"key": bytes(31)},
    "offsets fall": {"offsets": np.array([0, 9, 8], np.uint64)},
    "offsets beyond the payload": {"offsets": np.array([0, 11], np.uint64)},
    "no offsets": {"offsets": np.array([], np.uint64)},
    "offsets of another type": {"offsets": np.array([0, 10], np.int64)},
    "slots beyond 64 bits": {"first_slot": 2**64 - 1, "offsets": np.array([0, 5, 10], np.uint64)},
}


@both
@pytest.mark.parametrize("changes", BAD_SEALS.values(), ids=BAD_SEALS.keys())
def test_encrypt_refuses(kernel: Any, changes: dict[str, Any]) -> None:
    arguments = {"key": ID_KEY, "associated": b"", "first_slot": 0, **changes}
    offsets = arguments.pop("offsets", np.array([0, 10], np.uint64))
    raises("native.bad-argument", lambda: kernel.encrypt(bytes(10), offsets, **arguments))


BAD_DECODES: dict[str, dict[str, Any]] = {
    "pack that is not there": {"pack_rows": u32(1)},
    "too few slots": {"slots": u32()},
    "too few offsets": {"offsets": np.zeros(0, np.uint64)},
    "too few lengths": {"lengths": u32()},
    "too few codecs": {"codecs": np.zeros(0, np.uint8)},
    "too few ids": {"ids": np.zeros((0, 32), np.uint8)},
    "ids too narrow": {"ids": np.zeros((1, 16), np.uint8)},
    "offsets of another type": {"offsets": np.zeros(1, np.int64)},
    "key too long": {"packs": [(0, bytes(33), b"")]},
    "id key too long": {"id_key": bytes(33)},
    "no threads": {"threads": 0},
    "base that is not there": {"base_rows": np.ones(1, np.int32)},
    "base below none": {"base_rows": np.full(1, -2, np.int32)},
    "too few bases": {"base_rows": np.zeros(0, np.int32)},
    "a row wanted that is not there": {"wanted": u32(1)},
    "rows wanted of another type": {"wanted": np.zeros(1, np.int32)},
    "chunk size": {"chunk_size": 1},
}


@both
@pytest.mark.parametrize("changes", BAD_DECODES.values(), ids=BAD_DECODES.keys())
def test_decode_refuses(kernel: Any, changes: dict[str, Any]) -> None:
    batch = plain(kernel, [noise(SIZE, 1)], SIZE)
    with Pack(SIZE, encode(kernel, batch), batch.ids) as pack:
        assert pack.decode(kernel)[1] == [0]
        raises("native.bad-argument", lambda: pack.decode(kernel, **changes))


def test_both_kernels_say_the_same_of_a_bad_argument(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("w+b") as file:
        file.truncate(SIZE)
        for changes in ({"threads": 0}, {"first_chunk": 5}, {"chunk_count": 2}):
            messages = {
                str(raises("native.bad-argument", lambda k=kernel, c=changes: scan(k, file.fileno(), SIZE, SIZE, **c)))
                for kernel in (NATIVE, REFERENCE)
            }
            assert len(messages) == 1
