"""An opened vault, wired together: what every verb works with.

Opening brings the LMDB store up to the objects: index segments of other processes and hosts are taken in, all of them
if the index was lost; the catalog is refreshed; the host's state is bound to the folder. A vault is read even where
the system refuses all of that: `check_writable` tells why, and only what writes asks it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime

from blockvault.clock import to_text, utc_now
from blockvault.errors import (
    BlockVaultError,
    ConflictError,
    CorruptionError,
    DeviceError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.format import records
from blockvault.format.envelope import FORMAT_VERSION, Kind, seal_record, unseal_record
from blockvault.format.index import decode_index
from blockvault.ids import OriginId
from blockvault.model import Item, Point, PointRef
from blockvault.monitor import Monitor, Warned
from blockvault.snapshots.tier import SnapshotTier
from blockvault.store.catalog import Catalog, record_names
from blockvault.store.folder import VaultFolder
from blockvault.store.host import HostState
from blockvault.store.index import Commit, Index
from blockvault.store.leases import Lease
from blockvault.store.locks import FileLock
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine
from blockvault.store.registered import note_items
from blockvault.store.seen import Watch

POINTS_OF_A_LEASE = 4096  # a record has 1 MiB at most, and a point takes 104 bytes of it: more points take more leases
_open_here: set[str] = set()
_open_lock = threading.Lock()


class Session:
    """One opened vault; closed once."""

    def __init__(self, folder: VaultFolder, *, name: str, state_dir: str, now: datetime, created_now: bool) -> None:
        self.folder = folder
        self.header = folder.header
        self.keys = folder.keys
        self.store = folder.store
        self.name = name
        self.path = folder.path
        self.vault_id = folder.header.vault_id
        self.chunk_size = folder.header.chunk_size
        self.min_writer = folder.config.min_writer
        self.soft_delete_days = folder.config.soft_delete_days
        self.created_now = created_now
        self.state_dir = state_dir
        self._closed = False
        with _open_lock:
            if self.path in _open_here:
                raise ConflictError(
                    "vault.open-twice",
                    f"the vault at {self.path} is already open in this process",
                    why="LMDB must not be opened twice in one process",
                    do="use the Vault that is open, or close it first",
                )
            _open_here.add(self.path)
        self.index: Index | None = None
        try:
            self.host = HostState(
                os.path.join(state_dir, "hosts", self.vault_id),
                vault_id=self.vault_id,
                header_path=folder.header_path,
                now=now,
            )
            self.index = folder.open_index(now, self.host.index_note)
            self.catalog = Catalog(self.store, self.keys, self.index)
            self.shelf = PackShelf(self.store, self.keys)
            self._record = self.host.bind(self.catalog.newest_numbers, Watch(self.store, self.keys))
            self.origin = OriginId(self._record.origin)
            self.host_label = self._record.label
            self.quarantine = Quarantine(self.store, self.keys, host=self.host_label, clock=utc_now)
            self.notices: tuple[Warned, ...] = tuple(self.host.noticed)
            self._refused = self.host.refused or folder.refused
            if self.index is not None and self._refused is None:
                try:
                    self._register_origin(now)
                    self._bring_up_index()
                except DeviceError as error:
                    self._refused = error
            self.quarantine.writable = self.index is not None and self._refused is None
            self.tier = SnapshotTier(self.host.folder, self.vault_id)
            self.note_items()
        except BaseException:
            self.close()
            raise

    def origin_record(self, now: datetime) -> tuple[str, bytes]:
        """Name and bytes of this host's origin record, as made now."""
        name = f"origins/{self.origin}"
        body = records.OriginBody(origin=self.origin, label=self._record.label, created=to_text(now))
        data, _ = seal_record(self.keys, Kind.ORIGIN, name, records.encode(body))
        return name, data

    def _register_origin(self, now: datetime) -> None:
        name, data = self.origin_record(now)
        if not self.store.exists(name):
            try:
                self.store.put_new(name, data)
            except BlockVaultError as error:
                if error.kind != "store.exists":
                    raise

    def _bring_up_index(self) -> None:
        """Take in index segments of other processes and hosts; all of them, if the index was lost."""
        assert self.index is not None
        self.index.take_in(self._unseen(self.index.segments()))

    def _unseen(self, seen: set[str]) -> Iterator[Commit]:
        for name in record_names(self.store, Kind.INDEX):
            key = name.removeprefix("main/index/")
            if key in seen:
                continue
            try:
                body, _ = unseal_record(self.keys, Kind.INDEX, name, self.store.read(name))
                yield (*decode_index(name, body), key)
            except (CorruptionError, NotFoundError):
                continue  # costs dedup only; `verify` names it

    def rebuild_index(self) -> None:
        """Make the LMDB store anew from the objects."""
        assert self.index is not None
        self.index.rebuild()
        self.catalog.refresh()
        self._bring_up_index()

    def check_writable(self) -> None:
        """Raises `UnsupportedError` or `DeviceError` if this program may not, or cannot, write to the vault."""
        if self.min_writer > FORMAT_VERSION:
            raise UnsupportedError(
                "vault.newer-format",
                f"the vault '{self.name}' may only be written by version {self.min_writer} or newer",
                why=f"this BlockVault writes version {FORMAT_VERSION}; reading works",
                do="use a newer BlockVault for this vault",
            )
        forbidden = (errno.EROFS, errno.EACCES, errno.EPERM)
        if self._refused is not None and (self._refused.errno not in forbidden or os.access(self.path, os.W_OK)):
            raise self._refused
        if self.index is None:
            raise DeviceError(
                "vault.read-only",
                f"the vault at {self.path} cannot be written",
                why="the folder or its file system is read-only for this user",
                do="check the rights on the folder; restore and verify work as it is",
            )
        if self._refused is not None:
            raise self._refused

    def note_items(self) -> None:
        """Have the disks of this vault's items known to the host's other vaults, where its state can be written."""
        if self._refused is None:
            with suppress(DeviceError):
                revisions = self.catalog.item_revisions()
                note_items(self.host.folder, self.name, self.path, revisions, self.catalog.items)

    def tell_notices(self, monitor: Monitor) -> None:
        """Tell a job what opening the vault noticed of it."""
        for notice in self.notices:
            monitor.warn(notice.kind, notice.message)

    def lease(self, operation: str, item: str, parents: Iterable[tuple[PointRef, bytes]]) -> Lease:
        """A lease that names the points, by their records' digests, that the work builds on (R16)."""
        named = [records.RefBody(ref.origin, ref.number, digest.hex()) for ref, digest in parents]
        return Lease(
            self.store, self.keys, origin=self.origin, operation=operation, item=item, parents=named, now=utc_now()
        )

    @contextmanager
    def reading(self, points: Iterable[Point]) -> Iterator[None]:
        """A read lease on points: what they need stays until it ends, whatever becomes of them meanwhile.

        Where none can be had (read-only, no space left) reading goes on without: a point that is purged and reclaimed
        just then ends the work with an error that names what is missing.
        """
        with ExitStack() as stack:
            if self.index is not None:
                found = list(points)
                item = found[0].item_name if len(found) == 1 else ""
                with suppress(DeviceError):
                    for start in range(0, max(1, len(found)), POINTS_OF_A_LEASE):
                        named = found[start : start + POINTS_OF_A_LEASE]
                        stack.enter_context(self.lease("read", item, [(point.ref, point.digest) for point in named]))
            yield

    def item_lock(self, item: Item, phase: str) -> FileLock:
        """Held by the one who captures or transfers an item, or writes to its disks."""
        verb = {"capture": "captured or restored in place", "transfer": "transferred"}[phase]
        return self.host.lock(
            f"item-{item.id}.{phase}", kind="item.locked", subject=f"item '{item.name}' is being {verb}"
        )

    def reclaim_lock(self, now: datetime) -> FileLock:
        """Held by whoever deletes or rewrites packs: one at a time in a vault."""
        return FileLock(
            os.path.join(self.path, "reclaim.lock"),
            kind="vault.locked",
            subject=f"the vault '{self.name}' is being reclaimed or repaired",
            now=now,
        )

    def label(self, origin: OriginId) -> str:
        """What a writing host calls itself; its id's beginning if its record cannot be read."""
        name = f"origins/{origin}"
        try:
            body, _ = unseal_record(self.keys, Kind.ORIGIN, name, self.store.read(name))
            label = str(records.decode(name, body, records.OriginBody).label)
        except BlockVaultError:
            return origin[:8]
        return label

    def close(self) -> None:
        """Close the vault; safe to call again."""
        if self._closed:
            return
        self._closed = True
        if hasattr(self, "shelf"):
            self.shelf.close()
        if self.index is not None:
            self.index.close()
            self.index = None
        with _open_lock:
            _open_here.discard(self.path)
