"""Taking recovery points: capture (phase 1), then transfer (phase 2).

A snapshot is captured under the item's capture lock; its transfer runs under the transfer lock, and is skipped, with
a warning, while another transfer of the item runs. Without a snapshot (none wanted, or no room) the live image is the
source: it is watched, and if it changes while it is read the job fails rather than make a point that never was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from blockvault.clock import utc_now
from blockvault.engine import diff
from blockvault.engine.churn import ChurnFinder, dry_run
from blockvault.engine.dating import expiry_moment
from blockvault.engine.in_place import check_whole
from blockvault.engine.items import Items
from blockvault.engine.naming import point_id
from blockvault.engine.session import Session
from blockvault.engine.transferring import Transferring, in_short, warn_not_noted
from blockvault.errors import (
    BlockVaultError,
    ConflictError,
    CorruptionError,
    DeviceError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.ids import ItemId
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource, SourceState
from blockvault.model import (
    ChurnSource,
    Consistency,
    DryRunResult,
    Item,
    Phase2,
    Point,
    PointRef,
    PointStatistics,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotResult,
    Tier,
)
from blockvault.monitor import Monitor


class Backup:
    """Takes points of the items of one vault."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items
        self._transferring = Transferring(session)

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
                for concern in self._items.concerns(item):
                    monitor.warn(concern.kind, concern.message)
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
                if request.keep and self._items.snapshot_days(item) > 0:
                    record = self._capture(item, blank, sources, monitor)
                if record is None:
                    self._check_can_do_without(request, sources, monitor)
                captured = time.monotonic()
                if record is None:
                    # Without a snapshot the live image is the source: nobody else may capture meanwhile.
                    with self._session.item_lock(item, "transfer"):
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
        try:
            self._expire_snapshots(moment, monitor)
        except (BlockVaultError, OSError) as error:
            monitor.warn(
                "snapshot.not-expired",
                f"snapshots whose days are over could not be removed ({in_short(error)}): the next run does it",
            )
        ended = time.monotonic()
        reached = record.consistency if record is not None else request.consistency
        return self._result(
            item, number, record, point, reached, monitor, begun, captured, ended, sum(s.size for s in sources)
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
        level, consistency = request.level, request.consistency
        if not 1 <= level <= 19:
            raise InvalidInputError(
                "snapshot.level", f"there is no compression level {level}", why="levels are 1 to 19"
            )
        if request.phase2 is Phase2.LATER and not request.keep:
            raise InvalidInputError(
                "snapshot.contradiction",
                "--snapshot-only and --no-keep contradict each other",
                do="leave one of them out",
            )
        if consistency in (Consistency.FILE_SYSTEM, Consistency.APPLICATION):
            raise UnsupportedError(
                "snapshot.consistency",
                f"a point that is {consistency.value}-consistent needs hooks, which this version does not have",
                do="freeze the guest yourself and use --consistency crash",
            )

    def _capture(self, item: Item, blank: Point, sources: list[ImageSource], monitor: Monitor) -> SnapshotRecord | None:
        """Phase 1. None, with a warning, where no snapshot can be kept: the point then goes to the vault only."""
        place = self._session.tier.place(
            item, sources, os.path.join(self._session.state_dir, "snapshots"), folder=item.snapshot_dir
        )
        if place.folder is None:
            monitor.warn("snapshot.no-room", f"no snapshot is kept: {place.reason}; the point goes to the vault only")
            return None
        monitor.phase("Capture", sum(source.size for source in sources))
        try:
            capture = self._session.tier.capture(
                item,
                blank.number,
                sources,
                place,
                now=blank.taken,
                keep_until=blank.taken + timedelta(days=self._items.snapshot_days(item)),
                consistency=blank.consistency,
                tags=blank.tags,
                comment=blank.comment,
                retain_until=blank.retain_until,
                seed=self._session.keys.digest_seed,
                digests_dir=self._transferring.digests_of(item.id),
                monitor=monitor,
            )
        except DeviceError as error:
            if error.kind != "snapshot.no-space":
                raise
            monitor.warn(error.kind, f"no snapshot is kept: {error.message}; the point goes to the vault only")
            return None
        record: SnapshotRecord = capture.record
        return record

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
