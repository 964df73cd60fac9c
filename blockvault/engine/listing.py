"""Listing points: those of the vault and those of the snapshot tier, as one series."""

from __future__ import annotations

import re

from blockvault.engine.items import Items
from blockvault.engine.naming import point_id, resolve
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError, NotFoundError
from blockvault.format.envelope import damaged
from blockvault.ids import OriginId
from blockvault.model import PointInfo, PointRef, PointStatistics, Tier
from blockvault.store.catalog import DamagedRecord


class Listing:
    """The points of one vault."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items

    def unreadable(self) -> list[DamagedRecord]:
        """Records of points that cannot be read, as of the last listing."""
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
            return resolve(ref, self.points(deleted=deleted))
        except NotFoundError:
            if not deleted:
                self._tell_if_deleted(ref)
            number = ref.strip().rpartition(":")[2]
            for record in self.unreadable():
                if re.fullmatch(r"[0-9]{1,19}", number) and record.name.endswith(f"/{int(number):010d}"):
                    raise damaged(record.name, record.reason) from None
            raise

    def _tell_if_deleted(self, ref: str) -> None:
        try:
            info = resolve(ref, self.points(deleted=True))
        except BlockVaultError:
            return
        after = info.state.purge_after
        raise NotFoundError(
            "point.deleted",
            f"point {info.label} of item '{info.item}' is deleted",
            why=f"it can be brought back until {after:%Y-%m-%d %H:%M} UTC, and as long as `blockvault prune` has not "
            "run after that" if after else None,
            do=f"blockvault point undelete {info.label}",
        )  # fmt: skip

    def points(self, item: str | None = None, *, deleted: bool = False) -> list[PointInfo]:
        """All points, from the vault and the snapshot tier, in order of number; or those of one item.

        Those that are deleted and not purged yet are among them if `deleted` says so.
        """
        self._session.catalog.refresh()
        snapshots = {record.number: record for record in self._session.tier.records()}
        infos: list[PointInfo] = []
        labels: dict[OriginId, str] = {}
        for point in self._session.catalog.points():
            own = point.ref.origin == self._session.origin
            if not own and point.ref.origin not in labels:
                labels[point.ref.origin] = self._session.label(point.ref.origin)
            record = snapshots.get(point.number)
            if record is not None and (own or (record.item_id, record.taken) == (point.item_id, point.taken)):
                # Of another origin it may be too: this host's, before the vault was copied or put back.
                del snapshots[point.number]
            else:
                record = None
            state = self._session.catalog.state(point.ref)
            if state.deleted is not None and not deleted:
                continue
            infos.append(
                PointInfo(
                    number=point.number,
                    label=str(point.number) if own else f"{labels[point.ref.origin]}:{point.number}",
                    id=point.id,
                    item=point.item_name,
                    taken=point.taken,
                    tier=Tier.BOTH if record else Tier.VAULT,
                    consistency=point.consistency,
                    size_bytes=point.size,
                    statistics=point.statistics,
                    churn_source=point.churn_source,
                    kept_until=point.retain_until,
                    snapshot_until=record.keep_until if record else None,
                    tags=point.tags,
                    comment=point.comment,
                    point=point,
                    state=state,
                )
            )
        for record in snapshots.values():
            if not self._session.catalog.state(PointRef(self._session.origin, record.number)).is_root:
                continue  # its point has ended; the snapshot goes when its days are over
            infos.append(
                PointInfo(
                    number=record.number,
                    label=str(record.number),
                    id=point_id(self._session.keys.vault_id, self._session.origin, record.number),
                    item=record.item_name,
                    taken=record.taken,
                    tier=Tier.SNAPSHOT,
                    consistency=record.consistency,
                    size_bytes=sum(disk.size for disk in record.disks),
                    statistics=PointStatistics(),
                    churn_source=None,
                    kept_until=record.retain_until,
                    snapshot_until=record.keep_until,
                    tags=record.tags,
                    comment=record.comment,
                    point=None,
                )
            )
        infos.sort(key=lambda info: (info.number, info.label))
        if item is not None:
            names = {info.item for info in infos} | {known.name for known in self._session.catalog.items()}
            if item not in names:
                self._items.get(item)
            infos = [info for info in infos if info.item == item]
        return infos
