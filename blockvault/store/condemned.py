"""What is about to be deleted: `main/condemned/` (R10).

    <object>.<round>    a marker: this object, or these slots of a pack, are condemned; both 32 hexadecimal digits
    <round>.round       which leases were alive when the last marker of a round was durable

An object is deleted only when every lease of its round is gone and it was found unneeded once more. Why that is
safe: whoever works holds a lease first and looks at the markers later, before it commits (R8); reclaim makes its
markers first and looks at the leases later. So of any two either the worker sees the marker and refers to nothing
under it, or reclaim sees the lease and waits.

Invariant: a marker that cannot be read condemns the whole object for a writer, and nothing for reclaim.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.clock import to_text
from blockvault.errors import CorruptionError, NotFoundError, UnsupportedError
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, damaged, seal_record, unseal_record
from blockvault.format.tables import SLOTS_MAX
from blockvault.ids import PackName
from blockvault.model import VaultKeys
from blockvault.store.local import LocalStore

CONDEMNED_FOLDER = "main/condemned"
_MARKER = re.compile(r"^([0-9a-f]{32})\.([0-9a-f]{32})\Z")
_ROUND = re.compile(r"^([0-9a-f]{32})\.round\Z")


@dataclass(frozen=True, slots=True)
class Marker:
    """One marker. `slots` (pack slots, ascending) is None for a whole object; `readable` False: nobody knows."""

    name: str  # of the marker
    key: str  # of the object: a pack's or a layer's name, 32 hexadecimal digits
    round: str
    object: str = ""  # full name of a layer; for a pack all of its generations are meant
    slots: NDArray[np.int64] | None = None
    readable: bool = True


@dataclass(slots=True)
class Condemned:
    """All markers of a vault at one look, as a writer needs them."""

    whole: set[str] = field(default_factory=set)
    slots: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def hits(self, pack: PackName, slots: NDArray[np.int64]) -> bool:
        """Whether any of these slots of a pack is condemned."""
        key = pack.hex()
        if key in self.whole:
            return True
        marked = self.slots.get(key)
        return marked is not None and bool(np.isin(slots, marked).any())

    def __bool__(self) -> bool:
        return bool(self.whole or self.slots)


def look(store: LocalStore, keys: VaultKeys) -> Condemned:
    """What is condemned now."""
    found = Condemned()
    for marker in markers(store, keys):
        if marker.slots is None:
            found.whole.add(marker.key)
        elif marker.key in found.slots:
            found.slots[marker.key] = np.union1d(found.slots[marker.key], marker.slots)
        else:
            found.slots[marker.key] = marker.slots
    return found


def markers(store: LocalStore, keys: VaultKeys) -> list[Marker]:
    """All markers, in order of name."""
    found = []
    for entry in sorted(store.entries(CONDEMNED_FOLDER)):
        match = _MARKER.match(entry)
        if not match:
            continue
        name, key, in_round = f"{CONDEMNED_FOLDER}/{entry}", match[1], match[2]
        try:
            body, _ = unseal_record(keys, Kind.CONDEMNED, name, store.read(name))
            told: records.CondemnedBody = records.decode(name, body, records.CondemnedBody)
            if any(first + count > SLOTS_MAX for first, count in told.slots or ()):
                raise damaged(name, "it names slots that no pack can have")
        except NotFoundError:
            continue
        except (CorruptionError, UnsupportedError):
            found.append(Marker(name, key, in_round, readable=False))
            continue
        slots = None
        if told.slots is not None:
            parts = [np.arange(first, first + count, dtype=np.int64) for first, count in told.slots]
            slots = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        found.append(Marker(name, key, in_round, told.object, slots))
    return found


def condemn(
    store: LocalStore,
    keys: VaultKeys,
    *,
    key: str,
    name: str,
    slots: NDArray[np.int64] | None,
    in_round: str,
    now: datetime,
) -> Marker:
    """Make a marker, durable.

    Args:
        store: the vault's.
        keys: the vault's.
        key: name of the pack or layer, 32 hexadecimal digits.
        name: full name of the object, for people; of a pack the folder and the name.
        slots: (n,) ascending, or None for all of it.
        in_round: of this round of reclaim, 32 hexadecimal digits.
        now: the moment, for people.
    """
    marker = f"{CONDEMNED_FOLDER}/{key}.{in_round}"
    body = records.CondemnedBody(object=name, at=to_text(now), slots=None if slots is None else _rows(slots))
    data, _ = seal_record(keys, Kind.CONDEMNED, marker, records.encode(body))
    store.put_new(marker, data)
    reach("reclaim.condemned")
    return Marker(marker, key, in_round, name, slots)


def read_round(store: LocalStore, keys: VaultKeys, in_round: str) -> set[str] | None:
    """The leases that a round waits for; None: it was never closed, or that cannot be read."""
    name = f"{CONDEMNED_FOLDER}/{in_round}.round"
    try:
        body, _ = unseal_record(keys, Kind.CONDEMNED, name, store.read(name))
        told: records.RoundBody = records.decode(name, body, records.RoundBody)
    except (NotFoundError, CorruptionError, UnsupportedError):
        return None
    return set(told.leases)


def close_round(store: LocalStore, keys: VaultKeys, in_round: str, leases: set[str], now: datetime) -> None:
    """Write down which leases a round waits for. A record of it that cannot be read gives way."""
    name = f"{CONDEMNED_FOLDER}/{in_round}.round"
    store.delete(name)
    body = records.RoundBody(round=in_round, at=to_text(now), leases=sorted(leases))
    data, _ = seal_record(keys, Kind.CONDEMNED, name, records.encode(body))
    store.put_new(name, data)
    reach("reclaim.round")


def drop_closed_rounds(store: LocalStore) -> None:
    """Remove round records that no marker belongs to any more."""
    entries = store.entries(CONDEMNED_FOLDER)
    open_rounds = {match[2] for match in map(_MARKER.match, entries) if match}
    for match in map(_ROUND.match, entries):
        if match and match[1] not in open_rounds:
            store.delete(f"{CONDEMNED_FOLDER}/{match[0]}")


def _rows(slots: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending slots as rows (first, count)."""
    breaks = np.flatnonzero(np.diff(slots, prepend=slots[:1] - 2) != 1)
    ends = np.append(breaks[1:], len(slots))
    return [(int(slots[start]), int(end - start)) for start, end in zip(breaks.tolist(), ends.tolist(), strict=True)]
