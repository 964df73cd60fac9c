"""Whether a transfer may go by a changed-block map: that of the two snapshots, audited; for all disks or none.

All of this must hold, or the disk is scanned:
- the snapshot and that of the parent point are clones that this host keeps, untouched, on one file system that is
  trusted, and the parent point was transferred from that very clone (a point has the number of its snapshot, and only
  who transferred it has a digest state that names its record);
- the disk has its size of then, and the parent's digest state is there: a claimed chunk is compared with it;
- the item's maps were not turned off, and this run's audit finds no lie.

One lie turns the item's maps off, with a warning that names the points that may lack churn for it. A point that was
taken with `--full` turns them on again: it holds what the disk holds, whatever was hidden before, and somebody asked
for it. Nothing in the product takes one by itself; if that changes, it must not call `turn_on`.

A restore, in place or not, needs no word here (R14): no map outlives a run, and what a restore wrote or shared lies
where it lies when the next clones are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from blockvault.clock import from_text, to_text
from blockvault.engine.claims import WINDOWS, Claims, audit
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.ids import ItemId
from blockvault.model import ChurnSource, Point, SnapshotKind, SnapshotRecord
from blockvault.store.audits import AuditBook, AuditState

if TYPE_CHECKING:
    from blockvault.engine.session import Session
    from blockvault.engine.transfer import DiskTransfer
    from blockvault.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether maps are used; how they were audited, or why they are not (empty: nobody would expect them to be)."""

    used: bool
    told: str = ""


def use_map(
    session: Session, record: SnapshotRecord, parent: Point, disks: list[DiskTransfer], monitor: Monitor
) -> Verdict:
    """Let the transfer of a snapshot go by the map, if it may.

    Args:
        session: the vault.
        record: the snapshot that is transferred.
        parent: the point that churn is computed against.
        disks: of the snapshot, in the order of its disks; their `claims` are set.
        monitor: told of what was read, and warned of a map that lied.
    """
    if record.kind is not SnapshotKind.REFLINK or parent.ref.origin != session.origin:
        return Verdict(False)
    if any(disk.digests is None for disk in disks):
        return Verdict(False)
    older = next((kept for kept in session.tier.records(record.item_id) if kept.number == parent.number), None)
    if older is None:
        return Verdict(False, f"no snapshot of point {parent.number} is kept to be compared with")
    book = AuditBook(session.host.folder)
    state = book.read(record.item_id)
    if state.off:
        monitor.note(f"the changed-block map of item '{record.item_name}' is off: {state.off}")
        return Verdict(False, "the changed-block map is off")
    read = 0
    windows = dict(state.windows)
    found: list[Claims] = []
    for disk in disks:
        assert disk.digests is not None
        if disk.parent is None or disk.parent.size != disk.reader.size:
            return Verdict(False, f"disk '{disk.name}' changed its size")
        ranges = session.tier.changed_ranges(older, record, disk.name)
        if isinstance(ranges, str):
            monitor.count("maps_refused")
            return Verdict(False, ranges)
        claims = Claims(ranges, disk.reader.chunk_size)
        window = windows.get(disk.name, 0) % WINDOWS
        due = range(window, min(WINDOWS, window + _days(state, record)))
        try:
            done = audit(disk.reader, disk.digests, claims, due, seed=session.keys.digest_seed, monitor=monitor)
        except CorruptionError:
            return Verdict(False)  # the digest state is damaged: the scan knows what to do
        if done.missed:
            _turn_off(session, book, record, parent, f"chunk {done.missed[0]} of disk '{disk.name}'", monitor)
            return Verdict(False, "the changed-block map was wrong")
        windows[disk.name] = due.stop % WINDOWS
        read += done.chunks_read
        found.append(claims)
    for disk, claims in zip(disks, found, strict=True):
        disk.claims = claims
        monitor.count("claimed_bytes", claims.claimed_bytes())
    try:
        book.write(record.item_id, replace(state, windows=windows, newest=to_text(record.taken)))
    except BlockVaultError as error:
        monitor.note(f"{error.message}: the next audit reads the same chunks again")
    return Verdict(True, f"{read} chunks outside of it were read, and none had changed")


def _days(state: AuditState, record: SnapshotRecord) -> int:
    """For how many days this run must audit: since the newest point that was, at least one."""
    if not state.newest:
        return 1
    return max(1, round((record.taken - from_text(state.newest)).total_seconds() / 86_400))


def _turn_off(
    session: Session, book: AuditBook, record: SnapshotRecord, parent: Point, chunk: str, monitor: Monitor
) -> None:
    reason = f"{chunk} had changed by point {record.number} and was not claimed"
    doubtful = _told_by_map(session, parent)
    lacking = ""
    if doubtful:
        points = f"point {doubtful[0]}" if len(doubtful) == 1 else f"points {doubtful[0]} to {doubtful[-1]}"
        lacking = f"{points} of the item, told by it, may lack changes in the vault; "
    monitor.warn(
        "map.missed-churn",
        f"the changed-block map of item '{record.item_name}' is wrong and is not used any more: {reason}; this point "
        f"was scanned and is right; {lacking}check the file system and its driver; a point that is taken with --full "
        "turns the map on again",
    )
    item = ItemId(record.item_id)
    try:
        book.write(item, replace(book.read(item), off=reason))
    except BlockVaultError as error:
        monitor.warn(error.kind, f"{error.message}: that the map is wrong is not remembered")


def _told_by_map(session: Session, parent: Point) -> list[int]:
    """The parent and the points before it, back to the last one whose churn no map told: numbers, ascending."""
    found = []
    point: Point | None = parent
    while point is not None and point.churn_source is ChurnSource.REFLINK:
        found.append(point.number)
        point = session.catalog.point(point.parent) if point.parent is not None else None
    return sorted(found)


def off_reason(session: Session, item: ItemId) -> str:
    """Why the item's maps are off on this host; empty: they are not."""
    return AuditBook(session.host.folder).read(item).off


def turn_on(session: Session, item: ItemId, name: str, monitor: Monitor) -> None:
    """A full point was committed: the item's maps may be used again."""
    book = AuditBook(session.host.folder)
    state = book.read(item)
    if not state.off:
        return
    try:
        book.write(item, replace(state, off=""))
    except BlockVaultError as error:
        monitor.warn(error.kind, f"{error.message}: the changed-block map of item '{name}' stays off")
        return
    monitor.note(f"the changed-block map of item '{name}' is on again from the next point on; it was off: {state.off}")
