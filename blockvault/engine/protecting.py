"""Putting items under a policy, taking them out of it, and in again.

    plan = protecting.plan(["web*", "/srv/images/db.img"], policy="nightly")
    items = protecting.execute(plan, confirmed=False, ...)

Invariants:
- All that is named is looked at before anything is changed: where one item cannot be protected, none is.
- Protecting takes no point, and unprotecting deletes none unless that is asked for.
- Data is deleted softly: `undelete` brings a point back for the vault's soft-delete days. A held point stops it all.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from blockvault.engine.disks import Owners, check_disks
from blockvault.engine.expire import Expirer
from blockvault.engine.items import Items, named_disks
from blockvault.engine.listing import Listing
from blockvault.engine.policies import Policies
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError, InvalidInputError, NotFoundError
from blockvault.ids import name_from_stem
from blockvault.image.identity import disk_identity
from blockvault.model import Item, PointInfo, PointRef, Protection, SnapshotRecord
from blockvault.monitor import Monitor, Warned

_GLOB = frozenset("*?[")
_TOLD_MAX = 8


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item that is registered when it is protected: its name, and its disks as `add_item` takes them."""

    name: str
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProtectPlan:
    """What `protect` would do. `items` are there already, `new` are registered first."""

    policy: str
    items: tuple[str, ...]
    new: tuple[NewItem, ...]
    warnings: tuple[Warned, ...]


@dataclass(frozen=True, slots=True)
class UnprotectPlan:
    """What `unprotect` would do: `points` are deleted softly, `snapshots` (of no point in the vault) for good."""

    items: tuple[str, ...]
    points: tuple[PointInfo, ...]
    snapshots: tuple[SnapshotRecord, ...]


