"""What damage takes with it, as it is told: byte ranges of the disks of points, each once, neighbours joined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blockvault.model import PointDisk, TouchedRange
from blockvault.store.manifest import CellMap


def ranges_of(rows: NDArray[np.int64], cell: CellMap, disk: PointDisk) -> list[tuple[int, int]]:
    """Chunks of a cell as byte ranges of the disk, neighbours joined."""
    if not len(rows):
        return []
    rows = np.sort(rows)
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    ends = np.append(starts[1:], len(rows))
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        offset = (int(rows[start]) + cell.first_chunk) * disk.chunk_size
        found.append((offset, min((end - start) * disk.chunk_size, disk.size - offset)))
    return found


def joined(touches: list[TouchedRange]) -> list[TouchedRange]:
    """The same ranges, each once, neighbours joined."""
    out: list[TouchedRange] = []
    for touch in sorted(set(touches), key=lambda t: (t.label, t.disk, t.offset)):
        last = out[-1] if out else None
        if (
            last
            and (last.label, last.disk) == (touch.label, touch.disk)
            and last.offset + last.byte_count >= touch.offset
        ):
            end = max(last.offset + last.byte_count, touch.offset + touch.byte_count)
            out[-1] = TouchedRange(last.label, last.item, last.disk, last.offset, end - last.offset)
        else:
            out.append(touch)
    return out
