"""A small LMDB store of the host's state in a folder of its own: opened, mended as far as can be, used by transactions.

What lies in one is remembered for people and for going on; no restore needs it. So where LMDB finds it damaged it is
set aside (`NAME.damaged-N`) and begun anew.

Invariants:
- What a call has returned is durable (LMDB syncs every commit).
- The map grows as it must, also when another process has grown it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import lmdb

from blockvault.failpoints import reach
from blockvault.store.local import device_error

MAP_BYTES_START = 64 << 20
_DAMAGED = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PanicError)

T = TypeVar("T")


class LmdbFolder:
    """An opened store; one of a folder in a process at a time (LMDB's rule).

    Args:
        folder: where it lies; made if missing.
        names: its databases.
        what: what it is called in messages.
        kind: that of the error when the system or LMDB refuses.
        failpoint: reached when a write was made, before it is committed.
    """

    def __init__(self, folder: str, names: Sequence[str], *, what: str, kind: str, failpoint: str) -> None:
        self._folder = folder
        self._names = names
        self._what = what
        self._kind = kind
        self._failpoint = failpoint
        self.set_aside: str | None = None  # where it was put when it was found damaged now
        self._lock = threading.Lock()
        try:
            try:
                self._open()
            except _DAMAGED:
                self._begin_anew()
        except (lmdb.Error, OSError) as error:
            known = error if isinstance(error, OSError) else OSError(str(error))
            raise device_error(known, f"opening {what} {folder}", kind=kind) from error

    def _open(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        data = os.path.join(self._folder, "data.mdb")
        size = MAP_BYTES_START
        with contextlib.suppress(FileNotFoundError):
            while size < 2 * os.stat(data).st_size:
                size *= 2
        self._environment = lmdb.open(
            self._folder, map_size=size, max_dbs=len(self._names) + 1, max_readers=512, lib_version=0, mode=0o600,
            readahead=False,
        )  # fmt: skip
        try:
            self._environment.reader_check()
            if os.stat(data).st_size < (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]:
                raise lmdb.CorruptedError("the file was cut off")  # reading beyond its end would end the process
            self._databases = {name: self._environment.open_db(name.encode()) for name in self._names}
        except BaseException:
            self._environment.close()
            raise

    def _begin_anew(self) -> None:
        number = 1
        while os.path.lexists(f"{self._folder}.damaged-{number}"):
            number += 1
        self.set_aside = f"{self._folder}.damaged-{number}"
        os.rename(self._folder, self.set_aside)
        self._open()

    @property
    def databases(self) -> list[Any]:
        """Its databases, in the order of their names as they were given."""
        return [self._databases[name] for name in self._names]

    def close(self) -> None:
        """Close it; safe to call again."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """Rises with every change by any process."""
        return int(self._environment.info()["last_txnid"])

    def read(self, work: Callable[[Any, dict[str, Any]], T]) -> T:
        """Do something in a transaction that only reads; `work` gets it and the databases by name."""
        return self._transact(work, write=False)

    def write(self, work: Callable[[Any, dict[str, Any]], T]) -> T:
        """Do something in one transaction that is durable, whole or not at all, when this returns."""
        return self._transact(work, write=True)

    def _transact(self, work: Callable[[Any, dict[str, Any]], T], *, write: bool) -> T:
        while True:
            try:
                with self._lock, self._environment.begin(write=write) as txn:
                    done = work(txn, self._databases)
                    if write:
                        reach(self._failpoint)
                    return done
            except lmdb.MapFullError:
                with self._lock:
                    self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                with self._lock:
                    self._environment.set_mapsize(0)
            except lmdb.Error as error:
                full = "No space left" in str(error)
                raise device_error(
                    OSError(28 if full else 5, str(error)),
                    f"using {self._what} {self._folder}",
                    kind="store.no-space" if full else self._kind,
                ) from error
