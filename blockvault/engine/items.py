"""Items: finding the one that a user means, registering a new one, changing its record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from blockvault.engine.disks import Owners, check_disks, tell_concerns
from blockvault.engine.session import Session
from blockvault.errors import CorruptionError, DeviceError, InvalidInputError, NotFoundError
from blockvault.format.records import DISKS_MAX, FREEZE_MOUNTS_MAX, HOOK_SECONDS_MAX
from blockvault.ids import DISK_NAME, ItemId, check_item_name, name_from_stem, random_name
from blockvault.model import DiskSpec, Item, Protection
from blockvault.model.item import SNAPSHOT_DAYS_DEFAULT
from blockvault.monitor import Monitor, Warned
from blockvault.store.locks import FileLock
from blockvault.store.registered import registered_items
from blockvault.units import check_chunk_size

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

    def named(self, names: Iterable[str]) -> list[Item]:
        """The items of these names, each once, in their order. Raises `NotFoundError` (`item.not-found`)."""
        by_name = {item.name: item for item in self._session.catalog.items()}
        return [by_name[name] if name in by_name else self.get(name) for name in dict.fromkeys(names)]

    def assign(
        self, names: Iterable[str], policy: str, protection: Callable[[Item], Protection], now: datetime
    ) -> list[Item]:
        """Name the policy of several items, or of none of them if one is not there.

        Args:
            names: the items.
            policy: the policy's name; "" for none.
            protection: what an item becomes.
            now: since when it is protected, if it is from now on.
        """
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh_settings()
            changed = []
            for item in self.named(names):
                wanted = protection(item)
                if (item.policy, item.protection) != (policy, wanted):
                    since = item.protected_since if item.protection is Protection.PROTECTED else now
                    item = replace(
                        item,
                        policy=policy,
                        protection=wanted,
                        protected_since=since if wanted is Protection.PROTECTED else None,
                        revision=item.revision + 1,
                    )
                    self._session.catalog.put_item(item)
                changed.append(item)
            return changed

    def stop(self, names: Sequence[str]) -> list[Item]:
        """Stop the protection of several items that have ever been protected; their policies stay."""
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh()
            changed = []
            for item in [self.get(name) for name in dict.fromkeys(names)]:
                if item.protection is Protection.PROTECTED:
                    item = replace(
                        item, protection=Protection.STOPPED, protected_since=None, revision=item.revision + 1
                    )
                    self._put(item)
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
        add_disks: Sequence[str] = (),
        remove_disks: Sequence[str] = (),
        shared: bool = False,
        as_is: bool = False,
        group: str | None = None,
        agent_socket: str | None = None,
        freeze_mounts: tuple[str, ...] | None = None,
        hook_seconds: int | None = None,
        monitor: Monitor | None = None,
    ) -> Item:
        """See `Vault.set_item`."""
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh()
            item = self.get(name)
            if new_name is not None:
                self._check_free(new_name)
            if snapshot_days is not None and not 0 <= snapshot_days <= SNAPSHOT_DAYS_MAX:
                raise InvalidInputError(
                    "item.snapshot-days",
                    f"snapshots cannot be kept for {snapshot_days} days",
                    why="0 to 30 days are possible",
                )
            guest = _guest_settings(item, group, agent_socket, freeze_mounts, hook_seconds)
            specs = item.disks
            if disks or add_disks or remove_disks:
                specs = self._changed_disks(
                    item, disks or {}, add_disks, remove_disks, shared=shared, as_is=as_is, monitor=monitor or Monitor()
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
                group=guest.group,
                agent_socket=guest.agent_socket,
                freeze_mounts=guest.freeze_mounts,
                hook_seconds=guest.hook_seconds,
                revision=item.revision + 1,
            )
            self._put(changed)
            return changed

    def _changed_disks(
        self,
        item: Item,
        moved: dict[str, str],
        added: Sequence[str],
        removed: Sequence[str],
        *,
        shared: bool,
        as_is: bool,
        monitor: Monitor,
    ) -> tuple[DiskSpec, ...]:
        """The disks of an item after a change; those that are new, or lie elsewhere now, are checked."""
        for name in [*moved, *removed]:
            if item.disk(name) is None:
                raise NotFoundError(
                    "disk.not-found",
                    f"item '{item.name}' has no disk '{name}'",
                    why=f"its disks: {', '.join(disk.name for disk in item.disks)}",
                )
        left = [disk for disk in item.disks if disk.name not in removed]
        stay = [disk for disk in left if disk.name not in moved]
        elsewhere = [DiskSpec(disk.name, os.path.realpath(moved[disk.name])) for disk in left if disk.name in moved]
        new = named_disks(added, [disk.name for disk in left])
        if not left and not new:
            raise InvalidInputError(
                "item.no-disk",
                f"item '{item.name}' would have no disk left",
                do=f"to end its protection use `blockvault unprotect {item.name}`",
            )
        _check_count(item.name, len(left) + len(new))
        owners = self.owners()
        # A disk that was moved is what it was: it was taken then.
        warned = check_disks(item.name, elsewhere, [*stay, *new], owners, shared=shared, as_is=True)
        warned += check_disks(item.name, new, [*stay, *elsewhere], owners, shared=shared, as_is=as_is)
        for each in warned:
            monitor.warn(each.kind, each.message)
        places = {disk.name: disk for disk in elsewhere}
        return (*[places.get(disk.name, disk) for disk in left], *new)

    def plan(
        self, name: str, disks: Sequence[str], *, shared: bool, as_is: bool, owners: Owners | None = None
    ) -> tuple[list[DiskSpec], list[Warned]]:
        """The disks that an item of that name would have, and what is to be told of them. Raises as `add` does."""
        self._session.catalog.refresh()
        self._check_free(name)
        specs = named_disks(disks, ())
        if not specs:
            raise InvalidInputError(
                "item.no-disk", f"item '{name}' would have no disk", do="name a disk image or device"
            )
        _check_count(name, len(specs))
        return specs, check_disks(name, specs, (), owners or self.owners(), shared=shared, as_is=as_is)

    def add(
        self,
        name: str,
        disks: Sequence[str],
        *,
        chunk_size: int | None,
        comment: str,
        shared: bool,
        as_is: bool,
        monitor: Monitor,
        now: datetime,
    ) -> Item:
        """See `Vault.add_item`."""
        self._session.check_writable()
        size = check_chunk_size(chunk_size) if chunk_size is not None else self._session.chunk_size
        with self._lock():
            specs, warned = self.plan(name, disks, shared=shared, as_is=as_is)
            item = Item(ItemId(random_name().hex()), name, tuple(specs), size, now, comment=comment)
            self._put(item)
        for each in warned:
            monitor.warn(each.kind, each.message)
        return item

    def remove(self, item_id: ItemId) -> Item:
        """Write the last revision of an item's record; the caller has made sure that it has no points."""
        with self._lock():
            self._session.catalog.refresh()
            item = self._session.catalog.item(item_id)
            assert item is not None
            removed = replace(item, removed=True, revision=item.revision + 1)
            self._put(removed)
            return removed

    def tell_concerns(self, item: Item, monitor: Monitor) -> None:
        """Tell what should be known of an item that has just registered itself."""
        tell_concerns(item, self.owners(), monitor)

    def owners(self) -> Owners:
        """Who has which disk: the items of this vault, and of the host's other vaults."""
        others = self._session.catalog.items()
        return Owners(others, registered_items(self._session.state_dir, except_vault=self._session.vault_id))

    def _check_free(self, name: str) -> None:
        check_item_name(name)
        if any(other.name == name for other in self._session.catalog.items()):
            raise InvalidInputError("item.name-taken", f"there is already an item '{name}'", do="choose another name")

    def _put(self, item: Item) -> None:
        """Write an item's record, and have it known to this host's other vaults."""
        self._session.catalog.put_item(item)
        self._session.note_items()

    def change(self, name: str, change: Callable[[Item], Item]) -> Item:
        """Write the next revision of an item's record, as `change` makes it of the newest; none if it stays equal."""
        self._session.check_writable()
        with self._lock():
            self._session.catalog.refresh()
            item = self.get(name)
            changed = change(item)
            if changed == item:
                return item
            changed = replace(changed, revision=item.revision + 1)
            self._put(changed)
            return changed

    def several(self, names: list[str]) -> list[Item]:
        """The items of these names. Raises `NotFoundError`, or `InvalidInputError` (`item.twice`, `item.none`)."""
        if not names:
            raise InvalidInputError("item.none", "no item was named", do="see `blockvault item list`")
        if len(set(names)) < len(names):
            raise InvalidInputError("item.twice", "an item was named twice", do="name each once")
        return [self.get(name) for name in names]

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
        _check_count(name or targets[0], len(paths))
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
        disks = [DiskSpec(disk_name, path) for disk_name, path in _names_for(paths, ())]
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
            self._put(item)
            return item

    def _lock(self) -> FileLock:
        """Held while a name is looked for and taken, so that no two items of a host get the same."""
        return self._session.host.lock(
            "items", kind="host.locked", subject="items are being registered", wait_seconds=30
        )


