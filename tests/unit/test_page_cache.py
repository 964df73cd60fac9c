"""Reading a disk image leaves the page cache as it was: what others keep there stays, what the scan read does not."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.kernels import NATIVE, noise, scan
from helpers.site import Site

from blockvault import page_cache
from blockvault.image.source import ImageSource
from blockvault.store.local import LocalStore

SIZE = 64 << 10
WARM_BYTES = 1 << 20
FILE_BYTES = 16 << 20


def resident_bytes(path: Path) -> int:
    """How much of a file lies in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    length = path.stat().st_size
    pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
    with path.open("rb") as file:
        address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        assert libc.mincore(address, length, pages) == 0, os.strerror(ctypes.get_errno())
        libc.munmap(address, length)
    return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE


@pytest.fixture
def half_cold(tmp_path: Path) -> Path:
    """An image of which only the first MiB is in the page cache."""
    path = tmp_path / "disk.img"
    path.write_bytes(noise(FILE_BYTES, 1))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        if not page_cache.knows_dont_cache(file.fileno()):
            pytest.skip("this kernel or file system does not know RWF_DONTCACHE (Linux 6.14; ext4, xfs, btrfs)")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        assert len(os.pread(file.fileno(), WARM_BYTES, 0)) == WARM_BYTES
    assert resident_bytes(path) == WARM_BYTES
    return path


def _scan(path: Path, drop_cache: bool) -> None:
    with path.open("rb") as file:
        batch = scan(NATIVE, file.fileno(), SIZE, FILE_BYTES, threads=2, drop_cache=drop_cache)
    assert batch.states.tolist() == [3] * (FILE_BYTES // SIZE)


def _identify(path: Path, drop_cache: bool) -> None:
    with path.open("rb") as file:
        count = FILE_BYTES // SIZE
        batch = NATIVE.identify(
            np.full(count, file.fileno(), np.int32),
            np.arange(count, dtype=np.uint64),
            chunk_size=SIZE,
            disk_size=FILE_BYTES,
            seed=1,
            id_key=None,
            drop_cache=drop_cache,
            cancel=None,
        )
        assert bytes(batch.chunk(count - 1)) == noise(FILE_BYTES, 1)[-SIZE:]


@pytest.mark.parametrize("read", [_scan, _identify])
def test_a_large_image_leaves_the_cache_as_it_was(half_cold: Path, read: Callable[[Path, bool], None]) -> None:
    read(half_cold, True)
    # A folio that straddles the end of the warm part, or that was in use for a moment, may stay.
    assert WARM_BYTES <= resident_bytes(half_cold) <= WARM_BYTES + FILE_BYTES // 16
    read(half_cold, False)
    assert resident_bytes(half_cold) == FILE_BYTES


@pytest.mark.parametrize(("unused", "stays"), [(1, False), (3, True)])
def test_a_pack_stays_in_the_cache_only_where_memory_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused: int, stays: bool
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16, "SC_AVPHYS_PAGES": unused}
    store = LocalStore(str(tmp_path))
    monkeypatch.setattr(page_cache.os, "sysconf", sizes.__getitem__)
    for name, size in (("main/packs/pack", 4 << 20), ("main/layers/layer", 4096)):
        (tmp_path / name).parent.mkdir(parents=True)
        written = store.new_object(name)
        written.write(noise(size, 1))
        if not page_cache.knows_dont_cache(written.fd):
            pytest.skip("on this file system nothing leaves the page cache, or the kernel is older than Linux 6.14")
        written.commit()
        assert resident_bytes(tmp_path / name) == (size if stays or size == 4096 else 0)
        assert (tmp_path / name).read_bytes() == noise(size, 1)


def test_verify_leaves_no_pack_in_the_cache_where_memory_is_scarce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(tmp_path) as site:
        image = tmp_path / "disk.img"
        image.write_bytes(noise(FILE_BYTES, 1))
        site.vault.snapshot([str(image)], keep=False)
        [pack] = [path for path in site.objects("main/packs") if path.stat().st_size > FILE_BYTES // 2]
        with pack.open("rb") as file:
            if not page_cache.knows_dont_cache(file.fileno()):
                pytest.skip("on this file system nothing leaves the page cache, or the kernel is older than Linux 6.14")
        for unused, stays in ((3, True), (1, False)):
            sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16, "SC_AVPHYS_PAGES": unused}
            with monkeypatch.context() as patched:
                patched.setattr(page_cache.os, "sysconf", sizes.__getitem__)
                assert site.vault.verify().damage == ()
            assert (resident_bytes(pack) > FILE_BYTES // 2) is stays


def test_only_an_image_that_would_push_others_out_is_read_past_the_cache(
    half_cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20, "SC_AVPHYS_PAGES": 2 * FILE_BYTES // 4096}
    monkeypatch.setattr(page_cache.os, "sysconf", sizes.__getitem__)
    with ImageSource.open(str(half_cold), SIZE) as source:
        assert not source._drop_cache
    sizes["SC_AVPHYS_PAGES"] -= 8
    with ImageSource.open(str(half_cold), SIZE) as source:
        assert source._drop_cache
        source.scan(0, FILE_BYTES // SIZE, None, seed=1, threads=1, cancel=None)
    assert resident_bytes(half_cold) < FILE_BYTES // 4
    # Where the cache cannot be left alone, an image that fits into memory is read like any file.
    monkeypatch.setattr(page_cache, "knows_dont_cache", lambda fd: False)
    with ImageSource.open(str(half_cold), SIZE) as source:
        assert not source._drop_cache
    sizes["SC_PHYS_PAGES"] = FILE_BYTES // 4096
    with ImageSource.open(str(half_cold), SIZE) as source:
        assert source._drop_cache
