"""Listing points: those of the vault and those of the snapshot tier, as one series."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from blockvault.engine.items import Items
from blockvault.engine.naming import point_id, resolve
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError, NotFoundError
from blockvault.format.envelope import damaged
from blockvault.ids import OriginId
from blockvault.model import PointBrief, PointInfo, PointRef, PointState, PointStatistics, SnapshotRecord, Tier
from blockvault.store.catalog import DamagedRecord, point_object


@dataclass(frozen=True, slots=True)
class _Entry:
    """A point as it is found: of the vault (`brief`), of the snapshot tier (`record`), or of both."""

    number: int
    label: str
    id: str
    item: str
    taken: datetime
    origin: str  # of a point that another host made
    brief: PointBrief | None
    record: SnapshotRecord | None


class Listing:
    """The points of one vault. Finding one decodes that one alone; listing them decodes all that are listed."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items

    def unreadable(self) -> list[DamagedRecord]:
        """Records of points that cannot be read, as far as the last listing met them."""
        damage = self._session.catalog.damage
        return [damage[name] for name in sorted(damage) if name.startswith("points/")]

    def find(self, ref: str, *, deleted: bool = False) -> PointInfo:
        """The point that `ref` names; where there is only a record of that number that cannot be read, that is told.

        Raises:
            NotFoundError, InvalidInputError: see `naming.resolve`; a deleted point is told as such (`point.deleted`)
                unless `deleted` asks for those too.
            CorruptionError: the point's record is damaged (`vault.object-damaged`).
        """
        try:
            return self._found(resolve(ref, self._entries(deleted=deleted)))
        except NotFoundError:
            if not deleted:
                self._tell_if_deleted(ref)
            number = ref.strip().rpartition(":")[2]
            for record in self.unreadable():
                if re.fullmatch(r"[0-9]{1,19}", number) and record.name.endswith(f"/{int(number):010d}"):
                    raise damaged(record.name, record.reason) from None
            raise

    def _found(self, entry: _Entry) -> PointInfo:
        info = self._info(entry)
        if info is None:
            assert entry.brief is not None
            name = point_object(entry.brief.ref)
            known = self._session.catalog.damage.get(name)
            raise damaged(name, known.reason if known else "it is gone")
        return info

    def _tell_if_deleted(self, ref: str) -> None:
        try:
            entry = resolve(ref, self._entries(deleted=True))
        except BlockVaultError:
            return
        assert entry.brief is not None
        after = self._session.catalog.state(entry.brief.ref).purge_after
        raise NotFoundError(
            "point.deleted",
            f"point {entry.label} of item '{entry.item}' is deleted",
            why=f"it can be brought back until {after:%Y-%m-%d %H:%M} UTC, and as long as `blockvault prune` has not "
            "run after that" if after else None,
            do=f"blockvault point undelete {entry.label}",
        )  # fmt: skip

    def points(self, item: str | None = None, *, deleted: bool = False) -> list[PointInfo]:
        """All points, from the vault and the snapshot tier, in order of number; or those of one item.

        Those that are deleted and not purged yet are among them if `deleted` says so.
        """
        entries = self._entries(deleted=deleted)
        if item is not None:
            names = {entry.item for entry in entries} | {known.name for known in self._session.catalog.items()}
            if item not in names:
                self._items.get(item)
            entries = [entry for entry in entries if entry.item == item]
        self._session.catalog.read(entry.brief.ref for entry in entries if entry.brief is not None)
        infos = [self._info(entry) for entry in entries]
        return [info for info in infos if info is not None]

    def labels(self) -> dict[PointRef, str]:
        """What the points of the vault are called, deleted ones too."""
        return {entry.brief.ref: entry.label for entry in self._entries(deleted=True) if entry.brief is not None}

    def _entries(self, *, deleted: bool) -> list[_Entry]:
        """What there is, as far as briefs tell."""
        session = self._session
        session.catalog.refresh()
        snapshots = {record.number: record for record in session.tier.records()}
        entries: list[_Entry] = []
        labels: dict[OriginId, str] = {}
        for brief in session.catalog.briefs():
            number, origin, state = brief.number, brief.origin, session.catalog.state(brief.ref)
            own = origin == session.origin
            if not own and origin not in labels:
                labels[origin] = session.label(origin)
            record = snapshots.get(number)
            if record is not None and (own or (record.item_id, record.taken) == (brief.item_id, brief.taken)):
                # Of another origin it may be too: this host's, before the vault was copied or put back.
                del snapshots[number]
            else:
                record = None
            if not deleted and state.deleted is not None:
                continue
            label = str(number) if own else f"{labels[origin]}:{number}"
            entries.append(
                _Entry(number, label, brief.id, brief.item_name, brief.taken, "" if own else origin, brief, record)
            )
        for record in snapshots.values():
            if not session.catalog.state(PointRef(session.origin, record.number)).is_root:
                continue  # its point has ended; the snapshot goes when its days are over
            name = point_id(session.keys.vault_id, session.origin, record.number)
            entries.append(
                _Entry(record.number, str(record.number), name, record.item_name, record.taken, "", None, record)
            )
        entries.sort(key=lambda entry: (entry.number, entry.label))
        return entries

    def _info(self, entry: _Entry) -> PointInfo | None:
        """All that a listing shows; None where the point's record cannot be read."""
        catalog, record = self._session.catalog, entry.record
        point = catalog.record(entry.brief.ref) if entry.brief is not None else None
        if point is None and entry.brief is not None:
            return None
        told = point or record  # the point's own record says more than that of its snapshot
        assert told is not None
        return PointInfo(
            number=entry.number,
            label=entry.label,
            id=entry.id,
            item=entry.item,
            taken=entry.taken,
            tier=Tier.SNAPSHOT if point is None else Tier.BOTH if record else Tier.VAULT,
            consistency=told.consistency,
            size_bytes=sum(disk.size for disk in told.disks),
            statistics=point.statistics if point else PointStatistics(),
            churn_source=point.churn_source if point else None,
            kept_until=told.retain_until,
            snapshot_until=record.keep_until if record else None,
            tags=told.tags,
            comment=told.comment,
            point=point,
            state=catalog.state(point.ref) if point else PointState(),
            freeze_ms=told.freeze_ms,
            skew_ms=told.skew_ms,
            group=told.group,
        )
