"""Capturing all disks of an item by copying: which chains are built upon, the commit, and the way back.

The record is `MAKING` before the first byte is written and `KEPT` after the last is durable. Between the two
any failure takes everything back: new files are removed, newest states put back, and the snapshot before is
the newest again, its digest state still valid.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from blockvault import kernel
from blockvault.errors import BlockVaultError, CorruptionError, NotFoundError
from blockvault.failpoints import reach
from blockvault.model import Consistency, SnapshotDisk
from blockvault.snapshots.chains import bound_to, item_folder, parent_of
from blockvault.snapshots.newest import Parent
from blockvault.snapshots.overlay import NEWEST_SUFFIX
from blockvault.snapshots.raw_disk import CaptureContext, DiskCapture
from blockvault.snapshots.records import DiskFacts, RecordShelf, State, Stored, record_digest
from blockvault.snapshots.reflink import remove_if_empty
from blockvault.snapshots.refusals import refused
from blockvault.store.digests import DigestState, DigestWriter
from blockvault.store.local import make_folders

if TYPE_CHECKING:
    from blockvault.image.source import ImageSource, SourceState
    from blockvault.model import DiskSpec, Item, SnapshotRecord
    from blockvault.monitor import Monitor


class RawCapture:
    """One capture of all disks of an item, copied into the folder; `run` it once, under the item's lock."""

    def __init__(
        self,
        shelf: RecordShelf,
        record: SnapshotRecord,
        item: Item,
        sources: list[ImageSource],
        *,
        seed: int,
        digests_dir: str,
        monitor: Monitor,
        stands_still: bool = False,
    ) -> None:
        self.read_bytes = 0
        self._stands_still = stands_still
        self._shelf = shelf
        self._record = record
        self._item = item
        self._sources = sources
        self._folder = os.path.abspath(record.folder)
        self._own_folder = item_folder(self._folder, item)
        self._digests_dir = digests_dir
        self._monitor = monitor
        token = kernel.CancelToken()
        monitor.attach(token)
        self._context = CaptureContext(record.number, item.chunk_size, seed, monitor, token)

    def run(self) -> SnapshotRecord:
        """Capture all disks and commit the record; on any failure everything is as before.

        Raises:
            DeviceError: see `SnapshotTier.capture`.
        """
        before = self._look_at_sources()
        captures: list[DiskCapture] = []
        record = self._record
        try:
            try:
                stored = self._shelf.load(record.item_id)
                for spec, source in zip(self._item.disks, self._sources, strict=True):
                    captures.append(self._prepared(spec, source, stored))
                disks = tuple(
                    SnapshotDisk(spec.name, spec.path, source.size, capture.path)
                    for spec, source, capture in zip(self._item.disks, self._sources, captures, strict=True)
                )
                record = replace(record, disks=disks)
                facts = [_facts(spec, capture) for spec, capture in zip(self._item.disks, captures, strict=True)]
                self._shelf.write(Stored(State.MAKING, record, tuple(facts)))
                reach("snapshot.raw.making")
                make_folders("/", self._own_folder.lstrip("/"))
                for capture in captures:
                    capture.run()
                self._check_sources(before)
                self._monitor.check()
                facts = [
                    replace(fact, mtime_ns=capture.settle()) for fact, capture in zip(facts, captures, strict=True)
                ]
                reach("snapshot.raw.commit")
                self._shelf.write(Stored(State.KEPT, record, tuple(facts)))
                reach("snapshot.raw.committed")
            except BaseException as error:
                self._give_up(record, captures)
                if isinstance(error, OSError):
                    raise refused(self._own_folder, error) from error
                raise
            self.read_bytes = sum(capture.read_bytes for capture in captures)
            self._after_commit(record, facts, captures)
            return record
        finally:
            for capture in captures:
                capture.close()

    # -- the sources ----------------------------------------------------------------------------------------

    def _look_at_sources(self) -> list[SourceState]:
        if self._record.consistency is Consistency.CRASH and not self._stands_still:
            for source in self._sources:
                source.check_no_writer()
        return [source.state() for source in self._sources]

    def _check_sources(self, before: list[SourceState]) -> None:
        if self._record.consistency is Consistency.NONE:
            return
        for source, state in zip(self._sources, before, strict=True):
            source.check_unchanged(state)

    # -- the chains -----------------------------------------------------------------------------------------

    def _prepared(self, spec: DiskSpec, source: ImageSource, stored: list[Stored]) -> DiskCapture:
        """The capture of one disk, upon its chain if that can be, else into a new file, which is told."""
        parent = parent_of(stored, spec.name, self._folder, self._record.chunk_size)
        if parent is not None:
            reason = self._lost_since(parent)
            if reason is None:
                capture = self._capture_upon(parent, spec, source)
                try:
                    capture.prepare()
                    return capture
                except FileNotFoundError:
                    reason = f"{capture.path} is gone"
                except CorruptionError as error:
                    reason = error.why or error.message
                except BaseException:
                    capture.close()
                    raise
                capture.close()
            self._monitor.warn(
                "snapshot.begun-anew",
                f"the earlier snapshots of disk '{spec.name}' cannot be built upon ({reason}): "
                "a whole new copy is made",
            )
        return self._new_capture(spec, source)

    def _lost_since(self, parent: Stored) -> str | None:
        """Why the parent may not be the last of its chain: a record that cannot be read may be of a later one."""
        for path in self._shelf.damaged:
            folder, name = os.path.split(path)
            if os.path.basename(folder) == self._item.id and int(name.split(".")[0]) > parent.number:
                return "the record of a later one is damaged"
        return None

    def _capture_upon(self, parent: Stored, spec: DiskSpec, source: ImageSource) -> DiskCapture:
        disk, facts = parent.record.disk(spec.name), parent.facts(spec.name)
        assert disk is not None
        assert facts is not None
        before = DigestState.open(
            os.path.join(self._digests_dir, spec.name),
            "snapshot",
            vault_id=self._record.vault_id,
            record_digest=record_digest(parent.record),
            disk=spec.name,
            size=disk.size,
            chunk_size=self._record.chunk_size,
            seed=self._context.seed,
        )
        return DiskCapture(
            self._context,
            source,
            disk.file,
            parent=Parent(parent.number, disk.size, facts.mtime_ns),
            bound_to=bound_to(self._record, spec.name),
            before=before,
            writer=self._writer(spec, source, before),
        )

    def _new_capture(self, spec: DiskSpec, source: ImageSource) -> DiskCapture:
        # A file under such a name is an earlier chain's, or nobody's that we know of: a host that has lost its records
        # gives numbers anew. It is left alone.
        path = os.path.join(self._own_folder, spec.name + NEWEST_SUFFIX)
        if os.path.lexists(path):
            path = os.path.join(self._own_folder, f"{spec.name}-{self._record.number}{NEWEST_SUFFIX}")
        if os.path.lexists(path):
            own = f"{self._record.number}-{os.urandom(4).hex()}"
            path = os.path.join(self._own_folder, f"{spec.name}-{own}{NEWEST_SUFFIX}")
        return DiskCapture(
            self._context,
            source,
            path,
            parent=None,
            bound_to=bound_to(self._record, spec.name),
            before=None,
            writer=self._writer(spec, source, None),
        )

    def _writer(self, spec: DiskSpec, source: ImageSource, base: DigestState | None) -> DigestWriter:
        return DigestWriter(
            os.path.join(self._digests_dir, spec.name),
            vault_id=self._record.vault_id,
            disk=spec.name,
            size=source.size,
            chunk_size=self._record.chunk_size,
            seed=self._context.seed,
            base=base,
        )

    # -- forward and back -----------------------------------------------------------------------------------

    def _after_commit(self, record: SnapshotRecord, facts: list[DiskFacts], captures: list[DiskCapture]) -> None:
        """What may fail without harm: without its digest state the next capture reads the newest state instead."""
        for fact, capture in zip(facts, captures, strict=True):
            try:
                capture.after_commit(record_digest(record), fact.mtime_ns)
            except (OSError, BlockVaultError) as error:
                self._monitor.note(f"the next snapshot of disk '{fact.name}' will take longer: {error}")

    def _give_up(self, record: SnapshotRecord, captures: list[DiskCapture]) -> None:
        """Take everything back, unless the commit has gone through after all.

        Where even that fails the record stays `MAKING`: readers find the snapshot before through its list,
        and the next job goes on from here.
        """
        with contextlib.suppress(NotFoundError):
            self._shelf.get(record.item_id, record.number)
            return
        with contextlib.suppress(OSError, CorruptionError):
            for capture in reversed(captures):
                capture.undo()
            if record.disks:
                facts = tuple(DiskFacts(disk.name, None, 0) for disk in record.disks)
                self._shelf.delete(Stored(State.MAKING, record, facts))
            remove_if_empty(self._own_folder)


def _facts(spec: DiskSpec, capture: DiskCapture) -> DiskFacts:
    return DiskFacts(spec.name, capture.parent.number if capture.parent else None, 0)
