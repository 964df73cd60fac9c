"""An opened vault, wired together: what every verb works with.

Opening brings the LMDB store up to the objects: index segments of other processes and hosts are taken in, all of them
if the index was lost; the catalog is refreshed; the host's state is bound to the folder.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime

from blockvault.clock import to_text
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
from blockvault.snapshots.tier import SnapshotTier
from blockvault.store.catalog import Catalog, record_names
from blockvault.store.folder import VaultFolder
from blockvault.store.host import HostState
from blockvault.store.index import Index
from blockvault.store.packs import PackShelf

_open_here: set[str] = set()
_open_lock = threading.Lock()


class Session:
    """One opened vault; closed once."""

    def __init__(self, folder: VaultFolder, *, name: str, state_dir: str, now: datetime, created_now: bool) -> None:
        self.header = folder.header
        self.keys = folder.keys
        self.store = folder.store
        self.name = name
        self.path = folder.path
        self.vault_id = folder.header.vault_id
        self.chunk_size = folder.header.chunk_size
        self.min_writer = folder.config.min_writer
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
            self._record = self.host.bind(self.catalog.newest_numbers)
            self.origin = OriginId(self._record.origin)
            if self.index is not None:
                self._register_origin(now)
                self._bring_up_index()
            self.tier = SnapshotTier(self.host.folder, self.vault_id)
        except BaseException:
            self.close()
            raise

    def _register_origin(self, now: datetime) -> None:
        name = f"origins/{self.origin}"
        if not self.store.exists(name):
            body = records.OriginBody(origin=self.origin, label=self._record.label, created=to_text(now))
            data, _ = seal_record(self.keys, Kind.ORIGIN, name, records.encode(body))
            try:
                self.store.put_new(name, data)
            except BlockVaultError as error:
                if error.kind != "store.exists":
                    raise

    def _bring_up_index(self) -> None:
        """Take in index segments of other processes and hosts; all of them, if the index was lost."""
        assert self.index is not None
        seen = self.index.segments()
        for name in record_names(self.store, Kind.INDEX):
            key = name.removeprefix("main/index/")
            if key in seen:
                continue
            try:
                body, _ = unseal_record(self.keys, Kind.INDEX, name, self.store.read(name))
                self.index.add_blocks(*decode_index(name, body), key)
            except (CorruptionError, NotFoundError):
                continue  # costs dedup only; `verify` names it

    def check_writable(self) -> None:
        """Raises `UnsupportedError` or `DeviceError` if this program may not, or cannot, write to the vault."""
        if self.min_writer > FORMAT_VERSION:
            raise UnsupportedError(
                "vault.newer-format",
                f"the vault '{self.name}' may only be written by version {self.min_writer} or newer",
                why=f"this BlockVault writes version {FORMAT_VERSION}; reading works",
                do="use a newer BlockVault for this vault",
            )
        if self.index is None:
            raise DeviceError(
                "vault.read-only",
                f"the vault at {self.path} cannot be written",
                why="the folder or its file system is read-only for this user",
                do="check the rights on the folder; restore and verify work as it is",
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
