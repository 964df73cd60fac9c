"""Records: JSON bodies of points, marks, items, policies, config, origins, leases and quarantine, inside an envelope.

Bytes are hexadecimal, moments RFC 3339. A reader ignores fields that it does not know (fields are only ever added;
a change of meaning raises the vault's minimum reader version) and refuses values out of bounds: a record from a
stranger cannot name a path outside the vault or a size that overflows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec

from blockvault.clock import from_text, to_text
from blockvault.errors import InvalidInputError
from blockvault.format import jsontext
from blockvault.format.envelope import damaged
from blockvault.format.tables import SLOTS_MAX
from blockvault.ids import DISK_NAME, ITEM_NAME, ItemId, LayerName, OriginId, PointId
from blockvault.model import (
    ChurnSource,
    Consistency,
    DiskSpec,
    Item,
    LayerRef,
    Mark,
    OnHookFailure,
    Point,
    PointDisk,
    PointRef,
    PointStatistics,
    Protection,
)
from blockvault.policy import RetentionRules
from blockvault.policy.policies import (
    KEEP_MAX,
    POLICY_SNAPSHOT_DAYS_MAX,
    RETRIES_DEFAULT,
    RETRIES_MAX,
    Policy,
    PolicyRevision,
)
from blockvault.policy.schedule import parse_schedule
from blockvault.policy.selection import parse_month_day, parse_weekday, parse_year_day

LAYERS_MAX = 16
DISKS_MAX = 256
SNAPSHOT_DAYS_MAX = 36500
SIZE_MAX = 1 << 62
SOFT_DELETE_DAYS_MAX = 3650
WINDOW_SECONDS_MAX = 86_400
FREEZE_MOUNTS_MAX = 64
HOOK_SECONDS_MAX = 3600
Hex16 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}\\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]
Slot = Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=SIZE_MAX)]
Number = Annotated[int, msgspec.Meta(ge=1, le=SIZE_MAX)]


class RefBody(msgspec.Struct, frozen=True):
    """A point's name in a record."""

    origin: Hex16
    number: Number
    digest: Hex16


class LayerBody(msgspec.Struct, frozen=True):
    """A layer's name in a record."""

    name: Hex16
    tag: Hex16
    pieces: Size


class DiskBody(msgspec.Struct, frozen=True):
    """A disk in a point's record."""

    name: str
    path: str
    size: Size
    chunk_size: Annotated[int, msgspec.Meta(ge=16384, le=4194304)]
    layers: Annotated[list[LayerBody], msgspec.Meta(max_length=LAYERS_MAX)]


class StatisticsBody(msgspec.Struct, frozen=True):
    """The five figures in a point's record."""

    read_bytes: Size = 0
    changed_bytes: Size = 0
    unique_bytes: Size = 0
    stored_bytes: Size = 0
    sent_bytes: Size = 0
    changed_chunks: Size = 0


class PointBody(msgspec.Struct, frozen=True):
    """A point's record."""

    origin: Hex16
    number: Number
    id: Hex16
    item_id: Hex16
    item_name: str
    domain: str
    taken: str
    committed: str
    consistency: Consistency
    churn_source: ChurnSource
    audit: str
    disks: Annotated[list[DiskBody], msgspec.Meta(max_length=DISKS_MAX)]
    statistics: StatisticsBody
    refreshed_at: float
    parent: RefBody | None = None
    tags: dict[str, str] = {}
    comment: str = ""
    retain_until: str | None = None
    freeze_ms: Milliseconds | None = None
    skew_ms: Milliseconds | None = None
    group: str = ""


class MarkBody(msgspec.Struct, frozen=True):
    """A mark on a point (`model/mark.py`)."""

    kind: str
    at: str
    reason: str = ""
    by: str = ""
    until: str | None = None


class CondemnedBody(msgspec.Struct, frozen=True):
    """An object, or some slots of a pack, that are about to be deleted (R10)."""

    object: str
    at: str
    slots: list[tuple[Slot, Slot]] | None = None  # first slot and count; None: the whole object


class RoundBody(msgspec.Struct, frozen=True):
    """Which leases were alive when a round of condemning had ended: it waits until all of them are gone."""

    round: Hex16
    at: str
    leases: list[Hex16]


