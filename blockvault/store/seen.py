"""What this host has seen in a vault: so that a record that was there and is gone is found (R17).

A record is created once and never changed, so an older state of a vault differs from a newer one by names that are
missing. The host remembers names, not records: the numbers of the points of each origin, the newest mark of each point,
the newest revision of each item, of each policy and of the config. What vanished is told at every opening, until a job
that told of it has ended with a point.

Invariants:
- What was seen was there: the file is read before the vault is listed, so whatever another process of this host has
  added to it in between is listed too.
- Points are listed before marks: a point that was purged between the two has its `purge` mark listed.
- A point that a `purge` or `void` mark ended is not missed: reclaim takes its record away.
- The file is bounded: of what is too much the oldest is forgotten, which is then not watched any more.

It does not promise to find a vault that was put back to a state this host has never seen the end of.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import TypeVar

import msgspec

from blockvault.errors import BlockVaultError
from blockvault.format import records
from blockvault.format.envelope import Kind, unseal_record
from blockvault.ids import VAULT_NAME
from blockvault.model import VaultKeys
from blockvault.store.local import LocalStore

ENTRIES_MAX = 4096  # of ranges of numbers, of marks, of items and of policies, each
TOLD_MAX = 6
K = TypeVar("K", bound=Hashable)
_HEX = re.compile(r"[0-9a-f]{32}\Z")


class Seen(msgspec.Struct, frozen=True):
    """What stands in `seen.json`; numbers of points are ranges, first and last."""

    config: int = -1
    points: dict[str, list[tuple[int, int]]] = {}
    marks: dict[str, dict[int, int]] = {}  # origin -> number of the point -> sequence
    items: dict[str, int] = {}
    policies: dict[str, int] = {}


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _united(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted([*left, *right]):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _without(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is in `left` and not in `right`."""
    found = []
    for first, last in left:
        at = first
        for begin, end in right:
            if end < at or begin > last:
                continue
            if begin > at:
                found.append((at, begin - 1))
            at = max(at, end + 1)
        if at <= last:
            found.append((at, last))
    return found


def united(left: Seen, right: Seen) -> Seen:
    """Everything that either has seen, within the bounds."""
    points = {
        origin: _united(left.points.get(origin, []), right.points.get(origin, []))
        for origin in {*left.points, *right.points}
    }
    marks = {
        origin: _higher(left.marks.get(origin, {}), right.marks.get(origin, {}))
        for origin in {*left.marks, *right.marks}
    }
    items = _higher(left.items, right.items)
    policies = _higher(left.policies, right.policies)
    return _bounded(Seen(max(left.config, right.config), points, marks, items, policies))


def _higher(left: dict[K, int], right: dict[K, int]) -> dict[K, int]:
    return {key: max(left.get(key, -1), right.get(key, -1)) for key in {*left, *right}}


def _bounded(seen: Seen) -> Seen:
    ranges = sorted(((last, first, origin) for origin, rows in seen.points.items() for first, last in rows))
    marks = sorted((number, origin) for origin, rows in seen.marks.items() for number in rows)
    points: dict[str, list[tuple[int, int]]] = {}
    for last, first, origin in ranges[-ENTRIES_MAX:]:
        points.setdefault(origin, []).append((first, last))
    kept_marks: dict[str, dict[int, int]] = {}
    for number, origin in marks[-ENTRIES_MAX:]:
        kept_marks.setdefault(origin, {})[number] = seen.marks[origin][number]
    items = dict(sorted(seen.items.items())[-ENTRIES_MAX:])
    return Seen(
        seen.config,
        {origin: sorted(points[origin]) for origin in sorted(points)},
        {origin: dict(sorted(kept_marks[origin].items())) for origin in sorted(kept_marks)},
        items,
        dict(sorted(seen.policies.items())[-ENTRIES_MAX:]),
    )


class Watch:
    """Looks at a vault for what this host has seen in it before."""

    def __init__(self, store: LocalStore, keys: VaultKeys) -> None:
        self._store = store
        self._keys = keys

    def look(self) -> Seen:
        """What is there now."""
        points = {origin: _ranges(self._numbers(f"points/{origin}", 10)) for origin in self._names("points")}
        marks = {}
        for origin in self._names("marks"):
            found = {
                number: max(self._numbers(f"marks/{origin}/{number:010d}", 6), default=0)
                for number in self._numbers(f"marks/{origin}", 10)
            }
            marks[origin] = {number: newest for number, newest in found.items() if newest}
        items = {item: max(self._numbers(f"items/{item}", 6), default=-1) for item in self._names("items")}
        named = [entry for entry in self._store.entries("policies") if VAULT_NAME.match(entry)]
        policies = {policy: max(self._numbers(f"policies/{policy}", 6), default=-1) for policy in named}
        return _bounded(
            Seen(
                max(self._numbers("config", 6), default=-1),
                {origin: rows for origin, rows in points.items() if rows},
                {origin: rows for origin, rows in marks.items() if rows},
                {item: revision for item, revision in items.items() if revision >= 0},
                {policy: revision for policy, revision in policies.items() if revision >= 0},
            )
        )

    def _names(self, folder: str) -> list[str]:
        return [entry for entry in self._store.entries(folder) if _HEX.match(entry)]

    def _numbers(self, folder: str, digits: int) -> list[int]:
        return [int(entry) for entry in self._store.entries(folder) if entry.isdigit() and len(entry) == digits]

    def vanished(self, before: Seen, now: Seen) -> list[str]:
        """What was seen before and is gone, as names of objects; ranges of points in one."""
        gone = []
        if now.config < before.config:
            gone.append(f"config/{before.config:06d}")
        for item, revision in before.items.items():
            if now.items.get(item, -1) < revision:
                gone.append(f"items/{item}/{revision:06d}")
        for policy, revision in before.policies.items():
            if now.policies.get(policy, -1) < revision:
                gone.append(f"policies/{policy}/{revision:06d}")
        for origin, rows in before.points.items():
            missing = _without(rows, now.points.get(origin, []))
            numbers = [number for first, last in missing for number in range(first, last + 1)]
            for first, last in _ranges(number for number in numbers if not self._has_ended(origin, number)):
                gone.append(f"points/{origin}/{first:010d}" + (f" to {last:010d}" if last > first else ""))
        for origin, marks in before.marks.items():
            for number, sequence in marks.items():
                if now.marks.get(origin, {}).get(number, 0) < sequence:
                    gone.append(f"marks/{origin}/{number:010d}/{sequence:06d}")
        return gone

    def _has_ended(self, origin: str, number: int) -> bool:
        """Whether a mark says that the point's life has ended; one that cannot be read says nothing."""
        folder = f"marks/{origin}/{number:010d}"
        for sequence in sorted(self._numbers(folder, 6), reverse=True):
            name = f"{folder}/{sequence:06d}"
            try:
                body, _ = unseal_record(self._keys, Kind.MARK, name, self._store.read(name))
                if records.decode(name, body, records.MarkBody).kind in ("purge", "void"):
                    return True
            except BlockVaultError:
                continue
        return False


def told(gone: list[str]) -> str:
    """What vanished, in one line."""
    shown = ", ".join(gone[:TOLD_MAX])
    return shown + (f" and {len(gone) - TOLD_MAX} more" if len(gone) > TOLD_MAX else "")


def read_seen(path: str) -> Seen:
    """The file; an empty one if it is missing or not whole: then nothing is missed."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Seen)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Seen()
