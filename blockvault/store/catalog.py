"""Records of a vault: points, marks, items and policies, read through the catalog and brought up to the objects.

The objects are the truth (D7b). A record is create-only, so a name that the catalog has seen never changes: bringing
it up is one listing of each folder and reading what is new. What LMDB has is decoded when it is asked for: one record,
or all; what is asked of all points at once has a short form there (`store/briefs.py`). A record that cannot be read is
reported by name in `damage`, as soon as somebody asks for it, and never hides another.
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
from blockvault.format.envelope import Kind, damaged, seal_record, unseal_record, write_id_of
from blockvault.ids import OriginId, random_name
from blockvault.model import Item, Mark, MarkKind, Point, PointBrief, PointRef, PointState, VaultKeys, state_of
from blockvault.policy.policies import PolicyRevision
from blockvault.store.briefs import changed_blocks, read_blocks
from blockvault.store.index import Index
from blockvault.store.local import LocalStore

RECORD_BYTES_MAX = 2 << 20
_HEX = "[0-9a-f]{32}"
_NAMES: dict[Kind, tuple[str, ...]] = {
    Kind.CONFIG: ("config", "[0-9]{6}"),
    Kind.ORIGIN: ("origins", _HEX),
    Kind.ITEM: ("items", _HEX, "[0-9]{6}"),
    Kind.POLICY: ("policies", "[A-Za-z][A-Za-z0-9-]{1,49}", "[0-9]{6}"),
    Kind.POINT: ("points", _HEX, "[0-9]{10}"),
    Kind.MARK: ("marks", _HEX, "[0-9]{10}", "[0-9]{6}"),
    Kind.INDEX: ("main/index", _HEX, "[0-9]{10}"),
    Kind.QUARANTINE: ("main/quarantine", _HEX, "0|[1-9][0-9]{0,6}|all"),
}
COPIED_KINDS = (Kind.MARK, Kind.POINT, Kind.ITEM, Kind.POLICY)  # LMDB has copies of these; marks are mended first
MARK_TRIES = 20
_UNMARKED = state_of([])  # most points have no marks, and each is asked often


def folder_of(kind: Kind) -> str:
    """The folder in which the records of a kind lie."""
    return _NAMES[kind][0]


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


def _mark_folder(ref: PointRef) -> str:
    return f"marks/{ref.origin}/{ref.number:010d}"


def _in_order(marks: dict[int, Mark | None]) -> list[Mark | None]:
    """Marks from the first to the last; None also for one that is missing among them."""
    return [marks.get(sequence) for sequence in range(1, max(marks, default=0) + 1)]


def highest_number(store: LocalStore, folder: str, digits: int) -> int:
    """The highest number that names an object of a folder; 0 if there is none. Other files say nothing."""
    pattern = re.compile(f"[0-9]{{{digits}}}")
    return int(max(filter(pattern.fullmatch, store.entries(folder)), default=0))


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


def _decode_policy(name: str, body: bytes, _tag: bytes) -> PolicyRevision:
    found = records.policy_from_body(name, records.decode(name, body, records.PolicyBody))
    if policy_object(found.policy.name, found.policy.revision) != name:
        raise CorruptionError("vault.object-damaged", name, why="its record names another policy")
    return found


def policy_object(name: str, revision: int) -> str:
    """The object's name of a policy's revision."""
    return f"policies/{name}/{revision:06d}"


_DECODERS: dict[Kind, Callable[[str, bytes, bytes], Point | Mark | Item | PolicyRevision]] = {
    Kind.POINT: _decode_point,
    Kind.MARK: _decode_mark,
    Kind.ITEM: _decode_item,
    Kind.POLICY: _decode_policy,
}


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
        self.damage: dict[str, DamagedRecord] = {}  # as met since the last look; `read_all` meets all
        self.copy_refused: DeviceError | None = None  # why LMDB could not be brought up, as of the last time
        self._names: dict[Kind, set[str]] = {kind: set() for kind in _DECODERS}  # what is there, as of the last look
        self._decoded: dict[str, Point | Mark | Item | PolicyRevision] = {}  # what was read well, by name
        self._briefs: dict[str, PointBrief] | None = None  # by name of the record; None: nobody has asked yet
        self._mark_names: dict[PointRef, dict[int, str]] = {}
        self._marks: dict[PointRef, dict[int, Mark | None]] = {}  # by sequence; None: it cannot be read
        self._item_names: dict[str, list[str]] = {}  # newest first
        self._items: dict[str, Item] = {}
        self._policy_names: dict[str, str] = {}  # of the newest revision, readable or not, by the policy's name
        self.refresh()

    # --- looking -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """See which records there are, and take what is new into LMDB; nothing else is read or decoded."""
        self.damage.clear()
        for kind in _DECODERS:
            self._look(kind)
        self._marks, self._mark_names = {}, {}
        for name in self._names[Kind.MARK]:
            _, origin, number, sequence = name.split("/")
            self._mark_names.setdefault(PointRef(OriginId(origin), int(number)), {})[int(sequence)] = name
        self._name_settings()

    def refresh_settings(self) -> None:
        """The same for items and policies alone, which costs little however many points there are."""
        for kind in (Kind.ITEM, Kind.POLICY):
            for name in self._names[kind]:
                self.damage.pop(name, None)
            self._look(kind)
        self._name_settings()

    def _name_settings(self) -> None:
        self._items, self._item_names = {}, {}
        for name in sorted(self._names[Kind.ITEM], reverse=True):
            self._item_names.setdefault(name.split("/")[1], []).append(name)
        self._policy_names = {name.split("/")[1]: name for name in sorted(self._names[Kind.POLICY])}

    def _look(self, kind: Kind) -> None:
        top = _NAMES[kind][0]
        there = set(record_names(self._store, kind))
        copied = self._index.record_names(top) if self._index else set()
        for name in (self._names[kind] & self._decoded.keys()) - (there & copied):
            del self._decoded[name]  # gone, or the object decides anew
        self._names[kind] = there
        if self._index is None:
            return
        fresh: dict[str, bytes] = {}
        for name in sorted(there - copied):
            data = self._take(kind, name, None)
            if data is not None:
                fresh[name] = data
        self._keep(fresh, copied - there)

    def _keep(self, fresh: dict[str, bytes], gone: set[str]) -> None:
        """`_put`, as far as it can be: the objects are the truth."""
        try:
            self._put(fresh, [found for name in fresh if isinstance(found := self._decoded.get(name), Point)], gone)
        except DeviceError as error:  # a full or failing disk: the copy stays behind
            self.copy_refused = error

    def _put(self, fresh: dict[str, bytes], points: Iterable[Point], gone: set[str]) -> None:
        """Bring LMDB up: records that are new, briefs of points, and names that are gone."""
        briefs = [point.brief for point in points]
        self._learn(briefs)
        if self._index is not None and (fresh or briefs or gone):
            ended = [ref_of(name) for name in gone if name.startswith("points/")]
            put, drop = changed_blocks(self._keys, self._index, briefs, ended)
            self._index.change_records([*fresh.items(), *put.items()], [*gone, *drop])

    def _take(self, kind: Kind, name: str, copy: bytes | None) -> bytes | None:
        """Decode a record into what is known: LMDB's copy, or the object, which decides where that is bad.

        Returns the object's bytes if they were read and are whole. What cannot be read goes into `damage`.
        """
        sealed: tuple[bytes, bytes] | None = None
        data: bytes | None = None
        if copy is not None:
            try:
                sealed = unseal_record(self._keys, kind, name, copy)
            except BlockVaultError:
                pass
        try:
            if sealed is None:
                data = self._store.read(name, limit=RECORD_BYTES_MAX)
                sealed = unseal_record(self._keys, kind, name, data)
            self._decoded[name] = _DECODERS[kind](name, *sealed)
        except NotFoundError:
            return None
        except BlockVaultError as error:
            self.damage[name] = DamagedRecord(name, error.why or error.message)
            return None
        return data

    def _read(self, kind: Kind, names: Iterable[str]) -> None:
        """Decode these records, as far as they are not and can be."""
        wanted = [name for name in names if name not in self._decoded and name not in self.damage]
        if not wanted:
            return
        copies = self._index.records_named(wanted) if self._index else {}
        mended: dict[str, bytes] = {}
        for name in wanted:
            copy = copies.get(name)
            data = self._take(kind, name, copy)
            if copy is not None and data is not None:
                mended[name] = data
        self._keep(mended, set())

    def read(self, refs: Iterable[PointRef]) -> None:
        """Decode the records of these points, all in one go."""
        self._read(Kind.POINT, self._names[Kind.POINT].intersection(point_object(ref) for ref in refs))

    def read_all(self) -> None:
        """Decode every record, so that `damage` has all that cannot be read."""
        for kind, names in self._names.items():
            self._read(kind, sorted(names))

    # --- points ------------------------------------------------------------------------------------------------

    def _ended(self) -> dict[str, PointRef]:
        """Points with a record, readable or not, that are no roots any more, by its name."""
        names = self._names[Kind.POINT]
        marked = ((point_object(ref), ref) for ref in self._mark_names)
        return {name: ref for name, ref in marked if name in names and not self.state(ref).is_root}

    def points(self) -> list[Point]:
        """Roots that can be read: points that are neither void nor purged, soft-deleted ones too, in order of number.

        Every one's record is decoded: `briefs` costs less.
        """
        roots = self._names[Kind.POINT] - self._ended().keys()
        self._read(Kind.POINT, roots)
        found = [point for name in roots if isinstance(point := self._decoded.get(name), Point)]
        return sorted(found, key=lambda point: (point.ref.number, point.ref.origin))

    def briefs(self) -> list[PointBrief]:
        """Briefs of the same points, in no order. Only records whose briefs LMDB does not keep are decoded."""
        if self._briefs is None:
            self._briefs = {}
            self._learn(read_blocks(self._keys, self._index) if self._index else [])
        known = self._briefs
        roots = self._names[Kind.POINT] - self._ended().keys()
        missing = roots - known.keys()
        if missing:
            self._read(Kind.POINT, missing)
            try:
                self._put({}, [found for name in missing if isinstance(found := self._decoded.get(name), Point)], set())
            except DeviceError as error:
                self.copy_refused = error
        return [known[name] for name in roots if name in known]

    def _learn(self, briefs: Iterable[PointBrief]) -> None:
        if self._briefs is not None:
            self._briefs.update((f"points/{brief.origin}/{brief.number:010d}", brief) for brief in briefs)

    def ended(self) -> list[PointRef]:
        """Points with a record, readable or not, that are no roots any more: void or purged."""
        return sorted(self._ended().values())

    def point(self, ref: PointRef) -> Point | None:
        """A root, or None."""
        return self.record(ref) if self.state(ref).is_root else None

    def record(self, ref: PointRef) -> Point | None:
        """A point's record, whether it is a root or not; None if there is none, or it cannot be read."""
        name = point_object(ref)
        if name not in self._names[Kind.POINT]:
            return None
        self._read(Kind.POINT, [name])
        found = self._decoded.get(name)
        assert found is None or isinstance(found, Point)
        return found

    def state(self, ref: PointRef) -> PointState:
        """What the marks of a point come to, as of the last look."""
        marks = self._marks.get(ref)
        if marks is None:
            names = self._mark_names.get(ref)
            if not names:
                return _UNMARKED
            self._read(Kind.MARK, names.values())
            marks = {}
            for sequence, name in names.items():
                mark = self._decoded.get(name)
                assert mark is None or isinstance(mark, Mark)
                if mark is not None or name in self.damage:
                    marks[sequence] = mark
            self._marks[ref] = marks
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
        """Items in order of name, but for those that were removed."""
        self._read(Kind.ITEM, [names[0] for item_id, names in self._item_names.items() if item_id not in self._items])
        found = [self.item(item_id) for item_id in {*self._item_names, *self._items}]
        return sorted((item for item in found if item is not None and not item.removed), key=lambda item: item.name)

    def item_revisions(self) -> list[str]:
        """Names of the newest records of all items: another list tells that some item was changed."""
        return sorted(names[0] for names in self._item_names.values())

    def removed_since(self, item: Item) -> bool:
        """Whether a later revision of an item's record says that it was removed: for this item it is looked anew."""
        if highest_number(self._store, f"items/{item.id}", 6) <= item.revision:
            return False
        self.refresh()
        known = self.item(item.id)
        return known is not None and known.removed

    def item(self, item_id: str) -> Item | None:
        """The newest revision of an item that can be read, also of one that was removed."""
        known = self._items.get(item_id)
        for name in self._item_names.get(item_id, []) if known is None else []:
            self._read(Kind.ITEM, [name])
            found = self._decoded.get(name)
            if isinstance(found, Item):
                known = self._items[item_id] = found
                break
        return known

    # --- policies ----------------------------------------------------------------------------------------------

    def policies(self) -> list[PolicyRevision]:
        """The newest revision of each policy that is not deleted and can be read, in order of name."""
        self._read(Kind.POLICY, self._policy_names.values())
        found = [self._decoded.get(name) for name in self._policy_names.values()]
        there = [one for one in found if isinstance(one, PolicyRevision) and not one.deleted]
        return sorted(there, key=lambda one: one.policy.name)

    def policy(self, name: str) -> PolicyRevision | None:
        """The newest revision of a policy, one that says it is deleted too; None if there is none.

        An earlier one never stands in for a newest that cannot be read: its rules may expire what this one keeps.

        Raises:
            CorruptionError: it cannot be read (`vault.object-damaged`).
        """
        newest = self._policy_names.get(name)
        if newest is None:
            return None
        self._read(Kind.POLICY, [newest])
        found = self._decoded.get(newest)
        if not isinstance(found, PolicyRevision):
            raise damaged(newest, self.damage[newest].reason if newest in self.damage else "it is gone")
        return found

    def next_policy_revision(self, name: str) -> int:
        """The number of the revision after the newest, readable or not."""
        newest = self._policy_names.get(name)
        return 0 if newest is None else int(newest.rpartition("/")[2]) + 1

    def policy_names(self) -> list[str]:
        """Names of all policies that ever were, deleted and unreadable ones too."""
        return sorted(self._policy_names)

    def put_policy(self, revision: PolicyRevision) -> None:
        """Create a revision of a policy's record. Raises `AlreadyExistsError` where another writer was faster."""
        name = policy_object(revision.policy.name, revision.policy.revision)
        check_number(revision.policy.revision, 6, f"policies/{revision.policy.name}")
        self._create(Kind.POLICY, name, records.encode(records.policy_to_body(revision)))
        self._decoded[name] = revision
        self._names[Kind.POLICY].add(name)
        self._policy_names[revision.policy.name] = name

    def check_parent(self, ref: PointRef, digest: bytes) -> bool:
        """Whether a point's record is still there, the same, and a root (R8): of this point alone it is looked anew."""
        folder = _mark_folder(ref)
        names = {int(entry): f"{folder}/{entry}" for entry in self._mark_entries(folder)}
        for name in names.values():
            self.damage.pop(name, None)
        self._mark_names[ref] = names
        self._marks.pop(ref, None)
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
        self._item_names.setdefault(item.id, []).insert(0, name)
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
        folder = _mark_folder(ref)
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
        for entry in self._mark_entries(folder):
            name = f"{folder}/{entry}"
            try:
                body, _ = unseal_record(self._keys, Kind.MARK, name, self._store.read(name))
                known[int(entry)] = records.mark_from_body(name, records.decode(name, body, records.MarkBody))
            except (CorruptionError, NotFoundError, UnsupportedError):
                known[int(entry)] = None
        return known

    def _mark_entries(self, folder: str) -> list[str]:
        return [entry for entry in self._store.entries(folder) if re.fullmatch("[0-9]{6}", entry)]

    def drop_record(self, ref: PointRef) -> None:
        """Delete the record of a point that is no root any more; its marks stay as tombstones (R12)."""
        if self.state(ref).is_root:
            raise InternalError("point.still-a-root", f"point {ref.number} is a root and its record stays")
        self._store.delete(point_object(ref))
        self._names[Kind.POINT].discard(point_object(ref))

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

    def remember(self, point: Point) -> None:
        """Take a point that was just committed into LMDB."""
        name = point_object(point.ref)
        self._put({name: self._store.read(name)}, [point], set())
