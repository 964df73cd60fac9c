"""Walking folders for files that may be disk images.

Bounded: so many levels, so many entries; what stops it is told. Not followed are symbolic links, what the kernel makes
up (`/proc` and the like), BlockVault's own folders of snapshots, and vaults.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from blockvault.errors import InvalidInputError

if TYPE_CHECKING:
    from blockvault.image.mounts import Mount

DEPTH_DEFAULT = 4
ENTRIES_MAX = 200_000
SIZE_MIN = 64 << 10  # a smaller file holds no file system, and no image of one
SNAPSHOTS = ".blockvault"
VAULT_HEADER = "vault.json"


def find_files(folders: list[str], *, depth: int, mounts: list[Mount]) -> tuple[list[str], list[str]]:
    """Regular files of some size in these folders, in order, and where they could not be looked for.

    Raises:
        InvalidInputError: a folder is not there (`discover.no-folder`).
    """
    pseudo = {mount.folder for mount in mounts if mount.is_pseudo}
    walk = _Walk(depth, pseudo)
    for folder in folders:
        top = os.path.realpath(folder)
        if not os.path.isdir(top):
            raise InvalidInputError(
                "discover.no-folder", f"{folder} is not a folder", do="name folders that are there, or none"
            )
        walk.folder(top, 0)
    return walk.files, walk.notes


class _Walk:
    def __init__(self, depth: int, pseudo: set[str]) -> None:
        self._depth = depth
        self._pseudo = pseudo
        self._seen: set[tuple[int, int]] = set()
        self._entries_left = ENTRIES_MAX
        self.files: list[str] = []
        self.notes: list[str] = []

    def folder(self, path: str, level: int) -> None:
        if path in self._pseudo or self._entries_left < 0:
            return
        try:
            status = os.stat(path)
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.notes.append(f"{path} cannot be looked into: {error.strerror}")
            return
        if (status.st_dev, status.st_ino) in self._seen:  # a bind mount of what was looked into, or of itself
            return
        self._seen.add((status.st_dev, status.st_ino))
        names = {entry.name for entry in entries}
        if VAULT_HEADER in names and ("points" in names or "config" in names):
            return
        folders = []
        for entry in entries:
            self._entries_left -= 1
            if self._entries_left < 0:
                self.notes.append(f"there is too much in {path}: the search ended after {ENTRIES_MAX} entries")
                return
            try:
                if entry.is_symlink():
                    continue
                if entry.is_dir():
                    folders.append(entry)
                elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                    self._file(entry)
            except OSError:
                continue  # it went meanwhile
        for entry in folders:
            if entry.name == SNAPSHOTS:
                continue
            if level < self._depth:
                self.folder(entry.path, level + 1)

    def _file(self, entry: os.DirEntry[str]) -> None:
        if entry.stat(follow_symlinks=False).st_size >= SIZE_MIN or entry.name.lower().endswith(".vmdk"):
            self.files.append(entry.path)