class ItemBody(msgspec.Struct, frozen=True):
    """An item's record."""

    id: Hex16
    name: str
    disks: Annotated[list[tuple[str, str]], msgspec.Meta(max_length=DISKS_MAX)]
    chunk_size: Annotated[int, msgspec.Meta(ge=16384, le=4194304)]
    created: str
    revision: Size
    snapshot_days: Annotated[int, msgspec.Meta(ge=0, le=SNAPSHOT_DAYS_MAX)] | None = 2
    snapshot_dir: str | None = None
    comment: str = ""
    policy: str = ""
    protection: Protection = Protection.NONE
    group: str = ""
    protected_since: str | None = None
    removed: bool = False
    agent_socket: str = ""
    freeze_mounts: Annotated[list[str], msgspec.Meta(max_length=FREEZE_MOUNTS_MAX)] = []
    hook_seconds: Annotated[int, msgspec.Meta(ge=1, le=HOOK_SECONDS_MAX)] | None = None


Keep = Annotated[int, msgspec.Meta(ge=1, le=KEEP_MAX)] | None


class PolicyBody(msgspec.Struct, frozen=True):
    """A policy's record; schedule and chosen days as text, as `policy/schedule.py` and `selection.py` read them."""

    name: str
    revision: Size
    changed: str
    schedule: str
    zone: str
    retention_zone: str
    keep_last: Keep = None
    keep_daily: Keep = None
    keep_weekly: Keep = None
    keep_monthly: Keep = None
    keep_yearly: Keep = None
    weekly_on: str | None = None
    monthly_on: str | None = None
    yearly_on: str | None = None
    snapshot_days: Annotated[int, msgspec.Meta(ge=1, le=POLICY_SNAPSHOT_DAYS_MAX)] = 2
    window_seconds: Annotated[int, msgspec.Meta(ge=0, le=WINDOW_SECONDS_MAX)] = 1800
    consistency: Consistency = Consistency.CRASH
    on_hook_failure: OnHookFailure = OnHookFailure.WARN
    retries: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = RETRIES_DEFAULT
    comment: str = ""
    by: str = ""
    note: str = ""
    deleted: bool = False


class ConfigBody(msgspec.Struct, frozen=True):
    """A revision of the vault's configuration."""

    name: str
    min_reader: int
    min_writer: int
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    created: str
    soft_delete_days: Annotated[int, msgspec.Meta(ge=0, le=SOFT_DELETE_DAYS_MAX)] = 14


class OriginBody(msgspec.Struct, frozen=True):
    """A writing host of the vault."""

    origin: Hex16
    label: str
    created: str


class LeaseBody(msgspec.Struct, frozen=True):
    """Who is at work, for messages and for reclaim: an OFD lock on the file decides who lives."""

    writer: Hex16
    origin: Hex16
    operation: str
    item: str
    pid: int
    boot_id: str
    since: str
    parents: list[RefBody] = []


class QuarantineBody(msgspec.Struct, frozen=True):
    """A block, pack or layer found damaged; its name in the vault is what counts, this is for people."""

    object: Hex16
    slot: str
    reason: str
    at: str
    host: str = ""


def encode(body: msgspec.Struct) -> bytes:
    """The JSON bytes of a body, fields in the order of the class."""
    return jsontext.encode(body)


