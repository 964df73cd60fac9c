"""What the host remembers of its snapshots: one small file each, `<host>/snapshots/<item>/<N>.json`.

A record is also the journal of the tier. It is durable before anything is made (`MAKING`) and before anything
is removed (`REMOVED`), so that whatever a crash leaves behind is known by its owner and tidied by the next
job.

Invariants:
- A file is replaced whole (write, sync, rename, sync) and carries a checksum of its text.
- `MAKING` -> `KEPT` is the commit of a snapshot; only a `KEPT` record is ever shown or restored.
- A `REMOVED` record of a raw chain stays as long as an older kept snapshot reads through its files.
- The structure of an item's snapshots changes only under the item's exclusive lock (`locked`); fields of a
  kept record (transferred, keep until) change under the short lock of `update`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import blake3
import msgspec

from blockvault.errors import ConflictError, NotFoundError
from blockvault.failpoints import reach
from blockvault.format import jsontext
from blockvault.ids import ItemId
from blockvault.model import SnapshotRecord
from blockvault.snapshots.refusals import refused
from blockvault.store.local import make_folders, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_SCHEMA = "blockvault.snapshot/1"


class State(StrEnum):
    """Where a snapshot stands in its life."""

    MAKING = "making"
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What the tier knows of one disk's file beyond the record.

    `parent` is the snapshot whose state the raw file held before this capture; None: this capture made the
    file. `mtime_ns` is the file's time when the capture ended: a file touched since is not trusted. `inode`,
    `generation` and `ctime_ns` are told of clones; without them (0, None) a clone's extents say nothing.
    """

    name: str
    parent: int | None
    mtime_ns: int
    inode: int = 0
    generation: int | None = None
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it lies in its file."""

    state: State
    record: SnapshotRecord
    disks: tuple[DiskFacts, ...]

    @property
    def number(self) -> int:
        """N."""
        return self.record.number

    def facts(self, disk_name: str) -> DiskFacts | None:
        """What is known of that disk's file, or None."""
        return next((facts for facts in self.disks if facts.name == disk_name), None)

    def with_mtime(self, disk_name: str, mtime_ns: int) -> Stored:
        """The same with another time for a disk's file."""
        disks = tuple(replace(facts, mtime_ns=mtime_ns) if facts.name == disk_name else facts for facts in self.disks)
        return replace(self, disks=disks)


class _Envelope(msgspec.Struct, frozen=True):
    schema: str
    check: str
    body: msgspec.Raw


def record_digest(record: SnapshotRecord) -> bytes:
    """What binds a digest state to this snapshot (R5): a digest of all that never changes in its record."""
    fixed = (
        record.vault_id,
        record.item_id,
        record.number,
        record.taken,
        record.kind,
        record.chunk_size,
        [(disk.name, disk.size, disk.file) for disk in record.disks],
    )
    return blake3.blake3(b"blockvault.snapshot/1\0" + jsontext.encode(fixed)).digest()


class RecordShelf:
    """All snapshot records of one vault on this host."""

    def __init__(self, host_dir: str, vault_id: str) -> None:
        self._top = os.path.join(host_dir, "snapshots")
        self._vault_id = vault_id
        self.damaged: dict[str, str] = {}  # path -> reason, of what the last look could not read

    def item_ids(self) -> list[ItemId]:
        """Items that have, or had, snapshots here."""
        try:
            return sorted(ItemId(name) for name in os.listdir(self._top))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise refused(self._top, error) from error

    def load(self, item_id: ItemId) -> list[Stored]:
        """Every readable record of an item in any state, by number; the others are told in `damaged`."""
        folder = self._folder(item_id)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise refused(folder, error) from error
        found = []
        for name in names:
            stem, dot, kind = name.partition(".")
            if not (stem.isdigit() and dot and kind == "json"):
                continue
            path = os.path.join(folder, name)
            try:
                with open(path, "rb") as file:
                    stored = self._decode(file.read())
                if (stored.record.item_id, stored.number) != (item_id, int(stem)):
                    raise ValueError("it is the record of another snapshot")
            except FileNotFoundError:
                continue  # removed meanwhile
            except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
                self.damaged[path] = str(error)
                continue
            self.damaged.pop(path, None)
            found.append(stored)
        return sorted(found, key=lambda stored: stored.number)

    def get(self, item_id: ItemId, number: int) -> Stored:
        """The kept record of that number. Raises `NotFoundError` (`snapshot.not-found`)."""
        for stored in self.load(item_id):
            if stored.number == number and stored.state is State.KEPT:
                return stored
        raise NotFoundError(
            "snapshot.not-found",
            f"there is no snapshot of point {number} on this host",
            why="its days are over, or it was removed",
            do="restore the point from the vault",
        )

    def _decode(self, data: bytes) -> Stored:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.schema != _SCHEMA:
            raise ValueError(f"its schema is '{envelope.schema}'")
        if blake3.blake3(bytes(envelope.body)).hexdigest(length=16) != envelope.check:
            raise ValueError("its checksum does not match its text")
        stored: Stored = jsontext.decode(envelope.body, Stored)
        if stored.record.vault_id != self._vault_id:
            raise ValueError("it belongs to another vault")
        return stored

    def write(self, stored: Stored) -> None:
        """Make a record durable, in place of the one of its number."""
        body = jsontext.encode(stored)
        check = blake3.blake3(body).hexdigest(length=16)
        data = msgspec.json.encode(_Envelope(_SCHEMA, check, msgspec.Raw(body)))
        folder = self._folder(stored.record.item_id)
        path = os.path.join(folder, f"{stored.number}.json")
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        try:
            make_folders("/", os.path.abspath(folder).lstrip("/"))
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            reach(f"snapshot.record.{stored.state}")
            os.rename(temporary, path)
            sync_folder(folder)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError):
                raise refused(path, error) from error
            raise

    def update(self, item_id: ItemId, number: int, change: Callable[[Stored], Stored]) -> Stored:
        """Change fields of a kept record. Raises `NotFoundError` (`snapshot.not-found`)."""
        with self._lock(item_id, "records.lock", wait=True):
            stored = change(self.get(item_id, number))
            self.write(stored)
        return stored

    def delete(self, stored: Stored) -> None:
        """Forget a record whose files are gone."""
        path = os.path.join(self._folder(stored.record.item_id), f"{stored.number}.json")
        try:
            os.unlink(path)
            sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise refused(path, error) from error

    def tidy(self, item_id: ItemId) -> None:
        """Remove what a crash left of a record being written; under the item's lock."""
        folder = self._folder(item_id)
        with self._lock(item_id, "records.lock", wait=True), contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.endswith(".tmp"):
                    os.unlink(os.path.join(folder, name))

    @contextlib.contextmanager
    def locked(self, item_id: ItemId) -> Iterator[None]:
        """Hold the item's snapshots for oneself. Raises `ConflictError` (`snapshot.locked`)."""
        with self._lock(item_id, "structure.lock", wait=False):
            yield

    @contextlib.contextmanager
    def _lock(self, item_id: ItemId, name: str, *, wait: bool) -> Iterator[None]:
        folder = self._folder(item_id)
        try:
            make_folders("/", os.path.abspath(folder).lstrip("/"))
            fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise refused(folder, error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise ConflictError(
                    "snapshot.locked",
                    "the snapshots of this item are in use",
                    why="another blockvault process takes or removes one; one at a time",
                    do="wait until it ends, then run the command again",
                ) from None
            yield
        finally:
            os.close(fd)

    def _folder(self, item_id: ItemId) -> str:
        return os.path.join(self._top, item_id)
