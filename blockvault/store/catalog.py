"""Records of a vault: points, marks and items, read through the catalog and brought up to the objects.

The objects are the truth (D7b). A record is create-only, so a name that the catalog has seen never changes: bringing
it up is one listing of each folder and reading what is new. A record that cannot be read is reported by name in
`damage` and never hides another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from blockvault.errors import AlreadyExistsError, BlockVaultError, CorruptionError, NotFoundError, UnsupportedError
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record, write_id_of
from blockvault.ids import OriginId, random_name
from blockvault.model import Item, Point, PointRef, VaultKeys
from blockvault.store.index import Index
from blockvault.store.local import LocalStore

RECORD_BYTES_MAX = 2 << 20
_HEX = "[0-9a-f]{32}"
_NAMES: dict[Kind, tuple[str, ...]] = {
    Kind.CONFIG: ("config", "[0-9]{6}"),
    Kind.ORIGIN: ("origins", _HEX),
    Kind.ITEM: ("items", _HEX, "[0-9]{6}"),
    Kind.POINT: ("points", _HEX, "[0-9]{10}"),
    Kind.MARK: ("marks", _HEX, "[0-9]{10}", "[0-9]{6}"),
    Kind.INDEX: ("main/index", _HEX, "[0-9]{10}"),
}


def record_names(store: LocalStore, kind: Kind) -> list[str]:
    """The names of all records of a kind, in order. What fits no name of the format is not part of the vault."""
    folder, *parts = _NAMES[kind]
    names = [folder]
    for part in parts:
        names = [f"{name}/{entry}" for name in names for entry in store.entries(name) if re.fullmatch(part, entry)]
    return sorted(names)


def point_object(ref: PointRef) -> str:
    """The object's name of a point's record."""
    return f"points/{ref.origin}/{ref.number:010d}"


def highest_number(store: LocalStore, folder: str, digits: int) -> int:
    """The highest number that names an object of a folder; 0 if there is none. Other files say nothing."""
    pattern = re.compile(f"[0-9]{{{digits}}}")
    return max((int(entry) for entry in store.entries(folder) if pattern.fullmatch(entry)), default=0)


def check_number(number: int, digits: int, folder: str) -> None:
    """Refuse a number that its name has no room for: no listing would show the object."""
    if number >= 10**digits:
        raise UnsupportedError(
            "vault.numbers-used-up",
            f"the vault has no number left in {folder}",
            why=f"numbers there have {digits} digits, and the highest that is named was taken",
            do="see who made the object with the highest number; a new vault begins at 1",
        )


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that cannot be read."""

    name: str
    reason: str


