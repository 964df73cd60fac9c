"""Leases: who is at work in a vault (R16).

On one machine the OFD lock on the lease's file decides who lives; what stands in it tells reclaim which points the
work builds on. A lease whose lock is free is dead, whatever it says; whoever meets one may remove it.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from types import TracebackType
from typing import Self

from blockvault.clock import to_text
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record
from blockvault.ids import OriginId, random_name
from blockvault.model import VaultKeys
from blockvault.store.local import LocalStore, device_error, make_folders, open_plain, write_all
from blockvault.store.locks import try_lock


def boot_id() -> str:
    """The kernel's id of this boot, for messages."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Lease:
    """Held from `__enter__` to `__exit__`; its file is removed at the end, and by the next holder after a crash."""

    def __init__(
        self,
        store: LocalStore,
        keys: VaultKeys,
        *,
        origin: OriginId,
        operation: str,
        item: str,
        parents: list[records.RefBody],
        now: datetime,
    ) -> None:
        writer = random_name().hex()
        self._store = store
        self._name = f"leases/{writer}"
        body = records.LeaseBody(
            writer=writer,
            origin=origin,
            operation=operation,
            item=item,
            pid=os.getpid(),
            boot_id=boot_id(),
            since=to_text(now),
            parents=parents,
        )
        self._data, _ = seal_record(keys, Kind.LEASE, self._name, records.encode(body))
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._store.path(self._name)  # refuses a folder that is a link: dead leases are removed from it
            make_folders(self._store.root, "leases")
            self._remove_dead()
            self._fd = self._make_locked()
            write_all(self._fd, self._data)
            os.fsync(self._fd)
        except OSError as error:
            self.__exit__(None, None, None)
            raise device_error(error, "taking a lease in the vault") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            try:
                os.unlink(self._store.path(self._name))
            except OSError:
                pass
            os.close(self._fd)
            self._fd = -1

    def _make_locked(self) -> int:
        """The lease's file, new and locked; made again if someone took it for a dead one before it was locked."""
        path = self._store.path(self._name)
        while True:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if try_lock(fd) and os.fstat(fd).st_nlink:
                return fd
            os.close(fd)
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def _remove_dead(self) -> None:
        """Remove leases whose holder is gone: their lock is free. One that died before it wrote anything is as dead."""
        for entry in self._store.entries("leases"):
            if not re.fullmatch(r"[0-9a-f]{32}", entry):
                continue
            path = self._store.path(f"leases/{entry}")
            try:
                fd = open_plain(path, os.O_RDWR)
            except OSError:
                continue
            try:
                if try_lock(fd):
                    os.unlink(path)
            except OSError:
                continue
            finally:
                os.close(fd)
