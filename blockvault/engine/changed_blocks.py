"""Whether a transfer may go by a changed-block map: that of the two snapshots, audited; for all disks or none.

All of this must hold, or the disk is scanned:
- the snapshot and that of the parent point are clones that this host keeps, untouched, on one file system that is
  trusted, and the parent point was transferred from that very clone (a point has the number of its snapshot);
- the disk has its size of then, and the parent's digest state is there: a claimed chunk is compared with it;
- the item's maps were not turned off, and this run's audit finds no lie. One lie turns them off, with a warning, until
  the item's audit record is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from blockvault.engine.claims import WINDOWS, Claims, audit
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.ids import ItemId
from blockvault.model import Point, SnapshotRecord
from blockvault.store.audits import AuditBook

if TYPE_CHECKING:
    from blockvault.engine.session import Session
    from blockvault.engine.transfer import DiskTransfer
    from blockvault.monitor import Monitor


def use_map(
    session: Session, record: SnapshotRecord, parent: Point, disks: list[DiskTransfer], monitor: Monitor
) -> str | None:
    """Let the transfer of a snapshot go by the map; returns how it was audited, or None: everything is scanned.

    Args:
        session: the vault.
        record: the snapshot that is transferred.
        parent: the point that churn is computed against.
        disks: of the snapshot, in the order of its disks; their `claims` are set.
        monitor: told of what was read, and warned of a map that lied.
    """
    if parent.ref.origin != session.origin or any(disk.digests is None for disk in disks):
        return None
    older = next((kept for kept in session.tier.records(record.item_id) if kept.number == parent.number), None)
    if older is None:
        return None
    book = AuditBook(session.host.folder)
    state = book.read(record.item_id)
    if state.off:
        monitor.note(f"the changed-block map of item '{record.item_name}' is off: {state.off}")
        return None
    read = 0
    windows = dict(state.windows)
    found: list[Claims] = []
    for disk in disks:
        assert disk.digests is not None
        ranges = session.tier.changed_ranges(older, record, disk.name)
        if isinstance(ranges, str):
            monitor.count("maps_refused")
            return None
        if disk.parent is None or disk.parent.size != disk.reader.size:
            return None
        claims = Claims(ranges, disk.reader.chunk_size)
        window = windows.get(disk.name, 0) % WINDOWS
        try:
            done = audit(disk.reader, disk.digests, claims, window, seed=session.keys.digest_seed, monitor=monitor)
        except CorruptionError:
            return None  # the digest state is damaged: the scan knows what to do
        if done.missed:
            _turn_off(book, record, disk.name, done.missed, monitor)
            return None
        windows[disk.name] = (window + 1) % WINDOWS
        read += done.chunks_read
        found.append(claims)
    for disk, claims in zip(disks, found, strict=True):
        disk.claims = claims
    try:
        book.write(record.item_id, replace(state, windows=windows))
    except BlockVaultError as error:
        monitor.note(f"{error.message}: the next audit reads the same chunks again")
    return f"{read} chunks that it did not claim were read, all as it said"


def _turn_off(book: AuditBook, record: SnapshotRecord, disk: str, missed: tuple[int, ...], monitor: Monitor) -> None:
    reason = f"chunk {missed[0]} of disk '{disk}' had changed at point {record.number} and was not claimed"
    monitor.warn(
        "map.missed-churn",
        f"the changed-block map of item '{record.item_name}' is wrong and is not used any more: {reason}; "
        "this point was scanned; check the file system and its driver, and take one point with --full",
    )
    item = ItemId(record.item_id)
    state = replace(book.read(item), off=reason)
    try:
        book.write(item, state)
    except BlockVaultError as error:
        monitor.warn(error.kind, f"{error.message}: that the map is wrong is not remembered")
