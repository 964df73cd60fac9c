"""A transfer set up: against which parent, with what at hand, under which lease; run, and noted in the host's state.

`Transfer` does the work on given disks; this decides what it works with. The order: the parent is chosen, the lease
that names it is taken, the parent is looked at again, then what is condemned and what is in quarantine; only then
anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from blockvault.clock import utc_now
from blockvault.engine.changed_blocks import turn_on, use_map
from blockvault.engine.dating import committed_last
from blockvault.engine.encoding import TransferContext
from blockvault.engine.session import Session
from blockvault.engine.transfer import DiskTransfer, Transfer
from blockvault.errors import (
    BlockVaultError,
    ConflictError,
)
from blockvault.image.reader import DiskReader
from blockvault.model import (
    Point,
    SnapshotRecord,
)
from blockvault.monitor import Monitor
from blockvault.store import condemned
from blockvault.store.catalog import point_object
from blockvault.store.digests import DigestState
from blockvault.store.leases import Lease


class Transferring:
    """Sets up and runs the transfers of one vault."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def digests_of(self, item_id: str) -> str:
        """The folder of an item's digest states, one folder a disk in it."""
        return os.path.join(self._session.host.digests_folder, item_id)

    def parent_of(self, item_id: str, monitor: Monitor) -> Point | None:
        """The point last committed for the item: of this host if there is one, else the newest of any.

        Any point would do for correctness; the one committed last is the one that the digest state speaks of. One whose
        record does not stand in the vault as the catalog knows it is no parent, and that is told.
        """
        briefs = [brief for brief in self._session.catalog.briefs() if brief.item_id == item_id]
        own = [brief for brief in briefs if brief.origin == self._session.origin]
        if not own:
            briefs.sort(key=lambda brief: (brief.taken, brief.number), reverse=True)
        for brief in committed_last(own) if own else briefs:
            point = self._session.catalog.record(brief.ref)
            if point is not None and self._session.catalog.stands(point.ref, point.digest):
                return point
            monitor.warn(
                "vault.object-damaged",
                f"the record of point {brief.number}, {point_object(brief.ref)}, is damaged: churn is computed against "
                "an older point",
            )
        return None

    def inputs(
        self,
        parent: Point | None,
        item_id: str,
        readers: list[tuple[str, str, DiskReader]],
        chunk_size: int,
        *,
        full: bool,
    ) -> list[DiskTransfer]:
        """The disks with what is known of them at the parent; with `full` no digest state is used."""
        inputs = []
        for name, path, reader in readers:
            parent_disk = next((disk for disk in parent.disks if disk.name == name), None) if parent else None
            if parent_disk is not None and parent_disk.chunk_size != chunk_size:
                parent_disk = None
            folder = os.path.join(self.digests_of(item_id), name)
            digests = None
            if parent is not None and parent_disk is not None and not full:
                digests = DigestState.open(
                    folder,
                    "point",
                    vault_id=self._session.vault_id,
                    record_digest=parent.digest,
                    disk=name,
                    size=parent_disk.size,
                    chunk_size=chunk_size,
                    seed=self._session.keys.digest_seed,
                )
            inputs.append(DiskTransfer(name, path, reader, parent_disk, digests, folder))
        return inputs

    def run(
        self,
        blank: Point,
        readers: list[tuple[str, str, DiskReader]],
        chunk_size: int,
        before_commit: Callable[[], None],
        *,
        full: bool,
        level: int,
        monitor: Monitor,
        record: SnapshotRecord | None = None,
    ) -> Point:
        """Transfer disks and commit their point.

        Args:
            blank: the point as far as it is known before anything is read.
            readers: name, path and reader of each disk.
            chunk_size: of the item.
            before_commit: asked last before the commit; what it raises ends the transfer.
            full: compare by identity, not by digest.
            level: zstd level.
            monitor: told of progress and warnings.
            record: the snapshot that is transferred; None: the live images are.

        Raises: as `Transfer.run`; and `ConflictError` (`transfer.conflict`) where the parent was purged just now.
        """
        self._session.check_writable()
        self._session.catalog.refresh()
        parent = self.parent_of(blank.item_id, monitor)
        inputs = self.inputs(parent, blank.item_id, readers, chunk_size, full=full)
        if parent is not None:
            used = any(disk.parent is not None for disk in inputs)
            blank = replace(blank, parent=parent.ref if used else None, parent_digest=parent.digest if used else None)
            _warn_if_dated_before(blank, parent, monitor)
        monitor.phase("Transfer", sum(reader.size for _, _, reader in readers))
        by_digest = all(disk.digests is not None for disk in inputs)
        audit = "every chunk was read" if by_digest else "every data chunk was read and compared by identity"
        if parent is None or blank.parent is None:
            audit = "every data chunk was read"
        with self._lease(blank, "transfer"):
            self._check_parent(blank)
            if record is not None and parent is not None and blank.parent is not None:
                verdict = use_map(self._session, record, parent, inputs, monitor)
                if verdict.used:
                    audit = verdict.told
                elif verdict.told:
                    audit = f"{audit}: {verdict.told}"
            marked = condemned.look(self._session.store, self._session.keys)
            # Whatever reclaim deletes from now on waits for this lease; what it deleted before is forgotten here.
            self._session.shelf.refresh()
            context = TransferContext(
                self._session.store,
                self._session.keys,
                self._session.shelf,
                self._session.catalog,
                self._session.index,
                self._session.origin,
                monitor,
                utc_now,
                marked,
                self._session.quarantine,
                level,
            )
            context.quarantine.refresh()
            transfer = Transfer(context, now=utc_now())
            point = transfer.run(replace(blank, audit=audit), inputs, before_commit=before_commit)
            if full:
                turn_on(self._session, blank.item_id, blank.item_name, monitor)
        try:
            self._session.host.committed(self._session.origin, point.number)
            self._session.catalog.refresh()
        except (BlockVaultError, OSError) as error:
            warn_not_noted(monitor, point, error)
        return point

    def _check_parent(self, blank: Point) -> None:
        """From its lease on a parent stays; one that ended just before is found here, not after hours at R8."""
        if blank.parent is None or self._session.catalog.check_parent(blank.parent, blank.parent_digest or b""):
            return
        raise ConflictError(
            "transfer.conflict",
            f"the transfer of item '{blank.item_name}' was not begun",
            why=f"its parent, point {blank.parent.number}, was purged just now",
            do="run the command again: it takes the newest point as its parent",
        )

    def _lease(self, point: Point, operation: str) -> Lease:
        parents = [] if point.parent is None else [(point.parent, point.parent_digest or b"")]
        return self._session.lease(operation, point.item_name, parents)


def _warn_if_dated_before(point: Point, parent: Point, monitor: Monitor) -> None:
    """Tell of a clock that went back between two points of this host; what waited longer may be older by right."""
    if point.ref.origin == parent.ref.origin and point.number > parent.number and point.taken < parent.taken:
        monitor.warn(
            "clock.went-back",
            f"point {point.number} is dated {point.taken:%Y-%m-%d %H:%M} UTC, before its parent, point {parent.number} "
            f"({parent.taken:%Y-%m-%d %H:%M} UTC): this host's clock was changed; numbers tell the order of points",
        )


def in_short(error: BlockVaultError | OSError) -> str:
    """One line of an error."""
    return error.message if isinstance(error, BlockVaultError) else error.strerror or str(error)


def warn_not_noted(monitor: Monitor, point: Point, error: BlockVaultError | OSError) -> None:
    """The point stands: what could not be written down on this host is found out again at the next opening."""
    monitor.warn(
        "host.not-noted",
        f"point {point.number} is in the vault, but this host could not note that ({in_short(error)}): "
        "the next run makes up for it",
    )
