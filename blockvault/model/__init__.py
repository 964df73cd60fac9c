"""What BlockVault speaks of, as frozen dataclasses without input or output."""

from blockvault.model.enums import ChunkState, ChurnSource, Codec, Consistency, FillKind, Tier
from blockvault.model.item import DiskSpec, Item
from blockvault.model.mark import Mark, MarkKind, PointState, state_of
from blockvault.model.point import LayerRef, Point, PointDisk, PointRef, PointStatistics
from blockvault.model.request import SnapshotRequest
from blockvault.model.results import (
    BlockDamage,
    DiffExtent,
    DiffResult,
    DryRunResult,
    KeySlotInfo,
    PointInfo,
    PruneDecision,
    PrunePlan,
    PruneResult,
    ReclaimResult,
    RestoreResult,
    SnapshotResult,
    TouchedRange,
    UsageReport,
    UsageRow,
    VerifyReport,
)
from blockvault.model.secrets import Secret, VaultKeys
from blockvault.model.snapshot import SnapshotDisk, SnapshotKind, SnapshotRecord

__all__ = [
    "BlockDamage",
    "ChunkState",
    "ChurnSource",
    "Codec",
    "Consistency",
    "DiffExtent",
    "DiffResult",
    "DiskSpec",
    "DryRunResult",
    "FillKind",
    "Item",
    "KeySlotInfo",
    "LayerRef",
    "Mark",
    "MarkKind",
    "Point",
    "PointDisk",
    "PointInfo",
    "PointRef",
    "PointState",
    "PointStatistics",
    "PruneDecision",
    "PrunePlan",
    "PruneResult",
    "ReclaimResult",
    "RestoreResult",
    "Secret",
    "SnapshotDisk",
    "SnapshotKind",
    "SnapshotRecord",
    "SnapshotRequest",
    "SnapshotResult",
    "Tier",
    "TouchedRange",
    "UsageReport",
    "UsageRow",
    "VaultKeys",
    "VerifyReport",
    "state_of",
]