def _paths(item: Item) -> set[str]:
    return {disk.path for disk in item.disks}


def _names_for(paths: Sequence[str], taken: Sequence[str]) -> list[tuple[str, str]]:
    """Disks by the stems of their files; what is taken gets a number."""
    names = set(taken)
    found = []
    for path in paths:
        name = base = name_from_stem(os.path.splitext(os.path.basename(path))[0], DISK_NAME)
        number = 2
        while name in names:
            name = f"{base[:76]}-{number}"
            number += 1
        names.add(name)
        found.append((name, path))
    return found


def named_disks(words: Sequence[str], taken: Sequence[str]) -> list[DiskSpec]:
    """Disks as they are named: `PATH`, which gives its stem, or `vda=PATH`."""
    given: list[tuple[str, str]] = []
    for word in words:
        name, equals, path = word.partition("=")
        named = bool(equals) and DISK_NAME.match(name) is not None and not os.path.lexists(word)
        given.append((name if named else "", os.path.realpath(path if named else word)))
    names = [*taken, *[name for name, _ in given if name]]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            "item.disk-twice", f"there would be two disks named '{twice}'", do="name each differently"
        )
    stems = iter(_names_for([path for name, path in given if not name], names))
    return [DiskSpec(name, path) if name else DiskSpec(*next(stems)) for name, path in given]