class Catalog:
    """Reads and writes records. Without an index (a vault on read-only media) it reads the objects each time."""

    def __init__(self, store: LocalStore, keys: VaultKeys, index: Index | None) -> None:
        self._store = store
        self._keys = keys
        self._index = index
        self.damage: dict[str, DamagedRecord] = {}
        self._points: dict[PointRef, Point] = {}
        self._marks: dict[PointRef, list[records.MarkBody]] = {}
        self._items: dict[str, Item] = {}
        self.refresh()

    def refresh(self) -> None:
        """Bring everything up to the objects."""
        self.damage.clear()
        self._points = {}
        for name, (body, tag) in self._bodies("points", Kind.POINT).items():
            try:
                point = records.point_from_body(name, records.decode(name, body, records.PointBody), tag)
                if point_object(point.ref) != name:
                    raise CorruptionError("vault.object-damaged", name, why="its record names another point")
                self._points[point.ref] = point
            except CorruptionError as error:
                self.damage[name] = DamagedRecord(name, error.why or error.message)
        self._marks = {}
        for name, (body, _) in sorted(self._bodies("marks", Kind.MARK).items()):
            _, origin, number, _ = name.split("/")
            try:
                mark = records.decode(name, body, records.MarkBody)
                self._marks.setdefault(PointRef(OriginId(origin), int(number)), []).append(mark)
            except CorruptionError as error:
                self.damage[name] = DamagedRecord(name, error.why or error.message)
        self._items = {}
        for name, (body, _) in sorted(self._bodies("items", Kind.ITEM).items()):
            try:
                item = records.item_from_body(name, records.decode(name, body, records.ItemBody))
                if f"items/{item.id}/{item.revision:06d}" != name:
                    raise CorruptionError("vault.object-damaged", name, why="its record names another item")
                self._items[item.id] = item  # later revisions replace earlier ones
            except CorruptionError as error:
                self.damage[name] = DamagedRecord(name, error.why or error.message)

    def _bodies(self, top: str, kind: Kind) -> dict[str, tuple[bytes, bytes]]:
        names = record_names(self._store, kind)
        cached = self._index.records(top) if self._index else {}
        fresh: dict[str, bytes] = {}
        bodies: dict[str, tuple[bytes, bytes]] = {}
        for name in names:
            try:
                data = cached.get(name)
                if data is not None:
                    try:
                        bodies[name] = unseal_record(self._keys, kind, name, data)
                        continue
                    except BlockVaultError:
                        pass  # LMDB's copy is bad; the object decides
                data = fresh[name] = self._store.read(name, limit=RECORD_BYTES_MAX)
                bodies[name] = unseal_record(self._keys, kind, name, data)
            except NotFoundError:
                continue
            except BlockVaultError as error:
                fresh.pop(name, None)
                self.damage[name] = DamagedRecord(name, error.why or error.message)
        if self._index:
            self._index.change_records(fresh.items(), cached.keys() - set(names))
        return bodies

    def points(self) -> list[Point]:
        """Points that count: not void, in order of number."""
        live = [point for ref, point in self._points.items() if not self.is_void(ref)]
        return sorted(live, key=lambda point: (point.ref.number, point.ref.origin))

    def point(self, ref: PointRef) -> Point | None:
        """A point that counts, or None."""
        return None if self.is_void(ref) else self._points.get(ref)

    def is_void(self, ref: PointRef) -> bool:
        """Whether a `void` mark took the point back (R8)."""
        return any(mark.kind == "void" for mark in self._marks.get(ref, ()))

    def newest_numbers(self) -> dict[str, int]:
        """Highest number seen per origin, over records and marks, readable or not (R12)."""
        newest: dict[str, int] = {}
        for top in ("points", "marks"):
            for origin in self._store.entries(top):
                if re.fullmatch(_HEX, origin):
                    highest = highest_number(self._store, f"{top}/{origin}", 10)
                    newest[origin] = max(newest.get(origin, 0), highest)
        return newest

    def items(self) -> list[Item]:
        """Items in order of name."""
        return sorted(self._items.values(), key=lambda item: item.name)

    def item(self, item_id: str) -> Item | None:
        """The newest revision of an item."""
        return self._items.get(item_id)

    def check_parent(self, ref: PointRef, digest: bytes) -> bool:
        """Whether a point's record is still there, the same, and not void (R8)."""
        self.refresh()
        return self.stands(ref, digest) and not self.is_void(ref)

    def stands(self, ref: PointRef, digest: bytes) -> bool:
        """Whether a point's record lies in the vault whole and the same, whatever LMDB remembers of it."""
        name = point_object(ref)
        try:
            _, tag = unseal_record(self._keys, Kind.POINT, name, self._store.read(name))
        except (NotFoundError, CorruptionError):
            return False
        return tag == digest

    def commit_point(self, point: Point) -> bytes:
        """Create the point's record: the commit. Returns its digest.

        Raises:
            AlreadyExistsError: another writer made a record of this number (`point.exists`).
        """
        name = point_object(point.ref)
        check_number(point.number, 10, os.path.dirname(name))
        body = records.encode(records.point_to_body(point))
        digest = self._create(Kind.POINT, name, body)
        reach("transfer.committed")
        return digest

    def put_item(self, item: Item) -> None:
        """Create the next revision of an item's record."""
        check_number(item.revision, 6, f"items/{item.id}")
        name = f"items/{item.id}/{item.revision:06d}"
        self._create(Kind.ITEM, name, records.encode(records.item_to_body(item)))
        self._items[item.id] = item

    def put_mark(self, ref: PointRef, mark: records.MarkBody) -> None:
        """Create the next mark of a point."""
        folder = f"marks/{ref.origin}/{ref.number:010d}"
        sequence = highest_number(self._store, folder, 6) + 1
        check_number(sequence, 6, folder)
        self._create(Kind.MARK, f"{folder}/{sequence:06d}", records.encode(mark))
        self._marks.setdefault(ref, []).append(mark)

    def _create(self, kind: Kind, name: str, body: bytes) -> bytes:
        """Create-only with a write id: "already there" is success only if it is our own write (R7)."""
        write_id = random_name()
        data, digest = seal_record(self._keys, kind, name, body, write_id)
        try:
            self._store.put_new(name, data)
        except AlreadyExistsError:
            if write_id_of(self._store.read(name)) != write_id:
                raise
        return digest

    def remember(self, names: Iterable[str]) -> None:
        """Take records that were just created into the catalog."""
        if self._index:
            self._index.change_records([(name, self._store.read(name)) for name in names], ())
