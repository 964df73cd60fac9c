"""Plain rows of what a vault holds, for reports and metrics: one look, and no vault is needed any more.

    facts = gather(state_dir, open_vault, now)      all vaults of this host
    read_vault(vault, now)                          one that is open

Invariants:
- Nothing here decides anything: whether an item is outside its RPO is for `rpo` to say.
- A vault or policy that cannot be read is a row that says so, never one that is missing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from blockvault.errors import BlockVaultError
from blockvault.model import Protection, Tier
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from blockvault.model import Item, PointInfo, PointRef
    from blockvault.policy.policies import Policy


@dataclass(frozen=True, slots=True)
class PointFacts:
    """A point. `ref` is None for one that is only a snapshot; `initial`: it had no parent, and brought in all data."""

    ref: PointRef | None
    number: int
    taken: datetime
    size_bytes: int = 0
    changed_bytes: int = 0
    stored_bytes: int = 0
    initial: bool = False
    has_snapshot: bool = False
    held: bool = False
    retain_until: datetime | None = None
    freeze_ms: float | None = None

    @property
    def in_vault(self) -> bool:
        """Whether it restores without this host's snapshots."""
        return self.ref is not None


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """An item and its points, oldest first.

    `since` says from when on points of it are taken, or when it was registered. `policy` is None where it names none,
    or where `problem` says why it cannot be read; `policy_changed` is when it became what it is, None where it is only
    offered.
    """

    vault: str
    vault_id: str
    item_id: str
    item: str
    since: datetime
    protection: Protection = Protection.NONE
    policy: Policy | None = None
    policy_changed: datetime | None = None
    problem: str = ""
    points: tuple[PointFacts, ...] = ()

    @property
    def is_protected(self) -> bool:
        """Whether points of it are to be taken by a policy."""
        return self.protection is Protection.PROTECTED

    @property
    def in_vault(self) -> tuple[PointFacts, ...]:
        """Its points in the vault, oldest first."""
        return tuple(point for point in self.points if point.in_vault)


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """A vault, and how full the disk is that it lies on.

    Args:
        name: as this host calls it.
        vault_id: its id; "" where its header cannot be read.
        path: its folder.
        items: what it has.
        stored_bytes: of all its files; `pack_bytes` of its packs alone.
        pack_bytes: see `stored_bytes`.
        snapshot_bytes: of this host's snapshots of its items.
        free_bytes: what its disk has left; `disk_bytes`: all that it has.
        disk_bytes: see `free_bytes`.
        soft_delete_days: how long expired points take space.
        least_verified: when the least recently verified pack was; None: one never was, or nothing is known.
        newest_verified: when anything was verified last.
        never_verified_bytes: what points need and nobody has verified.
        problem: why it cannot be read; all else is empty then.
    """

    name: str
    vault_id: str
    path: str
    items: tuple[ItemFacts, ...] = ()
    stored_bytes: int = 0
    pack_bytes: int = 0
    snapshot_bytes: int = 0
    free_bytes: int = 0
    disk_bytes: int = 0
    soft_delete_days: int = 0
    least_verified: datetime | None = None
    newest_verified: datetime | None = None
    never_verified_bytes: int = 0
    problem: str = ""


def gather(
    state_dir: str,
    open_vault: Callable[[str], AbstractContextManager[Vault]],
    now: datetime,
    names: Iterable[str] | None = None,
) -> list[VaultFacts]:
    """The vaults of this host, by name.

    Args:
        state_dir: the host's state folder.
        open_vault: opens a vault by its name.
        now: the moment.
        names: only these; one that the host does not know by name is opened as it is written.
    """
    known = {each.name: (each.id, each.path, each.error) for each in Vault.known(state_dir)}
    found = []
    for name in sorted(known) if names is None else names:
        vault_id, path, error = known.get(name, ("", name, ""))
        if error:
            found.append(VaultFacts(name, vault_id, path, problem=error))
            continue
        try:
            with open_vault(name) as vault:
                found.append(read_vault(vault, now))
        except (BlockVaultError, OSError) as problem:
            found.append(VaultFacts(name, vault_id, path, problem=str(problem)))
    return found


def read_vault(vault: Vault, now: datetime) -> VaultFacts:
    """What there is in a vault that is open. It costs a listing of all points and a walk over its files."""
    by_item: dict[str, list[PointFacts]] = defaultdict(list)
    items = vault.items()
    ids = {item.name: str(item.id) for item in items}
    for info in vault.points():
        item_id = str(info.point.item_id) if info.point is not None else ids.get(info.item, "")
        by_item[item_id].append(_point(info))
    usage, coverage = vault.usage(), vault.coverage(now=now)
    status = os.statvfs(vault.path)
    return VaultFacts(
        name=vault.name,
        vault_id=str(vault.id),
        path=vault.path,
        items=tuple(_item(vault, item, by_item[str(item.id)]) for item in items),
        stored_bytes=usage.vault_bytes,
        pack_bytes=usage.pack_bytes,
        snapshot_bytes=usage.snapshot_bytes,
        free_bytes=usage.free_bytes,
        disk_bytes=status.f_blocks * status.f_frsize,
        soft_delete_days=vault.soft_delete_days,
        least_verified=None if coverage.never_bytes else coverage.oldest,
        newest_verified=coverage.newest,
        never_verified_bytes=coverage.never_bytes,
    )


def _item(vault: Vault, item: Item, points: list[PointFacts]) -> ItemFacts:
    policy, changed, problem = None, None, ""
    try:
        policy = vault.policy_of(item)
        revision = vault.policy_revision(policy.name) if policy is not None else None
        changed = revision.changed if revision is not None else None
    except BlockVaultError as error:
        policy, problem = None, error.message
    return ItemFacts(
        vault=vault.name,
        vault_id=str(vault.id),
        item_id=str(item.id),
        item=item.name,
        since=item.protected_since or item.created,
        protection=item.protection,
        policy=policy,
        policy_changed=changed,
        problem=problem,
        points=tuple(sorted(points, key=lambda point: (point.taken, point.number))),
    )


def _point(info: PointInfo) -> PointFacts:
    point = info.point
    return PointFacts(
        ref=point.ref if point is not None else None,
        number=info.number,
        taken=info.taken,
        size_bytes=info.size_bytes,
        changed_bytes=info.statistics.changed_bytes,
        stored_bytes=info.statistics.stored_bytes,
        initial=point is not None and point.parent is None,
        has_snapshot=info.tier is not Tier.VAULT,
        held=info.state.held,
        retain_until=info.kept_until,
        freeze_ms=point.freeze_ms if point is not None else None,
    )
