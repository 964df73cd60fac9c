"""Restores in place that have begun and not ended: one small file an item, in the host's state.

    <host>/in-place/<item>.json

While it is there the item's disks hold a mixture of two states: no point may be taken of them. It is durable before the
first byte is written, and removed when the last one is durable.
"""

from __future__ import annotations

import os

import msgspec

from blockvault.errors import CorruptionError
from blockvault.format import jsontext
from blockvault.ids import ItemId
from blockvault.store.local import device_error, make_folders, replace_file, sync_folder


class InPlaceJournal(msgspec.Struct, frozen=True):
    """A restore in place: which point goes where, and the point that would undo it."""

    point_id: str
    label: str
    disks: dict[str, str]  # path by name
    undo_number: int | None
    begun: str


class InPlaceJournals:
    """The journals of one vault on this host."""

    def __init__(self, host_folder: str) -> None:
        self._top = host_folder

    def _path(self, item: ItemId) -> str:
        return os.path.join(self._top, "in-place", f"{item}.json")

    def read(self, item: ItemId) -> InPlaceJournal | None:
        """The journal of an item, if a restore in place has not ended. Raises `CorruptionError`, `DeviceError`."""
        path = self._path(item)
        try:
            with open(path, "rb") as file:
                journal: InPlaceJournal = jsontext.decode(file.read(), InPlaceJournal)
                return journal
        except FileNotFoundError:
            return None
        except OSError as error:
            raise device_error(error, f"reading the host's state {path}") from error
        except msgspec.MsgspecError as error:
            raise CorruptionError(
                "host.state-damaged",
                f"the journal {path} of a restore in place is damaged",
                why=str(error),
                do="restore a point in place once more, or remove the file if the disk is known to be whole",
            ) from None

    def write(self, item: ItemId, journal: InPlaceJournal) -> None:
        """Note that a restore in place begins; durable when this returns."""
        try:
            make_folders(self._top, "in-place")
        except OSError as error:
            raise device_error(error, "writing the host's state") from error
        replace_file(self._path(item), jsontext.encode(journal))

    def remove(self, item: ItemId) -> None:
        """Note that it has ended."""
        path = self._path(item)
        try:
            os.unlink(path)
            sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise device_error(error, f"removing {path}") from error
