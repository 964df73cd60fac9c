"""Whether disks may become those of an item: there, recognised, whole, and nobody else's.

What would lose work silently is refused: half of a chain of images, a file that is no disk at all, a disk that is an
item's already under another path. What may be meant so is warned of: an image that is kept as a file, a disk that two
items share, an image on another machine.

The engine reads raw bytes. An image of another format is kept and restored as the file that it is; that is whole only
if the file is: so an image that needs others is refused, unless these are disks of the same item.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockvault.errors import DeviceError, InvalidInputError
from blockvault.image.identity import Identity, disk_identity
from blockvault.image.mounts import mount_of, read_mounts
from blockvault.image.recognise import Recognised, recognise
from blockvault.model import DiskSpec, Item
from blockvault.monitor import Monitor, Warned
from blockvault.store.registered import RegisteredItem


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a disk already: an item, by which path, and of which vault ("" for this one)."""

    item: str
    path: str
    vault: str = ""
    vault_path: str = ""
    vault_is_there: bool = True


class Owners:
    """Finds who has a disk, by what it is and not by its path. Made once for many disks: it looks at every path."""

    def __init__(self, items: Iterable[Item], elsewhere: Iterable[RegisteredItem]) -> None:
        self._owners: dict[tuple[str, int, int], list[Owner]] = {}
        for item in items:
            for disk in item.disks:
                self._add(Owner(item.name, disk.path))
        for other in elsewhere:
            for disk in other.disks:
                self._add(Owner(other.item, disk.path, other.vault, other.vault_path, other.vault_is_there))

    def _add(self, owner: Owner) -> None:
        for key in disk_identity(owner.path):
            self._owners.setdefault(key, []).append(owner)

    def of(self, path: str, *, but: str) -> list[Owner]:
        """The items that have the disk at this path, but for that of this vault which is named `but`."""
        found = dict.fromkeys(owner for key in disk_identity(path) for owner in self._owners.get(key, ()))
        return [owner for owner in found if owner.vault or owner.item != but]


def check_disks(
    item: str, disks: Sequence[DiskSpec], siblings: Sequence[DiskSpec], owners: Owners, *, shared: bool, as_is: bool
) -> list[Warned]:
    """What is to be told of disks that become an item's.

    Args:
        item: its name.
        disks: those that are new.
        siblings: the item's other disks.
        owners: who may have them already.
        shared: another item of this vault may have a disk too.
        as_is: take the bytes of each file, whatever they are.

    Raises:
        DeviceError: a disk is not there or cannot be read (`image.*`).
        InvalidInputError: it is no whole disk (`image.not-a-disk`, `image.incomplete`), or another item has it
            (`item.disk-taken`, `item.in-other-vault`), or it was named twice (`item.disk-twice`).
    """
    warned: list[Warned] = []
    mounts = read_mounts()
    known: list[tuple[Identity, DiskSpec]] = [(disk_identity(each.path), each) for each in siblings]
    for disk in disks:
        found = recognise(disk.path)
        identity = disk_identity(disk.path)
        for other, spec in known:
            if other & identity:
                raise InvalidInputError(
                    "item.disk-twice",
                    f"{disk.path} and {spec.path} are one disk",
                    why="the same file or device by two names",
                    do="name each disk once",
                )
        known.append((identity, disk))
        warned += _check_owners(disk, owners.of(disk.path, but=item), shared=shared)
        warned += _check_content(disk, found, [*disks, *siblings], as_is=as_is)
        mount = mount_of(disk.path, mounts)
        if mount is not None and mount.is_network and not found.is_device:
            warned.append(
                Warned(
                    "disk.network-mount",
                    f"{disk.path} lies on a mount of another machine ({mount.kind} at {mount.folder}): who writes to "
                    "it there is not seen here, and changes are noticed only as far as the mount reports them",
                )
            )
    return warned


def tell_concerns(item: Item, owners: Owners, monitor: Monitor) -> None:
    """Tell of an item that registers itself (`blockvault snapshot DISK`), where nothing is refused.

    That another vault has the disk too is only noted: who names a second vault means it.
    """
    for disk in item.disks:
        try:
            missing = _missing(disk, recognise(disk.path), item.disks)
        except DeviceError:
            missing = ()
        if missing:
            _warn(monitor, _kept_alone(disk, missing))
        for owner in owners.of(disk.path, but=item.name):
            if owner.vault:
                monitor.note(_shared(disk, owner).message)
            else:
                _warn(monitor, _shared(disk, owner))


