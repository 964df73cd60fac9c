"""Taking recovery points: capture (phase 1), then transfer (phase 2).

A snapshot is captured under the item's capture lock; its transfer runs under the transfer lock, and is skipped, with
a warning, while another transfer of the item runs. Without a snapshot (none wanted, or no room) the live image is the
source: it is watched, and if it changes while it is read the job fails rather than make a point that never was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from blockvault.clock import utc_now
from blockvault.engine import diff
from blockvault.engine.churn import ChurnFinder, dry_run
from blockvault.engine.encoding import TransferContext
from blockvault.engine.items import Items
from blockvault.engine.naming import point_id
from blockvault.engine.session import Session
from blockvault.engine.transfer import DiskTransfer, Transfer
from blockvault.errors import (
    ConflictError,
    CorruptionError,
    DeviceError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.format import records
from blockvault.format.envelope import FORMAT_VERSION
from blockvault.ids import ItemId
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource, SourceState
from blockvault.model import (
    ChurnSource,
    Consistency,
    DryRunResult,
    Item,
    Point,
    PointRef,
    PointStatistics,
    SnapshotRecord,
    SnapshotResult,
    Tier,
)
from blockvault.monitor import Monitor
from blockvault.store.digests import DigestState
from blockvault.store.leases import Lease
from blockvault.store.locks import FileLock


class Backup:
    """Takes points of the items of one vault."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items

    def snapshot(
        self,
        targets: list[str],
        *,
        name: str | None = None,
        keep: bool = True,
        snapshot_only: bool = False,
        full: bool = False,
        consistency: Consistency = Consistency.CRASH,
        tags: dict[str, str] | None = None,
        comment: str = "",
        retain_until: datetime | None = None,
        level: int = 1,
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> SnapshotResult:
        """See `Vault.snapshot`."""
        monitor = monitor or Monitor()
        begun = time.monotonic()
        moment = now or utc_now()
        self._check_options(keep=keep, snapshot_only=snapshot_only, consistency=consistency, level=level)
        self._writable()
        item, is_new, note = self._items.find(targets, name, moment)
        sources = [ImageSource.open(disk.path, item.chunk_size) for disk in item.disks]
        try:
            if is_new:
                item = self._items.register(item)  # perhaps another process registered these disks meanwhile
                if note:
                    monitor.note(note)
            with self._item_lock(item, "capture"):
                origin_newest = max(self._session.catalog.newest_numbers().values(), default=0)
                number = self._session.host.allocate_number(origin_newest)
                before = [source.state() for source in sources]
                record = None
                reached = consistency
                if keep and item.snapshot_days > 0:
                    record = self._capture(
                        item, number, sources, moment, consistency, tags or {}, comment, retain_until, monitor
                    )
                if record is not None:
                    reached = record.consistency
                elif snapshot_only:
                    raise InvalidInputError(
                        "snapshot.cannot-keep",
                        "no snapshot can be kept, so there is nothing to do in phase 1",
                        why=monitor.warnings[-1].message if monitor.warnings else "snapshots are off for this item",
                        do="leave out --snapshot-only",
                    )
                elif consistency is not Consistency.NONE:
                    for source in sources:
                        source.check_no_writer()
                captured = time.monotonic()
                if record is None:
                    # Without a snapshot the live image is the source: nobody else may capture meanwhile.
                    with self._item_lock(item, "transfer"):
                        point = self._transfer_live(
                            item, number, sources, before, moment, reached, tags or {}, comment, retain_until,
                            full=full, level=level, monitor=monitor,
                        )  # fmt: skip
            point_made = None if record is not None else point
            if record is not None and not snapshot_only:
                point_made = self._transfer_record(record, full=full, level=level, monitor=monitor, wait=False)
        finally:
            for source in sources:
                source.close()
        ended = time.monotonic()
        return self._result(
            item, number, record, point_made, reached, monitor, begun, captured, ended, sum(s.size for s in sources)
        )

    def _check_options(self, *, keep: bool, snapshot_only: bool, consistency: Consistency, level: int) -> None:
        if not 1 <= level <= 19:
            raise InvalidInputError(
                "snapshot.level", f"there is no compression level {level}", why="levels are 1 to 19"
            )
        if snapshot_only and not keep:
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

    def _writable(self) -> None:
        if self._session.min_writer > FORMAT_VERSION:
            raise UnsupportedError(
                "vault.newer-format",
                f"the vault '{self._session.name}' may only be written by version {self._session.min_writer} or newer",
                why=f"this BlockVault writes version {FORMAT_VERSION}; reading works",
                do="use a newer BlockVault for this vault",
            )
        if self._session.index is None:
            raise DeviceError(
                "vault.read-only",
                f"the vault at {self._session.path} cannot be written",
                why="the folder or its file system is read-only for this user",
                do="check the rights on the folder; restore and verify work as it is",
            )

    def _item_lock(self, item: Item, phase: str) -> FileLock:
        verb = {"capture": "captured", "transfer": "transferred"}[phase]
        return self._session.host.lock(
            f"item-{item.id}.{phase}", kind="item.locked", subject=f"item '{item.name}' is being {verb}"
        )

    def _capture(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        now: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        monitor: Monitor,
    ) -> SnapshotRecord | None:
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
                number,
                sources,
                place,
                now=now,
                keep_until=now + timedelta(days=item.snapshot_days),
                consistency=consistency,
                tags=tags,
                comment=comment,
                retain_until=retain_until,
                seed=self._session.keys.digest_seed,
                digests_dir=self._digests_of(item.id),
                monitor=monitor,
            )
        except DeviceError as error:
            if error.kind != "snapshot.no-space":
                raise
            monitor.warn(error.kind, f"no snapshot is kept: {error.message}; the point goes to the vault only")
            return None
        record: SnapshotRecord = capture.record
        return record

    def _digests_of(self, item_id: str) -> str:
        return os.path.join(self._session.host.digests_folder, item_id)

    def _transfer_live(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        before: list[SourceState],
        now: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        *,
        full: bool,
        level: int,
        monitor: Monitor,
    ) -> Point:
        def unchanged() -> None:
            if consistency is Consistency.NONE:
                return
            for source, state in zip(sources, before, strict=True):
                source.check_unchanged(state)

        readers: list[tuple[str, str, DiskReader]] = [
            (disk.name, disk.path, source) for disk, source in zip(item.disks, sources, strict=True)
        ]
        blank = self._blank_point(item.id, item.name, number, now, consistency, tags, comment, retain_until)
        return self._run_transfer(blank, readers, item.chunk_size, unchanged, full=full, level=level, monitor=monitor)

    def _transfer_record(
        self, record: SnapshotRecord, *, full: bool, level: int, monitor: Monitor, wait: bool
    ) -> Point | None:
        """Phase 2 of a snapshot. None, with a warning, when another transfer of the item runs: it is skipped."""
        item = self._session.catalog.item(record.item_id)
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
                        record, disk.name, digests_dir=self._digests_of(record.item_id)
                    )
                    readers.append((disk.name, disk.path, reader))
                blank = self._blank_point(
                    record.item_id, item.name if item else record.item_name, record.number, record.taken,
                    record.consistency, record.tags, record.comment, record.retain_until,
                )  # fmt: skip
                point = self._run_transfer(
                    blank, readers, record.chunk_size, lambda: None, full=full, level=level, monitor=monitor
                )
            finally:
                for _, _, reader in readers:
                    reader.close()
            try:
                self._session.tier.mark_transferred(record)
            except NotFoundError:
                pass  # its days were over meanwhile; the point is in the vault
            self._expire_snapshots(record)
            return point
        finally:
            lock.__exit__(None, None, None)

    def _expire_snapshots(self, newest: SnapshotRecord) -> None:
        """Remove snapshots whose days are over.

        That of the newest transferred point stays until the next transfer (R11). One that was never transferred goes
        only when a newer point of its item is in the vault: before that it may be all there is.
        """
        keep = {newest.number}
        records_by_item: dict[ItemId, list[SnapshotRecord]] = {}
        for record in self._session.tier.records():
            records_by_item.setdefault(record.item_id, []).append(record)
        for held in records_by_item.values():
            newest_transferred = max((record.number for record in held if record.transferred), default=0)
            keep.add(newest_transferred)
            keep.update(
                record.number for record in held if not record.transferred and record.number > newest_transferred
            )
        self._session.tier.expire(max(newest.taken, utc_now()), keep_numbers=keep)

    def _blank_point(
        self,
        item_id: ItemId,
        item_name: str,
        number: int,
        taken: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
    ) -> Point:
        return Point(
            ref=PointRef(self._session.origin, number),
            id=point_id(self._session.keys.vault_id, self._session.origin, number),
            item_id=item_id,
            item_name=item_name,
            taken=taken,
            committed=utc_now(),
            consistency=consistency,
            churn_source=ChurnSource.INITIAL,
            audit="",
            disks=(),
            statistics=PointStatistics(),
            tags=tags,
            comment=comment,
            retain_until=retain_until,
        )

    def _parent_of(self, item_id: str) -> Point | None:
        """The point last committed for the item: of this host if there is one, else the newest of any.

        Any point would do for correctness; the one committed last is the one that the digest state speaks of.
        """
        points = [point for point in self._session.catalog.points() if point.item_id == item_id]
        own = [point for point in points if point.ref.origin == self._session.origin]
        if own:
            return max(own, key=lambda point: (point.committed, point.ref.number))
        return max(points, key=lambda point: (point.taken, point.ref.number), default=None)

    def _inputs(
        self,
        parent: Point | None,
        item_id: str,
        readers: list[tuple[str, str, DiskReader]],
        chunk_size: int,
        *,
        full: bool,
    ) -> list[DiskTransfer]:
        inputs = []
        for name, path, reader in readers:
            parent_disk = next((disk for disk in parent.disks if disk.name == name), None) if parent else None
            if parent_disk is not None and parent_disk.chunk_size != chunk_size:
                parent_disk = None
            folder = os.path.join(self._digests_of(item_id), name)
            digests = None
            if parent is not None and parent_disk is not None and not full:
                digests = DigestState.open(
                    folder,
                    "point",
                    vault_id=self._session.vault_id,
                    record_digest=parent.digest,
                    disk=name,
                    size=parent_disk.size,
                    chunk_size=chunk_size,
                    seed=self._session.keys.digest_seed,
                )
            inputs.append(DiskTransfer(name, path, reader, parent_disk, digests, folder))
        return inputs

    def _run_transfer(
        self,
        blank: Point,
        readers: list[tuple[str, str, DiskReader]],
        chunk_size: int,
        before_commit: Callable[[], None],
        *,
        full: bool,
        level: int,
        monitor: Monitor,
    ) -> Point:
        self._writable()
        self._session.catalog.refresh()
        parent = self._parent_of(blank.item_id)
        inputs = self._inputs(parent, blank.item_id, readers, chunk_size, full=full)
        if parent is not None:
            used = any(disk.parent is not None for disk in inputs)
            blank = replace(blank, parent=parent.ref if used else None, parent_digest=parent.digest if used else None)
        monitor.phase("Transfer", sum(reader.size for _, _, reader in readers))
        by_digest = all(disk.digests is not None for disk in inputs)
        audit = "every chunk was read" if by_digest else "every data chunk was read and compared by identity"
        if parent is None or blank.parent is None:
            audit = "every data chunk was read"
        context = TransferContext(
            self._session.store,
            self._session.keys,
            self._session.shelf,
            self._session.catalog,
            self._session.index,
            self._session.origin,
            monitor,
            utc_now,
            level,
        )
        with self._lease(blank, "transfer"):
            transfer = Transfer(context, now=utc_now())
            point = transfer.run(replace(blank, audit=audit), inputs, before_commit=before_commit)
        self._session.catalog.refresh()
        self._session.host.committed(self._session.origin, point.number)
        return point

    def _lease(self, point: Point, operation: str) -> Lease:
        parents = []
        if point.parent is not None:
            parents.append(
                records.RefBody(point.parent.origin, point.parent.number, (point.parent_digest or b"").hex())
            )
        return Lease(
            self._session.store,
            self._session.keys,
            origin=self._session.origin,
            operation=operation,
            item=point.item_name,
            parents=parents,
            now=utc_now(),
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
        parent = None if is_new else self._parent_of(item.id)
        changed = 0
        size = 0
        source_kind = ChurnSource.INITIAL
        for disk in item.disks:
            with ImageSource.open(disk.path, item.chunk_size) as source:
                size += source.size
                monitor.phase("Compare", source.size)
                (planned,) = self._inputs(parent, item.id, [(disk.name, disk.path, source)], item.chunk_size, full=full)
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

    def transfer(
        self, item: str | None = None, *, level: int = 1, monitor: Monitor | None = None
    ) -> list[SnapshotResult]:
        """Run phase 2 for snapshots that still wait, oldest first.

        Args:
            item: only this item's; None: all.
            level: zstd level.
            monitor: told of progress and warnings.
        """
        monitor = monitor or Monitor()
        wanted = self._items.get(item).id if item is not None else None
        results = []
        for record in self._session.tier.records(wanted):
            if record.transferred or self._session.catalog.point(PointRef(self._session.origin, record.number)):
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
