"""A snapshot of the instant-restore tier, as its local record states it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from blockvault.ids import ItemId
from blockvault.model.enums import Consistency


class SnapshotKind(StrEnum):
    """How a snapshot holds its bytes."""

    REFLINK = "reflink"  # a clone of the image, whole by itself
    RAW = "raw"  # the newest state is whole; older ones hold what the newer has not


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """One disk of a snapshot: its size then, the image it was taken of, and the file that holds it."""

    name: str
    path: str  # the image
    size: int
    file: str  # reflink: the clone; raw: the newest-state file (see snapshots.raw for what older ones add)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One snapshot. `number` is N of the point that was or will be made of it."""

    vault_id: str
    item_id: ItemId
    item_name: str
    number: int
    taken: datetime
    kind: SnapshotKind
    consistency: Consistency
    chunk_size: int
    folder: str
    disks: tuple[SnapshotDisk, ...]
    keep_until: datetime
    transferred: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    retain_until: datetime | None = None
    freeze_ms: float | None = None  # as in a point, and so the two below
    skew_ms: float | None = None
    group: str = ""

    def disk(self, name: str) -> SnapshotDisk | None:
        """The disk of that name, or None."""
        return next((disk for disk in self.disks if disk.name == name), None)
