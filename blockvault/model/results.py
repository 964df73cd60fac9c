"""What the library's verbs answer; the command line renders these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from blockvault.model.enums import ChurnSource, Consistency, Tier
from blockvault.model.mark import PointState
from blockvault.model.point import Point, PointRef, PointStatistics


@dataclass(frozen=True, slots=True)
class PointInfo:
    """A point as a listing shows it: from the vault, from the snapshot tier, or both (`tier`).

    `label` is what `--point` takes: `N`, or `HOST:N` for a point that another host made. `point` is None for one
    that lives only in the snapshot tier; such a point is unchecked. `state` is what its marks come to.
    """

    number: int
    label: str
    id: str
    item: str
    taken: datetime
    tier: Tier
    consistency: Consistency
    size_bytes: int
    statistics: PointStatistics
    churn_source: ChurnSource | None
    kept_until: datetime | None
    snapshot_until: datetime | None
    tags: dict[str, str]
    comment: str
    point: Point | None
    state: PointState = field(default_factory=PointState)
    freeze_ms: float | None = None
    skew_ms: float | None = None
    group: str = ""

    @property
    def origin(self) -> str:
        """The origin of a point that another host made; empty for one of this host."""
        return self.point.ref.origin if self.point is not None and ":" in self.label else ""


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What `snapshot` (or `transfer`) made. `job_state` is `completed` or `completed-with-warning`."""

    item: str
    number: int
    id: str
    tier: Tier
    consistency: Consistency
    statistics: PointStatistics
    churn_source: ChurnSource | None  # None: nothing was transferred
    audit: str
    seconds: float
    capture_seconds: float
    transfer_seconds: float
    job_state: str
    size_bytes: int
    vault: str
    vault_path: str
    vault_created: bool
    warnings: tuple[str, ...] = ()
    snapshot_folder: str | None = None
    freeze_ms: float | None = None
    skew_ms: float | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What a `snapshot --dry-run` would read and find changed; nothing was written."""

    item: str
    parent: int | None
    size_bytes: int
    read_bytes: int
    changed_bytes: int
    changed_chunks: int
    churn_source: ChurnSource


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore wrote. `paths` has one entry a disk; empty when it went to standard output."""

    item: str
    number: int
    label: str
    source: Tier
    paths: tuple[str, ...]
    size_bytes: int
    written_bytes: int
    verified: bool
    unchecked: bool  # the point lives only in the snapshot tier: nothing to check it against
    healed_chunks: int  # chunks whose snapshot bytes were wrong and were taken from the vault
    seconds: float
    job_state: str
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    in_place: bool = False
    differing_chunks: int = 0  # in place: what was not as at the point, and is now
    undo_number: int | None = None  # in place: the point of the disks as they were before


@dataclass(frozen=True, slots=True)
class DiffExtent:
    """A run of neighbouring changed bytes of a disk."""

    disk: str
    offset: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class DiffResult:
    """Where two states of an item differ. `pictures` has, per disk, the share changed in 64 equal pieces."""

    left: str
    right: str
    extents: tuple[DiffExtent, ...]
    changed_bytes: int
    size_bytes: int
    pictures: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TouchedRange:
    """A piece of a disk at a point that a damaged block or record takes with it."""

    label: str
    item: str
    disk: str
    offset: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class BlockDamage:
    """One damaged thing: `object` is its name in the vault, `slot` the block in a pack (None: the whole object)."""

    object: str
    slot: int | None
    reason: str
    touches: tuple[TouchedRange, ...]


