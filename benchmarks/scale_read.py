"""Read one chunk out of a point, as a restore of a range would: `python -m benchmarks.scale_read POINT`.

The vault is opened, the cell of the middle data chunk merged and its runs compared, and that chunk fetched and checked.
There is no command for it; `restore` writes whole disks.
"""

from __future__ import annotations

import sys

import numpy as np

from blockvault import Vault
from blockvault.engine.restore import DiskRestore
from blockvault.model import FillKind
from blockvault.monitor import Monitor


def main() -> None:
    """Read it and print how many bytes it has."""
    with Vault.open() as vault:
        session = vault._session
        point = vault.point(sys.argv[1]).point
        assert point is not None
        with session.reading([point]):
            restore = DiskRestore(
                session.store,
                session.keys,
                session.shelf,
                point.disks[0],
                Monitor(),
                quarantine=session.quarantine,
            )
            cells = restore.manifest.cells_with_segments()
            cell = restore.manifest.cell(cells[len(cells) // 2])
            assert not cell.check_runs(session.shelf, session.keys.run_key)
            rows = np.flatnonzero(cell.kind == FillKind.DATA)
            plain = restore.chunks_in(cell, rows[len(rows) // 2 :][:1])
            print(len(plain.chunk(0)))
            restore.close()


if __name__ == "__main__":
    main()
