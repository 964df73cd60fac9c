"""Items: finding the one that a user means, registering a new one, changing its record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from blockvault.engine.session import Session
from blockvault.errors import CorruptionError, DeviceError, InvalidInputError, NotFoundError
from blockvault.ids import DISK_NAME, ItemId, check_item_name, name_from_stem, random_name
from blockvault.model import DiskSpec, Item, Protection
from blockvault.model.item import SNAPSHOT_DAYS_DEFAULT
from blockvault.store.locks import FileLock

SNAPSHOT_DAYS_MAX = 30


class Items:
    """The items of one vault."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[Item]:
        """Items of the vault, by name."""
        return self._session.catalog.items()

    def get(self, name: str) -> Item:
        """The item of that name. Raises `NotFoundError` (`item.not-found`)."""
        for item in self._session.catalog.items():
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self._session.catalog.items()[:8]) or "none yet"
        raise NotFoundError(
            "item.not-found",
            f"the vault '{self._session.name}' has no item '{name}'",
            why=f"its items: {known}",
            do="see `blockvault item list`; `blockvault snapshot DISK` registers a disk image by itself",
        )

    def snapshot_days(self, item: Item) -> int:
        """For how many days an item's snapshots are kept: its own, else its policy's, else the default."""
        if item.snapshot_days is not None:
            return item.snapshot_days
        try:
            found = self._session.catalog.policy(item.policy)
        except CorruptionError:  # `verify` names it; points are kept whatever becomes of snapshots
            found = None
        return SNAPSHOT_DAYS_DEFAULT if found is None or found.deleted else found.policy.snapshot_days

    def assign(self, names: Sequence[str], policy: str, protection: Protection | None) -> list[Item]:
        """Name the policy of several items, or of none of them if one is not there.

        Args:
            names: the items.
            policy: the policy's name; "" for none.
            protection: what the items become; None: what they are.
        """
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh()
            changed = []
            for item in [self.get(name) for name in dict.fromkeys(names)]:
                wanted = item.protection if protection is None else protection
                if (item.policy, item.protection) != (policy, wanted):
                    item = replace(item, policy=policy, protection=wanted, revision=item.revision + 1)
                    self._session.catalog.put_item(item)
                changed.append(item)
            return changed

    def set(
        self,
        name: str,
        *,
        new_name: str | None = None,
        snapshot_days: int | None = None,
        snapshot_dir: str | None = None,
        comment: str | None = None,
        disks: dict[str, str] | None = None,
    ) -> Item:
        """Change an item's record; points keep the name that they were taken under.

        Args:
            name: the item.
            new_name: its new name.
            snapshot_days: how long snapshots are kept, 0 to 30 days; 0 keeps none.
            snapshot_dir: where they lie; "" to have the place chosen.
            comment: free text.
            disks: new paths of disks, by name (an image that was moved).
        """
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh()
            item = self.get(name)
            if new_name is not None:
                check_item_name(new_name)
                if any(other.name == new_name for other in self._session.catalog.items()):
                    raise InvalidInputError(
                        "item.name-taken", f"there is already an item '{new_name}'", do="choose another name"
                    )
            if snapshot_days is not None and not 0 <= snapshot_days <= SNAPSHOT_DAYS_MAX:
                raise InvalidInputError(
                    "item.snapshot-days",
                    f"snapshots cannot be kept for {snapshot_days} days",
                    why="0 to 30 days are possible",
                )
            specs = item.disks
            if disks:
                unknown = set(disks) - {disk.name for disk in item.disks}
                if unknown:
                    raise NotFoundError("disk.not-found", f"item '{name}' has no disk '{min(unknown)}'")
                specs = tuple(
                    DiskSpec(disk.name, os.path.realpath(disks[disk.name])) if disk.name in disks else disk
                    for disk in item.disks
                )
            changed = replace(
                item,
                name=new_name or item.name,
                disks=specs,
                snapshot_days=item.snapshot_days if snapshot_days is None else snapshot_days,
                snapshot_dir=item.snapshot_dir
                if snapshot_dir is None
                else (os.path.abspath(snapshot_dir) if snapshot_dir else None),
                comment=item.comment if comment is None else comment,
                revision=item.revision + 1,
            )
            self._session.catalog.put_item(changed)
            return changed

    def find(self, targets: list[str], name: str | None, now: datetime) -> tuple[Item, bool, str | None]:
        """The item of the targets, whether it is new, and a note on how it came by its name."""
        if not targets:
            raise InvalidInputError("snapshot.no-disk", "no disk image was named", do="blockvault snapshot DISK...")
        items = self._session.catalog.items()
        if len(targets) == 1 and "/" not in targets[0] and not os.path.lexists(targets[0]):
            named = [item for item in items if item.name == targets[0]]
            if named:
                return named[0], False, None
        paths = [os.path.realpath(target) for target in targets]
        for target, path in zip(targets, paths, strict=True):
            if not os.path.exists(path):
                raise DeviceError(
                    "image.not-found",
                    f"there is no disk image or item '{target}'",
                    why=f"{path} does not exist, and no item of the vault '{self._session.name}' has that name",
                    do="check the path; see `blockvault item list`",
                )
        if len(set(paths)) != len(paths):
            raise InvalidInputError("snapshot.disk-twice", "a disk image was named twice", do="name each once")
        if name is not None:
            check_item_name(name)
        for item in items:
            if _paths(item) == set(paths) and name in (None, item.name):
                return item, False, None
            if name == item.name:
                raise _other_disks(item)
        stem = os.path.splitext(os.path.basename(paths[0]))[0]
        chosen = name or self._free_name(name_from_stem(stem), items)
        note = None
        if name is None and chosen != stem:
            note = f"{paths[0]} is registered as item '{chosen}'"
        disks: list[DiskSpec] = []
        for path in paths:
            disk_name = name_from_stem(os.path.splitext(os.path.basename(path))[0], DISK_NAME)
            taken = {disk.name for disk in disks}
            number = 2
            base = disk_name
            while disk_name in taken:
                disk_name = f"{base[:76]}-{number}"
                number += 1
            disks.append(DiskSpec(disk_name, path))
        item = Item(ItemId(random_name().hex()), chosen, tuple(disks), self._session.chunk_size, now)
        return item, True, note

    @staticmethod
    def _free_name(wanted: str, items: list[Item]) -> str:
        taken = {item.name for item in items}
        name, number = wanted, 2
        while name in taken:
            name = f"{wanted[:76]}-{number}"
            number += 1
        return name

    def register(self, item: Item, name: str | None) -> Item:
        """Write a new item's record, or find the one that another process wrote meanwhile.

        Args:
            item: as `find` made it.
            name: what was asked for; None: the item's name is a proposal, and gives way to one that is taken.
        """
        with self._lock():
            self._session.catalog.refresh()
            items = self._session.catalog.items()
            for other in items:
                if _paths(other) == _paths(item) and name in (None, other.name):
                    return other
                if other.name == name:
                    raise _other_disks(other)
            if name is None:
                item = replace(item, name=self._free_name(item.name, items))
            self._session.catalog.put_item(item)
            return item

    def _lock(self) -> FileLock:
        """Held while a name is looked for and taken, so that no two items of a host get the same."""
        return self._session.host.lock(
            "items", kind="host.locked", subject="items are being registered", wait_seconds=30
        )


def _paths(item: Item) -> set[str]:
    return {disk.path for disk in item.disks}


def _other_disks(item: Item) -> InvalidInputError:
    return InvalidInputError(
        "item.other-disks",
        f"item '{item.name}' has other disks than those named",
        why=", ".join(f"{disk.name}: {disk.path}" for disk in item.disks),
        do="choose another --name, or tell it where its disks are now with `blockvault item set`",
    )
