"""Stops a process right after each sync that it makes: a small library, compiled here and preloaded.

The program syncs through libc alone (Python's `os.fsync`, LMDB's `fdatasync` and its O_DSYNC descriptor); that the
library sees all of it is held against `strace` by `tests/crash/test_power_cut.py`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("syncs.c")
STOP, COUNT = 1, 2
_LOADED = "LD_PRELOAD"


def build(folder: Path) -> Path:
    """Compile the library; raises `CalledProcessError` where that fails."""
    library = folder / "syncs.so"
    subprocess.run(
        ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True, capture_output=True, text=True
    )
    return library


def environment(library: Path) -> dict[str, str]:
    """What a process needs in its environment to have the library loaded."""
    return {_LOADED: str(library)}


def loaded() -> bool:
    """Whether it is loaded in this process."""
    return os.environ.get(_LOADED, "").endswith("syncs.so")


def arm(mode: int = STOP) -> None:
    """From here on this process stops at (or counts) each sync."""
    ctypes.CDLL(os.environ[_LOADED]).syncs_arm(mode)


def seen() -> int:
    """How many there were since the process began."""
    library = ctypes.CDLL(os.environ[_LOADED])
    library.syncs_seen.restype = ctypes.c_long
    return int(library.syncs_seen())
