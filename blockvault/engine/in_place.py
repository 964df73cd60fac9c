"""Restore in place: turn the disks of an item back into what they were at a point, writing only what differs.

    look at every disk: there, large enough, used by nobody
    -> undo point: a point of the disks as they are (a half restored item has one already)
    -> journal, durable -> compare by identity, write what differs, punch what was hole -> sync -> journal removed

The undo point is what the disk holds, as long as nothing has touched the disk since before it was taken. Then the two
points' manifests tell which chunks differ, and no other is read: all that reads the disk is the taking of that point,
which goes by the changed-block map where there is one.

Invariants:
- Nothing is written before the journal is durable, and the journal goes only after all is durable.
- Killed anywhere, the same command goes on: it compares again and writes what still differs. Or the undo point is
  restored in place instead. Until one of them has ended no point is taken of the item.
- Every block is checked before it is written; what the comparison finds equal is equal by its keyed BLAKE3.
- Where nothing but the disk itself can tell, a scan by the digests of the newest point decides which chunks are
  compared, as it does for a backup. A restore that goes on after it was killed compares every chunk.
- The manifests' word counts only for a disk whose size, times and inode (of a device: its counted writes) are those of
  before the undo point; where they are not, or an earlier run wrote to it, every chunk is compared.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from blockvault.clock import to_text, utc_now
from blockvault.engine.churn import CellChurn, ChurnFinder
from blockvault.engine.claims import Claims
from blockvault.engine.diff import between_points
from blockvault.engine.instant import check_and_mend
from blockvault.engine.restore import DiskRestore
from blockvault.engine.session import Session
from blockvault.engine.transferring import Transferring
from blockvault.errors import ConflictError, CorruptionError, DeviceError, InvalidInputError, NotFoundError
from blockvault.failpoints import reach
from blockvault.image.extent_map import Ranges
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource, SourceState
from blockvault.image.system import device_size
from blockvault.image.target import write_error
from blockvault.model import Item, Point, PointDisk, PointRef
from blockvault.monitor import Monitor
from blockvault.store.journals import InPlaceJournal, InPlaceJournals


@dataclass(frozen=True, slots=True)
class InPlaceRestored:
    """What a restore in place did: chunks that differed, bytes of all disks, where, and what undoes it."""

    paths: tuple[str, ...]
    size_bytes: int
    differing_chunks: int
    undo_number: int | None


def check_whole(session: Session, item: Item) -> None:
    """Whether points can be taken of an item, asked under its capture lock.

    Raises:
        ConflictError: a restore in place of the item has not ended (`item.half-restored`).
        NotFoundError: the item was removed before the lock was taken (`item.removed`).
    """
    if session.catalog.removed_since(item):
        raise NotFoundError(
            "item.removed",
            f"item '{item.name}' was just removed",
            why="another process removed it before the capture began",
            do="register it anew with `blockvault item add`, if that was not meant",
        )
    journal = InPlaceJournals(session.host.folder).read(item.id)
    if journal is None:
        return
    undo = "" if journal.undo_number is None else f"; `--point {journal.undo_number}` instead undoes it"
    raise ConflictError(
        "item.half-restored",
        f"item '{item.name}' is half restored",
        why=f"a restore of point {journal.label} in place began at {journal.begun[:16].replace('T', ' ')} UTC and "
        "did not end",
        do=f"finish it: `blockvault restore --in-place --yes --point {journal.label}`{undo}",
    )


class InPlace:
    """Restores points of one vault in place."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._session = session
        self._monitor = monitor
        self._journals = InPlaceJournals(session.host.folder)

    def run(
        self,
        point: Point,
        label: str,
        item: Item,
        *,
        disk: str | None,
        take_undo: Callable[[], int] | None,
        dry_run: bool,
    ) -> InPlaceRestored:
        """Restore a point onto the disks of its item.

        Args:
            point: what to restore.
            label: what it is called.
            item: the item now; its record says where the disks are.
            disk: only this disk.
            take_undo: takes a point of the disks as they are, and returns its number; None: no undo point.
            dry_run: compare only.

        Raises:
            NotFoundError: the point has no such disk, or the item has none of that name (`disk.not-found`).
            DeviceError: a disk is in use (`image.in-use`), missing, or cannot be written.
            InvalidInputError: a device is smaller than the disk was (`target.too-small`).
            CorruptionError: a block that is needed is damaged; the journal says that the disk is half restored.
        """
        chosen = self._choose(point, item, disk)
        size = sum(one.size for one, _ in chosen)
        paths = tuple(path for _, path in chosen)
        with ExitStack() as stack:  # what cannot work is told before an undo point is taken
            self._open_all(chosen, stack)
        if dry_run:
            self._monitor.phase("Compare", size)
            differing = sum(self._mend(one, path, None, self._scanned(one, path, item)) for one, path in chosen)
            return InPlaceRestored(paths, size, differing, None)
        begun = self._journals.read(item.id)
        before = self._states(chosen) if begun is None and take_undo is not None else {}
        undo = begun.undo_number if begun is not None else (take_undo() if take_undo is not None else None)
        with ExitStack() as stack:
            stack.enter_context(self._session.item_lock(item, "capture"))
            opened = self._open_all(chosen, stack)
            disks = {one.name: path for one, path in chosen}
            if begun is not None:
                disks = {**begun.disks, **disks}
            self._journals.write(item.id, InPlaceJournal(point.id, label, disks, undo, to_text(utc_now())))
            reach("in-place.journal")
            self._monitor.phase("Restore", size)
            claims: list[Claims | None] = [None] * len(chosen)  # of a restore that goes on: compare every chunk
            if begun is None:
                claims = [
                    self._claims(one, path, before.get(path), undo) or self._scanned(one, path, item)
                    for one, path in chosen
                ]
            differing = 0
            for (one, path), fd, claimed in zip(chosen, opened, claims, strict=True):
                self._resize(one, path, fd)
                differing += self._mend(one, path, fd, claimed)
            reach("in-place.written")
            for path, fd in zip(paths, opened, strict=True):
                try:
                    os.fsync(fd)
                except OSError as error:
                    raise write_error(path, error) from error
            reach("in-place.synced")
            if begun is None or set(begun.disks) <= {one.name for one, _ in chosen}:
                self._journals.remove(item.id)
            else:
                left = ", ".join(sorted(set(begun.disks) - {one.name for one, _ in chosen}))
                self._monitor.warn("item.half-restored", f"other disks of item '{item.name}' are half restored: {left}")
        return InPlaceRestored(paths, size, differing, undo)

    def _choose(self, point: Point, item: Item, disk: str | None) -> list[tuple[PointDisk, str]]:
        chosen = []
        for one in point.disks:
            if disk not in (None, one.name):
                continue
            spec = item.disk(one.name)
            if spec is None:
                raise NotFoundError(
                    "disk.not-found",
                    f"item '{item.name}' has no disk '{one.name}' any more",
                    why="the point has it, the item's record has not",
                    do="restore the point to new files, or name a disk with --disk",
                )
            chosen.append((one, spec.path))
        if not chosen:
            raise NotFoundError(
                "disk.not-found",
                f"the point has no disk '{disk}'",
                why="its disks: " + ", ".join(one.name for one in point.disks),
                do="name one of them with --disk",
            )
        return chosen

    def _open_all(self, chosen: list[tuple[PointDisk, str]], stack: ExitStack) -> list[int]:
        opened = []
        for one, path in chosen:
            with ImageSource.open(path, one.chunk_size) as source:
                source.check_no_writer()
            fd = _open(path, one)
            stack.callback(os.close, fd)
            opened.append(fd)
        return opened

    @staticmethod
    def _states(chosen: list[tuple[PointDisk, str]]) -> dict[str, SourceState]:
        found = {}
        for one, path in chosen:
            with ImageSource.open(path, one.chunk_size) as source:
                found[path] = source.state()
        return found

    def _claims(self, disk: PointDisk, path: str, before: SourceState | None, undo: int | None) -> Claims | None:
        """All chunks that may differ from the point, if the undo point tells it; None: any may."""
        session = self._session
        if before is None or undo is None:
            return None
        point = session.catalog.point(PointRef(session.origin, undo))
        now = next((one for one in point.disks if one.name == disk.name), None) if point is not None else None
        if now is None or (now.size, now.chunk_size) != (disk.size, disk.chunk_size):
            return None
        try:
            with ImageSource.open(path, disk.chunk_size) as source:
                source.check_unchanged(before)
            differing = list(between_points(session.store, session.keys, session.shelf, disk, now, self._monitor))
        except (CorruptionError, DeviceError):
            return None  # it was touched, or a table is damaged: the comparison finds out what that means
        ranges = np.array([(at, at + count) for at, count in differing], dtype=np.int64).reshape(-1, 2)
        return Claims(ranges, disk.chunk_size)

    def _scanned(self, disk: PointDisk, path: str, item: Item) -> Claims | None:
        """All chunks that may differ from the point, by a scan; None: it cannot be told by one.

        The scan tells what changed since the newest point in the vault, as for a backup, and both points' manifests
        what lies between that and the point.
        """
        session = self._session
        transferring = Transferring(session)
        newest = transferring.parent_of(item.id, self._monitor)
        then = next((one for one in newest.disks if one.name == disk.name), None) if newest is not None else None
        if then is None or (then.size, then.chunk_size) != (disk.size, disk.chunk_size):
            return None
        try:
            with ImageSource.open(path, disk.chunk_size) as source:
                readers: list[tuple[str, str, DiskReader]] = [(disk.name, path, source)]
                (known,) = transferring.inputs(newest, item.id, readers, disk.chunk_size, full=False)
                if known.digests is None or source.size != disk.size:
                    return None
                finder = ChurnFinder(
                    source, parent=then, manifest=None, digests=known.digests, seed=session.keys.digest_seed,
                    monitor=self._monitor,
                )  # fmt: skip
                changed = [_changed(part) for part in finder if isinstance(part, CellChurn)]
            between = list(between_points(session.store, session.keys, session.shelf, disk, then, self._monitor))
        except CorruptionError:
            return None
        size = disk.chunk_size
        found = [(chunk * size, (chunk + 1) * size) for chunks in changed for chunk in chunks]
        return Claims(_united([*found, *((at, at + count) for at, count in between)]), size)

    @staticmethod
    def _resize(disk: PointDisk, path: str, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size != disk.size:
            try:
                os.ftruncate(fd, disk.size)
            except OSError as error:
                raise write_error(path, error) from error

    def _mend(self, disk: PointDisk, path: str, fd: int | None, claims: Claims | None = None) -> int:
        """Make a disk what it was; returns how many chunks differed. Without `fd` nothing is written."""
        session = self._session
        restore = DiskRestore(
            session.store, session.keys, session.shelf, disk, self._monitor, quarantine=self._session.quarantine
        )
        try:
            with ImageSource.open(path, disk.chunk_size) as source:
                return check_and_mend(source, restore, fd, claims=claims)
        except OSError as error:
            if isinstance(error, DeviceError):
                raise
            raise write_error(path, error) from error
        finally:
            restore.close()


def _changed(churn: CellChurn) -> list[int]:
    """The chunks of the disk that a scan found changed in a cell: data, holes and zeros."""
    rows = np.union1d(churn.candidates, np.flatnonzero(churn.fills)).astype(np.int64)
    chunks: list[int] = (rows + churn.first_chunk).tolist()
    return chunks


def _united(ranges: list[tuple[int, int]]) -> Ranges:
    """Ranges in order, none of which touches another."""
    found: list[list[int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([begin, end])
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _open(path: str, disk: PointDisk) -> int:
    """The disk for writing; a device for oneself alone."""
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_device else 0))
    except OSError as error:
        raise write_error(path, error) from error
    if is_device and device_size(fd) < disk.size:
        room = device_size(fd)
        os.close(fd)
        raise InvalidInputError(
            "target.too-small",
            f"the device {path} is smaller than the disk was",
            why=f"disk '{disk.name}' had {disk.size} bytes, the device has {room}",
            do="restore the point to a new file, or to a larger device",
        )
    return fd
