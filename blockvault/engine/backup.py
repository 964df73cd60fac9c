"""Taking recovery points: capture (phase 1), then transfer (phase 2).

A snapshot is captured under the item's capture lock; its transfer runs under the transfer lock, and is skipped, with
a warning, while another transfer of the item runs. Without a snapshot (none wanted, or no room) the live image is the
source: it is watched, and if it changes while it is read the job fails rather than make a point that never was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

from blockvault.clock import utc_now
from blockvault.engine import diff
from blockvault.engine.capturing import Capturing, Member
from blockvault.engine.churn import ChurnFinder, dry_run
from blockvault.engine.dating import expiry_moment
from blockvault.engine.in_place import check_whole
from blockvault.engine.items import Items
from blockvault.engine.naming import point_id
from blockvault.engine.session import Session
from blockvault.engine.transferring import Transferring, in_short, warn_not_noted
from blockvault.errors import (
    BlockVaultError,
    CancelledError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
)
from blockvault.ids import ItemId
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource, SourceState
from blockvault.model import (
    ChurnSource,
    Consistency,
    DryRunResult,
    Item,
    Keep,
    Phase2,
    Point,
    PointRef,
    PointStatistics,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotResult,
    Tier,
)
from blockvault.monitor import Monitor, Warned


class Backup:
    """Takes points of the items of one vault."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items
        self._transferring = Transferring(session)
        self._capturing = Capturing(session, self._transferring.digests_of)

    def snapshot(
        self,
        request: SnapshotRequest,
        *,
        now: datetime | None,
        monitor: Monitor | None,
        on_number: Callable[[Item, int], None] | None = None,
        on_captured: Callable[[], None] | None = None,
    ) -> SnapshotResult:
        """See `Vault.snapshot`."""
        monitor = monitor or Monitor()
        begun = time.monotonic()
        moment = now or utc_now()
        self._check_request(request)
        self._session.check_writable()
        self._session.tell_notices(monitor)
        item, is_new, note = self._items.find(request.targets, request.name, moment)
        sources = _open_sources(item)
        record: SnapshotRecord | None = None
        point: Point | None = None
        try:
            if is_new:
                found = self._items.register(item, request.name)
                if (found.disks, found.chunk_size) != (item.disks, item.chunk_size):
                    # Another process registered them meanwhile: the sources must be in the order of its disks.
                    while sources:
                        sources.pop().close()
                    sources = _open_sources(found)
                item = found
                if note:
                    monitor.note(note)
                self._items.tell_concerns(item, monitor)
                for name in self._session.catalog.damage:
                    if name.startswith("items/"):
                        monitor.warn(
                            "vault.object-damaged",
                            f"the item record {name} is damaged: if it was that of these disks, their points go on "
                            f"under the new item '{item.name}'",
                        )
            with self._session.item_lock(item, "capture"):
                check_whole(self._session, item)
                number = self._session.host.allocate_number(
                    max(self._session.catalog.newest_numbers().values(), default=0)
                )
                if on_number is not None:
                    on_number(item, number)
                blank = self._blank_point(item, number, moment, request)
                before = [source.state() for source in sources]
                member = Member(item, blank, sources, self._items.snapshot_days(item))
                record, reached = self._capturing.one(member, request, monitor)
                if record is None:
                    self._check_can_do_without(request, sources, monitor)
                captured = time.monotonic()
                if record is None:
                    # Without a snapshot the live image is the source: nobody else may capture meanwhile.
                    with self._session.item_lock(item, "transfer"):
                        blank = replace(blank, consistency=reached.consistency)
                        point = self._transfer_live(item, blank, sources, before, request, monitor)
            if record is not None and request.phase2 is Phase2.NOW:
                if on_captured is not None:
                    on_captured()
                point = self._transfer_record(
                    record, full=request.full, level=request.level, monitor=monitor, wait=False
                )
        finally:
            for source in sources:
                source.close()
        self._expire_over(moment, monitor)
        ended = time.monotonic()
        consistency = record.consistency if record is not None else reached.consistency
        return self._result(
            item, number, record, point, consistency, monitor, begun, captured, ended, sum(s.size for s in sources)
        )

    def snapshot_group(
        self, names: list[str], group: str, request: SnapshotRequest, *, now: datetime | None, monitor: Monitor | None
    ) -> list[SnapshotResult]:
        """See `Vault.snapshot_group`."""
        monitor = monitor or Monitor()
        begun = time.monotonic()
        moment = now or utc_now()
        self._check_request(request)
        if request.keep is Keep.NO:
            raise InvalidInputError(
                "group.needs-snapshots",
                "several items are captured at one instant by snapshots",
                why="without them each image would be read at its own time",
                do="leave out --no-keep",
            )
        self._session.check_writable()
        self._session.tell_notices(monitor)
        items = self._items.several(names)
        for item in items:
            if self._items.snapshot_days(item) == 0:
                raise InvalidInputError(
                    "group.needs-snapshots",
                    f"item '{item.name}' keeps no snapshots, so it cannot be captured with others",
                    do=f"blockvault item set {item.name} --snapshot-days 2",
                )
        with ExitStack() as stack:
            # In the order of their ids: two captures of overlapping groups meet at one lock, not at two.
            for item in sorted(items, key=lambda item: item.id):
                stack.enter_context(self._session.item_lock(item, "capture"))
                check_whole(self._session, item)
            members = []
            for item in items:
                sources = _open_sources(item)
                for source in sources:
                    stack.callback(source.close)
                number = self._session.host.allocate_number(
                    max(self._session.catalog.newest_numbers().values(), default=0)
                )
                blank = self._blank_point(item, number, moment, request)
                members.append(Member(item, blank, sources, self._items.snapshot_days(item)))
            captured = self._capturing.together(members, group, request, monitor)
        ended_capture = time.monotonic()
        results = []
        for (record, _), member in zip(captured, members, strict=True):
            started = time.monotonic()
            monitor.counters.clear()
            point = None
            if request.phase2 is Phase2.NOW:
                try:
                    point = self._transfer_record(
                        record, full=request.full, level=request.level, monitor=monitor, wait=False
                    )
                except CancelledError:
                    raise
                except (BlockVaultError, OSError) as error:
                    # The capture of all stands: each has its snapshot, and what failed is transferred later.
                    monitor.warn(
                        "transfer.failed",
                        f"item '{member.item.name}': point {record.number} is not in the vault ({in_short(error)}): "
                        "it stays a snapshot until `blockvault transfer` or the next run",
                    )
            ended = time.monotonic()
            told = [warning.message for warning in monitor.warnings if not _is_of_another(warning, member, members)]
            result = self._result(
                member.item,
                record.number,
                record,
                point,
                record.consistency,
                monitor,
                started - (ended_capture - begun),
                started,
                ended,
                sum(disk.size for disk in record.disks),
            )
            state = "completed-with-warning" if told else "completed"
            results.append(replace(result, warnings=tuple(told), job_state=state))
        self._expire_over(moment, monitor)
        return results

    def _expire_over(self, moment: datetime, monitor: Monitor) -> None:
        try:
            self._expire_snapshots(moment, monitor)
        except (BlockVaultError, OSError) as error:
            monitor.warn(
                "snapshot.not-expired",
                f"snapshots whose days are over could not be removed ({in_short(error)}): the next run does it",
            )

    @staticmethod
    def _check_can_do_without(request: SnapshotRequest, sources: list[ImageSource], monitor: Monitor) -> None:
        """Whether a point can be made of the live images, where no snapshot is kept."""
        if request.phase2 is Phase2.LATER:
            raise InvalidInputError(
                "snapshot.cannot-keep",
                "no snapshot can be kept, so there is nothing to do in phase 1",
                why=monitor.warnings[-1].message if monitor.warnings else "snapshots are off for this item",
                do="leave out --snapshot-only",
            )
        if request.consistency is not Consistency.NONE:
            for source in sources:
                source.check_no_writer()

    @staticmethod
    def _check_request(request: SnapshotRequest) -> None:
        if not 1 <= request.level <= 19:
            raise InvalidInputError(
                "snapshot.level", f"there is no compression level {request.level}", why="levels are 1 to 19"
            )
        if request.phase2 is Phase2.LATER and request.keep is Keep.NO:
            raise InvalidInputError(
                "snapshot.contradiction",
                "--snapshot-only and --no-keep contradict each other",
                do="leave one of them out",
            )

    def _transfer_live(
        self,
        item: Item,
        blank: Point,
        sources: list[ImageSource],
        before: list[SourceState],
        request: SnapshotRequest,
        monitor: Monitor,
    ) -> Point:
        def unchanged() -> None:
            if request.consistency is Consistency.NONE:
                return
            for source, state in zip(sources, before, strict=True):
                source.check_unchanged(state)

        readers: list[tuple[str, str, DiskReader]] = [
            (disk.name, disk.path, source) for disk, source in zip(item.disks, sources, strict=True)
        ]
        return self._transferring.run(
            blank, readers, item.chunk_size, unchanged, full=request.full, level=request.level, monitor=monitor
        )

    def _transfer_record(
        self, record: SnapshotRecord, *, full: bool, level: int, monitor: Monitor, wait: bool
    ) -> Point | None:
        """Phase 2 of a snapshot. None, with a warning, when another transfer of the item runs: it is skipped."""
        lock = self._session.host.lock(
            f"item-{record.item_id}.transfer",
            kind="item.locked",
            subject=f"item '{record.item_name}' is being transferred",
            wait_seconds=0,
        )
        try:
            lock.__enter__()
        except ConflictError as error:
            if wait:
                raise
            monitor.warn(
                "transfer.skipped",
                f"{error.message}: this point stays a snapshot until `blockvault transfer` or the next run",
            )
            return None
        try:
            readers: list[tuple[str, str, DiskReader]] = []
            try:
                for disk in record.disks:
                    reader = self._session.tier.open_disk(
                        record, disk.name, digests_dir=self._transferring.digests_of(record.item_id)
                    )
                    readers.append((disk.name, disk.path, reader))
                blank = self._blank_of(record)
                point = self._transferring.run(
                    blank,
                    readers,
                    record.chunk_size,
                    lambda: None,
                    full=full,
                    level=level,
                    monitor=monitor,
                    record=record,
                )  # fmt: skip
            finally:
                for _, _, reader in readers:
                    reader.close()
            try:
                self._session.tier.mark_transferred(record)
            except NotFoundError:
                pass  # its days were over meanwhile; the point is in the vault
            except (BlockVaultError, OSError) as error:
                warn_not_noted(monitor, point, error)
            return point
        finally:
            lock.__exit__(None, None, None)

    def _expire_snapshots(self, now: datetime, monitor: Monitor) -> None:
        """Remove snapshots whose days are over.

        That of an item's newest vault point stays until the next transfer (R11). One that was never transferred goes
        only when a newer point of its item is in the vault: before that it may be all there is. None goes on the word
        of a clock that has just jumped ahead.
        """
        newest: dict[ItemId, int] = {}
        own = [brief for brief in self._session.catalog.briefs() if brief.origin == self._session.origin]
        for brief in own:
            newest[brief.item_id] = max(newest.get(brief.item_id, 0), brief.number)
        snapshots = self._session.tier.records()
        keep = {record.number for record in snapshots if record.number >= newest.get(record.item_id, 0)}
        present = max(now, utc_now())
        recorded = [record.taken for record in snapshots] + [brief.taken for brief in own]
        moment = expiry_moment(present, [taken for taken in recorded if taken != now])
        if moment != present:
            monitor.note(
                f"it is {(present - moment).days} days since the point or snapshot before this one: if the clock is "
                "right, snapshots whose days are over go with the next run"
            )
        self._session.tier.expire(moment, keep_numbers=keep)

    def _blank_point(self, item: Item, number: int, taken: datetime, request: SnapshotRequest) -> Point:
        """The point as far as it is known before anything was read."""
        return Point(
            ref=PointRef(self._session.origin, number),
            id=point_id(self._session.keys.vault_id, self._session.origin, number),
            item_id=item.id,
            item_name=item.name,
            taken=taken,
            committed=taken,
            consistency=request.consistency,
            churn_source=ChurnSource.INITIAL,
            audit="",
            disks=(),
            statistics=PointStatistics(),
            tags=request.tags,
            comment=request.comment,
            retain_until=request.retain_until,
        )

    def _blank_of(self, record: SnapshotRecord) -> Point:
        """The point that a snapshot becomes."""
        item = self._session.catalog.item(record.item_id)
        return Point(
            ref=PointRef(self._session.origin, record.number),
            id=point_id(self._session.keys.vault_id, self._session.origin, record.number),
            item_id=record.item_id,
            item_name=item.name if item else record.item_name,
            taken=record.taken,
            committed=record.taken,
            consistency=record.consistency,
            churn_source=ChurnSource.INITIAL,
            audit="",
            disks=(),
            statistics=PointStatistics(),
            tags=record.tags,
            comment=record.comment,
            retain_until=record.retain_until,
            freeze_ms=record.freeze_ms,
            skew_ms=record.skew_ms,
            group=record.group,
        )

    def _result(
        self,
        item: Item,
        number: int,
        record: SnapshotRecord | None,
        point: Point | None,
        consistency: Consistency,
        monitor: Monitor,
        begun: float,
        captured: float,
        ended: float,
        size: int,
    ) -> SnapshotResult:
        kept = Tier.BOTH if point is not None else Tier.SNAPSHOT
        tier = kept if record is not None else Tier.VAULT
        figures = point.statistics if point else PointStatistics(read_bytes=int(monitor.counters["read_bytes"]))
        return SnapshotResult(
            item=item.name,
            number=number,
            id=point_id(self._session.keys.vault_id, self._session.origin, number),
            tier=tier,
            consistency=consistency,
            statistics=figures,
            churn_source=point.churn_source if point else None,
            audit=point.audit if point else "",
            seconds=ended - begun,
            capture_seconds=captured - begun,
            transfer_seconds=ended - captured,
            job_state="completed-with-warning" if monitor.warnings else "completed",
            size_bytes=size,
            vault=self._session.name,
            vault_path=self._session.path,
            vault_created=self._session.created_now,
            warnings=tuple(warning.message for warning in monitor.warnings),
            snapshot_folder=record.folder if record else None,
            freeze_ms=record.freeze_ms if record else None,
            skew_ms=record.skew_ms if record else None,
            group=record.group if record else "",
        )

    def plan_snapshot(
        self, targets: list[str], *, name: str | None = None, full: bool = False, monitor: Monitor | None = None
    ) -> DryRunResult:
        """What `snapshot` would read and find changed, read from the live image; nothing is written."""
        monitor = monitor or Monitor()
        item, is_new, _ = self._items.find(targets, name, utc_now())
        parent = None if is_new else self._transferring.parent_of(item.id, monitor)
        changed = 0
        size = 0
        source_kind = ChurnSource.INITIAL
        for disk in item.disks:
            with ImageSource.open(disk.path, item.chunk_size) as source:
                size += source.size
                monitor.phase("Compare", source.size)
                (planned,) = self._transferring.inputs(
                    parent, item.id, [(disk.name, disk.path, source)], item.chunk_size, full=full
                )
                if planned.parent is None or planned.digests is not None:
                    finder = ChurnFinder(
                        source, parent=planned.parent, manifest=None, digests=planned.digests,
                        seed=self._session.keys.digest_seed, monitor=monitor,
                    )  # fmt: skip
                    try:
                        count, _ = dry_run(finder)
                    except CorruptionError as error:
                        monitor.note(f"{error.message}: disk '{disk.name}' is compared by identity")
                    else:
                        changed += count
                        source_kind = finder.source if finder.source is not ChurnSource.INITIAL else source_kind
                        continue
                assert planned.parent is not None
                extents = diff.with_image(
                    self._session.store, self._session.keys, self._session.shelf, planned.parent, source, monitor
                )
                changed += sum(-(-count // item.chunk_size) for _, count in extents)
                source_kind = ChurnSource.IDENTITY
        return DryRunResult(
            item=item.name,
            parent=parent.number if parent else None,
            size_bytes=size,
            read_bytes=int(monitor.counters["read_bytes"]),
            changed_bytes=min(changed * item.chunk_size, size),
            changed_chunks=changed,
            churn_source=source_kind,
        )

    def _waits(self, record: SnapshotRecord) -> bool:
        """Whether a snapshot is still to be transferred: never was, or to a vault that was put back to before that.

        What has ended in the vault has not: its number is not given again (R12).
        """
        ref = PointRef(self._session.origin, record.number)
        if self._session.catalog.record(ref) or not self._session.catalog.state(ref).is_root:
            return False
        if not record.transferred:
            return True
        store = self._session.store
        return not any(
            store.exists(f"{top}/{origin}/{record.number:010d}")
            for top in ("points", "marks")
            for origin in store.entries(top)
        )

    def transfer(
        self,
        item: str | None = None,
        *,
        number: int | None = None,
        level: int = 1,
        monitor: Monitor | None = None,
    ) -> list[SnapshotResult]:
        """Run phase 2 for snapshots that still wait, oldest first.

        Args:
            item: only this item's; None: all.
            number: only that of this point.
            level: zstd level.
            monitor: told of progress and warnings.
        """
        monitor = monitor or Monitor()
        self._session.check_writable()
        self._session.tell_notices(monitor)
        wanted = self._items.get(item).id if item is not None else None
        results = []
        self._session.catalog.refresh()
        for record in self._session.tier.records(wanted):
            if number not in (None, record.number) or not self._waits(record):
                continue
            begun = time.monotonic()
            known = self._session.catalog.item(record.item_id)
            if known is None:
                monitor.warn(
                    "item.not-found", f"the snapshot of point {record.number} belongs to no item of this vault"
                )
                continue
            monitor.counters.clear()
            point = self._transfer_record(record, full=False, level=level, monitor=monitor, wait=True)
            size = sum(disk.size for disk in record.disks)
            results.append(
                self._result(
                    known,
                    record.number,
                    record,
                    point,
                    record.consistency,
                    monitor,
                    begun,
                    begun,
                    time.monotonic(),
                    size,
                )
            )
        return results


def _is_of_another(warning: Warned, member: Member, members: list[Member]) -> bool:
    """Whether a warning is of another item than `member` of those that were captured together; it names it first."""
    return any(
        warning.message.startswith(f"item '{other.item.name}':") for other in members if other.item.id != member.item.id
    )


def _open_sources(item: Item) -> list[ImageSource]:
    """One open image a disk, in the order of the item's disks."""
    sources: list[ImageSource] = []
    try:
        for disk in item.disks:
            sources.append(ImageSource.open(disk.path, item.chunk_size))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources
