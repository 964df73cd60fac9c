"""What on this machine could be protected: disk images in folders, and the virtual machines of libvirt.

    found = discover(["/srv/images"], state_dir=default_state_dir())
    found.images, found.domains, found.proposals

Only looking: nothing is registered, no image is opened for writing, no virtual machine is touched. `folders` walks,
`libvirt` asks `virsh`, `open_files` tells who has an image open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from blockvault.discovery.folders import DEPTH_DEFAULT, find_files
from blockvault.discovery.libvirt import Domain, find_domains, is_there, read_domain
from blockvault.discovery.open_files import Opener, openers_of
from blockvault.errors import BlockVaultError, InvalidInputError
from blockvault.ids import DISK_NAME, name_from_stem
from blockvault.image.identity import Identity, disk_identity
from blockvault.image.in_use import find_writer
from blockvault.image.mounts import Mount, mount_of, read_mounts
from blockvault.image.recognise import ImageFormat, Recognised, recognise
from blockvault.image.source import ImageSource
from blockvault.monitor import Warned
from blockvault.store.registered import registered_items
from blockvault.units import CHUNK_BYTES_DEFAULT

LIBVIRT_IMAGES = "/var/lib/libvirt/images"

__all__ = [
    "DEPTH_DEFAULT",
    "Discovery",
    "Domain",
    "FoundImage",
    "Opener",
    "Proposal",
    "discover",
    "disks_of_domain",
]


@dataclass(frozen=True, slots=True)
class Owned:
    """The item that an image is a disk of already."""

    item: str
    vault: str
    vault_path: str


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A disk image, and what is known of it.

    Args:
        path: where it was found.
        image: what it is; None: it could not be read, and `problem` says why.
        problem: why it could not be read.
        owned: the items that have it as a disk.
        openers: processes that have it open, as far as this user may see.
        in_use: who writes to it, as far as locks and mounts show.
        domains: the virtual machines of libvirt that it is a disk of.
        mount: what it lies on, where that is another machine.
        needed_by: images that are no whole disks without it.
    """

    path: str
    image: Recognised | None
    problem: str = ""
    owned: tuple[Owned, ...] = ()
    openers: tuple[Opener, ...] = ()
    in_use: str = ""
    domains: tuple[str, ...] = ()
    mount: Mount | None = None
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """An item as it could be protected: its name, and its disks as `vda=PATH`."""

    item: str
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found. `notes` says where nothing could be looked for."""

    images: tuple[FoundImage, ...]
    domains: tuple[Domain, ...]
    proposals: tuple[Proposal, ...]
    notes: tuple[str, ...]


def discover(
    folders: list[str], *, state_dir: str, depth: int = DEPTH_DEFAULT, libvirt: bool = True, everything: bool = False
) -> Discovery:
    """Look for disk images and virtual machines.

    Args:
        folders: where to look; none: where libvirt keeps its images.
        state_dir: of this host, to tell which images are protected already.
        depth: how many levels of folders below each are looked into.
        libvirt: ask libvirt for its virtual machines, if it is there.
        everything: files too of which the bytes do not show that they are disks.

    Raises:
        InvalidInputError: there is nowhere to look (`discover.nowhere`), or a folder is none (`discover.no-folder`).
    """
    notes: list[str] = []
    domains: list[Domain] = []
    if libvirt and is_there():
        domains, problems = find_domains()
        notes += problems
    places = folders or ([LIBVIRT_IMAGES] if os.path.isdir(LIBVIRT_IMAGES) else [])
    if not places and not domains:
        raise InvalidInputError(
            "discover.nowhere",
            "no folder was named, and libvirt has no virtual machine here",
            do="name the folders to look in: `blockvault item discover FOLDER...`",
        )
    mounts = read_mounts()
    paths, problems = find_files(places, depth=depth, mounts=mounts)
    notes += problems
    known = {disk_identity(path) for path in paths}
    paths += [disk.path for domain in domains for disk in domain.disks if disk.path and _is_new(disk.path, known)]
    found = [image for path in paths if (image := _look(path, everything=everything or _of_domain(path, domains)))]
    images = _with_context(found, domains, mounts, state_dir)
    return Discovery(tuple(images), tuple(domains), tuple(_proposals(images, domains)), tuple(notes))


def disks_of_domain(name: str) -> tuple[tuple[str, ...], tuple[Warned, ...]]:
    """The disks of a virtual machine of libvirt as `add_item` takes them, `vda=PATH`, and what is to be told of them.

    Raises:
        NotFoundError: there is none of that name, or no libvirt (`libvirt.*`).
        InvalidInputError: it has a disk that is no file and no device here (`libvirt.disk-elsewhere`).
    """
    domain = read_domain(name)
    for disk in domain.disks:
        if not disk.path:
            raise InvalidInputError(
                "libvirt.disk-elsewhere",
                f"disk {disk.name} of '{name}' is no file and no device of this machine",
                why=f"its source is of type {disk.kind}",
                do=f"a point would not have all of the machine; to protect the others, name them: "
                f"`blockvault item add {name_from_stem(name)} vda=PATH...`",
            )
    warned = [
        Warned(
            "disk.cluster",
            f"disk {disk.name} of '{name}' is shareable: other machines may write to it at the same time, and a point "
            "has of them what was written by then",
        )
        for disk in domain.disks
        if disk.shareable
    ]
    return tuple(f"{disk.name}={disk.path}" for disk in domain.disks), tuple(warned)


def _is_new(path: str, known: set[Identity]) -> bool:
    identity = disk_identity(path)
    if identity in known:
        return False
    known.add(identity)
    return True


def _of_domain(path: str, domains: list[Domain]) -> bool:
    return any(disk.path == path for domain in domains for disk in domain.disks)


def _look(path: str, *, everything: bool) -> FoundImage | None:
    try:
        image = recognise(path)
    except BlockVaultError as error:
        return FoundImage(path, None, problem=error.why or error.message)
    wanted = everything or image.certain or (image.blank and _looks_named(path))
    return FoundImage(path, image) if wanted else None


def _looks_named(path: str) -> bool:
    """A blank file has no bytes that tell: here, and only here, its name does."""
    return os.path.splitext(path)[1].lower() in (".img", ".raw", ".disk")


def _with_context(
    found: list[FoundImage], domains: list[Domain], mounts: list[Mount], state_dir: str
) -> list[FoundImage]:
    identities = {each.path: disk_identity(each.path) for each in found}
    items = [
        (disk_identity(disk.path), Owned(item.item, item.vault, item.vault_path))
        for item in registered_items(state_dir)
        for disk in item.disks
    ]
    disks = [(disk_identity(disk.path), domain.name) for domain in domains for disk in domain.disks if disk.path]
    openers = openers_of({key for identity in identities.values() for key in identity})
    needs = [
        (disk_identity(os.path.join(os.path.dirname(each.path), name)), each.path)
        for each in found
        if each.image is not None
        for name in each.image.needs
    ]
    images = []
    for each in found:
        own = identities[each.path]
        mount = mount_of(each.path, mounts)
        images.append(
            FoundImage(
                each.path,
                each.image,
                each.problem,
                owned=tuple(dict.fromkeys(owned for identity, owned in items if identity & own)),
                openers=tuple(opener for key in own for opener in openers.get(key, ())),
                in_use=_writer(each.path) if each.image is not None else "",
                domains=tuple(dict.fromkeys(name for identity, name in disks if identity & own)),
                mount=mount if mount is not None and mount.is_network else None,
                needed_by=tuple(path for identity, path in needs if identity & own),
            )
        )
    return sorted(images, key=lambda image: image.path)


def _writer(path: str) -> str:
    try:
        with ImageSource.open(path, CHUNK_BYTES_DEFAULT) as source:
            return find_writer(path, source.fd) or ""
    except BlockVaultError:
        return ""


def _proposals(images: list[FoundImage], domains: list[Domain]) -> list[Proposal]:
    """What `protect` could take as it is: whole virtual machines, then images that are nobody's."""
    free = {image.path: image for image in images if not image.owned and _is_whole(image)}
    by_identity = {key: path for path in free for key in disk_identity(path)}
    proposals = []
    names: set[str] = set()
    for domain in domains:
        disks = [
            (disk.name, by_identity.get(next(iter(disk_identity(disk.path)), ("", 0, 0)))) for disk in domain.disks
        ]
        if disks and all(path is not None for _, path in disks):
            proposals.append(_proposal(domain.name, [f"{name}={path}" for name, path in disks], names))
    for path, image in free.items():
        is_medium = image.image is not None and image.image.format is ImageFormat.ISO
        if not image.domains and not image.needed_by and not is_medium:
            stem = os.path.splitext(os.path.basename(path))[0]
            proposals.append(_proposal(stem, [f"{name_from_stem(stem, DISK_NAME)}={path}"], names))
    return proposals


def _is_whole(found: FoundImage) -> bool:
    return found.image is not None and not found.image.needs and not found.image.not_a_disk


def _proposal(stem: str, disks: list[str], names: set[str]) -> Proposal:
    wanted = name = name_from_stem(stem)
    number = 2
    while name in names:
        name, number = f"{wanted[:76]}-{number}", number + 1
    names.add(name)
    return Proposal(name, tuple(disks))
