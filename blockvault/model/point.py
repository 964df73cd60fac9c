"""A recovery point as its record states it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from blockvault.ids import ItemId, LayerName, OriginId, PointId
from blockvault.model.enums import ChurnSource, Consistency


@dataclass(frozen=True, slots=True, order=True)
class PointRef:
    """What names a point record for good: the writing host and its number."""

    origin: OriginId
    number: int


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer of a manifest: its name, the tag of its root (binds the whole layer) and how many pieces it holds."""

    name: LayerName
    tag: bytes  # 16 bytes
    piece_count: int


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk at one point. `layers` is the manifest, newest first, at most 16."""

    name: str
    path: str
    size: int
    chunk_size: int
    layers: tuple[LayerRef, ...]

    @property
    def chunk_count(self) -> int:
        """Chunks of the disk, the last one perhaps short."""
        return -(-self.size // self.chunk_size)


class PointBrief(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is asked of all points at once, as each one's record states it. Read by the ten thousand, hence its form."""

    origin: OriginId
    number: int
    id: PointId
    item_id: ItemId
    item_name: str
    taken: datetime
    committed: datetime
    parent: tuple[OriginId, int] | None

    @property
    def ref(self) -> PointRef:
        """What names the point's record."""
        return PointRef(self.origin, self.number)


@dataclass(frozen=True, slots=True)
class PointStatistics:
    """The five figures of a job, and the count of changed chunks. All in bytes but the last."""

    read_bytes: int = 0
    changed_bytes: int = 0
    unique_bytes: int = 0
    stored_bytes: int = 0
    sent_bytes: int = 0
    changed_chunks: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A restorable state of an item. `taken` is the moment of capture, `committed` that of the record.

    `freeze_ms` is how long the guest stood still for it, None if it did not; `skew_ms` how far apart the disks of the
    point and of its `group` may be, from before the first was cloned until after the last, None where one was alone.
    """

    ref: PointRef
    id: PointId
    item_id: ItemId
    item_name: str
    taken: datetime
    committed: datetime
    consistency: Consistency
    churn_source: ChurnSource
    audit: str  # how the churn source was audited, for people: "every chunk read"
    disks: tuple[PointDisk, ...]
    statistics: PointStatistics
    parent: PointRef | None = None
    parent_digest: bytes | None = None  # tag of the parent's record
    tags: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    retain_until: datetime | None = None
    freeze_ms: float | None = None
    skew_ms: float | None = None
    group: str = ""  # the items that were captured with it
    refreshed_at: float = 0.0  # the store's time, seconds, before the last look at condemned/ (R8)
    digest: bytes = b""  # tag of this record, set when read or written; not part of its body

    @property
    def number(self) -> int:
        """N of `--point N`."""
        return self.ref.number

    @property
    def brief(self) -> PointBrief:
        """What is asked of it together with all others."""
        return PointBrief(
            self.ref.origin,
            self.ref.number,
            self.id,
            self.item_id,
            self.item_name,
            self.taken,
            self.committed,
            (self.parent.origin, self.parent.number) if self.parent is not None else None,
        )

    @property
    def size(self) -> int:
        """Bytes of all disks together."""
        return sum(disk.size for disk in self.disks)
