"""The host's own state for one vault: its origin, the next number, and where the vault was seen.

It lies outside the vault's folder and is bound to it: to the vault's id, to the identity of its header file, and to
the newest record that this host has seen there. A folder that was copied, restored from a copy or rolled back does
not match, and then a new origin is begun: numbers already given out are never given again (R12), and a digest state
that speaks of records which are gone is refused by their names (R5).

Invariants:
- `next_number` is durable before the number is used.
- The file is replaced whole (write, sync, rename, sync), under a lock.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime

import msgspec

from blockvault.errors import CorruptionError
from blockvault.format import jsontext
from blockvault.ids import OriginId, random_name
from blockvault.store.catalog import check_number
from blockvault.store.local import replace_file
from blockvault.store.locks import FileLock


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


class HostState:
    """The folder `<state>/hosts/<vault id>/`."""

    def __init__(self, folder: str, *, vault_id: str, header_path: str, now: datetime) -> None:
        self.folder = folder
        self.vault_id = vault_id
        self._header_path = header_path
        self._now = now
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.is_new = False

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

    def bind(self, list_newest: Callable[[], dict[str, int]]) -> HostRecord:
        """This host's record, made or begun anew where it does not match the vault folder.

        Args:
            list_newest: lists the vault: the highest number of a point record per origin. Asked under the lock, so that
                a commit in between is not taken for a vault that was rolled back.
        """
        with self._state_lock():
            record = self._read()
            identity = folder_identity(self._header_path)
            newest_in_vault = list_newest()
            if record is not None and record.vault_id == self.vault_id and record.identity == identity:
                newest = newest_in_vault.get(record.origin, 0)
                if newest >= record.newest_number:
                    if newest > record.newest_number:
                        record = msgspec.structs.replace(record, newest_number=newest)
                        self._write(record)
                    return record
            self.is_new = True
            floor = max(
                [
                    record.next_number if record else 1,
                    *[n + 1 for n in newest_in_vault.values()],
                    self._snapshots_seen() + 1,
                ]
            )
            record = HostRecord(
                vault_id=self.vault_id,
                origin=random_name().hex(),
                label=socket.gethostname()[:80] or "host",
                identity=identity,
                vault_path=os.path.dirname(self._header_path),
                next_number=floor,
            )
            self._write(record)
            return record

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

    def _snapshots_seen(self) -> int:
        highest = 0
        top = os.path.join(self.folder, "snapshots")
        for _, _, files in os.walk(top):
            for file in files:
                stem = file.split(".")[0]
                if stem.isdigit():
                    highest = max(highest, int(stem))
        return highest
