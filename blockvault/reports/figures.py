"""What was found of each vault at the last look, and one sample a day of its size: `<state>/figures.json`.

Metrics are asked for every minute and must be cheap; a vault is opened at most once in `LOOK_AGAIN` for them. Between
two looks its figures are those of the last one, and what jobs do meanwhile comes from the journal. Samples are what
`report capacity` reckons growth from.

Invariants:
- The file is replaced whole or not at all, by one process at a time.
- It is a memory of what can be found again, but for the samples: where it is damaged a new one is begun, and growth is
  told again after some days.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from blockvault.errors import BlockVaultError
from blockvault.format import jsontext
from blockvault.reports.capacity import Sample
from blockvault.reports.facts import gather
from blockvault.reports.rpo import target_of
from blockvault.store.local import replace_file
from blockvault.store.locks import FileLock
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from blockvault.reports.facts import VaultFacts

FILE = "figures.json"
LOOK_AGAIN = timedelta(hours=1)
SAMPLES_MAX = 400
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ItemFigures:
    """An item. `rpo_seconds`: how old its newest vault point may be; None without a policy that takes points."""

    item_id: str
    item: str
    newest: datetime | None
    rpo_seconds: float | None
    vault_points: int
    snapshots: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class VaultFigures:
    """A vault as of `at`. Where it could not be read then, its figures are older ones, and `problem` says why."""

    vault: str
    vault_id: str
    at: datetime
    stored_bytes: int = 0
    logical_bytes: int = 0
    free_bytes: int = 0
    newest_verified: datetime | None = None
    items: tuple[ItemFigures, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """All of them. `samples` by the vault's id, oldest first."""

    vaults: tuple[VaultFigures, ...] = ()
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)


def read_figures(state_dir: str) -> Figures:
    """As they were written last; none where there are none, or where the file is damaged."""
    try:
        with open(os.path.join(state_dir, FILE), "rb") as file:
            found: Figures = jsontext.decode(file.read(), Figures)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return Figures()
    return found


def look(
    state_dir: str,
    open_vault: Callable[[str], AbstractContextManager[Vault]],
    now: datetime,
    factor: float,
    *,
    anew: bool = False,
) -> Figures:
    """The figures of all vaults of this host; those that are older than `LOOK_AGAIN` are found anew and written.

    Args:
        state_dir: the host's state folder.
        open_vault: opens a vault by its name.
        now: the moment.
        factor: of RPO targets.
        anew: however new they are.
    """
    names = [summary.name for summary in Vault.known(state_dir)]
    known = read_figures(state_dir)
    stale = [name for name in names if anew or _is_stale(known, name, now)]
    if not stale and {each.vault for each in known.vaults} <= set(names):
        return known
    found = {each.vault: each for each in known.vaults if each.vault in names}
    facts = gather(state_dir, open_vault, now, stale)
    for vault in facts:
        found[vault.name] = _figures(vault, found.get(vault.name), now, factor)
    made = Figures(tuple(found[name] for name in sorted(found)), with_samples(known.samples, facts, now))
    _write(state_dir, made, now)
    return made


def sampled(state_dir: str, vaults: Iterable[VaultFacts], now: datetime) -> dict[str, tuple[Sample, ...]]:
    """The samples of vaults, with one of today of those that were just read; it is kept for the next time."""
    known = read_figures(state_dir)
    samples = with_samples(known.samples, vaults, now)
    if samples != known.samples:
        _write(state_dir, replace(known, samples=samples), now)
    return samples


def _write(state_dir: str, figures: Figures, now: datetime) -> None:
    try:
        with FileLock(os.path.join(state_dir, "figures.lock"), kind="figures.locked", subject="figures", now=now):
            replace_file(os.path.join(state_dir, FILE), jsontext.encode(figures))
    except BlockVaultError:
        pass  # another process writes the same just now, or nothing can be written: they are found again next time


def with_samples(
    samples: dict[str, tuple[Sample, ...]], facts: Iterable[VaultFacts], now: datetime
) -> dict[str, tuple[Sample, ...]]:
    """The samples, with one of today of each vault that has none of today yet."""
    made = dict(samples)
    for vault in facts:
        if vault.problem or not vault.vault_id:
            continue
        before: Sequence[Sample] = [each for each in made.get(vault.vault_id, ()) if each.at <= now]
        if not before or before[-1].at.date() < now.date():
            before = [*before, Sample(now, vault.stored_bytes, vault.free_bytes)]
        made[vault.vault_id] = tuple(before[-SAMPLES_MAX:])
    return made


def _is_stale(known: Figures, name: str, now: datetime) -> bool:
    found = next((each for each in known.vaults if each.vault == name), None)
    return found is None or not found.at <= now < found.at + LOOK_AGAIN


def _figures(vault: VaultFacts, before: VaultFigures | None, now: datetime, factor: float) -> VaultFigures:
    if vault.problem:
        known = before or VaultFigures(vault.name, vault.vault_id, now)
        return replace(known, at=now, problem=vault.problem)
    items = []
    for item in vault.items:
        points = item.in_vault
        target = target_of(item.policy.schedule, factor) if item.policy is not None and item.is_protected else None
        items.append(
            ItemFigures(
                item_id=item.item_id,
                item=item.item,
                newest=points[-1].taken if points else None,
                rpo_seconds=target.total_seconds() if target is not None else None,
                vault_points=len(points),
                snapshots=sum(point.has_snapshot for point in item.points),
                disk_bytes=item.points[-1].size_bytes if item.points else 0,
            )
        )
    return VaultFigures(
        vault=vault.name,
        vault_id=vault.vault_id,
        at=now,
        stored_bytes=vault.stored_bytes,
        logical_bytes=sum(point.size_bytes for item in vault.items for point in item.in_vault),
        free_bytes=vault.free_bytes,
        newest_verified=vault.newest_verified,
        items=tuple(items),
    )
