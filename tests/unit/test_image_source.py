"""What opens as a disk image, what it tells of its bytes, and that a change under a reader is seen."""

import mmap
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from blockvault.errors import DeviceError
from blockvault.image.source import ImageSource
from blockvault.image.system import unshared_bytes

CHUNK = 65_536
SEED = 77
TIB = 1 << 40


def write_image(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path


def scan_all(source: ImageSource) -> object:
    return source.scan(0, source.chunk_count, None, seed=SEED, threads=2, cancel=None)


# -- opening ------------------------------------------------------------------------------------------------


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        ImageSource.open(str(tmp_path / "none.img"), CHUNK)
    assert caught.value.kind == "image.not-found"
    assert caught.value.filename == str(tmp_path / "none.img")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        ImageSource.open(str(tmp_path), CHUNK)
    assert caught.value.kind == "image.is-folder"


def test_what_is_not_a_disk(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (fifo, tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(DeviceError) as caught:
                ImageSource.open(str(path), CHUNK)
            assert caught.value.kind == "image.not-a-disk"


def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "secret.img", CHUNK, {})
    path.chmod(0)
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            os.chmod(parent, parent.stat().st_mode | 0o011)
    became = os.geteuid() == 0
    if became:
        os.seteuid(65_534)
    try:
        with pytest.raises(DeviceError) as caught:
            ImageSource.open(str(path), CHUNK)
    finally:
        if became:
            os.seteuid(0)
    assert caught.value.kind == "image.unreadable"
    assert caught.value.errno == 13


# -- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 12_345])
def test_every_size_reads_whole(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    path = write_image(tmp_path / "disk.img", size, {0: data})
    with ImageSource.open(str(path), CHUNK) as source:
        assert source.size == size
        count = -(-size // CHUNK)
        assert source.chunk_count == count
        result = source.scan(0, count, None, seed=SEED, threads=2, cancel=None)
        assert result.read_bytes == size
        padded = data.ljust(count * CHUNK, b"\0")
        expected = [
            xxhash.xxh3_128(padded[start : start + CHUNK], SEED).digest() for start in range(0, count * CHUNK, CHUNK)
        ]
        assert [row.tobytes() for row in result.digests] == expected
        plain = source.identify(np.arange(count, dtype=np.uint64), seed=SEED, id_key=bytes(32), cancel=None)
        assert b"".join(plain.chunk(row) for row in range(count)) == padded
        assert plain.digests.tobytes() == b"".join(expected)
        assert list(source.data_runs(0, count)) == ([(0, count)] if size else [])


def test_data_runs_tell_every_chunk_that_data_touches_once(tmp_path: Path) -> None:
    page = b"x" * 4096
    size = 40 * CHUNK + 100
    pieces = {
        3 * CHUNK + 4096: page,  # two extents in one chunk
        3 * CHUNK + 12_288: page,
        4 * CHUNK: page,  # its neighbour
        10 * CHUNK - 4096: page + page,  # across a border
        40 * CHUNK: b"end",
    }
    path = write_image(tmp_path / "disk.img", size, pieces)
    with ImageSource.open(str(path), CHUNK) as source:
        if os.fstat(source.fd).st_blocks * 512 > 20 * CHUNK:
            pytest.skip("this file system keeps no holes")
        assert list(source.data_runs(0, 41)) == [(3, 2), (9, 2), (40, 1)]
        assert list(source.data_runs(4, 6)) == [(4, 1), (9, 1)]
        assert list(source.data_runs(5, 4)) == []
        assert list(source.data_runs(10, 1)) == [(10, 1)]
        assert list(source.data_runs(11, 30)) == [(40, 1)]


def test_a_hole_of_many_tib_costs_nothing(tmp_path: Path) -> None:
    size = 15 * TIB  # ext4 ends at 16 TiB
    path = write_image(tmp_path / "huge.img", size, {7 * TIB: b"a", size - 1: b"z"})
    with ImageSource.open(str(path), CHUNK) as source:
        began = time.thread_time()
        runs = list(source.data_runs(0, source.chunk_count))
        spent = time.thread_time() - began
        assert runs == [(7 * TIB // CHUNK, 1), (size // CHUNK - 1, 1)]
        assert spent < 0.01
        assert source.data_bytes() < CHUNK


def test_a_loop_device_is_an_image(loop_device: Callable[[int], Path]) -> None:
    device = loop_device(5 * CHUNK + 4096)
    data = os.urandom(CHUNK)
    with device.open("r+b") as file:
        file.seek(2 * CHUNK)
        file.write(data)
    with ImageSource.open(str(device), CHUNK) as source:
        assert source.is_device
        assert source.size == 5 * CHUNK + 4096
        assert list(source.data_runs(0, 6)) == [(0, 6)]
        result = source.scan(0, 6, None, seed=SEED, threads=1, cancel=None)
        assert result.states.tolist() == [1, 1, 3, 1, 1, 1]
        assert result.digests[2].tobytes() == xxhash.xxh3_128(data, SEED).digest()


# -- changes under the reader -------------------------------------------------------------------------------


def changed_reason(source: ImageSource, change: Callable[[], object]) -> str | None:
    before = source.state()
    change()
    try:
        source.check_unchanged(before)
    except DeviceError as error:
        kind, why = error.kind, error.why
    else:
        return None
    assert kind == "image.changed"
    return why


def test_nothing_is_no_change(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})
    with ImageSource.open(str(path), CHUNK) as source:
        assert changed_reason(source, lambda: scan_all(source)) is None
        assert changed_reason(source, path.read_bytes) is None


def test_a_write_right_after_the_first_look(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})

    def write() -> None:
        with path.open("r+b") as file:
            file.write(b"atad")

    with ImageSource.open(str(path), CHUNK) as source:
        for _ in range(5):
            assert changed_reason(source, write) == "it was written to"


def test_a_write_through_a_mapping_made_before(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4 * CHUNK) as view:
        view[:4] = b"warm"  # the page is dirty and mapped for writing from here on

        def store() -> None:
            view[:4] = b"cold"

        with ImageSource.open(str(path), CHUNK) as source:
            assert changed_reason(source, store) == "it was written to"


def test_growth_and_shrinkage(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})
    with ImageSource.open(str(path), CHUNK) as source:
        why = changed_reason(source, lambda: os.truncate(path, 5 * CHUNK))
        assert why == f"its size went from {4 * CHUNK} to {5 * CHUNK} bytes"
        assert "its size went" in str(changed_reason(source, lambda: os.truncate(path, CHUNK)))
        with pytest.raises(DeviceError) as caught:
            scan_all(source)
        assert caught.value.kind == "image.changed"


def test_deleted_and_replaced(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})
    other = write_image(tmp_path / "other.img", 4 * CHUNK, {0: b"other"})
    with ImageSource.open(str(path), CHUNK) as source:
        assert changed_reason(source, lambda: other.rename(path)) == "another file took its place"
        assert changed_reason(source, path.unlink) == "it was deleted or renamed"


def test_times_put_back_are_seen(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 4 * CHUNK, {0: b"data"})
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)

    def write_and_hide() -> None:
        with path.open("r+b") as file:
            file.write(b"atad")
        os.utime(path, ns=times)

    with ImageSource.open(str(path), CHUNK) as source:
        assert changed_reason(source, write_and_hide) == "its attributes or its bytes were changed"


@pytest.mark.root
def test_a_device_counts_what_is_written_to_it(loop_device: Callable[[int], Path]) -> None:
    device = loop_device(4 * CHUNK)
    node_time = (device.stat().st_atime_ns, device.stat().st_mtime_ns)

    def write() -> None:
        # Buffered: nothing of it has reached the device when the next look is taken.
        with device.open("r+b") as file:
            file.write(os.urandom(4096))
        os.utime(device, ns=node_time)

    with ImageSource.open(str(device), CHUNK) as source:
        assert changed_reason(source, lambda: scan_all(source)) is None
        assert changed_reason(source, write) == "it was written to"


# -- what a file takes up -----------------------------------------------------------------------------------


def test_a_file_without_clones_shares_nothing(tmp_path: Path) -> None:
    path = write_image(tmp_path / "disk.img", 64 * CHUNK, {CHUNK: os.urandom(CHUNK), 9 * CHUNK: os.urandom(CHUNK)})
    with path.open("rb") as file:
        os.fsync(file.fileno())
        assert unshared_bytes(file.fileno()) == path.stat().st_blocks * 512 == 2 * CHUNK
