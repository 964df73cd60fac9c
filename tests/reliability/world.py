"""A host with disk images and a vault, and what each of its points must restore to.

What a point must restore to is kept as the BLAKE3 of each disk's bytes at its capture: an oracle that the program has
no part in, and that lies outside the file systems whose power is cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from blockvault import workload
from blockvault.model import Secret
from blockvault.workload import Churn

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
PAGE = 4096
SIZES = {"alpha": {"alpha": 6 * MIB}, "beta": {"beta-1": 4 * MIB, "beta-2": 3 * MIB}}
GROWN_MAX = 12 * MIB
KEY = bytes(range(32))

Disks = dict[str, str]  # by name of the disk: digest of its bytes


def digest(path: Path) -> str:
    """What a file's bytes are told by; its length is bound in by the bytes themselves."""
    hasher = blake3()
    with path.open("rb") as file:
        while piece := file.read(4 * MIB):
            hasher.update(piece)
    return hasher.hexdigest()


@dataclass(frozen=True)
class Template:
    """Images that new worlds begin with: made once, because `mkfs` takes longer than a whole kill."""

    folder: Path

    def build(self, seed: int) -> None:
        """Make one of each."""
        self.folder.mkdir()
        for disks in SIZES.values():
            for disk, size in disks.items():
                workload.build_image(str(self.folder / disk), size, seed + len(disk))
        workload.build_image(str(self.folder / "new"), 4 * MIB, seed + 100)


@dataclass
class World:
    """One host. `made`: a command that makes its vault has succeeded, so there must be one.

    `scratch` is a folder on another file system, for what is no part of the world. `sabotage`: syncs of the program
    that is disturbed do nothing; the checks must find that.
    """

    root: Path
    scratch: Path
    template: Template
    encrypted: bool
    rng: random.Random
    sabotage: bool = False
    images: dict[str, dict[str, Path]] = field(default_factory=dict)  # item, disk
    points: dict[str, Disks] = field(default_factory=dict)  # by label
    item_of: dict[str, str] = field(default_factory=dict)
    made: bool = False
    serial: int = 0

    @property
    def state(self) -> Path:
        """The state folder; the vault lies in it."""
        return self.root / "state"

    @property
    def vault(self) -> Path:
        """The vault's folder."""
        return self.state / "vaults" / "default"

    @property
    def key_file(self) -> Path:
        """The key file of an encrypted vault."""
        return self.root / "key"

    @property
    def secret(self) -> Secret | None:
        """The same for the library."""
        return Secret(key_file=KEY) if self.encrypted else None

    def environment(self) -> dict[str, str]:
        """What a command finds its world by."""
        return {"BLOCKVAULT_STATE_DIR": str(self.state), "NO_COLOR": "1"}

    def argv(self, *words: str) -> tuple[str, ...]:
        """A command line for this world's vault."""
        return (*words, "--json", *(("--key-file", str(self.key_file)) if self.encrypted else ()))

    def begin(self) -> None:
        """A host without a vault: two items' images, nothing else."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.images, self.points, self.item_of, self.made = {}, {}, {}, False
        if self.encrypted:
            self.key_file.write_bytes(KEY)
        for item, disks in SIZES.items():
            self.images[item] = {disk: self._image(disk, disk) for disk in disks}
        subprocess.run(["sync", "-f", str(self.root)], check=True)

    def new_item(self) -> str:
        """An item that the vault does not know yet."""
        self.serial += 1
        name = f"new-{self.serial}"
        self.images[name] = {name: self._image("new", name)}
        return name

    def _image(self, kind: str, name: str) -> Path:
        path = self.root / f"{name}.img"
        shutil.copyfile(self.template.folder / kind, path)
        self.write(path, lambda fd: os.pwrite(fd, self.rng.randbytes(PAGE), 0))
        return path

    def targets(self, item: str) -> list[str]:
        """The images of an item, as a command takes them."""
        return [str(path) for path in self.images[item].values()]

    def now(self, item: str) -> Disks:
        """What a point taken now must restore to."""
        return {disk: digest(path) for disk, path in self.images[item].items()}

    def labels(self, item: str | None = None) -> list[str]:
        """The points that there are, of one item or of all; oldest first, also where one was brought back."""
        return sorted((label for label in self.points if item in (None, self.item_of[label])), key=int)

    def change(self, item: str, kind: str) -> None:
        """Change every image of an item as a guest does; durable on return, as a guest's own syncs make it."""
        for path in self.images[item].values():
            self.serial += 1
            if kind == "grow":
                self._grow(path)
            elif kind == "shrink":
                self._shrink(path)
            else:
                workload.apply_churn(str(path), Churn(kind), self.serial, 0.03)

    def _grow(self, path: Path) -> None:
        size = path.stat().st_size
        grown = min(GROWN_MAX, size + self.rng.randrange(1, 512) * 512)
        noise = self.rng.randbytes(min(grown - size, 3 * PAGE))

        def write(fd: int) -> None:
            os.ftruncate(fd, grown)
            os.pwrite(fd, noise, grown - len(noise))

        self.write(path, write)

    def _shrink(self, path: Path) -> None:
        size = path.stat().st_size
        shrunk = max(MIB, size - self.rng.randrange(1, 512) * 512)
        self.write(path, lambda fd: os.ftruncate(fd, shrunk))

    @staticmethod
    def write(path: Path, write: Callable[[int], object]) -> None:
        """Change a file, durably."""
        fd = os.open(path, os.O_RDWR)
        try:
            write(fd)
            os.fsync(fd)
        finally:
            os.close(fd)

    def remember(self, label: str, item: str, disks: Disks) -> None:
        """There is a point, and it must stay and restore to this."""
        self.points[label] = disks
        self.item_of[label] = item

    def forget(self, label: str) -> None:
        """It was taken away on purpose."""
        del self.points[label]
        del self.item_of[label]