def _check_count(name: str, count: int) -> None:
    """A record has room for so many disks; one with more could not be read again."""
    if count > DISKS_MAX:
        raise InvalidInputError(
            "item.too-many-disks",
            f"item '{name}' would have {count} disks",
            why=f"an item has {DISKS_MAX} at most",
            do="make several items of it",
        )


def _guest_settings(
    item: Item,
    group: str | None,
    agent_socket: str | None,
    freeze_mounts: tuple[str, ...] | None,
    hook_seconds: int | None,
) -> Item:
    """The item with what is asked of its guest, as far as it is given."""
    if group:
        check_item_name(group)
    for path in (agent_socket or "", *(freeze_mounts or ())):
        if path and not path.startswith("/"):
            raise InvalidInputError(
                "item.not-absolute", f"'{path}' is no whole path", do="write the path from / on: it is kept in the item"
            )
    if freeze_mounts is not None and len(freeze_mounts) > FREEZE_MOUNTS_MAX:
        raise InvalidInputError(
            "item.freeze-mounts",
            f"{FREEZE_MOUNTS_MAX} mounts at most can be frozen for an item",
            do="name fewer, or use a guest agent",
        )
    if freeze_mounts is not None and any(os.path.realpath(mount) == "/" for mount in freeze_mounts):
        raise InvalidInputError(
            "item.freeze-mounts",
            "/ must not be frozen",
            why="everything on this host would wait, this program too",
            do="name where a file system of the item's disks is mounted",
        )
    if hook_seconds is not None and not 0 <= hook_seconds <= HOOK_SECONDS_MAX:
        raise InvalidInputError(
            "item.hook-seconds",
            f"a script cannot have {hook_seconds} s",
            why=f"1 to {HOOK_SECONDS_MAX} are possible",
            do="choose one of these, or 0 for the default",
        )
    return replace(
        item,
        group=item.group if group is None else group,
        agent_socket=item.agent_socket if agent_socket is None else agent_socket,
        freeze_mounts=item.freeze_mounts if freeze_mounts is None else freeze_mounts,
        hook_seconds=item.hook_seconds if hook_seconds is None else hook_seconds or None,
    )


def _other_disks(item: Item) -> InvalidInputError:
    return InvalidInputError(
        "item.other-disks",
        f"item '{item.name}' has other disks than those named",
        why=", ".join(f"{disk.name}: {disk.path}" for disk in item.disks),
        do="choose another --name, or tell it where its disks are now with `blockvault item set`",
    )