def _check_owners(disk: DiskSpec, owners: Sequence[Owner], *, shared: bool) -> list[Warned]:
    warned = []
    for owner in owners:
        by_name = "" if owner.path == disk.path else f", as {owner.path}"
        if owner.vault and owner.vault_is_there:
            raise InvalidInputError(
                "item.in-other-vault",
                f"the disk {disk.path} is protected in another vault",
                why=f"item '{owner.item}' of the vault '{owner.vault}' ({owner.vault_path}) has it{by_name}",
                do=f"an item belongs to one vault: remove it there first "
                f"(`blockvault item remove {owner.item} --vault {owner.vault}`), or go on there",
            )
        if not owner.vault and not shared:
            raise InvalidInputError(
                "item.disk-taken",
                f"the disk {disk.path} is one of item '{owner.item}' already",
                why=f"item '{owner.item}' has it{by_name}" if by_name else None,
                do="take it out there first, or add --shared if two virtual machines really use one disk",
            )
        warned.append(_shared(disk, owner))
    return warned


def _shared(disk: DiskSpec, owner: Owner) -> Warned:
    if owner.vault:
        there = "" if owner.vault_is_there else ", which is not there now"
        whose = f"of item '{owner.item}' of the vault '{owner.vault}' ({owner.vault_path}{there})"
        return Warned("item.in-other-vault", f"{disk.path} is a disk {whose} too")
    return Warned(
        "disk.shared",
        f"{disk.path} is a disk of item '{owner.item}' too: points of the two are not of one instant, and a restore in "
        "place of one changes the other's disk",
    )


def _check_content(disk: DiskSpec, found: Recognised, siblings: Sequence[DiskSpec], *, as_is: bool) -> list[Warned]:
    warned = []
    if found.not_a_disk and not as_is:
        raise InvalidInputError(
            "image.not-a-disk",
            f"{disk.path} is no disk image",
            why=f"it is {found.not_a_disk}",
            do="unpack or convert it, or add --as-is to keep the file as it is",
        )
    missing = _missing(disk, found, siblings)
    if missing and not as_is:
        raise InvalidInputError(
            "image.incomplete",
            _incomplete(disk, missing),
            why="BlockVault keeps the bytes of the files that it is given: a restore would have half of the disk",
            do=f"name those files as disks too, or make one image: `qemu-img convert -O raw {disk.path} WHOLE.img`",
        )
    if missing:
        warned.append(_kept_alone(disk, missing))
    if not found.is_raw:
        warned.append(
            Warned(
                "image.whole-file",
                f"{disk.path} is a {found.format.value} image: points keep the file as it is and restore that file, "
                "not the disk within it",
            )
        )
    elif not found.certain and not found.blank and not found.not_a_disk:
        warned.append(
            Warned("image.unknown", f"nothing that is known was found on {disk.path}: it is taken as a raw disk")
        )
    for fault in found.faults:
        warned.append(Warned("image.faulty", f"{disk.path}: {fault}"))
    return warned


def _missing(disk: DiskSpec, found: Recognised, siblings: Sequence[DiskSpec]) -> tuple[str, ...]:
    """The files that an image needs and that are no disks of its item."""
    have = [disk_identity(each.path) for each in siblings]
    folder = os.path.dirname(disk.path)
    missing = []
    for name in found.needs:
        wanted = disk_identity(os.path.join(folder, name.removeprefix("file:")))
        if not any(wanted & each for each in have):
            missing.append(name)
    return tuple(missing)


def _warn(monitor: Monitor, warned: Warned) -> None:
    monitor.warn(warned.kind, warned.message)


def _kept_alone(disk: DiskSpec, missing: tuple[str, ...]) -> Warned:
    return Warned("image.incomplete", f"{_incomplete(disk, missing)}: its points restore that file alone")


def _incomplete(disk: DiskSpec, missing: tuple[str, ...]) -> str:
    return f"{disk.path} is no whole disk without {', '.join(missing)}"
