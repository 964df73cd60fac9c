"""What the host remembers of changed-block maps: how far each was audited, and which items' maps lied.

    <host>/audits/<item>.json

Losing it costs nothing but that audits begin anew; an item whose maps were turned off gets them back, and the audits
decide again. One that is there and cannot be read may have said that maps are off, and so they are. Replaced whole
(`store/local.py`).
"""

from __future__ import annotations

import os

import msgspec

from blockvault.format import jsontext
from blockvault.ids import ItemId
from blockvault.store.local import device_error, make_folders, replace_file


class AuditState(msgspec.Struct, frozen=True):
    """Of one item."""

    windows: dict[str, int] = {}  # the next one of each disk to be read again
    newest: str = ""  # when the point that was audited last was taken
    off: str = ""  # why the item's maps are off; empty: they are not


class AuditBook:
    """The audit states of one vault on this host."""

    def __init__(self, host_folder: str) -> None:
        self._top = host_folder

    def _path(self, item: ItemId) -> str:
        return os.path.join(self._top, "audits", f"{item}.json")

    def read(self, item: ItemId) -> AuditState:
        """What is remembered."""
        path = self._path(item)
        try:
            with open(path, "rb") as file:
                state: AuditState = jsontext.decode(file.read(), AuditState)
                return state
        except FileNotFoundError:
            return AuditState()
        except (OSError, msgspec.MsgspecError) as error:
            return AuditState(off=f"what was remembered of its audits, {path}, cannot be read ({error})")

    def write(self, item: ItemId, state: AuditState) -> None:
        """Remember it, durable. Raises `DeviceError`."""
        try:
            make_folders(self._top, "audits")
        except OSError as error:
            raise device_error(error, "writing the host's state") from error
        replace_file(self._path(item), jsontext.encode(state))
