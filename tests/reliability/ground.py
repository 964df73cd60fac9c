"""File systems in files, and clones of them: what stands under the worlds.

Invariants:
- Everything is mounted in a mount namespace of this process's own, on a tmpfs that is mounted there too, and loop
  devices detach themselves: however the process ends, nothing of it is left on the machine.
- `clone` is FICLONE of the file under a loop device. The kernel holds that file's lock for it, so the clone is the
  device at one instant, as a power cut leaves it; a plain copy would hold earlier and later blocks side by side.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

MIB = 1 << 20
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_FICLONE = 0x40049409
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
_OPTIONS = {"ext4": "loop,discard", "xfs": "loop,discard,nouuid", "btrfs": "loop,discard"}


def missing(kinds: tuple[str, ...] = ("ext4", "xfs")) -> str | None:
    """Why no file systems can be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root: loop devices and mounts"
    for tool in ("mount", "umount", *(_MAKE[kind][0] for kind in kinds)):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    return None


def enter_namespace() -> None:
    """From here on this process's mounts are its own and end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace cannot be made")


def run(*command: str) -> None:
    """Run a tool; its words are the error if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")


def mount_memory(folder: Path, size: int) -> None:
    """A tmpfs on `folder`."""
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))


def make_file_system(file: Path, kind: str, size: int) -> None:
    """A new file system of `kind` in a sparse file."""
    with file.open("wb") as made:
        made.truncate(size)
    run(*_MAKE[kind], str(file))


def mount(file: Path, kind: str, folder: Path) -> None:
    """Mount a file system in a file; its journal is replayed if it was cut."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", _OPTIONS[kind], str(file), str(folder))


def unmount(folder: Path) -> None:
    """Take it down, even while a dying process holds it."""
    run("umount", "-l", str(folder))


def clone(file: Path, target: Path) -> None:
    """All of `file` at this instant; takes no space until one of them is written to."""
    source_fd = os.open(file, os.O_RDONLY)
    target_fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)
