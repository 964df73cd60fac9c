"""Records of a vault: points, marks and items, read through the catalog and brought up to the objects.

The objects are the truth (D7b). A record is create-only, so a name that the catalog has seen never changes: bringing
it up is one listing of each folder and reading what is new. A record that cannot be read is reported by name in
`damage` and never hides another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    CorruptionError,
    DeviceError,
    InternalError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record, write_id_of
from blockvault.ids import OriginId, random_name
from blockvault.model import Item, Mark, MarkKind, Point, PointRef, PointState, VaultKeys, state_of
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
    Kind.QUARANTINE: ("main/quarantine", _HEX, "0|[1-9][0-9]{0,6}|all"),
}
MARK_TRIES = 20
_UNMARKED = state_of([])  # most points have no marks, and each is asked often


def record_names(store: LocalStore, kind: Kind) -> list[str]:
    """The names of all records of a kind, in order. What fits no name of the format is not part of the vault."""
    folder, *parts = _NAMES[kind]
    names = [folder]
    for part in parts:
        fits = re.compile(part).fullmatch
        names = [f"{name}/{entry}" for name in names for entry in store.entries(name) if fits(entry)]
    return sorted(names)


def point_object(ref: PointRef) -> str:
    """The object's name of a point's record."""
    return f"points/{ref.origin}/{ref.number:010d}"


def ref_of(name: str) -> PointRef:
    """The point of a record's object name."""
    _, origin, number = name.split("/")
    return PointRef(OriginId(origin), int(number))


def _in_order(marks: dict[int, Mark | None]) -> list[Mark | None]:
    """Marks from the first to the last; None also for one that is missing among them."""
    return [marks.get(sequence) for sequence in range(1, max(marks, default=0) + 1)]


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


def _decode_point(name: str, body: bytes, tag: bytes) -> Point:
    point = records.point_from_body(name, records.decode(name, body, records.PointBody), tag)
    if point_object(point.ref) != name:
        raise CorruptionError("vault.object-damaged", name, why="its record names another point")
    return point


def _decode_mark(name: str, body: bytes, _tag: bytes) -> Mark:
    return records.mark_from_body(name, records.decode(name, body, records.MarkBody))


