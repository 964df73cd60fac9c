"""The host's own state for one vault: its origin, the next number, and where the vault was seen.

It lies outside the vault's folder and is bound to it: to the vault's id, to the identity of its header file, and to
the newest record that this host has seen there. A folder that was copied, restored from a copy or rolled back does
not match, and then a new origin is begun: numbers already given out are never given again (R12), and a digest state
that speaks of records which are gone is refused by their names (R5). What was noticed is told in `noticed`, and so is
what has vanished of all that this host has seen in the vault (`store/seen.py`, R17).

Invariants:
- `next_number` is durable before the number is used.
- The file is replaced whole (write, sync, rename, sync), under a lock.
- Reading a vault needs nothing of this to be written: where the state's folder cannot be, `refused` says why, and
  whatever would give out a number fails.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

import msgspec

from blockvault.errors import CorruptionError, DeviceError
from blockvault.format import jsontext
from blockvault.ids import OriginId, random_name
from blockvault.monitor import Warned
from blockvault.store.catalog import check_number
from blockvault.store.local import SPACE_ERRORS, make_folders, replace_file
from blockvault.store.locks import FileLock
from blockvault.store.seen import Seen, Watch, read_seen, told, united

_NEW_ORIGIN = "this host goes on in it under a new origin, and its earlier points are listed as HOST:N"


class HostRecord(msgspec.Struct, frozen=True):
    """What stands in `host.json`."""

    vault_id: str
    origin: str
    label: str
    identity: str
    vault_path: str
    next_number: int = 1
    newest_number: int = 0  # the newest point of this origin that was seen in the vault


def folder_identity(header_path: str) -> str:
    """What tells this vault folder from a copy of it: inode and modification time of its header.

    The device number is left out: it changes when disks are found in another order at boot.
    """
    status = os.stat(header_path)
    return f"{status.st_ino}:{status.st_mtime_ns}"


def _is_there(known: HostRecord, path: str) -> bool:
    """Whether the folder that this host wrote to is still where it was, seen from another place."""
    if known.vault_path == path:
        return True
    try:
        return folder_identity(os.path.join(known.vault_path, "vault.json")) == known.identity
    except OSError:
        return False


def _rolled_back(lost: list[str], then: str) -> Warned:
    return Warned(
        "vault.rolled-back",
        f"the vault lacks what this host has seen in it ({told(lost)}): it was put back from an older copy, or records "
        f"were deleted; {then}",
    )


class HostState:
    """The folder `<state>/hosts/<vault id>/`."""

    def __init__(self, folder: str, *, vault_id: str, header_path: str, now: datetime) -> None:
        self.folder = folder
        self.vault_id = vault_id
        self._header_path = header_path
        self._now = now
        self.noticed: list[Warned] = []  # what binding found out, for the user
        self.refused: DeviceError | None = None  # why the state cannot be written
        self._present: Seen | None = None  # what is in the vault, where something of what was seen has vanished

    @property
    def index_note(self) -> str:
        """The file that tells which LMDB store this host made for the vault (`store.index`)."""
        return os.path.join(self.folder, "index-identity")

    @property
    def digests_folder(self) -> str:
        """Where digest states lie."""
        return os.path.join(self.folder, "digests")

    def lock(self, name: str, *, kind: str, subject: str, wait_seconds: float = 0.0) -> FileLock:
        """A lock of this host for this vault."""
        path = os.path.join(self.folder, "locks", name)
        return FileLock(path, kind=kind, subject=subject, now=self._now, wait_seconds=wait_seconds)

    def _state_lock(self) -> FileLock:
        return self.lock("state", kind="host.locked", subject="the host's state is in use", wait_seconds=30)

    def _read(self) -> HostRecord | None:
        path = os.path.join(self.folder, "host.json")
        try:
            with open(path, "rb") as file:
                record: HostRecord = jsontext.decode(file.read(), HostRecord)
                return record
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptionError(
                "host.state-damaged",
                f"the host's state {path} is damaged",
                why=str(error),
                do=f"move {path} away: this host then begins a new series of points; the vault's points stay",
            ) from None

    def _write(self, record: HostRecord) -> None:
        replace_file(os.path.join(self.folder, "host.json"), jsontext.encode(record))

    def bind(self, list_newest: Callable[[], dict[str, int]], watch: Watch | None = None) -> HostRecord:
        """This host's record, made or begun anew where it does not match the vault folder.

        Args:
            list_newest: lists the vault: the highest number of a point record per origin. Asked under the lock, so that
                a commit in between is not taken for a vault that was rolled back.
            watch: looks for what this host has seen in the vault before; None: nobody looks.
        """
        with ExitStack() as stack:
            try:
                make_folders("/", os.path.abspath(self.folder).lstrip("/"), mode=0o700)
                stack.enter_context(self._state_lock())
            except OSError as error:
                self._refuse(error)
            known = self._read()
            lost = self._lost(watch)
            record = self._decided(known, list_newest(), lost)
            if record != known and not self._write_if_it_can(record):
                return known or record
            return record

    def _decided(self, known: HostRecord | None, newest_in_vault: dict[str, int], lost: list[str]) -> HostRecord:
        """The record that fits the folder, and what is to be told of it."""
        identity = folder_identity(self._header_path)
        path = os.path.dirname(self._header_path)
        newest = newest_in_vault.get(known.origin, 0) if known else 0
        same_folder = known is not None and (known.vault_id, known.identity) == (self.vault_id, identity)
        if known is not None and same_folder and newest >= known.newest_number:
            if lost:
                self.noticed.append(_rolled_back(lost, "nothing else is missing, and this host goes on as before"))
            if known.vault_path != path and not _is_there(known, path):
                self.noticed.append(Warned("vault.moved", f"the vault has moved from {known.vault_path} to {path}"))
            return msgspec.structs.replace(known, newest_number=newest, vault_path=path)
        if known is not None:
            if not same_folder:
                source = "a copy of that" if _is_there(known, "") else "a copy, or was put back from one"
                self.noticed.append(
                    Warned(
                        "vault.copied",
                        f"the vault in {path} is not the folder that this host wrote to ({known.vault_path}) but "
                        f"{source}: {_NEW_ORIGIN}",
                    )
                )
            if newest < known.newest_number and not any(known.origin in name for name in lost):
                lost = [f"points/{known.origin}/{known.newest_number:010d}", *lost]
            if lost:
                self.noticed.append(_rolled_back(lost, _NEW_ORIGIN))
        floor = max(
            [
                known.next_number if known else 1,
                *[n + 1 for n in newest_in_vault.values()],
                self._snapshots_seen() + 1,
            ]
        )
        return HostRecord(
            vault_id=self.vault_id,
            origin=random_name().hex(),
            label=socket.gethostname()[:80] or "host",
            identity=identity,
            vault_path=path,
            next_number=floor,
        )

    def _lost(self, watch: Watch | None) -> list[str]:
        """Names of what was seen and is gone; what is new is remembered."""
        if watch is None:
            return []
        before = read_seen(self._seen_path)
        now = watch.look()
        lost = watch.vanished(before, now)
        if lost:
            self._present = now
        both = united(before, now)
        if both != before:
            self._write_seen(both)
        return lost

    @property
    def _seen_path(self) -> str:
        return os.path.join(self.folder, "seen.json")

    def _write_seen(self, seen: Seen) -> None:
        if self.refused is None:
            try:
                replace_file(self._seen_path, msgspec.json.encode(seen))
            except DeviceError as error:
                self._refuse(error)

    def _write_if_it_can(self, record: HostRecord) -> bool:
        if self.refused is None:
            try:
                self._write(record)
            except DeviceError as error:
                self._refuse(error)
        return self.refused is None

    def _refuse(self, error: OSError) -> None:
        full = error.errno in SPACE_ERRORS
        forbidden = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        self.refused = DeviceError(
            "host.no-space" if full else "host.read-only" if forbidden else "host.state-failed",
            f"this host's state in {self.folder} cannot be written",
            why=os.strerror(error.errno) if error.errno else str(error),
            do=(
                "free space there"
                if full
                else "check the rights on the folder, or name another with BLOCKVAULT_STATE_DIR"
            )
            + "; points, restore, verify and diff work as it is",
            errno=error.errno,
            filename=self.folder,
        )

    def allocate_number(self, above: int) -> int:
        """The next N: above everything given out or seen (`above`), durable before it is returned (R12)."""
        with self._state_lock():
            record = self._read()
            if record is None:
                raise CorruptionError(
                    "host.state-damaged",
                    "the host's state vanished while it was in use",
                    do="run the command again",
                )
            number = max(record.next_number, above + 1, self._snapshots_seen() + 1)
            check_number(number, 10, f"points/{record.origin}")
            self._write(msgspec.structs.replace(record, next_number=number + 1))
            return number

    def committed(self, origin: OriginId, number: int) -> None:
        """Remember that a point of this host is in the vault."""
        with self._state_lock():
            record = self._read()
            if record is not None and record.origin == origin and record.newest_number < number:
                self._write(msgspec.structs.replace(record, newest_number=number))
            # What has vanished the job that ends here has told: from now on it is not missed any more.
            before = self._present or read_seen(self._seen_path)
            replace_file(
                self._seen_path, msgspec.json.encode(united(before, Seen(points={origin: [(number, number)]})))
            )
            self._present = None

    def _snapshots_seen(self) -> int:
        highest = 0
        top = os.path.join(self.folder, "snapshots")
        for _, _, files in os.walk(top):
            for file in files:
                stem = file.split(".")[0]
                if stem.isdigit():
                    highest = max(highest, int(stem))
        return highest
