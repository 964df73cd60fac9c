"""The vaults of this host as the daemon sees them: their protected items, with the policy of each.

A look costs a listing of the items' and policies' folders; a vault is opened again only when one of them has changed.
A vault that cannot be opened keeps what was known of it, and says why: its schedule is not forgotten because a disk
was away for an hour.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blockvault.errors import BlockVaultError
from blockvault.model import Protection
from blockvault.model.job import Problem
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from blockvault.ids import ItemId
    from blockvault.policy.policies import Policy

Signature = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Protected:
    """An item that a policy takes points of, since when it does."""

    item_id: ItemId
    item: str
    policy: Policy
    since: datetime
    group: str = ""


@dataclass(frozen=True, slots=True)
class VaultView:
    """A vault as of the last look. `problem`: why it could not be read then; its items are those of the look before."""

    name: str
    vault_id: str
    path: str
    items: tuple[Protected, ...] = ()
    problem: Problem | None = None


class Vaults:
    """Looks at the vaults that this host knows by name.

    Args:
        state_dir: the host's state folder.
        open_vault: opens a vault by its name.
    """

    def __init__(self, state_dir: str, open_vault: Callable[[str], AbstractContextManager[Vault]]) -> None:
        self._state_dir = state_dir
        self._open = open_vault
        self._views: dict[str, VaultView] = {}
        self._signatures: dict[str, Signature] = {}

    def look(self) -> list[VaultView]:
        """The vaults, by name."""
        names = set()
        for summary in Vault.known(self._state_dir):
            names.add(summary.name)
            known = self._views.get(summary.name, VaultView(summary.name, summary.id, summary.path))
            if summary.error:
                self._views[summary.name] = replace(known, problem=Problem("vault.unreadable", summary.error))
                continue
            try:
                signature = _signature(summary.path)
                if known.problem is None and self._signatures.get(summary.name) == signature:
                    continue
                with self._open(summary.name) as vault:
                    items, problem = _protected(vault)
                self._views[summary.name] = VaultView(summary.name, summary.id, summary.path, items, problem)
                self._signatures[summary.name] = signature
            except (BlockVaultError, OSError) as error:
                self._views[summary.name] = replace(known, problem=_problem_of(error))
        for name in self._views.keys() - names:
            del self._views[name]
            self._signatures.pop(name, None)
        return [self._views[name] for name in sorted(self._views)]


def _protected(vault: Vault) -> tuple[tuple[Protected, ...], Problem | None]:
    """The items that a policy takes points of; and why it is not known of some, if so."""
    found: list[Protected] = []
    problem = None
    for item in vault.items():
        if item.protection is not Protection.PROTECTED:
            continue
        try:
            policy = vault.policy_of(item)
        except BlockVaultError as error:
            problem = _problem_of(error)
            continue
        if policy is not None:
            since = item.protected_since or item.created
            found.append(Protected(item.id, item.name, policy, since, item.group))
    return tuple(found), problem


def _problem_of(error: BlockVaultError | OSError) -> Problem:
    if isinstance(error, BlockVaultError):
        return Problem.of(error)
    return Problem("vault.unreadable", str(error))


def _signature(path: str) -> Signature:
    """What changes when a record of an item or a policy is made: each has a folder of revisions."""
    found = []
    for top in ("items", "policies"):
        folder = os.path.join(path, top)
        try:
            with os.scandir(folder) as entries:
                found += [(f"{top}/{entry.name}", entry.stat().st_mtime_ns) for entry in entries]
        except FileNotFoundError:
            continue
    return tuple(sorted(found))
