"""Raw snapshots of an item as chains: one newest-state file a disk, and the snapshots that read through it.

    <folder>/<item>-<id>/<disk>.newest          the newest state, whole
    <folder>/<item>-<id>/<disk>.<N>.chunks      what snapshot N had that the one after it has not: the list
    <folder>/<item>-<id>/<disk>.<N>.delta       and the chunks

A chain is named by its newest-state file. Where one cannot be built upon (it was damaged, or touched by
others) a new chain is begun beside it, and the old one is left for its snapshots to be restored from as far
as it is good.

Invariants:
- The snapshot after N in a chain is the one that N's seal names; the last has no sealed list.
- A removed snapshot's files stay while an older kept one of the chain needs them, and its record with them.
- Files of a chain are removed only while nobody reads through it (the lock of its newest-state file).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from blockvault.errors import ConflictError, CorruptionError
from blockvault.failpoints import reach
from blockvault.image.system import sync_folder
from blockvault.model import SnapshotKind
from blockvault.snapshots.deltas import ChunkList, binding, delta_path, list_path
from blockvault.snapshots.overlay import damage_mark, stem_of
from blockvault.snapshots.records import State, Stored
from blockvault.snapshots.reflink import remove_if_empty
from blockvault.snapshots.refusals import damaged
from blockvault.store.digests import DigestState

if TYPE_CHECKING:
    from blockvault.model import Item, SnapshotDisk, SnapshotRecord
    from blockvault.snapshots.overlay import RawReader
    from blockvault.snapshots.records import RecordShelf

OpenDigests = Callable[[int], DigestState | None]


def item_folder(folder: str, item: Item) -> str:
    """The item's own folder in a folder for snapshots; two items of one name do not meet."""
    return os.path.join(folder, f"{item.name}-{item.id[:8]}")


def bound_to(record: SnapshotRecord, disk_name: str) -> bytes:
    """What ties the lists of a disk to it."""
    return binding(record.vault_id, record.item_id, disk_name)


def parent_of(stored: list[Stored], disk_name: str, folder: str, chunk_size: int) -> Stored | None:
    """The snapshot whose state the disk's newest-state file in this folder holds, if there is one."""
    for entry in reversed(stored):
        disk = entry.record.disk(disk_name)
        if entry.state is State.MAKING or entry.record.kind is not SnapshotKind.RAW or disk is None:
            continue
        if os.path.dirname(os.path.dirname(disk.file)) == folder and entry.record.chunk_size == chunk_size:
            return entry
    return None


def _in_chain(stored: list[Stored], file: str) -> list[Stored]:
    """The committed snapshots of a chain, removed ones too."""
    return [
        entry
        for entry in stored
        if entry.state is not State.MAKING and any(disk.file == file for disk in entry.record.disks)
    ]


def newest_number(stored: list[Stored], file: str) -> int:
    """The last snapshot of a chain that the host has a record of."""
    return max((entry.number for entry in _in_chain(stored, file)), default=0)


def check_whole(
    shelf: RecordShelf, record: SnapshotRecord, disk: SnapshotDisk, reader: RawReader, last_known: int
) -> None:
    """Refuse a reader whose chain has lost a list, or whose newest state something else has written to.

    Args:
        shelf: the records, to be looked at again.
        record: the snapshot that is read.
        disk: its disk.
        reader: opened after `last_known` was found.
        last_known: the last snapshot of the chain by the records.

    Raises:
        CorruptionError: `snapshot.damaged`.
    """
    if reader.end_number < last_known:
        raise damaged(
            list_path(stem_of(disk.file), reader.end_number),
            f"it is missing or cut off, and the newest state is that of snapshot {last_known}",
        )
    if _is_untouched(shelf, record, disk, reader):
        return
    # A capture touches the file all the time, and so does its last step, after its record. Only where none
    # runs does the file's time have to be right.
    with contextlib.suppress(ConflictError), shelf.locked(record.item_id):
        reader.look_again()
        if not _is_untouched(shelf, record, disk, reader):
            raise damaged(disk.file, "something else has written to it since it was captured")


def _is_untouched(shelf: RecordShelf, record: SnapshotRecord, disk: SnapshotDisk, reader: RawReader) -> bool:
    if reader.is_being_replaced:
        return True  # its list tells what the file no longer holds
    for entry in shelf.load(record.item_id):
        if entry.number == reader.end_number and entry.state is not State.MAKING:
            facts = entry.facts(disk.name)
            return facts is not None and reader.mtime_ns == facts.mtime_ns
    return True  # sealed for a snapshot that has no record, yet or any more: no time is known to compare with


def bytes_used(stored: list[Stored], number: int, disk: SnapshotDisk) -> int:
    """What a snapshot's part of a chain takes up: its old chunks, and the newest state if it is the last."""
    stem = stem_of(disk.file)
    paths = [list_path(stem, number), delta_path(stem, number)]
    if newest_number(stored, disk.file) == number:
        paths.append(disk.file)
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += os.stat(path).st_blocks * 512
    return total


def remove_half_made(half: Stored) -> None:
    """Remove what a capture that a crash ended has made; what it has overwritten, the next one puts back."""
    for disk, facts in zip(half.record.disks, half.disks, strict=True):
        if facts.parent is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(disk.file)
                sync_folder(os.path.dirname(disk.file))
            remove_if_empty(os.path.dirname(disk.file))
            continue
        with contextlib.suppress(FileNotFoundError, CorruptionError):
            found = ChunkList.open(
                list_path(stem_of(disk.file), facts.parent),
                bound_to=bound_to(half.record, disk.name),
                number=facts.parent,
                chunk_size=half.record.chunk_size,
                write=True,
            )
            with contextlib.closing(found):
                if found.successor == half.number:
                    found.cut_torn_end()
                    found.unseal()


def collect(shelf: RecordShelf, stored: list[Stored]) -> None:
    """Remove the files of removed snapshots that no kept one needs, and then their records."""
    for old in [entry for entry in stored if entry.state is State.REMOVED]:
        reach("snapshot.removing")
        if any(_is_needed(stored, old.number, disk.file) for disk in old.record.disks):
            continue
        with contextlib.suppress(OSError):
            removed = [_remove_part(stored, old.number, disk.file) for disk in old.record.disks]
            if all(removed):
                shelf.delete(old)
                stored = [entry for entry in stored if entry is not old]


def _is_needed(stored: list[Stored], number: int, file: str) -> bool:
    return any(entry.state is State.KEPT and entry.number < number for entry in _in_chain(stored, file))


def _remove_part(stored: list[Stored], number: int, file: str) -> bool:
    """Remove a snapshot's list and delta, or the whole chain if none of it is kept; False if someone reads it."""
    chain = _in_chain(stored, file)
    stem = stem_of(file)
    if any(entry.state is State.KEPT for entry in chain):
        paths = [list_path(stem, number), delta_path(stem, number)]
    else:
        paths = [file, damage_mark(file)]
        for entry in chain:
            paths += [list_path(stem, entry.number), delta_path(stem, entry.number)]
    with _alone(file) as is_alone:
        if not is_alone:
            return False
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        folder = os.path.dirname(file)
        if os.path.isdir(folder):
            sync_folder(folder)
            remove_if_empty(folder)
    return True


@contextlib.contextmanager
def _alone(file: str) -> Iterator[bool]:
    """Whether nobody reads through a chain; nobody begins to until this ends."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
