"""Phase 1: the snapshots of one item, or of a group at one instant, with what their guests are asked to do for it.

The order is: pre scripts; the snapshots' files are made and the images' dirty pages written; freeze; clone every disk
of every item; thaw; the clones are made durable and their records kept, with what was reached; post scripts. Between
freeze and thaw lie the clones and nothing else. Where files cannot be cloned the snapshot of one item is a copy; items
of a group are then refused, because copies are not of one instant.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from blockvault.engine.guests import Guests, Reached
from blockvault.errors import BlockVaultError, DeviceError, HookError, UnsupportedError
from blockvault.model import Consistency, Item, Keep, Point, SnapshotKind, SnapshotRecord, SnapshotRequest
from blockvault.snapshots.cloning import CloneCapture, clone_together
from blockvault.snapshots.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from blockvault.engine.session import Session
    from blockvault.image.source import ImageSource
    from blockvault.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Member:
    """An item that is captured: its point as far as it is known, its open images, how long its snapshot is kept."""

    item: Item
    blank: Point
    sources: list[ImageSource]
    snapshot_days: int


class Capturing:
    """Captures items of one vault; their capture locks are the caller's."""

    def __init__(self, session: Session, digests_of: Callable[[str], str]) -> None:
        self._session = session
        self._digests_of = digests_of

    def one(self, member: Member, request: SnapshotRequest, monitor: Monitor) -> tuple[SnapshotRecord | None, Reached]:
        """The snapshot of one item. None, with a warning, where none can be kept: its point goes to the vault only."""
        wanted = request.keep is not Keep.NO and member.snapshot_days > 0
        place = self._place(member) if wanted else Place(None, None, "")
        if request.keep is Keep.IF_CHEAP and place.copies:
            place, wanted = Place(None, None, ""), False  # all data would have to be copied for it: nobody asked that
        if wanted and place.folder is None:
            monitor.warn("snapshot.no-room", f"no snapshot is kept: {place.reason}; the point goes to the vault only")
        guests = Guests(self._session, request, monitor)
        guests.add(member.item, member.blank.number, member.sources, place)
        if place.kind is SnapshotKind.REFLINK:
            try:
                (record,) = self._clone([(member, place)], guests, "", monitor)
                return record, guests.reached(member.item.id)
            except DeviceError as error:
                _unless_no_space(error, monitor)
        else:
            with guests.readied():
                if place.folder is not None:
                    try:
                        return self._copy(member, place, guests, monitor)
                    except DeviceError as error:
                        _unless_no_space(error, monitor)
        guests.not_kept(member.item.id)
        return None, guests.reached(member.item.id)

    def together(
        self, members: list[Member], group: str, request: SnapshotRequest, monitor: Monitor
    ) -> list[tuple[SnapshotRecord, Reached]]:
        """The snapshots of several items, all of one instant, or none of them."""
        guests = Guests(self._session, request, monitor)
        placed = []
        for member in members:
            place = self._place(member)
            if place.kind is not SnapshotKind.REFLINK:
                raise UnsupportedError(
                    "group.cannot-clone",
                    f"item '{member.item.name}' cannot be captured at one instant with others",
                    why=place.reason or f"its disks' files cannot be cloned, only copied to {place.folder}",
                    do="place its disk images on xfs or btrfs, or take its point alone",
                )
            placed.append((member, place))
            guests.add(member.item, member.blank.number, member.sources, place)
        records = self._clone(placed, guests, group, monitor)
        return [(record, guests.reached(member.item.id)) for record, (member, _) in zip(records, placed, strict=True)]

    def _place(self, member: Member) -> Place:
        return self._session.tier.place(
            member.item,
            member.sources,
            os.path.join(self._session.state_dir, "snapshots"),
            folder=member.item.snapshot_dir,
        )

    def _clone(
        self, placed: list[tuple[Member, Place]], guests: Guests, group: str, monitor: Monitor
    ) -> list[SnapshotRecord]:
        disks = sum(len(member.sources) for member, _ in placed)
        monitor.phase("Capture", sum(source.size for member, _ in placed for source in member.sources))
        with guests.readied(), contextlib.ExitStack() as stack:
            captures: list[CloneCapture] = []
            for member, place in placed:
                blank = member.blank
                captures.append(
                    stack.enter_context(
                        self._session.tier.cloning(
                            member.item,
                            blank.number,
                            member.sources,
                            place,
                            now=blank.taken,
                            keep_until=blank.taken + timedelta(days=member.snapshot_days),
                            consistency=blank.consistency,
                            tags=blank.tags,
                            comment=blank.comment,
                            retain_until=blank.retain_until,
                            monitor=monitor,
                        )
                    )
                )
            with guests.frozen():
                skew_ms = clone_together(captures)
            return self._finish(placed, captures, guests, group, skew_ms if disks > 1 else None)

    def _finish(
        self,
        placed: list[tuple[Member, Place]],
        captures: list[CloneCapture],
        guests: Guests,
        group: str,
        skew_ms: float | None,
    ) -> list[SnapshotRecord]:
        """Keep all, or, of several, none."""
        records: list[SnapshotRecord] = []
        try:
            for (member, _), capture in zip(placed, captures, strict=True):
                reached = guests.reached(member.item.id)
                records.append(
                    capture.finish(reached.consistency, freeze_ms=reached.freeze_ms, skew_ms=skew_ms, group=group)
                )
        except BaseException:
            for capture in captures[: len(records)] if len(captures) > 1 else ():
                capture.take_back()
            raise
        return records

    def _copy(self, member: Member, place: Place, guests: Guests, monitor: Monitor) -> tuple[SnapshotRecord, Reached]:
        item, blank = member.item, member.blank
        monitor.phase("Capture", sum(source.size for source in member.sources))
        asked_none = blank.consistency is Consistency.NONE
        stood_still = False
        with contextlib.ExitStack() as undone:
            with guests.frozen():
                stood_still = guests.is_frozen(item.id)
                record = self._session.tier.capture(
                    item,
                    blank.number,
                    member.sources,
                    place,
                    now=blank.taken,
                    keep_until=blank.taken + timedelta(days=member.snapshot_days),
                    consistency=Consistency.NONE if asked_none else Consistency.CRASH,
                    tags=blank.tags,
                    comment=blank.comment,
                    retain_until=blank.retain_until,
                    seed=self._session.keys.digest_seed,
                    digests_dir=self._digests_of(item.id),
                    monitor=monitor,
                    stands_still=stood_still,
                ).record
                if stood_still:
                    undone.callback(self._remove, record)
            if stood_still and guests.was_lost(item.id):
                raise HookError(
                    "hook.freeze-lost",
                    f"no point of item '{item.name}' is taken: its guest did not stand still while it was copied",
                    why="what was read then is of no one moment",
                    do="run the command again; on xfs or btrfs a snapshot takes milliseconds",
                )
            undone.pop_all()
        reached = guests.reached(item.id)
        if not asked_none and (reached.consistency, reached.freeze_ms) != (Consistency.CRASH, None):
            record = self._session.tier.set_reached(record, reached.consistency, reached.freeze_ms)
        return record, reached

    def _remove(self, record: SnapshotRecord) -> None:
        with contextlib.suppress(BlockVaultError, OSError):
            self._session.tier.remove(record)


def _unless_no_space(error: DeviceError, monitor: Monitor) -> None:
    """Without room for a snapshot the point goes to the vault alone; everything else ends the job."""
    if error.kind != "snapshot.no-space":
        raise error
    monitor.warn(error.kind, f"no snapshot is kept: {error.message}; the point goes to the vault only")