class Protecting:
    """The protection of the items of one vault."""

    def __init__(self, session: Session, items: Items, policies: Policies, listing: Listing) -> None:
        self._session = session
        self._items = items
        self._policies = policies
        self._listing = listing

    # --- protect -----------------------------------------------------------------------------------------------

    def plan(
        self, targets: Sequence[str], proposals: Sequence[NewItem], policy: str, *, shared: bool, as_is: bool
    ) -> ProtectPlan:
        """See `Vault.plan_protection`."""
        self._session.catalog.refresh()
        self._policies.get(policy)
        problems: list[BlockVaultError] = []
        names: list[str] = []
        new: list[NewItem] = []
        for target in targets:
            try:
                found = self._resolve(target, new)
            except BlockVaultError as error:
                problems.append(error)
                continue
            names += [each for each in found if isinstance(each, str)]
            new += [each for each in found if isinstance(each, NewItem)]
        for proposal in proposals:
            try:
                known = self._item_of(proposal)
            except BlockVaultError as error:
                problems.append(error)
                continue
            if known is not None:
                names.append(known.name)
            else:
                new.append(proposal)
        names = list(dict.fromkeys(names))
        owners = self._items.owners()
        warned: list[Warned] = []
        for name in names:
            try:
                warned += self._check_known(self._items.get(name), owners)
            except BlockVaultError as error:
                problems.append(error)
        warned += self._check_new(new, owners, problems, shared=shared, as_is=as_is)
        _raise(problems, len(targets) + len(proposals))
        return ProtectPlan(policy, tuple(names), tuple(new), tuple(warned))

    def execute(
        self,
        plan: ProtectPlan,
        *,
        shared: bool,
        as_is: bool,
        confirmed: bool,
        monitor: Monitor,
        now: datetime,
    ) -> list[Item]:
        """See `Vault.protect`."""
        self._session.check_writable()
        if plan.items and not confirmed:  # before anything is registered
            self._policies.check_assignment(plan.items, plan.policy, now)
        told = Monitor()  # the plan has told it
        for each in plan.new:
            self._items.add(
                each.name,
                each.disks,
                chunk_size=None,
                comment="",
                shared=shared,
                as_is=as_is,
                monitor=told,
                now=now,
            )
        for warned in plan.warnings:
            monitor.warn(warned.kind, warned.message)
        names = [*plan.items, *[each.name for each in plan.new]]
        return self._policies.assign(
            names, plan.policy, Protection.PROTECTED, confirmed=confirmed, monitor=monitor, now=now
        )

    def _resolve(self, target: str, new: Sequence[NewItem]) -> list[str | NewItem]:
        """The items that a word of the command line means: a name, a pattern of names, or the path of a disk."""
        items = self._items.all()
        if any(item.name == target for item in items):
            return [target]
        if "/" in target or os.path.lexists(target):
            return [self._of_path(target, items, new)]
        if _GLOB & set(target):
            fitting = [item.name for item in items if fnmatch.fnmatchcase(item.name, target)]
            if fitting:
                return list(fitting)
            raise NotFoundError(
                "item.not-found",
                f"no item of the vault '{self._session.name}' fits '{target}'",
                why=f"its items: {', '.join(item.name for item in items[:_TOLD_MAX]) or 'none yet'}",
                do="see `blockvault item list`",
            )
        self._items.get(target)  # tells what there is
        raise AssertionError("unreachable")

    def _of_path(self, target: str, items: Sequence[Item], new: Sequence[NewItem]) -> str | NewItem:
        path = os.path.realpath(target)
        identity = disk_identity(path)
        for item in items:
            if any(disk_identity(disk.path) & identity for disk in item.disks):
                if len(item.disks) == 1:
                    return item.name
                raise InvalidInputError(
                    "item.several-disks",
                    f"{target} is one of {len(item.disks)} disks of item '{item.name}'",
                    why="an item is protected as a whole",
                    do=f"name the item: `blockvault protect {item.name} --policy ...`",
                )
        taken = {item.name for item in items} | {each.name for each in new}
        wanted = name = name_from_stem(os.path.splitext(os.path.basename(path))[0])
        number = 2
        while name in taken:
            name, number = f"{wanted[:76]}-{number}", number + 1
        return NewItem(name, (path,))

    def _item_of(self, proposal: NewItem) -> Item | None:
        """The item that has just these disks already, or None."""
        wanted = [disk_identity(disk.path) for disk in named_disks(proposal.disks, ())]
        for item in self._items.all():
            have = [disk_identity(disk.path) for disk in item.disks]
            if len(have) == len(wanted) and all(any(one & other for other in have) for one in wanted):
                return item
        return None

    def _check_known(self, item: Item, owners: Owners) -> list[Warned]:
        """An item that is there: whether its disks can be reached, and are in no other vault."""
        warned = check_disks(item.name, item.disks, (), owners, shared=True, as_is=True)
        # What its disks hold was told when they were registered.
        return [each for each in warned if not each.kind.startswith("image.")]

    def _check_new(
        self, new: Sequence[NewItem], owners: Owners, problems: list[BlockVaultError], *, shared: bool, as_is: bool
    ) -> list[Warned]:
        warned: list[Warned] = []
        names: set[str] = set()
        disks: dict[tuple[str, int, int], str] = {}
        for each in new:
            try:
                if each.name in names:
                    raise InvalidInputError(
                        "item.name-taken", f"two new items are named '{each.name}'", do="register one with `item add`"
                    )
                specs, told = self._items.plan(each.name, each.disks, shared=shared, as_is=as_is, owners=owners)
                for key in {key for spec in specs for key in disk_identity(spec.path)}:
                    if disks.setdefault(key, each.name) != each.name and not shared:
                        raise InvalidInputError(
                            "item.disk-taken",
                            f"items '{disks[key]}' and '{each.name}' would have one disk",
                            do="leave one of them out, or add --shared if two virtual machines really use one disk",
                        )
                names.add(each.name)
                warned += told
            except BlockVaultError as error:
                problems.append(error)
        return warned

    # --- unprotect and resume -----------------------------------------------------------------------------------

    def plan_unprotect(self, names: Sequence[str], *, delete_data: bool) -> UnprotectPlan:
        """See `Vault.plan_unprotect`."""
        self._session.catalog.refresh()
        items = [self._items.get(name) for name in dict.fromkeys(names)]
        for item in items:
            if item.protection is Protection.NONE and not delete_data:
                raise InvalidInputError(
                    "item.not-protected",
                    f"item '{item.name}' is not protected",
                    why="no policy takes points of it",
                    do="its points stay; to delete them add --delete-data",
                )
        points: list[PointInfo] = []
        snapshots: list[SnapshotRecord] = []
        if delete_data:
            ids = {item.id for item in items}
            points = [p for p in self._listing.points() if p.point is not None and p.point.item_id in ids]
            held = [info for info in points if info.state.held]
            if held:
                reason = held[0].state.held_reason or "no reason was given"
                raise InvalidInputError(
                    "point.held",
                    f"nothing is deleted: held points among them, {len(held)} in number",
                    why=f"point {held[0].label} of item '{held[0].item}': {reason}",
                    do=f"lift the hold first: `blockvault point unhold {held[0].label}`",
                )
            in_vault = {brief.number for brief in self._session.catalog.briefs() if brief.item_id in ids}
            snapshots = [r for r in self._session.tier.records() if r.item_id in ids and r.number not in in_vault]
        return UnprotectPlan(tuple(item.name for item in items), tuple(points), tuple(snapshots))

    def unprotect(self, plan: UnprotectPlan, *, reason: str, monitor: Monitor, now: datetime) -> list[Item]:
        """See `Vault.unprotect`."""
        self._session.check_writable()
        items = self._items.stop(plan.items)
        expirer = Expirer(self._session, monitor)
        for info in plan.points:
            expirer.delete(info, reason, now, purge=False)
        for record in plan.snapshots:
            if self._session.catalog.state(PointRef(self._session.origin, record.number)).is_root:
                self._session.tier.remove(record)
        return items

    def resume(self, name: str, policy: str | None, *, confirmed: bool, monitor: Monitor, now: datetime) -> Item:
        """See `Vault.resume`."""
        wanted = self.policy_to_resume(name, policy)
        (item,) = self._policies.assign(
            [name], wanted, Protection.PROTECTED, confirmed=confirmed, monitor=monitor, now=now
        )
        return item

    def policy_to_resume(self, name: str, policy: str | None) -> str:
        """The policy that a stopped item goes on by: the one that is named, or its own."""
        item = self._items.get(name)
        if item.protection is not Protection.STOPPED:
            raise InvalidInputError(
                "item.not-stopped",
                f"the protection of item '{name}' is not stopped",
                why="it is protected" if item.protection is Protection.PROTECTED else "it never was protected",
                do=f"to put it under a policy: `blockvault protect {name} --policy P`",
            )
        wanted = policy or item.policy
        if not wanted:
            raise InvalidInputError(
                "item.no-policy", f"item '{name}' has no policy to go on by", do="name one with --policy"
            )
        return wanted


def _raise(problems: list[BlockVaultError], count: int) -> None:
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    told = "; ".join(problem.message for problem in problems[:_TOLD_MAX])
    more = f"; and {len(problems) - _TOLD_MAX} more" if len(problems) > _TOLD_MAX else ""
    raise InvalidInputError(
        "protect.refused",
        f"nothing was changed: {len(problems)} things stand in the way of protecting {count}",
        why=told + more,
        do=f"{problems[0].do or 'correct what is named'}; then run the command again",
    )
