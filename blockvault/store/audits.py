"""What the host remembers of changed-block maps: how far each was audited, and which items' maps lied.

    <host>/audits/<item>.json

Losing it costs nothing but that audits begin anew; an item whose maps were turned off gets them back, and the audits
decide again. Replaced whole (`store/local.py`).
"""

from __future__ import annotations

import os

import msgspec

from blockvault.format import jsontext
from blockvault.ids import ItemId
from blockvault.store.local import make_folders, replace_file


class AuditState(msgspec.Struct, frozen=True):
    """Of one item: the next window of each disk to be read again, and why its maps are off (empty: they are not)."""

    windows: dict[str, int] = {}
    off: str = ""


class AuditBook:
    """The audit states of one vault on this host."""

    def __init__(self, host_folder: str) -> None:
        self._top = host_folder

    def _path(self, item: ItemId) -> str:
        return os.path.join(self._top, "audits", f"{item}.json")

    def read(self, item: ItemId) -> AuditState:
        """What is remembered; nothing where it cannot be read."""
        try:
            with open(self._path(item), "rb") as file:
                state: AuditState = jsontext.decode(file.read(), AuditState)
                return state
        except (OSError, msgspec.MsgspecError):
            return AuditState()

    def write(self, item: ItemId, state: AuditState) -> None:
        """Remember it, durable. Raises `DeviceError`."""
        make_folders(self._top, "audits")
        replace_file(self._path(item), jsontext.encode(state))
