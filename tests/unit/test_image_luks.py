"""A LUKS-encrypted disk is just bytes: it comes back with every one of them, and still opens with its passphrase."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import TYPE_CHECKING

import pytest
from helpers.snapshot_world import CHUNK, World, assert_same

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"correct horse battery staple"


class Cryptsetup:
    """The system's libcryptsetup, as far as it needs no device mapper."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("cryptsetup") or "libcryptsetup.so.12"
        self.lib = ctypes.CDLL(name)

    def _open(self, path: Path) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._ok(self.lib.crypt_init(ctypes.byref(handle), os.fsencode(path)))
        return handle

    @staticmethod
    def _ok(code: int) -> None:
        if code < 0:
            raise OSError(-code, os.strerror(-code))

    def format(self, path: Path) -> None:
        handle = self._open(path)
        try:
            self.lib.crypt_set_iteration_time(handle, ctypes.c_uint64(1))
            self._ok(
                self.lib.crypt_format(handle, b"LUKS1", b"aes", b"xts-plain64", None, None, ctypes.c_size_t(64), None)
            )
            self._ok(
                self.lib.crypt_keyslot_add_by_volume_key(
                    handle, 0, None, ctypes.c_size_t(0), PASSPHRASE, ctypes.c_size_t(len(PASSPHRASE))
                )
            )
        finally:
            self.lib.crypt_free(handle)

    def opens(self, path: Path, passphrase: bytes) -> bool:
        handle = self._open(path)
        try:
            self._ok(self.lib.crypt_load(handle, b"LUKS1", None))
            length = ctypes.c_size_t(len(passphrase))
            return bool(self.lib.crypt_activate_by_passphrase(handle, None, -1, passphrase, length, 0) >= 0)
        finally:
            self.lib.crypt_free(handle)


def test_a_luks_disk(tmp_path: Path) -> None:
    try:
        cryptsetup = Cryptsetup()
    except OSError:
        pytest.skip("libcryptsetup is not installed")
    world = World(tmp_path)
    image = world.image()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        cryptsetup.format(image)
    except OSError as error:
        pytest.skip(f"libcryptsetup cannot format here: {error}")
    with image.open("r+b") as file:
        file.seek(4 << 20)
        file.write(os.urandom(100 * CHUNK))  # what encrypted data looks like from outside
    assert cryptsetup.opens(image, PASSPHRASE)
    world.capture()
    with image.open("r+b") as file:
        file.seek(5 << 20)
        file.write(os.urandom(CHUNK))
    world.capture()
    for number in (1, 2):
        restored = world.restored(number)
        assert_same(restored, world.copy(number=number))
        assert cryptsetup.opens(restored, PASSPHRASE)
        assert not cryptsetup.opens(restored, b"wrong")
