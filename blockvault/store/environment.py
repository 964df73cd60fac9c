"""An LMDB environment in a folder of its own: opening it, and running transactions on it.

Every file of LMDB is opened in the 0.9 format (`lib_version=0`) and synced at each commit. Invariants:
- A file that was cut off is refused when it is opened: reading beyond its end would end the process.
- The map grows as it is needed, also where another process has grown it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import lmdb

from blockvault.errors import DeviceError
from blockvault.failpoints import reach
from blockvault.store.local import device_error

# What opening or reading raises where the file is not what LMDB wrote.
DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.IncompatibleError,
)
T = TypeVar("T")


def open_environment(folder: str, map_bytes: int) -> Any:
    """Open an environment, made if it is missing; its map has room for twice what is there.

    Raises:
        lmdb.Error: it cannot be opened; one of `DAMAGED`: it is not what LMDB wrote.
        OSError: the folder cannot be made.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    data = os.path.join(folder, "data.mdb")
    with contextlib.suppress(FileNotFoundError):
        while map_bytes < 2 * os.stat(data).st_size:
            map_bytes *= 2
    environment = lmdb.open(
        folder, map_size=map_bytes, max_dbs=8, max_readers=512, lib_version=0, mode=0o600, subdir=True, readahead=False
    )
    environment.reader_check()  # slots of killed readers, which would keep old pages from being used again
    pages = environment.info()["last_pgno"] + 1
    if os.stat(data).st_size < pages * environment.stat()["psize"]:
        environment.close()
        raise lmdb.CorruptedError("the file was cut off")
    return environment


class Environment:
    """An environment that is set aside and begun anew where it is damaged: for what is of use but not the only copy.

    Args:
        folder: its own.
        names: of its databases.
        noun: what it is, for messages: "the journal of jobs".
        kind: of the errors where it cannot be used.
        map_bytes: room to begin with.

    Raises:
        DeviceError: it cannot be opened.
    """

    def __init__(self, folder: str, names: tuple[bytes, ...], *, noun: str, kind: str, map_bytes: int) -> None:
        self.folder = folder
        self.set_aside: str | None = None  # where a damaged one was put when this one was opened
        self._names = names
        self._noun, self._kind = noun, kind
        self._map_bytes = map_bytes
        self._lock = threading.Lock()
        try:
            try:
                self._open()
            except DAMAGED:
                self._set_aside()
                self._open()
        except (lmdb.Error, OSError) as error:
            raise self._refused(error) from error

    def _open(self) -> None:
        self._environment = open_environment(self.folder, self._map_bytes)
        try:
            self.databases = tuple(self._environment.open_db(name) for name in self._names)
        except BaseException:
            self._environment.close()
            raise

    def _set_aside(self) -> None:
        number = 1
        while os.path.lexists(f"{self.folder}.damaged-{number}"):
            number += 1
        self.set_aside = f"{self.folder}.damaged-{number}"
        os.rename(self.folder, self.set_aside)

    def _refused(self, error: Exception) -> DeviceError:
        if isinstance(error, OSError):
            return device_error(error, f"opening {self._noun} {self.folder}", kind=self._kind)
        full = "No space left" in str(error)
        cause = OSError(28 if full else 5, str(error))
        return device_error(cause, f"using {self._noun} {self.folder}", kind="store.no-space" if full else self._kind)

    @property
    def revision(self) -> int:
        """Rises with every commit by any process."""
        return int(self._environment.info()["last_txnid"])

    def run(self, work: Callable[[Any], T], *, write: bool) -> T:
        """Run `work` in one transaction, again after the map was grown.

        Raises:
            DeviceError: the disk is full (`store.no-space`) or fails.
        """
        while True:
            try:
                with self._lock, self._environment.begin(write=write) as txn:
                    done = work(txn)
                    if write:
                        reach("environment.commit")
                    return done
            except lmdb.MapFullError:
                with self._lock:
                    self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                with self._lock:
                    self._environment.set_mapsize(0)
            except lmdb.Error as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """Close it; safe to call again."""
        self._environment.close()
