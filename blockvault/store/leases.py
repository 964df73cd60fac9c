"""Leases: who is at work in a vault (R16).

On one machine the OFD lock on the lease's file decides who lives; what stands in it tells reclaim which points the
work builds on. A lease whose lock is free is dead, whatever it says; whoever meets one may remove it.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from blockvault.clock import to_text
from blockvault.errors import CorruptionError, NotFoundError, UnsupportedError
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.ids import OriginId, random_name
from blockvault.model import PointRef, VaultKeys
from blockvault.store.local import LocalStore, device_error, make_folders, write_all
from blockvault.store.locks import try_lock

READ_TRIES = 50


def boot_id() -> str:
    """The kernel's id of this boot, for messages."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Live:
    """A lease whose holder lives, since when by the store's time.

    `parents` is None where it cannot be read: what it builds on is not known.
    """

    writer: str
    operation: str
    parents: tuple[PointRef, ...] | None
    since: float = 0.0


def live_leases(store: LocalStore, keys: VaultKeys, *, tidy: bool = True) -> list[Live]:
    """The leases of those who are at work now; dead ones are removed on the way, if `tidy`."""
    found = []
    for entry in sorted(store.entries("leases")):
        if re.fullmatch(r"[0-9a-f]{32}", entry) and not _is_dead(store.path(f"leases/{entry}"), remove=tidy):
            lease = _read(store, keys, entry)
            if lease is not None:
                found.append(lease)
    return found


def _read(store: LocalStore, keys: VaultKeys, writer: str) -> Live | None:
    """What a lease says. It is written in place after it is locked: one that is not whole yet is read again."""
    name = f"leases/{writer}"
    for _ in range(READ_TRIES):
        try:
            body, _ = unseal_record(keys, Kind.LEASE, name, store.read(name, limit=1 << 20))
            told: records.LeaseBody = records.decode(name, body, records.LeaseBody)
            since = store.modified(name)
        except CorruptionError:
            time.sleep(0.02)
            continue
        except UnsupportedError:
            break  # of a newer version: held, and it is not known what it builds on
        except NotFoundError:
            return None  # it ended just now: if its writer committed, the record is there already
        parents = tuple(PointRef(OriginId(parent.origin), parent.number) for parent in told.parents)
        return Live(writer, told.operation, parents, since)
    return Live(writer, "", None)


def _is_dead(path: str, *, remove: bool = True) -> bool:
    """Whether a lease's lock is free, so that its holder is gone; the file is removed then, if so asked."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not try_lock(fd):
            return False
        if remove:
            os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


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
            reach("lease.sync")
            os.fsync(self._fd)
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise device_error(error, "taking a lease in the vault") from error
            raise
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
            if re.fullmatch(r"[0-9a-f]{32}", entry):
                _is_dead(self._store.path(f"leases/{entry}"))


def dead_leases(store: LocalStore) -> list[str]:
    """Names of leases whose holder is gone; they are left where they are."""
    names = [f"leases/{entry}" for entry in store.entries("leases") if re.fullmatch(r"[0-9a-f]{32}", entry)]
    return [name for name in names if _is_dead(store.path(name), remove=False)]