def _decode_item(name: str, body: bytes, _tag: bytes) -> Item:
    item = records.item_from_body(name, records.decode(name, body, records.ItemBody))
    if f"items/{item.id}/{item.revision:06d}" != name:
        raise CorruptionError("vault.object-damaged", name, why="its record names another item")
    return item


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
        self.copy_refused: DeviceError | None = None  # why LMDB could not be brought up, as of the last time
        self._points: dict[PointRef, Point] = {}
        self._marks: dict[PointRef, dict[int, Mark | None]] = {}  # by sequence; None: it cannot be read
        self._items: dict[str, Item] = {}
        self._decoded: dict[str, Point | Mark | Item] = {}  # what was read well, by name
        self.refresh()

    def refresh(self) -> None:
        """Bring everything up to the objects. What was decoded before, and LMDB still has, is not decoded again."""
        self.damage.clear()
        before, self._decoded = self._decoded, {}
        self._points = {}
        for found in self._read_all("points", Kind.POINT, before, _decode_point).values():
            assert isinstance(found, Point)
            self._points[found.ref] = found
        self._marks = {}
        marks = self._read_all("marks", Kind.MARK, before, _decode_mark)
        for name in {*marks, *(name for name in self.damage if name.startswith("marks/"))}:
            _, origin, number, sequence = name.split("/")
            mark = marks.get(name)
            assert mark is None or isinstance(mark, Mark)
            self._marks.setdefault(PointRef(OriginId(origin), int(number)), {})[int(sequence)] = mark
        self._items = {}
        for _, found in sorted(self._read_all("items", Kind.ITEM, before, _decode_item).items()):
            assert isinstance(found, Item)
            self._items[found.id] = found  # later revisions replace earlier ones

    def _read_all(
        self,
        top: str,
        kind: Kind,
        before: dict[str, Point | Mark | Item],
        decode: Callable[[str, bytes, bytes], Point | Mark | Item],
    ) -> dict[str, Point | Mark | Item]:
        """The records of a kind, by name; what cannot be read goes into `damage`."""
        names = record_names(self._store, kind)
        cached = self._index.records(top) if self._index else {}
        fresh: dict[str, bytes] = {}
        found: dict[str, Point | Mark | Item] = {}
        for name in names:
            data = cached.get(name)
            if data is not None and name in before:
                found[name] = before[name]
                continue
            try:
                sealed: tuple[bytes, bytes] | None = None
                if data is not None:
                    try:
                        sealed = unseal_record(self._keys, kind, name, data)
                    except BlockVaultError:
                        pass  # LMDB's copy is bad; the object decides
                if sealed is None:
                    data = fresh[name] = self._store.read(name, limit=RECORD_BYTES_MAX)
                    sealed = unseal_record(self._keys, kind, name, data)
            except NotFoundError:
                continue
            except BlockVaultError as error:
                fresh.pop(name, None)
                self.damage[name] = DamagedRecord(name, error.why or error.message)
                continue
            try:
                found[name] = decode(name, *sealed)
            except CorruptionError as error:
                self.damage[name] = DamagedRecord(name, error.why or error.message)
        if self._index:
            try:
                self._index.change_records(fresh.items(), cached.keys() - set(names))
            except DeviceError as error:  # a full or failing disk: the copy stays behind, and the objects are the truth
                self.copy_refused = error
        self._decoded.update(found)
        return found

    def points(self) -> list[Point]:
        """Roots: points that are neither void nor purged, soft-deleted ones too, in order of number."""
        roots = [point for ref, point in self._points.items() if self.state(ref).is_root]
        return sorted(roots, key=lambda point: (point.ref.number, point.ref.origin))

    def ended(self) -> list[PointRef]:
        """Points with a record, readable or not, that are no roots any more: void or purged."""
        damaged = {ref_of(name) for name in self.damage if name.startswith("points/")}
        return sorted(ref for ref in {*self._points, *damaged} if not self.state(ref).is_root)

    def point(self, ref: PointRef) -> Point | None:
        """A root, or None."""
        return self._points.get(ref) if self.state(ref).is_root else None

    def record(self, ref: PointRef) -> Point | None:
        """A point's record, whether it is a root or not."""
        return self._points.get(ref)

    def state(self, ref: PointRef) -> PointState:
        """What the marks of a point come to, as of the last look."""
        marks = self._marks.get(ref)
        return state_of(_in_order(marks)) if marks else _UNMARKED

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
        """Whether a point's record is still there, the same, and a root (R8)."""
        self.refresh()
        return self.stands(ref, digest) and self.state(ref).is_root

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

    def put_mark(self, ref: PointRef, mark: Mark, check: Callable[[PointState], None] | None = None) -> PointState:
        """Create the next mark of a point; returns the state after it.

        Marks are read again from the objects, `check` may refuse the state that they come to, and the mark takes
        exactly the next sequence: whatever was said in between makes it fail, and all of that is done again; but a
        purge is then given up, for what was said may have been a hold (R19).

        Raises:
            ConflictError: others made marks meanwhile (`point.marked-meanwhile`).
            BlockVaultError: what `check` raised.
        """
        folder = f"marks/{ref.origin}/{ref.number:010d}"
        for _ in range(MARK_TRIES):
            known = self._read_marks(folder)
            if check is not None:
                check(state_of(_in_order(known)))
            sequence = max(known, default=0) + 1
            check_number(sequence, 6, folder)
            try:
                self._create(Kind.MARK, f"{folder}/{sequence:06d}", records.encode(records.mark_to_body(mark)))
            except AlreadyExistsError:
                if mark.kind == MarkKind.PURGE:
                    break
                continue
            reach("mark.made")
            known[sequence] = mark
            self._marks[ref] = known
            return state_of(_in_order(known))
        raise ConflictError(
            "point.marked-meanwhile",
            f"point {ref.number} was changed by another process at the same time",
            why="a mark was put on it while this one was being made",
            do="look at it with `blockvault point show` and run the command again",
        )

    def _read_marks(self, folder: str) -> dict[int, Mark | None]:
        """The marks of a point as they lie in the vault now, by sequence."""
        known: dict[int, Mark | None] = {}
        for entry in self._store.entries(folder):
            if not re.fullmatch("[0-9]{6}", entry):
                continue
            name = f"{folder}/{entry}"
            try:
                body, _ = unseal_record(self._keys, Kind.MARK, name, self._store.read(name))
                known[int(entry)] = records.mark_from_body(name, records.decode(name, body, records.MarkBody))
            except (CorruptionError, NotFoundError, UnsupportedError):
                known[int(entry)] = None
        return known

    def drop_record(self, ref: PointRef) -> None:
        """Delete the record of a point that is no root any more; its marks stay as tombstones (R12)."""
        if self.state(ref).is_root:
            raise InternalError("point.still-a-root", f"point {ref.number} is a root and its record stays")
        self._store.delete(point_object(ref))
        self._points.pop(ref, None)

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