def decode(name: str, body: bytes, kind: type[Any]) -> Any:
    """The body of a record, checked. Raises `CorruptionError` (`vault.object-damaged`)."""
    try:
        return jsontext.decode(body, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(name, f"its record is not one: {error}") from None


def point_to_body(point: Point) -> PointBody:
    """The record of a point."""
    parent = None
    if point.parent is not None:
        parent = RefBody(point.parent.origin, point.parent.number, (point.parent_digest or b"").hex())
    return PointBody(
        origin=point.ref.origin,
        number=point.ref.number,
        id=point.id,
        item_id=point.item_id,
        item_name=point.item_name,
        domain="main",
        taken=to_text(point.taken),
        committed=to_text(point.committed),
        consistency=point.consistency,
        churn_source=point.churn_source,
        audit=point.audit,
        disks=[
            DiskBody(
                name=disk.name,
                path=disk.path,
                size=disk.size,
                chunk_size=disk.chunk_size,
                layers=[LayerBody(ref.name.hex(), ref.tag.hex(), ref.piece_count) for ref in disk.layers],
            )
            for disk in point.disks
        ],
        statistics=StatisticsBody(
            **{name: getattr(point.statistics, name) for name in StatisticsBody.__struct_fields__}
        ),
        refreshed_at=point.refreshed_at,
        parent=parent,
        tags=dict(point.tags),
        comment=point.comment,
        retain_until=to_text(point.retain_until) if point.retain_until else None,
        freeze_ms=point.freeze_ms,
        skew_ms=point.skew_ms,
        group=point.group,
    )


def point_from_body(name: str, body: PointBody, digest: bytes) -> Point:
    """A point from its record; refuses names that are not names and chunk sizes that are no power of two."""
    try:
        if not ITEM_NAME.match(body.item_name) or body.domain != "main" or not body.disks:
            raise damaged(name, "its record names no item, another domain or no disk")
        for disk in body.disks:
            if not DISK_NAME.match(disk.name) or disk.chunk_size & (disk.chunk_size - 1):
                raise damaged(name, f"its record has a disk that cannot be: {disk.name!r}")
        if len({disk.name for disk in body.disks}) < len(body.disks):
            raise damaged(name, "its record names a disk twice")
        if body.group and not ITEM_NAME.match(body.group):
            raise damaged(name, "its record names a group that cannot be")
        return Point(
            ref=PointRef(OriginId(body.origin), body.number),
            id=PointId(body.id),
            item_id=ItemId(body.item_id),
            item_name=body.item_name,
            taken=from_text(body.taken),
            committed=from_text(body.committed),
            consistency=body.consistency,
            churn_source=body.churn_source,
            audit=body.audit,
            disks=tuple(
                PointDisk(
                    name=disk.name,
                    path=disk.path,
                    size=disk.size,
                    chunk_size=disk.chunk_size,
                    layers=tuple(
                        LayerRef(LayerName(bytes.fromhex(ref.name)), bytes.fromhex(ref.tag), ref.pieces)
                        for ref in disk.layers
                    ),
                )
                for disk in body.disks
            ),
            statistics=PointStatistics(
                **{field: getattr(body.statistics, field) for field in StatisticsBody.__struct_fields__}
            ),
            parent=PointRef(OriginId(body.parent.origin), body.parent.number) if body.parent else None,
            parent_digest=bytes.fromhex(body.parent.digest) if body.parent else None,
            tags=body.tags,
            comment=body.comment,
            retain_until=from_text(body.retain_until) if body.retain_until else None,
            freeze_ms=body.freeze_ms,
            skew_ms=body.skew_ms,
            group=body.group,
            refreshed_at=body.refreshed_at,
            digest=digest,
        )
    except InvalidInputError as error:
        raise damaged(name, str(error)) from None


def mark_to_body(mark: Mark) -> MarkBody:
    """The record of a mark."""
    return MarkBody(
        kind=mark.kind,
        at=to_text(mark.at),
        reason=mark.reason,
        by=mark.by,
        until=to_text(mark.until) if mark.until else None,
    )


def mark_from_body(name: str, body: MarkBody) -> Mark:
    """A mark from its record."""
    try:
        until = from_text(body.until) if body.until else None
        return Mark(kind=body.kind, at=from_text(body.at), reason=body.reason, by=body.by, until=until)
    except InvalidInputError as error:
        raise damaged(name, str(error)) from None


def item_to_body(item: Item) -> ItemBody:
    """The record of an item."""
    return ItemBody(
        id=item.id,
        name=item.name,
        disks=[(disk.name, disk.path) for disk in item.disks],
        chunk_size=item.chunk_size,
        created=to_text(item.created),
        revision=item.revision,
        snapshot_days=item.snapshot_days,
        snapshot_dir=item.snapshot_dir,
        comment=item.comment,
        policy=item.policy,
        protection=item.protection,
        group=item.group,
        protected_since=to_text(item.protected_since) if item.protected_since else None,
        removed=item.removed,
        agent_socket=item.agent_socket,
        freeze_mounts=list(item.freeze_mounts),
        hook_seconds=item.hook_seconds,
    )


def item_from_body(name: str, body: ItemBody) -> Item:
    """An item from its record."""
    names = [disk for disk, _ in body.disks]
    if not ITEM_NAME.match(body.name) or any(not DISK_NAME.match(disk) for disk in names):
        raise damaged(name, "its record has a name that cannot be")
    if len(set(names)) < len(names) or body.chunk_size & (body.chunk_size - 1):
        raise damaged(name, "its record names a disk twice, or a chunk size that is no power of two")
    if any(text and not ITEM_NAME.match(text) for text in (body.policy, body.group)):
        raise damaged(name, "its record names a policy or a group that cannot be")
    if any(path and (not path.startswith("/") or "\0" in path) for path in (body.agent_socket, *body.freeze_mounts)):
        raise damaged(name, "its record names a socket or a mount that cannot be")
    try:
        created = from_text(body.created)
        since = from_text(body.protected_since) if body.protected_since else None
    except InvalidInputError as error:
        raise damaged(name, str(error)) from None
    return Item(
        id=ItemId(body.id),
        name=body.name,
        disks=tuple(DiskSpec(disk, path) for disk, path in body.disks),
        chunk_size=body.chunk_size,
        created=created,
        revision=body.revision,
        snapshot_days=body.snapshot_days,
        snapshot_dir=body.snapshot_dir,
        comment=body.comment,
        policy=body.policy,
        protection=body.protection,
        group=body.group,
        protected_since=since,
        removed=body.removed,
        agent_socket=body.agent_socket,
        freeze_mounts=tuple(body.freeze_mounts),
        hook_seconds=body.hook_seconds,
    )


def policy_to_body(revision: PolicyRevision) -> PolicyBody:
    """The record of a policy."""
    policy, rules = revision.policy, revision.policy.retention
    return PolicyBody(
        name=policy.name,
        revision=policy.revision,
        changed=to_text(revision.changed),
        schedule=str(policy.schedule),
        zone=policy.schedule.zone,
        retention_zone=rules.zone,
        keep_last=rules.keep_last,
        keep_daily=rules.keep_daily,
        keep_weekly=rules.keep_weekly,
        keep_monthly=rules.keep_monthly,
        keep_yearly=rules.keep_yearly,
        weekly_on=rules.weekly_on.name.lower() if rules.weekly_on is not None else None,
        monthly_on=str(rules.monthly_on) if rules.monthly_on is not None else None,
        yearly_on=str(rules.yearly_on) if rules.yearly_on is not None else None,
        snapshot_days=policy.snapshot_days,
        window_seconds=int(policy.window.total_seconds()),
        consistency=policy.consistency,
        on_hook_failure=policy.on_hook_failure,
        retries=policy.retries,
        comment=policy.comment,
        by=revision.by,
        note=revision.note,
        deleted=revision.deleted,
    )


def policy_from_body(name: str, body: PolicyBody) -> PolicyRevision:
    """A policy from its record; one that cannot be, or whose zone this machine does not know, is refused."""
    try:
        rules = RetentionRules(
            keep_last=body.keep_last,
            keep_daily=body.keep_daily,
            keep_weekly=body.keep_weekly,
            keep_monthly=body.keep_monthly,
            keep_yearly=body.keep_yearly,
            zone=body.retention_zone,
            weekly_on=parse_weekday(body.weekly_on) if body.weekly_on is not None else None,
            monthly_on=parse_month_day(body.monthly_on) if body.monthly_on is not None else None,
            yearly_on=parse_year_day(body.yearly_on) if body.yearly_on is not None else None,
        )
        policy = Policy(
            name=body.name,
            schedule=parse_schedule(body.schedule, zone=body.zone),
            retention=rules,
            snapshot_days=body.snapshot_days,
            window=timedelta(seconds=body.window_seconds),
            consistency=body.consistency,
            on_hook_failure=body.on_hook_failure,
            retries=body.retries,
            comment=body.comment,
            revision=body.revision,
        )
        return PolicyRevision(policy, from_text(body.changed), body.by, body.note, body.deleted)
    except InvalidInputError as error:
        raise damaged(name, f"its record is no policy: {error}") from None
