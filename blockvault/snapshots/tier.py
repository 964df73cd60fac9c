"""The door of the instant-restore tier: take, read, restore, keep and remove an item's snapshots.

The order of every change is: record durable as `MAKING` or `REMOVED`, files, record as `KEPT` or gone. What a
crash leaves is known by its record and tidied by the item's next capture, removal or expiry.

It does not promise that a snapshot outlives its file system: that is what the vault is for.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blockvault.errors import ConflictError, CorruptionError, DeviceError, NotFoundError
from blockvault.failpoints import reach
from blockvault.image import extent_map
from blockvault.image.system import unshared_bytes
from blockvault.image.target import write_error
from blockvault.model import Consistency, SnapshotDisk, SnapshotKind, SnapshotRecord
from blockvault.snapshots import chains, reflink
from blockvault.snapshots.cloning import CloneCapture, clone_together
from blockvault.snapshots.overlay import RawReader
from blockvault.snapshots.place import Place, choose_place
from blockvault.snapshots.raw_item import RawCapture
from blockvault.snapshots.records import DiskFacts, RecordShelf, State, Stored, record_digest
from blockvault.store.digests import DigestState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from blockvault.ids import ItemId
    from blockvault.image.extent_map import Ranges
    from blockvault.image.reader import DiskReader
    from blockvault.image.source import ImageSource
    from blockvault.model import Item
    from blockvault.monitor import Monitor

__all__ = ["Capture", "Place", "SnapshotTier"]


@dataclass(frozen=True, slots=True)
class Capture:
    """What a capture made: a durable record, and what it took."""

    record: SnapshotRecord
    seconds: float
    read_bytes: int  # of the images


class SnapshotTier:
    """All snapshots that this host keeps for one vault."""

    def __init__(self, host_dir: str, vault_id: str) -> None:
        self._shelf = RecordShelf(host_dir, vault_id)
        self._vault_id = vault_id

    # -- looking --------------------------------------------------------------------------------------------

    def records(self, item_id: ItemId | None = None) -> list[SnapshotRecord]:
        """The snapshots that are kept, of one item or of all, by number. `damaged` tells what could not be read."""
        items = self._shelf.item_ids() if item_id is None else [item_id]
        found = [stored.record for item in items for stored in self._shelf.load(item) if stored.state is State.KEPT]
        return sorted(found, key=lambda record: record.number)

    @property
    def damaged(self) -> dict[str, str]:
        """Record files that the last look could not read: path and reason."""
        return dict(self._shelf.damaged)

    def bytes_used(self, record: SnapshotRecord) -> int:
        """Space that a snapshot takes up: what its clones share with nothing else, or its part of a raw chain."""
        if record.kind is SnapshotKind.RAW:
            kept = self._shelf.load(record.item_id)
            return sum(chains.bytes_used(kept, record.number, disk) for disk in record.disks)
        total = 0
        for disk in record.disks:
            with contextlib.suppress(OSError):
                fd = os.open(disk.file, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    total += unshared_bytes(fd)
                finally:
                    os.close(fd)
        return total

    # -- taking ---------------------------------------------------------------------------------------------

    def place(self, item: Item, sources: list[ImageSource], default_dir: str, *, folder: str | None) -> Place:
        """Where a snapshot of these images would be kept, and how (`place.choose_place`)."""
        stored = self._shelf.load(item.id)
        target = os.path.abspath(folder if folder is not None else default_dir)
        missing = [disk for disk in item.disks if chains.parent_of(stored, disk.name, target, item.chunk_size) is None]
        return choose_place(sources, default_dir, folder=folder, room_needed=bool(missing))

    def capture(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        place: Place,
        *,
        now: datetime,
        keep_until: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        seed: int,
        digests_dir: str,
        monitor: Monitor,
        stands_still: bool = False,
    ) -> Capture:
        """Take snapshot `number` of all disks; durable when this returns, and nothing is left if it raises.

        Args:
            item: whose snapshot it is; its disks say what the disks are named.
            number: N, never used before.
            sources: one open image a disk, in the order of `item.disks`.
            place: what `place` said; its folder is not None.
            now: the moment of the point.
            keep_until: when its days are over.
            consistency: `NONE` takes an image that is being written as it comes.
            tags: kept in the record for the point, as are `comment` and `retain_until`.
            comment: see `tags`.
            retain_until: see `tags`.
            seed: of the digests.
            digests_dir: the folder of the item's digest states, one folder a disk in it.
            monitor: is advanced over the bytes of all images; the caller began the phase.
            stands_still: who writes to the images has been frozen: that they have them open is no reason to refuse.

        Raises:
            DeviceError: `snapshot.no-space`, `snapshot.folder-locked`, `image.changed`, `image.in-use`,
                `image.read-error`, `snapshot.failed`.
            ConflictError: `snapshot.locked`.
        """
        assert place.folder is not None
        begun = time.monotonic()
        if place.kind is SnapshotKind.REFLINK:
            with self.cloning(
                item,
                number,
                sources,
                place,
                now=now,
                keep_until=keep_until,
                consistency=consistency,
                tags=tags,
                comment=comment,
                retain_until=retain_until,
                monitor=monitor,
            ) as clones:
                clone_together([clones])
                record = clones.finish(consistency)
            return Capture(record, time.monotonic() - begun, 0)
        with self._shelf.locked(item.id):
            self._tidy(item.id)
            record = self._blank(item, number, place, now, keep_until, consistency, tags, comment, retain_until)
            raw = RawCapture(
                self._shelf,
                record,
                item,
                sources,
                stands_still=stands_still,
                seed=seed,
                digests_dir=digests_dir,
                monitor=monitor,
            )
            record = raw.run()
            self._tidy(item.id)
        return Capture(record, time.monotonic() - begun, raw.read_bytes)

    @contextlib.contextmanager
    def cloning(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        place: Place,
        *,
        now: datetime,
        keep_until: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        monitor: Monitor,
    ) -> Iterator[CloneCapture]:
        """One item's part of a capture by clones (`cloning.clone_together`); arguments and errors as of `capture`.

        What is raised inside takes its clones back, unless `finish` has ended.
        """
        assert place.folder is not None
        with self._shelf.locked(item.id):
            self._tidy(item.id)
            record = self._blank(item, number, place, now, keep_until, consistency, tags, comment, retain_until)
            folders = place.folders or (place.folder,) * len(sources)
            own = str(number)
            if any(os.path.lexists(os.path.join(chains.item_folder(folder, item), own)) for folder in folders):
                own = f"{own}-{os.urandom(4).hex()}"  # left by a host that has lost its records: not ours to touch
            disks = tuple(
                SnapshotDisk(
                    disk.name,
                    disk.path,
                    source.size,
                    os.path.join(chains.item_folder(folder, item), own, f"{disk.name}.img"),
                )
                for disk, source, folder in zip(item.disks, sources, folders, strict=True)
            )
            clones = CloneCapture(self._shelf, replace(record, disks=disks), sources, monitor)
            try:
                clones.prepare()
                yield clones
            except BaseException:
                clones.give_up()
                raise
            finally:
                clones.close()
            self._tidy(item.id)

    def _blank(
        self,
        item: Item,
        number: int,
        place: Place,
        now: datetime,
        keep_until: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
    ) -> SnapshotRecord:
        """A record as far as it is known before anything is made."""
        assert place.folder is not None
        assert place.kind is not None
        return SnapshotRecord(
            vault_id=self._vault_id,
            item_id=item.id,
            item_name=item.name,
            number=number,
            taken=now,
            kind=place.kind,
            consistency=consistency,
            chunk_size=item.chunk_size,
            folder=place.folder,
            disks=(),
            keep_until=keep_until,
            tags=tags,
            comment=comment,
            retain_until=retain_until,
        )

    # -- comparing ------------------------------------------------------------------------------------------

    def changed_ranges(self, old: SnapshotRecord, new: SnapshotRecord, disk_name: str) -> Ranges | str:
        """Where a disk differs between two snapshots, told by where their extents lie; or why that says nothing.

        Nothing is read but the maps. A range that is told may hold equal bytes; one that is not told does.
        """
        with contextlib.ExitStack() as stack:
            opened = []
            for record in (old, new):
                try:
                    stored = self._shelf.get(record.item_id, record.number)
                except NotFoundError:
                    return f"the snapshot of point {record.number} is gone"
                disk, facts = stored.record.disk(disk_name), stored.facts(disk_name)
                if disk is None or facts is None:
                    return f"the snapshot of point {record.number} has no such disk"
                if stored.record.kind is not SnapshotKind.REFLINK or not facts.inode:
                    return f"the snapshot of point {record.number} is no clone"
                if facts.generation is None:
                    return "the file system does not tell a file from a later one of the same number"
                try:
                    source = reflink.open_clone(disk, stored.record.chunk_size, facts.mtime_ns)
                except (CorruptionError, DeviceError) as error:
                    return error.message
                stack.callback(source.close)
                opened.append((source.fd, facts))
            try:
                ranges = extent_map.changed_ranges(opened[0][0], opened[1][0])
                untouched = all(_is_untouched(fd, facts) for fd, facts in opened)
            except OSError as error:
                return f"the file system does not tell where extents lie ({error.strerror})"
        return ranges if untouched else "a snapshot was touched, or replaced, since it was taken"

    # -- reading and restoring ------------------------------------------------------------------------------

    def open_disk(self, record: SnapshotRecord, disk_name: str, *, digests_dir: str) -> DiskReader:
        """One disk of a snapshot, to be read; safe against captures and removals meanwhile.

        Raises:
            CorruptionError: `snapshot.damaged`.
            NotFoundError: `snapshot.not-found`, `disk.not-found`.
        """
        stored = self._shelf.get(record.item_id, record.number)
        disk = stored.record.disk(disk_name)
        facts = stored.facts(disk_name)
        if disk is None or facts is None:
            raise NotFoundError(
                "disk.not-found",
                f"the snapshot of point {record.number} has no disk '{disk_name}'",
                do="its disks are " + ", ".join(disk.name for disk in stored.record.disks),
            )
        if stored.record.kind is SnapshotKind.REFLINK:
            return reflink.open_clone(disk, stored.record.chunk_size, facts.mtime_ns)
        digests_folder = os.path.join(digests_dir, disk_name)

        def open_digests(seed: int) -> DigestState | None:
            return DigestState.open(
                digests_folder,
                "snapshot",
                vault_id=self._vault_id,
                record_digest=record_digest(stored.record),
                disk=disk_name,
                size=disk.size,
                chunk_size=stored.record.chunk_size,
                seed=seed,
            )

        return self._open_raw(stored, disk, open_digests)

    def _open_raw(self, stored: Stored, disk: SnapshotDisk, open_digests: chains.OpenDigests) -> RawReader:
        record = stored.record
        last_known = chains.newest_number(self._shelf.load(record.item_id), disk.file)
        reader = RawReader(
            record.number,
            disk,
            record.chunk_size,
            bound_to=chains.bound_to(record, disk.name),
            open_digests=open_digests,
        )
        try:
            chains.check_whole(self._shelf, record, disk, reader, last_known)
        except BaseException:
            reader.close()
            raise
        return reader

    def restore_disk(
        self,
        record: SnapshotRecord,
        disk_name: str,
        target_fd: int,
        *,
        monitor: Monitor,
        direct_fd: int | None = None,
    ) -> int:
        """Write one disk of a snapshot to a target of its size; the snapshot is never changed.

        `direct_fd`: the same target opened with O_DIRECT, if it can be.
        On a fresh target (a file that is one hole) holes are left; on any other they are made. The monitor is
        advanced over the disk's size. Returns the bytes written.
        """
        with contextlib.closing(self.open_disk(record, disk_name, digests_dir="/nonexistent")) as reader:
            try:
                if isinstance(reader, RawReader):
                    return reader.copy_to(target_fd, monitor, direct_fd=direct_fd)
                return reflink.restore_clone(reader, target_fd, monitor)  # type: ignore[arg-type]
            except OSError as error:
                if isinstance(error, DeviceError):
                    raise
                raise write_error(os.readlink(f"/proc/self/fd/{target_fd}"), error) from error

    # -- keeping and removing -------------------------------------------------------------------------------

    def mark_transferred(self, record: SnapshotRecord) -> SnapshotRecord:
        """Remember that the vault has this point now."""
        return self._change(record, transferred=True)

    def set_keep_until(self, record: SnapshotRecord, keep_until: datetime) -> SnapshotRecord:
        """Keep a snapshot for longer, or less long."""
        return self._change(record, keep_until=keep_until)

    def set_reached(self, record: SnapshotRecord, consistency: Consistency, freeze_ms: float | None) -> SnapshotRecord:
        """Write down what a capture reached, where that was only known after it."""
        return self._change(record, consistency=consistency, freeze_ms=freeze_ms)

    def _change(self, record: SnapshotRecord, **fields: object) -> SnapshotRecord:
        stored = self._shelf.update(
            record.item_id,
            record.number,
            lambda stored: replace(stored, record=replace(stored.record, **fields)),  # type: ignore[arg-type]
        )
        return stored.record

    def remove(self, record: SnapshotRecord) -> None:
        """Remove a snapshot. Older ones that read through its files stay readable.

        Raises:
            ConflictError: `snapshot.locked`, a capture of the item runs.
            NotFoundError: `snapshot.not-found`.
        """
        with self._shelf.locked(record.item_id):
            self._shelf.update(record.item_id, record.number, _removed)
            self._tidy(record.item_id)

    def expire(self, now: datetime, *, keep_numbers: set[int]) -> list[int]:
        """Remove the snapshots whose days are over by `now`, but for `keep_numbers` (R11); returns their numbers.

        An item that is being captured is left for the next time.
        """
        gone: list[int] = []
        for item_id in self._shelf.item_ids():
            with contextlib.suppress(ConflictError), self._shelf.locked(item_id):
                for stored in self._shelf.load(item_id):
                    record = stored.record
                    over = record.keep_until <= now and record.number not in keep_numbers
                    if stored.state is State.KEPT and over:
                        self._shelf.update(item_id, record.number, _removed)
                        gone.append(record.number)
                self._tidy(item_id)
        return sorted(gone)

    def _tidy(self, item_id: ItemId) -> None:
        """Finish what was begun: remove what a crash left of captures, and what removed snapshots no longer hold.

        Under the item's lock. What cannot be removed now (a reader has it, the folder is locked) stays for
        later.
        """
        self._shelf.tidy(item_id)
        stored = self._shelf.load(item_id)
        for half in [entry for entry in stored if entry.state is State.MAKING]:
            with contextlib.suppress(OSError):
                if half.record.kind is SnapshotKind.REFLINK:
                    reflink.remove_clones([disk.file for disk in half.record.disks])
                else:
                    chains.remove_half_made(half)
                reach("snapshot.tidied")
                self._shelf.delete(half)
        stored = [entry for entry in stored if entry.state is not State.MAKING]
        for old in [entry for entry in stored if entry.state is State.REMOVED]:
            with contextlib.suppress(OSError):
                if old.record.kind is SnapshotKind.REFLINK:
                    reflink.remove_clones([disk.file for disk in old.record.disks])
                    self._shelf.delete(old)
        chains.collect(self._shelf, [entry for entry in stored if entry.record.kind is SnapshotKind.RAW])


def _removed(stored: Stored) -> Stored:
    return replace(stored, state=State.REMOVED)


def _is_untouched(fd: int, facts: DiskFacts) -> bool:
    """Whether a clone is the very file that was made, and nothing was done to it since."""
    now = reflink.cloned(fd)
    return (now.inode, now.generation, now.ctime_ns, now.mtime_ns) == (
        facts.inode,
        facts.generation,
        facts.ctime_ns,
        facts.mtime_ns,
    )