@dataclass(frozen=True, slots=True)
class VerifyCoverage:
    """How much of what points need was verified within so many days, in stored bytes.

    `oldest` and `newest` are the moments of the least and the most recently verified pack; `counted` is that of the
    last run over all points, whose needs these are.
    """

    days: int
    needed_bytes: int
    verified_bytes: int
    never_bytes: int
    oldest: datetime | None
    newest: datetime | None
    counted: datetime | None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of `verify`. `quick` checked structure only: records, layers, tables, sizes.

    `complete` is False where a budget ended before all was read; `quarantined` counts blocks and objects that went
    into quarantine now.
    """

    quick: bool
    points: int
    blocks: int
    plain_bytes: int
    stored_bytes: int
    damage: tuple[BlockDamage, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    complete: bool = True
    quarantined: int = 0
    coverage: VerifyCoverage | None = None


@dataclass(frozen=True, slots=True)
class Leftover:
    """What no point needs any more: counted, not damage."""

    what: str
    count: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of `vault check`. `index_stale` counts entries that name no full block of their id any more."""

    quick: bool
    points: int
    packs: int
    layers: int
    damage: tuple[BlockDamage, ...]
    leftovers: tuple[Leftover, ...]
    quarantined: int
    index_entries: int
    index_stale: int
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealedBlock:
    """A block that has its bytes again, and where they were found."""

    object: str
    slot: int
    source: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The outcome of `vault repair`. With `dry_run` it says what would be done.

    `records` are records put back or made anew, `released` entries of quarantine taken back, `left` the damage that
    could not be healed.
    """

    dry_run: bool
    healed: tuple[HealedBlock, ...]
    records: tuple[str, ...]
    released: int
    index_rebuilt: bool
    left: tuple[BlockDamage, ...]
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VaultSummary:
    """A vault as `vault list` shows it; `error` says why it cannot be opened."""

    name: str
    path: str
    id: str
    encrypted: bool
    format_version: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class KeySlotInfo:
    """One way to a vault's master key. `damage` says why the slot cannot be read; then nothing but `slot` is known.

    `opened` tells the slot that opened the vault just now. The costs are Argon2id's, 0 for a key file.
    """

    slot: int
    kind: str = ""
    label: str = ""
    created: datetime | None = None
    memory_kib: int = 0
    passes: int = 0
    lanes: int = 0
    opened: bool = False
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Space by item or by tier. `stored_bytes` counts what only these points brought in."""

    name: str
    points: int
    logical_bytes: int
    stored_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Where the space goes."""

    vault: str
    path: str
    vault_bytes: int
    pack_bytes: int
    lmdb_bytes: int
    record_bytes: int
    snapshot_bytes: int
    free_bytes: int
    rows: tuple[UsageRow, ...]


@dataclass(slots=True)
class ReclaimResult:
    """What reclaim freed, and what it left: `waiting_objects` until the running jobs `waiting_for` have ended."""

    freed_bytes: int = 0
    moved_bytes: int = 0  # written again, in next generations
    deleted_packs: int = 0
    rewritten_packs: int = 0
    deleted_layers: int = 0
    left_dead_bytes: int = 0  # dead, in packs that are not worth rewriting
    waiting_objects: int = 0
    waiting_for: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class PruneDecision:
    """What retention says of one point, and why."""

    ref: PointRef
    label: str
    item: str
    taken: datetime
    keep: bool
    reasons: tuple[str, ...]


@dataclass(slots=True)
class PrunePlan:
    """What a `prune` would do. It is carried out once (`used`).

    `purges` are deleted points whose days are over, and, where the vault has no soft delete, what expires now.
    `emptied_items`, `clock_doubt` and `vanished` (records that this host has seen and that are gone) are what has to be
    confirmed.
    """

    decisions: tuple[PruneDecision, ...]
    purges: tuple[tuple[PointRef, str], ...]
    emptied_items: tuple[str, ...]
    freeable_bytes: int
    left_dead_bytes: int
    clock_doubt: str
    soft_delete_days: int
    max_dead: float
    now: datetime
    vanished: str = ""
    used: bool = False


@dataclass(slots=True)
class PruneResult:
    """What a `prune` did. `problem` is what ended the reclaim, if something did."""

    expired: list[str] = field(default_factory=list)
    purged: list[str] = field(default_factory=list)
    reclaim: ReclaimResult = field(default_factory=ReclaimResult)
    problem: Exception | None = None
