"""Which disks the items of this host's vaults have: asked across vaults, without opening the others.

    <state>/hosts/<vault id>/items.json

A vault may be encrypted, or on a disk that is not plugged in; so the host keeps, beside its other state of each vault,
what its items are called and where their disks lie. It is brought up when the vault is opened and when an item is
registered, and made anew from the vault's records: losing it costs a warning that is not given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from blockvault.errors import BlockVaultError
from blockvault.format import jsontext
from blockvault.model import DiskSpec, Item
from blockvault.store.folder import read_header
from blockvault.store.local import replace_file

FILE = "items.json"
FILE_BYTES_MAX = 64 << 20


class RegisteredBody(msgspec.Struct, frozen=True):
    """What stands in the file. `revisions` are the item records that it was made from."""

    vault: str
    path: str
    revisions: list[str]
    items: list[tuple[str, list[tuple[str, str]]]]


@dataclass(frozen=True, slots=True)
class RegisteredItem:
    """An item of some vault of this host. `vault_is_there`: the vault's folder is, now."""

    vault: str
    vault_id: str
    vault_path: str
    vault_is_there: bool
    item: str
    disks: tuple[DiskSpec, ...]


def note_items(folder: str, vault: str, path: str, revisions: list[str], items: Callable[[], Iterable[Item]]) -> None:
    """Bring the file up, if what it was made from is another list of records. Raises `DeviceError`."""
    before = _read(folder)
    if before is not None and (before.vault, before.path, before.revisions) == (vault, path, revisions):
        return
    rows = [(item.name, [(disk.name, disk.path) for disk in item.disks]) for item in items()]
    replace_file(os.path.join(folder, FILE), jsontext.encode(RegisteredBody(vault, path, revisions, rows)))


def registered_items(state_dir: str, *, except_vault: str = "") -> list[RegisteredItem]:
    """Items of all vaults that this host has worked with, but for vaults that another one has taken the place of."""
    top = os.path.join(state_dir, "hosts")
    try:
        vault_ids = sorted(os.listdir(top))
    except OSError:
        return []
    found = []
    for vault_id in vault_ids:
        body = _read(os.path.join(top, vault_id)) if vault_id != except_vault else None
        if body is None:
            continue
        is_there = _is_vault(body.path, vault_id)
        if is_there is None:
            continue
        for name, disks in body.items:
            specs = tuple(DiskSpec(disk, path) for disk, path in disks)
            found.append(RegisteredItem(body.vault, vault_id, body.path, is_there, name, specs))
    return found


def _read(folder: str) -> RegisteredBody | None:
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            body: RegisteredBody = jsontext.decode(file.read(FILE_BYTES_MAX), RegisteredBody)
            return body
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_vault(path: str, vault_id: str) -> bool | None:
    """Whether the vault is in its folder; None: there is another one."""
    try:
        return True if read_header(path).vault_id == vault_id else None
    except BlockVaultError:
        return False
