"""The vault's LMDB store: the dedup index and the catalog. This module alone imports `lmdb` (D9).

Of the dedup index LMDB holds what came last, up to `LMDB_ENTRIES`. Beyond it all of that moves into a sorted segment
beside LMDB's files (`store/sorted_segments.py`), in one transaction: the file is written and durable, then it is listed
and `blocks` emptied, both by one commit. Younger segments are merged as they come, so that there are few.

Everything in it can be rebuilt from the vault's objects, and is, when it is lost, torn, or belongs to another folder:
the dedup index from the index segments, the catalog from the records. So nothing here is ever the only copy.

Databases (LMDB 0.9 data format, full sync):
    meta        b"identity" -> identity of the vault folder that it was made for
                b"sorted" -> names of the sorted segments (8 bytes each), the oldest first
    pack-name   u32 BE -> pack name (16 bytes), b"" where the pack was deleted;       pack-number   pack name -> u32 BE
    blocks      first 8 bytes of a block's id -> pack number u32 BE, slot u32 BE
    segments    "<origin>/<seq>" -> b"" (index segments that are in `blocks`)
    records     object name -> the object's bytes (points, marks, items), sealed as they lie in the vault;
                "briefs/<origin>/<block>" -> what is asked of all points, sealed (`store/briefs.py`)
    outlines    layer name -> outline, sealed (`store/outlines.py`)
    filled      object name of a pack's generation -> number of its blocks, u32 BE

A store is opened only if this host made it, in this folder: LMDB trusts its pages, and those of a stranger's file may
end the process (measured in `docs/hostile.md`). So the host notes in its own state which file it made, and whatever
else lies there is removed unopened and made anew.

Invariants: one environment a process, and one transaction at a time in it, because growing the map ends all others;
writes are sorted, so that each touches as few pages as it can, and bounded, because every page that is touched lies in
anonymous memory until the commit; the map grows when it is full; a committed transaction is durable before the call
returns. A pack's number is never given to another pack, because sorted segments go on naming it. Sorted segments are
written and listed under LMDB's writer lock alone; a file is removed when no commit lists it any more.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain, islice, takewhile
from typing import Any, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from blockvault.errors import DeviceError
from blockvault.failpoints import reach
from blockvault.format.index import prefixes_of
from blockvault.ids import LayerName, PackName
from blockvault.store.environment import DAMAGED, open_environment
from blockvault.store.local import check_plain, device_error, make_folders, open_plain, replace_file
from blockvault.store.locks import FileLock
from blockvault.store.sorted_segments import (
    NAME_BYTES,
    Entries,
    SortedSegment,
    UnusableError,
    ascending,
    merge,
    remove_unlisted,
    write_segment,
)

MAP_BYTES_START = 64 << 20
LMDB_ENTRIES = 1 << 20  # of blocks in LMDB: 64 MiB of file; with more each commit takes longer (ADR 0004)
SORTED_ENTRIES_MAX = 1 << 27  # in sorted segments: 2.4 GB, 8 TiB of full chunks; beyond it the oldest segment goes
MERGED_ENTRIES_MAX = SORTED_ENTRIES_MAX // 4  # in one segment: as much is lost at once where the bound is reached
MERGED_RATIO = 3  # a segment is merged with one so many times larger: each entry is written 5 times, files are 5
ENTRIES_AT_ONCE = 8192  # that a transaction adds: each dirties a page, and those lie in memory until its end
_PLACE = struct.Struct(">II")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
T = TypeVar("T")
Commit = tuple[list[PackName], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], str]


# What LMDB, or what is read out of it, says of pages that are not what was written.
_DAMAGED = (*DAMAGED, lmdb.BadValsizeError, lmdb.BadTxnError, struct.error, UnicodeDecodeError)


class Index:
    """One LMDB environment, opened for reading and writing.

    `rebuilt` says that it was begun anew, because it was lost, of another folder, or damaged: it is empty then, and
    whoever reads records from it reads them from the objects.
    """

    def __init__(self, folder: str, identity: str, *, now: datetime, note: str) -> None:
        self._folder = folder
        self._identity = identity
        self._now = now
        self._note = note
        self._lock = threading.RLock()
        self.rebuilt = False
        self._sorted: list[SortedSegment] = []  # the oldest first
        try:
            with self._opening():
                self._open_checked()
            self._read(self._sorted_of)  # one that is not usable is forgotten now, before what it held is looked for
        except BaseException:
            if hasattr(self, "_environment"):
                self._environment.close()  # or this process could never open it again
            raise

    def _opening(self) -> FileLock:
        """Held while it is opened or begun anew: two processes at once would remove it under each other."""
        return FileLock(
            f"{self._folder}.lock",
            kind="vault.locked",
            subject="the vault is being opened",
            now=self._now,
            wait_seconds=60,
        )

    def _made_here(self) -> str | None:
        """What tells the store that lies here from any other; None where there is none, or no plain files."""
        try:
            if not stat.S_ISDIR(os.lstat(self._folder).st_mode):
                return None
            check_plain(os.path.join(self._folder, "lock.mdb"))
            status = os.lstat(os.path.join(self._folder, "data.mdb"))
        except OSError:
            return None
        return f"{self._identity} {status.st_ino}" if stat.S_ISREG(status.st_mode) else None

    def _is_ours(self) -> bool:
        here = self._made_here()
        try:
            with open(open_plain(self._note), "rb") as file:
                return here is not None and file.read(4096) == here.encode()
        except OSError:
            return False

    def _open_checked(self) -> None:
        try:
            if not self._is_ours():
                self._begin_anew()
                return
            self._open()
            if self._get_identity() != self._identity.encode():
                self._begin_anew()
        except (*_DAMAGED, lmdb.MapResizedError):  # the map was chosen twice as large as the file
            try:
                self._begin_anew()
            except lmdb.Error as error:
                raise self._refused(error) from error
        except lmdb.Error as error:
            raise self._refused(error) from error

    def _open(self) -> None:
        self._environment = open_environment(self._folder, MAP_BYTES_START)
        self._file = os.stat(os.path.join(self._folder, "data.mdb")).st_ino
        self._meta, self._pack_name, self._pack_number, self._blocks, self._segments, self._records = (
            self._environment.open_db(name)
            for name in (b"meta", b"pack-name", b"pack-number", b"blocks", b"segments", b"records")
        )
        self._outlines, self._filled = (self._environment.open_db(name) for name in (b"outlines", b"filled"))

    def _begin_anew(self) -> None:
        self.rebuilt = True
        if hasattr(self, "_environment"):
            self._environment.close()
        self._remove_folder()
        self._open()
        with self._environment.begin(write=True) as txn:
            txn.put(b"identity", self._identity.encode(), db=self._meta)
        # Durable as all of the host's state: with its folder the numbers that were given out could be lost.
        make_folders("/", os.path.abspath(os.path.dirname(self._note)).lstrip("/"), mode=0o700)
        replace_file(self._note, (self._made_here() or "").encode())

    def _remove_folder(self) -> None:
        """Remove what lies at its place, whatever it is, and follow no link."""
        if os.path.lexists(self._folder):
            try:
                if stat.S_ISDIR(os.lstat(self._folder).st_mode):
                    shutil.rmtree(self._folder)
                else:
                    os.unlink(self._folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise device_error(error, f"removing the vault's index {self._folder}") from error

    def _replace_damaged(self) -> None:
        """Begin anew in mid-work, unless another process has done so already."""
        with self._lock, self._opening():
            self._environment.close()
            try:
                found = os.stat(os.path.join(self._folder, "data.mdb")).st_ino
            except FileNotFoundError:
                found = self._file
            if found == self._file:
                self._begin_anew()
            else:
                self.rebuilt = True
                self._open_checked()

    def _get_identity(self) -> bytes | None:
        with self._environment.begin(db=self._meta) as txn:
            value = txn.get(b"identity")
            return bytes(value) if value is not None else None

    def _refused(self, error: Exception) -> DeviceError:
        cause = next((one for one in (error, error.__cause__) if isinstance(one, OSError)), None)
        text = str(error)
        if "No space left" in text or isinstance(error, lmdb.DiskError):
            cause = OSError(28, "No space left on device") if "No space" in text else cause
        return device_error(
            cause or OSError(text), f"using the vault's index {self._folder}", kind="store.index-failed"
        )

    def _write(self, work: Callable[[Any], T]) -> T:
        """Run `work` in one write transaction, again after the map was grown or a damaged index begun anew."""
        return self._run(work, write=True)

    def _read(self, work: Callable[[Any], T]) -> T:
        return self._run(work, write=False)

    def _run(self, work: Callable[[Any], T], *, write: bool) -> T:
        replaced = False
        while True:
            try:
                with self._lock, self._environment.begin(write=write) as txn:
                    done = work(txn)
                    if write:
                        reach("index.commit")
                    return done
            except UnusableError as error:
                self._forget_sorted(error.name)
            except lmdb.MapFullError:
                with self._lock:
                    self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                with self._lock:
                    self._environment.set_mapsize(0)
            except _DAMAGED as error:
                if replaced:
                    raise self._refused(error) from error
                replaced = True
                try:
                    self._replace_damaged()
                except lmdb.Error as problem:
                    raise self._refused(problem) from problem
            except (lmdb.Error, OSError) as error:
                raise self._refused(error) from error

    def find_blocks(self, ids: NDArray[np.uint8]) -> list[tuple[PackName, int] | None]:
        """For each (32-byte) id a place where it may lie, or None. Only a hint: see R2."""
        keys = prefixes_of(ids)
        order = np.argsort(keys)

        def work(txn: Any) -> list[tuple[PackName, int] | None]:
            found: list[tuple[PackName, int] | None] = [None] * len(ids)
            name_of = self._names(txn)
            missed: list[int] = []
            for row in order.tolist():
                value = txn.get(_U64.pack(int(keys[row])), db=self._blocks)
                number, slot = _PLACE.unpack(value) if value is not None else (0, 0)
                name = name_of(number) if value is not None else None
                if name is not None:
                    found[row] = (name, slot)
                else:
                    missed.append(row)
            for segment in reversed(self._sorted_of(txn)):
                if not missed:
                    break
                rows, places = segment.find(keys[missed])
                for at, place in zip(rows.tolist(), places.tolist(), strict=True):
                    name = name_of(place >> 32)
                    if name is not None:
                        found[missed[at]] = (name, place & 0xFFFFFFFF)
                missed = [row for row in missed if found[row] is None]
            return found

        return self._read(work)

    def _names(self, txn: Any) -> Callable[[int], PackName | None]:
        """What tells a pack's name by its number; None for a pack that was deleted, or never was."""
        names: dict[int, PackName | None] = {}

        def name_of(number: int) -> PackName | None:
            if number not in names:
                name = txn.get(_U32.pack(number), db=self._pack_name)
                names[number] = PackName(bytes(name)) if name else None
            return names[number]

        return name_of

    def add_blocks(
        self,
        packs: list[PackName],
        prefixes: NDArray[np.uint64],
        pack: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        segment: str | None,
    ) -> None:
        """Take in one commit's full blocks, and remember that its index segment is in, once all of them are."""
        order = np.argsort(prefixes, kind="stable")

        def work(txn: Any, part: NDArray[np.int64], *, last: bool) -> None:
            numbers = [self._number_of(txn, name) for name in packs]
            rows = zip(prefixes[part].tolist(), pack[part].tolist(), slot[part].tolist(), strict=True)
            cursor = txn.cursor(db=self._blocks)
            cursor.putmulti(
                ((_U64.pack(prefix), _PLACE.pack(numbers[index], at)) for prefix, index, at in rows),
                overwrite=True,
            )
            if last and segment is not None:
                txn.put(segment.encode(), b"", db=self._segments)

        for start in range(0, max(1, len(order)), ENTRIES_AT_ONCE):
            part = order[start : start + ENTRIES_AT_ONCE]
            self._write(partial(work, part=part, last=start + ENTRIES_AT_ONCE >= len(order)))
        if self._read(self._block_count) >= LMDB_ENTRIES:
            self._remove(self._write(partial(self._move, gathered=[])))

    def take_in(self, commits: Iterable[Commit]) -> None:
        """Take in many commits. What would exceed LMDB's share goes into sorted segments at once, not through LMDB."""
        gathered: list[Commit] = []
        count = 0
        for commit in commits:
            gathered.append(commit)
            count += len(commit[1])
            if count >= LMDB_ENTRIES:
                self._remove(self._write(partial(self._move, gathered=gathered)))
                gathered, count = [], 0
        for commit in gathered:
            self.add_blocks(*commit)

    def _move(self, txn: Any, gathered: list[Commit]) -> list[SortedSegment]:
        """Move what LMDB holds, and commits that came after it, into a new sorted segment, and list that.

        It is merged with younger segments that are not much larger, so that there are few. Entries of packs that were
        deleted are left behind. Returns the segments whose files may go after the commit.
        """
        fresh = [commit for commit in gathered if txn.get(commit[4].encode(), db=self._segments) is None]
        count = self._block_count(txn) + sum(len(commit[1]) for commit in fresh)
        if not fresh and count < LMDB_ENTRIES:
            return []  # another process has just done so
        latest = ascending(np.concatenate([np.zeros((0, 2), np.uint64), *(self._taken(txn, one) for one in fresh)]))
        listed = self._sorted_of(txn)
        remove_unlisted(self._folder, [segment.name for segment in listed])
        keep = len(listed)
        while keep and listed[keep - 1].count <= min(MERGED_RATIO * count, MERGED_ENTRIES_MAX - count):
            keep -= 1
            count += listed[keep].count
        first = 0
        while first < keep and count + sum(segment.count for segment in listed[first:keep]) > SORTED_ENTRIES_MAX:
            first += 1
        live = self._live_packs(txn)
        sources = [segment.chunks() for segment in listed[keep:]] + [self._block_chunks(txn), iter([latest])]
        merged = merge([_only(live, source) for source in sources])
        name = write_segment(self._folder, self._identity, merged, room=count)
        txn.put(b"sorted", b"".join(segment.name for segment in listed[first:keep]) + name, db=self._meta)
        txn.drop(self._blocks, delete=False)  # the tree as a whole: its pages are used again, none is written for it
        return listed[:first] + listed[keep:]

    def _taken(self, txn: Any, commit: Commit) -> Entries:
        """A commit's entries, noted as taken in."""
        packs, prefixes, pack, slot, segment = commit
        numbers = np.array([self._number_of(txn, name) for name in packs], np.uint64)
        txn.put(segment.encode(), b"", db=self._segments)
        return np.stack((prefixes, numbers[pack] << np.uint64(32) | slot.astype(np.uint64)), axis=1)

    def _block_count(self, txn: Any) -> int:
        return int(txn.stat(self._blocks)["entries"])

    def _block_chunks(self, txn: Any) -> Iterator[Entries]:
        rows = iter(txn.cursor(db=self._blocks))
        while data := b"".join(chain.from_iterable(islice(rows, 8 * ENTRIES_AT_ONCE))):
            yield _rows(data)

    def _live_packs(self, txn: Any) -> NDArray[np.bool_]:
        """By number whether a pack has a name."""
        named = [bool(name) for _, name in txn.cursor(db=self._pack_name)]  # numbers are given out without a gap
        return np.array([*named, False])

    def _remove(self, gone: list[SortedSegment]) -> None:
        """Remove the files of segments that are listed no longer; who has them open reads on."""
        reach("sorted.listed")
        for segment in gone:
            with suppress(OSError):  # whoever writes the next one removes it
                os.unlink(segment.path)

    def _listed(self, txn: Any) -> list[bytes]:
        """Names of the sorted segments, the oldest first."""
        names = txn.get(b"sorted", db=self._meta) or b""
        return [bytes(names[at : at + NAME_BYTES]) for at in range(0, len(names), NAME_BYTES)]

    def _sorted_of(self, txn: Any) -> list[SortedSegment]:
        """The segments that are listed, the oldest first: opens what is new, closes what is gone."""
        names = self._listed(txn)
        if names != [segment.name for segment in self._sorted]:
            known = {segment.name: segment for segment in self._sorted}
            opened: list[SortedSegment] = []
            try:
                for name in names:
                    opened.append(
                        known.pop(name) if name in known else SortedSegment(self._folder, self._identity, name)
                    )
            finally:
                for segment in known.values():
                    segment.close()
                self._sorted = opened
        return self._sorted

    def _forget_sorted(self, name: bytes) -> None:
        """Do without the sorted segments, of which one cannot be used: the next opening makes them anew."""

        def work(txn: Any) -> None:
            if name in self._listed(txn):
                txn.delete(b"sorted", db=self._meta)
                txn.drop(self._segments, delete=False)  # so all of them are taken in again
                remove_unlisted(self._folder, [])

        self._write(work)

    def forget_pack(self, pack: PackName) -> None:
        """A pack is deleted: entries that name it are misses from now on, wherever they lie."""

        def work(txn: Any) -> None:
            number = txn.get(pack, db=self._pack_number)
            if number is not None:
                txn.put(number, b"", db=self._pack_name)  # and so the number is not given out again
                txn.delete(pack, db=self._pack_number)

        self._write(work)

    def _number_of(self, txn: Any, pack: PackName) -> int:
        value = txn.get(pack, db=self._pack_number)
        if value is not None:
            return int(_U32.unpack(value)[0])
        cursor = txn.cursor(db=self._pack_name)
        number = _U32.unpack(cursor.key())[0] + 1 if cursor.last() else 0
        txn.put(_U32.pack(number), pack, db=self._pack_name)
        txn.put(pack, _U32.pack(number), db=self._pack_number)
        return int(number)

    def drop_blocks(self, pack: PackName, prefixes: NDArray[np.uint64]) -> None:
        """Forget blocks that lie in a pack, given by their ids' first 8 bytes; what lies in another pack stays."""
        order = np.sort(prefixes)

        def work(txn: Any) -> None:
            number = txn.get(pack, db=self._pack_number)
            if number is None:
                return
            for prefix in order.tolist():
                key = _U64.pack(prefix)
                place = txn.get(key, db=self._blocks)
                if place is not None and bytes(place[:4]) == bytes(number):
                    txn.delete(key, db=self._blocks)

        self._write(work)

    def forget_segments(self, segments: Iterable[str]) -> None:
        """Index segments (`<origin>/<seq>`) that are gone from the vault."""
        gone = sorted(segments)
        if gone:
            self._write(lambda txn: [txn.delete(segment.encode(), db=self._segments) for segment in gone])

    def segments(self) -> set[str]:
        """Index segments (`<origin>/<seq>`) that are in."""
        return self._read(lambda txn: {bytes(key).decode() for key, _ in txn.cursor(db=self._segments)})

    def entries(self, limit: int) -> Iterator[list[tuple[int, PackName, int]]]:
        """All entries (prefix, pack, slot), up to `limit` at once; of a pack that is gone there are none."""

        def told(txn: Any, rows: Entries) -> list[tuple[int, PackName, int]]:
            name_of = self._names(txn)
            named = ((prefix, name_of(place >> 32), place & 0xFFFFFFFF) for prefix, place in rows.tolist())
            return [(prefix, pack, slot) for prefix, pack, slot in named if pack is not None]

        def block_rows(txn: Any, start: int) -> tuple[list[tuple[int, PackName, int]], int | None]:
            cursor = txn.cursor(db=self._blocks)
            there = cursor.set_range(_U64.pack(start))
            rows = _rows(b"".join(chain.from_iterable(islice(cursor, limit if there else 0))))
            after = int(rows[-1, 0]) + 1 if len(rows) == limit else 1 << 64
            return told(txn, rows), after if after < 1 << 64 else None

        def sorted_rows(txn: Any, name: bytes, start: int) -> list[tuple[int, PackName, int]]:
            found = [segment for segment in self._sorted_of(txn) if segment.name == name]
            return told(txn, found[0].read(start, limit)) if found else []  # merged with others meanwhile

        start: int | None = 0
        while start is not None:
            rows, start = self._read(partial(block_rows, start=start))
            yield rows
        for name, count in self._read(lambda txn: [(one.name, one.count) for one in self._sorted_of(txn)]):
            for at in range(0, count, limit):
                yield self._read(partial(sorted_rows, name=name, start=at))

    def rebuild(self) -> None:
        """Begin anew, empty: whoever opened it brings it up to the objects again."""
        with self._lock, self._opening():
            self._begin_anew()

    def records(self, prefix: str) -> dict[str, bytes]:
        """Cached objects under a folder, by name."""

        def walk(txn: Any) -> Iterator[tuple[str, bytes]]:
            start = prefix.encode() + b"/"
            cursor = txn.cursor(db=self._records)
            if cursor.set_range(start):
                for key, value in cursor:
                    if not bytes(key).startswith(start):
                        break
                    yield bytes(key).decode(), bytes(value)

        return self._read(lambda txn: dict(walk(txn)))

    def record_names(self, prefix: str) -> set[str]:
        """Names of the cached objects under a folder."""

        def work(txn: Any) -> set[str]:
            start, end = prefix.encode() + b"/", prefix.encode() + b"0"  # the byte after the slash
            cursor = txn.cursor(db=self._records)
            if not cursor.set_range(start):
                return set()
            keys = takewhile(end.__gt__, cursor.iternext(keys=True, values=False))
            return set(filter(None, b"\n".join(keys).decode().split("\n")))

        return self._read(work)

    def records_named(self, names: Iterable[str]) -> dict[str, bytes]:
        """Cached objects by their names; those that are not cached are not in it."""
        wanted = sorted(names)

        def work(txn: Any) -> dict[str, bytes]:
            values = ((name, txn.get(name.encode(), db=self._records)) for name in wanted)
            return {name: bytes(value) for name, value in values if value is not None}

        return self._read(work)

    def change_records(self, put: Iterable[tuple[str, bytes]], drop: Iterable[str]) -> None:
        """Bring the catalog up to the objects: take in new records, forget those that are gone."""
        added, gone = sorted(put), sorted(drop)
        if not added and not gone:
            return

        def work(txn: Any) -> None:
            for name in gone:
                txn.delete(name.encode(), db=self._records)
            for name, data in added:
                txn.put(name.encode(), data, db=self._records)

        self._write(work)

    def outline(self, layer: LayerName) -> bytes | None:
        """A layer's outline, sealed."""

        def work(txn: Any) -> bytes | None:
            value = txn.get(layer, db=self._outlines)
            return bytes(value) if value is not None else None

        return self._read(work)

    def block_count(self, pack_object: str) -> int | None:
        """How many blocks a generation of a pack has, by its object's name."""

        def work(txn: Any) -> int | None:
            value = txn.get(pack_object.encode(), db=self._filled)
            return int(_U32.unpack(value)[0]) if value is not None else None

        return self._read(work)

    def add_outlines(self, outlines: Mapping[LayerName, bytes], block_counts: Mapping[str, int]) -> None:
        """Take in outlines, sealed, by layer, and numbers of blocks by a generation's object name."""

        def work(txn: Any) -> None:
            for layer, data in sorted(outlines.items()):
                txn.put(layer, data, db=self._outlines)
            for name, count in sorted(block_counts.items()):
                txn.put(name.encode(), _U32.pack(count), db=self._filled)

        self._write(work)

    def keep_outlines(self, layers: set[LayerName], pack_objects: set[str]) -> None:
        """Forget the outlines and numbers of all others."""

        def gone(txn: Any) -> list[tuple[bytes, Any]]:
            known = [(bytes(key), self._outlines) for key in txn.cursor(db=self._outlines).iternext(values=False)]
            stale = [(key, db) for key, db in known if key not in layers]
            names = [bytes(key) for key in txn.cursor(db=self._filled).iternext(values=False)]
            return stale + [(name, self._filled) for name in names if name.decode() not in pack_objects]

        if self._read(gone):
            self._write(lambda txn: [txn.delete(key, db=db) for key, db in gone(txn)])

    @property
    def size(self) -> int:
        """Bytes of its files."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def close(self) -> None:
        """Close the environment and the sorted segments."""
        self._environment.close()
        while self._sorted:
            self._sorted.pop().close()


def _rows(data: bytes) -> Entries:
    """Entries out of keys and values of `blocks`."""
    if len(data) % (_U64.size + _PLACE.size):
        raise lmdb.CorruptedError("an entry has another length")
    return np.frombuffer(data, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _only(live: NDArray[np.bool_], chunks: Iterator[Entries]) -> Iterator[Entries]:
    """Entries whose pack is live."""
    for entries in chunks:
        kept = entries[live[np.minimum(entries[:, 1] >> np.uint64(32), len(live) - 1)]]
        if len(kept):
            yield kept
