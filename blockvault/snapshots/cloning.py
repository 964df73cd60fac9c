"""Clones of all disks of one item, or of several items, made at one instant.

    with tier.cloning(...) as first, tier.cloning(...) as second:     # records `MAKING`, empty targets, data written
        skew_ms = clone_together([first, second])                     # the clones and nothing else
        first.finish(...), second.finish(...)                         # durable, records `KEPT`

What takes time lies before and after `clone_together`: a guest that stands still waits for that alone. Until `finish`
has ended anything that is raised takes the item's clones back.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from blockvault.errors import BlockVaultError, NotFoundError
from blockvault.failpoints import reach
from blockvault.image.system import clone, extent_count
from blockvault.model import Consistency
from blockvault.snapshots import reflink
from blockvault.snapshots.records import DiskFacts, RecordShelf, State, Stored
from blockvault.snapshots.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.image.source import ImageSource
    from blockvault.model import SnapshotRecord
    from blockvault.monitor import Monitor

EXTENTS_TOLD = 50_000  # a clone of so many holds its writers up for about a second


class CloneCapture:
    """One item's part of a capture by clones; under the item's lock (`SnapshotTier.cloning`)."""

    def __init__(
        self, shelf: RecordShelf, record: SnapshotRecord, sources: list[ImageSource], monitor: Monitor
    ) -> None:
        self.record = record
        self._shelf = shelf
        self._sources = sources
        self._monitor = monitor
        self._paths = [disk.file for disk in record.disks]
        self._facts = tuple(DiskFacts(disk.name, None, 0) for disk in record.disks)
        self._fds: list[int] = []

    def prepare(self) -> None:
        """Note the snapshot as being made, make its files, write what is dirty."""
        self._shelf.write(Stored(State.MAKING, self.record, self._facts))
        with self.explained():
            extents = sum(extent_count(source.fd) for source in self._sources)
            if extents > EXTENTS_TOLD:
                self._monitor.note(
                    f"the images have {extents} extents: cloning them holds their writers up for a moment"
                )
            for source, path in zip(self._sources, self._paths, strict=True):
                self._fds.append(reflink.new_target(source, path))

    def clone(self) -> None:
        """Clone each disk; nothing else."""
        with self.explained():
            for source, fd in zip(self._sources, self._fds, strict=True):
                clone(source.fd, fd)

    def finish(
        self, consistency: Consistency, *, freeze_ms: float | None = None, skew_ms: float | None = None, group: str = ""
    ) -> SnapshotRecord:
        """Make the clones durable and commit the record, with what was reached."""
        with self.explained():
            made = reflink.settle(self._sources, self._paths, self._fds)
        disks = tuple(replace(disk, size=clone.size) for disk, clone in zip(self.record.disks, made, strict=True))
        if len(disks) == 1 and consistency is Consistency.NONE:
            # A clone is of one moment even while the image is written: that is what a crash would leave.
            consistency = Consistency.CRASH
        self.record = replace(
            self.record, disks=disks, consistency=consistency, freeze_ms=freeze_ms, skew_ms=skew_ms, group=group
        )
        self._facts = tuple(
            DiskFacts(disk.name, None, clone.mtime_ns, clone.inode, clone.generation, clone.ctime_ns)
            for disk, clone in zip(disks, made, strict=True)
        )
        self._shelf.write(Stored(State.KEPT, self.record, self._facts))
        self._monitor.advance(sum(disk.size for disk in disks))
        return self.record

    def give_up(self) -> None:
        """Take everything back, unless the commit has gone through after all."""
        with contextlib.suppress(NotFoundError):
            self._shelf.get(self.record.item_id, self.record.number)
            return
        with contextlib.suppress(OSError):
            reflink.remove_clones(self._paths)
            self._shelf.delete(Stored(State.MAKING, self.record, self._facts))

    def take_back(self) -> None:
        """Take back even what was committed: of several items captured together another could not be."""
        with contextlib.suppress(BlockVaultError, OSError):
            self._shelf.update(
                self.record.item_id, self.record.number, lambda stored: replace(stored, state=State.MAKING)
            )
            reflink.remove_clones(self._paths)
            self._shelf.delete(Stored(State.MAKING, self.record, self._facts))

    def close(self) -> None:
        """Let go of the files; safe to call again."""
        while self._fds:
            os.close(self._fds.pop())

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What the system refuses inside is told in the user's words."""
        try:
            yield
        except OSError as error:
            folder = os.path.dirname(self._paths[0]) if self._paths else self.record.folder
            raise refused(folder, error) from error


def clone_together(captures: list[CloneCapture]) -> float:
    """Clone all disks of all captures, one right after the other; how long that took, in milliseconds."""
    with captures[0].explained():
        reach("snapshot.reflink.begun")
    begun = time.monotonic_ns()
    for capture in captures:
        capture.clone()
    skew_ms = round((time.monotonic_ns() - begun) / 1e6, 3)
    with captures[0].explained():
        reach("snapshot.reflink.cloned")
    return skew_ms
