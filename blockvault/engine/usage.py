"""Where the space goes: the vault's folder by kind of file, and what each item or tier holds."""

from __future__ import annotations

import os
from collections import defaultdict

from blockvault.errors import InternalError
from blockvault.model import PointInfo, Tier, UsageReport, UsageRow


def folder_bytes(path: str) -> int:
    """Bytes of the files under a folder, as they are long."""
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except FileNotFoundError:
                continue
    return total


def measure(name: str, path: str, infos: list[PointInfo], snapshot_bytes: dict[int, int], *, by: str) -> UsageReport:
    """The report for one vault. `snapshot_bytes` says what the snapshot of each number takes on this host."""
    packs = folder_bytes(os.path.join(path, "main", "packs"))
    index = folder_bytes(os.path.join(path, "lmdb"))
    total = folder_bytes(path)
    status = os.statvfs(path)
    groups: dict[str, list[PointInfo]] = defaultdict(list)
    for info in infos:
        if by == "item":
            groups[info.item].append(info)
        elif by == "tier":
            if info.tier is not Tier.VAULT:
                groups["snapshot"].append(info)
            if info.tier is not Tier.SNAPSHOT:
                groups["vault"].append(info)
        else:
            raise InternalError("usage.by", f"unknown grouping '{by}'")
    rows = tuple(
        UsageRow(
            name=group,
            points=len(members),
            logical_bytes=sum(member.size_bytes for member in members),
            stored_bytes=0 if group == "snapshot" and by == "tier" else sum(m.statistics.stored_bytes for m in members),
            snapshot_bytes=0 if group == "vault" and by == "tier" else sum(_held(m, snapshot_bytes) for m in members),
        )
        for group, members in sorted(groups.items())
    )
    return UsageReport(
        vault=name,
        path=path,
        vault_bytes=total,
        pack_bytes=packs,
        lmdb_bytes=index,
        record_bytes=total - packs - index,
        snapshot_bytes=sum(snapshot_bytes.values()),
        free_bytes=status.f_bavail * status.f_frsize,
        rows=rows,
    )


def _held(info: PointInfo, snapshot_bytes: dict[int, int]) -> int:
    return 0 if info.tier is Tier.VAULT else snapshot_bytes.get(info.number, 0)
