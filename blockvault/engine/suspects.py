"""Which blocks of earlier points a new point must not rely on (R15).

A block is *sound*, as far as tables and quarantine tell without reading it, if its pack's table can be read and has
it, neither it nor its pack is in quarantine, and the same holds for the bases below it. A chunk whose block at the
parent is not sound is stored again in full although it has not changed.

Where nothing is in quarantine nobody asks for the chunks that did not change, so a transfer costs what it always did.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from blockvault.errors import CorruptionError
from blockvault.ids import PackName
from blockvault.model import Codec, FillKind
from blockvault.monitor import Monitor
from blockvault.store.manifest import CellMap
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine


class Suspects:
    """Tells sound blocks from others; for any thread."""

    def __init__(self, shelf: PackShelf, quarantine: Quarantine, monitor: Monitor) -> None:
        self._shelf = shelf
        self._quarantine = quarantine
        self._monitor = monitor
        self._lock = threading.Lock()
        self._told: set[PackName] = set()

    def sound(
        self, pack: PackName, slots: NDArray[np.integer], under: NDArray[np.uint8] | None = None
    ) -> NDArray[np.bool_]:
        """Which of a pack's slots hold a block that may be relied on. An unreadable pack goes into quarantine.

        Bases must lie `under` the depths of their deltas, as `fetch` demands it: bases that go round end there.
        """
        try:
            table = self._shelf.reader(pack).table
        except CorruptionError as error:
            self._tell(pack, error)
            return np.zeros(len(slots), dtype=np.bool_)
        slots = slots.astype(np.int64)
        at = np.minimum(slots, table.slot_count - 1)
        good = np.asarray((slots < table.slot_count) & (table.codecs[at] != Codec.EMPTY), dtype=np.bool_)
        good &= ~self._quarantine.mask(pack, slots)
        if under is not None:
            good &= table.depths[at] < under
        deltas = good & (table.codecs[at] == Codec.DELTA)
        for index in np.unique(table.base_pack[at[deltas]]).tolist():
            of_base = np.flatnonzero(deltas & (table.base_pack[at] == index))
            base_slots = table.base_slot[at[of_base]]
            good[of_base] = self.sound(table.base_packs[index], base_slots, table.depths[at[of_base]])
        return good

    def rows(self, cell: CellMap) -> NDArray[np.bool_]:
        """(chunks,) which chunks of a cell have a block that is not sound."""
        found = np.zeros(cell.chunk_count, dtype=np.bool_)
        data = cell.kind == FillKind.DATA
        for index in np.unique(cell.pack[data]).tolist():
            at = np.flatnonzero(data & (cell.pack == index))
            found[at] = ~self.sound(cell.packs[index], cell.slot[at])
        return found

    def _tell(self, pack: PackName, error: CorruptionError) -> None:
        with self._lock:
            if pack in self._told:
                return
            self._told.add(pack)
        self._quarantine.note(pack, None, error.why or error.message)
        self._monitor.warn(error.kind, f"{error.message}: the chunks that need it are stored again in full")
