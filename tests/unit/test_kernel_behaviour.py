"""What callers lean on: holes cost nothing, threads run side by side, a key press ends a long call."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.files import noise
from helpers.kernels import ID_KEY, KERNELS, NATIVE, SEED, Pack, all_rows, chunks_of, encode, plain, scan, text

from blockvault.errors import CancelledError

SIZE = 64 << 10
TIB = 1 << 40
both = pytest.mark.parametrize("kernel", KERNELS, ids=["native", "reference"])
# As many chunks as one call may have, all of them zero: many seconds of work from no disk at all.
ENDLESS = {"chunk_size": 4 << 20, "size": 1 << 38}


@both
def test_a_hole_of_16_tib_is_not_read(kernel: Any, tmp_path: Path) -> None:
    size = 16 * TIB - SIZE  # the file system takes no more
    with (tmp_path / "disk.img").open("w+b") as file:
        os.truncate(file.fileno(), size)
        os.pwrite(file.fileno(), b"end", size - 3)
        last = size // SIZE - 65_536
        batch = scan(kernel, file.fileno(), SIZE, size, first_chunk=last, chunk_count=65_536)
        assert batch.read_bytes == SIZE
        assert batch.states.tolist() == [0] * 65_535 + [3]
        assert scan(kernel, file.fileno(), SIZE, size, first_chunk=0, chunk_count=65_536).read_bytes == 0


@both
def test_nothing_is_asked_of_an_empty_disk(kernel: Any, tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("w+b") as file:
        batch = scan(kernel, file.fileno(), SIZE, 0)
        assert len(batch.states) == 0
        assert batch.digests.shape == (0, 16)
        empty = kernel.identify_plain(b"", chunk_size=SIZE, seed=SEED, id_key=ID_KEY)
        assert len(empty) == 0
        assert empty.ids.shape == (0, 32)
        blocks = encode(kernel, empty)
        assert blocks.offsets.tolist() == [0]
        assert len(blocks.payload) == 0
        sealed = kernel.encrypt(blocks.payload, blocks.offsets, key=ID_KEY, associated=b"", first_slot=0)
        assert len(sealed.payload) == 0
        with Pack(SIZE, blocks, empty.ids) as pack:
            decoded, status = pack.decode(kernel)
            assert (len(decoded), status) == (0, [])


@both
def test_what_is_handed_out_cannot_be_changed(kernel: Any) -> None:
    batch = plain(kernel, [noise(SIZE, 1)], SIZE)
    blocks = encode(kernel, batch)
    with Pack(SIZE, blocks, batch.ids) as pack:
        for array in (
            batch.states,
            batch.digests,
            batch.ids,
            blocks.offsets,
            blocks.codecs,
            pack.decode(kernel)[0].ids,
        ):
            assert not array.flags.writeable
    assert blocks.payload.readonly
    assert batch.ids is batch.ids  # made once, not for every look


def test_arrays_outlive_their_batch() -> None:
    batch = plain(NATIVE, [noise(SIZE, 1)], SIZE)
    blocks = encode(NATIVE, batch)
    payload, ids, copy = blocks.payload, batch.ids, (bytes(blocks.payload), batch.ids.tobytes())
    del batch, blocks
    gc.collect()
    plain(NATIVE, [noise(SIZE, 2)], SIZE)  # takes the buffer that was given back
    assert (bytes(payload), ids.tobytes()) == copy


@both
def test_a_frame_that_promises_too_much_is_refused_without_memory_for_it(kernel: Any) -> None:
    zstandard = pytest.importorskip("zstandard")
    batch = plain(kernel, [bytes(SIZE)], SIZE)
    for promised in (SIZE - 1, SIZE + 1, 1 << 30):
        frame = zstandard.ZstdCompressor().compress(bytes(promised))
        assert len(frame) < SIZE
        blocks = encode(kernel, batch)
        with Pack(SIZE, blocks, batch.ids) as pack:
            os.pwrite(pack.file.fileno(), frame, len(pack.head))
            before = psutil.Process().memory_info().rss
            _, status = pack.decode(kernel, lengths=np.array([len(frame)], np.uint32))
            assert status == [2]
            assert psutil.Process().memory_info().rss - before < 64 << 20


@both
def test_the_status_says_what_is_wrong(kernel: Any) -> None:
    chunks = [noise(SIZE, 1), text(SIZE, 2), noise(SIZE, 3)]
    batch = plain(kernel, chunks, SIZE)
    with Pack(SIZE, encode(kernel, batch), batch.ids) as pack:
        fd = pack.file.fileno()
        swapped = batch.ids[[1, 0, 2]].copy()
        assert pack.decode(kernel, ids=swapped)[1] == [3, 3, 0]
        assert pack.decode(kernel, codecs=np.array([2, 2, 0], np.uint8))[1] == [4, 4, 0]
        assert pack.decode(kernel, codecs=np.array([1, 0, 7], np.uint8))[1] == [2, 2, 2]
        assert pack.decode(kernel, offsets=pack.offsets + np.uint64(2**63))[1] == [1, 1, 1]
        os.ftruncate(fd, int(pack.offsets[2]) + 5)
        decoded, status = pack.decode(kernel)
        assert status == [0, 0, 1]
        assert chunks_of(decoded)[:2] == chunks[:2]
        assert decoded.read_bytes == pack.lengths[:2].sum()


@both
def test_a_device_is_cleared_and_its_ragged_end_is_written(kernel: Any, loop_device: Callable[[int], Path]) -> None:
    with loop_device(1 << 20).open("r+b", buffering=0) as device:
        content = noise(1 << 20, 1)
        device.write(content)
        start, stop = 5000, (1 << 20) - 700
        assert kernel.clear(device.fileno(), start, stop - start) in {"punch", "zeroout"}
        os.fsync(device.fileno())
        assert os.pread(device.fileno(), 1 << 20, 0) == content[:start] + bytes(stop - start) + content[stop:]
        assert kernel.clear(device.fileno(), 512, 100) == "write"


@both
def test_a_device_is_scanned_whole(kernel: Any, loop_device: Callable[[int], Path]) -> None:
    size = 1 << 20
    with loop_device(size).open("r+b", buffering=0) as device:
        os.pwrite(device.fileno(), noise(100, 1), size - 100)
        batch = scan(kernel, device.fileno(), SIZE, size, drop_cache=True)
        assert batch.states.tolist() == [1] * 15 + [3]  # a device has no holes
        assert batch.read_bytes == size


def test_a_full_pipe_is_waited_for() -> None:
    batch = plain(NATIVE, [noise(SIZE, n) for n in range(8)], SIZE)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got = bytearray()

    def drain() -> None:
        while piece := os.read(reader, 5000):
            got.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    assert batch.write_into(writer, all_rows(batch), 8 * SIZE - 77) == 8 * SIZE - 77
    os.close(writer)
    thread.join()
    os.close(reader)
    assert bytes(got) == b"".join(chunks_of(batch))[:-77]


def test_another_thread_runs_meanwhile_and_can_cancel() -> None:
    token = NATIVE.CancelToken()
    outcome: list[BaseException] = []

    def work() -> None:
        with open("/dev/zero", "rb", buffering=0) as endless:
            try:
                scan(NATIVE, endless.fileno(), **ENDLESS, cancel=token)
            except CancelledError as error:
                outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    rounds, until = 0, time.monotonic() + 0.2
    while time.monotonic() < until:
        rounds += 1
    token.cancel()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert outcome
    assert rounds > 1000  # with the GIL held this thread would have stood still


@pytest.mark.parametrize("verb", ["scan", "write_into"])
def test_a_key_press_ends_a_long_call_in_the_main_thread(verb: str) -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    reader, writer = os.pipe()  # nobody reads
    batch = plain(NATIVE, [noise(SIZE, n) for n in range(4)], SIZE)
    with open("/dev/zero", "rb", buffering=0) as endless:
        call = {
            "scan": lambda: scan(NATIVE, endless.fileno(), **ENDLESS),
            "write_into": lambda: batch.write_into(writer, all_rows(batch), 4 * SIZE),
        }[verb]
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call()
        assert time.monotonic() - started < 5
    timer.join()
    os.close(reader)
    os.close(writer)


def test_batches_give_their_memory_back() -> None:
    def round_trip() -> None:
        batch = plain(NATIVE, [noise(SIZE, 1)] * 128, SIZE)
        encode(NATIVE, batch)

    round_trip()
    before = psutil.Process().memory_info().rss
    for _ in range(20):
        round_trip()
    assert psutil.Process().memory_info().rss - before < 48 << 20
