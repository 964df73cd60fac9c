"""What a vault protects: an item, with its disks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from blockvault.ids import ItemId


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of an item: its name and the canonical path of its image or device."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Item:
    """A virtual machine or a single disk image. `revision` counts the changes of its record, from 0.

    `snapshot_days` is for how many days snapshots are kept on the host (0: none), `snapshot_dir` where
    (None: beside the image or in the state folder, as `snapshots.place` decides).
    """

    id: ItemId
    name: str
    disks: tuple[DiskSpec, ...]
    chunk_size: int
    created: datetime
    revision: int = 0
    snapshot_days: int = 2
    snapshot_dir: str | None = None
    comment: str = ""

    def disk(self, name: str) -> DiskSpec | None:
        """The disk of that name, or None."""
        return next((disk for disk in self.disks if disk.name == name), None)
