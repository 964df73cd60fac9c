"""Listing points: those of the vault and those of the snapshot tier, as one series."""

from __future__ import annotations

import re

from blockvault.engine.items import Items
from blockvault.engine.naming import point_id, resolve
from blockvault.engine.session import Session
from blockvault.errors import NotFoundError
from blockvault.format.envelope import damaged
from blockvault.ids import OriginId
from blockvault.model import PointInfo, PointStatistics, Tier
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

    def find(self, ref: str) -> PointInfo:
        """The point that `ref` names; where there is only a record of that number that cannot be read, that is told.

        Raises:
            NotFoundError, InvalidInputError: see `naming.resolve`.
            CorruptionError: the point's record is damaged (`vault.object-damaged`).
        """
        try:
            return resolve(ref, self.points())
        except NotFoundError:
            number = ref.strip().rpartition(":")[2]
            for record in self.unreadable():
                if re.fullmatch(r"[0-9]{1,19}", number) and record.name.endswith(f"/{int(number):010d}"):
                    raise damaged(record.name, record.reason) from None
            raise

    def points(self, item: str | None = None) -> list[PointInfo]:
        """All points, from the vault and the snapshot tier, in order of number; or those of one item."""
        self._session.catalog.refresh()
        snapshots = {record.number: record for record in self._session.tier.records()}
        infos: list[PointInfo] = []
        labels: dict[OriginId, str] = {}
        for point in self._session.catalog.points():
            own = point.ref.origin == self._session.origin
            if not own and point.ref.origin not in labels:
                labels[point.ref.origin] = self._session.label(point.ref.origin)
            record = snapshots.pop(point.number, None) if own else None
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
                )
            )
        for record in snapshots.values():
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
