"""What a vault protects: an item, with its disks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from blockvault.ids import ItemId
from blockvault.model.enums import Protection

SNAPSHOT_DAYS_DEFAULT = 2


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of an item: its name and the canonical path of its image or device."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Item:
    """A virtual machine or a single disk image. `revision` counts the changes of its record, from 0.

    `snapshot_days` is for how many days snapshots are kept on the host (0: none; None: as many as its policy says,
    `SNAPSHOT_DAYS_DEFAULT` without one), `snapshot_dir` where (None: beside the image or in the state folder, as
    `snapshots.place` decides). `policy` names the policy that its points are taken and kept by ("": none),
    `protected_since` says since when it does so without a break, `group` names the items that are captured at one
    instant with it ("": none).
    `agent_socket` is the unix socket of its guest's QEMU guest agent ("": none), `freeze_mounts` where its file systems
    are mounted on this host, if they are, and `hook_seconds` how long one of its scripts may run (None: the default).
    """

    id: ItemId
    name: str
    disks: tuple[DiskSpec, ...]
    chunk_size: int
    created: datetime
    revision: int = 0
    snapshot_days: int | None = None
    snapshot_dir: str | None = None
    comment: str = ""
    policy: str = ""
    protection: Protection = Protection.NONE
    group: str = ""
    protected_since: datetime | None = None
    removed: bool = False  # the last revision of a record: the vault has the item no more
    agent_socket: str = ""
    freeze_mounts: tuple[str, ...] = ()
    hook_seconds: int | None = None

    def disk(self, name: str) -> DiskSpec | None:
        """The disk of that name, or None."""
        return next((disk for disk in self.disks if disk.name == name), None)
