"""What lies in a vault against what its points need, told by reading every manifest and every pack's table.

The oracle of reclaim: it walks each root chunk by chunk (`Manifest`, `CellMap`), adds the bases that the tables name,
and lists the folders. It shares nothing with marking, which goes by layers and cells and never opens a pack.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blockvault.engine.session import Session
from blockvault.format.envelope import Kind, unseal_record
from blockvault.format.index import decode_index
from blockvault.model import Codec, FillKind
from blockvault.store.catalog import record_names
from blockvault.store.layers import LAYERS_FOLDER
from blockvault.store.manifest import Manifest
from blockvault.store.packs import PackReader, read_table


@dataclass(frozen=True, slots=True)
class Stored:
    """Slots by pack (hexadecimal) that hold a block and that some root needs; layers there are and are needed."""

    held: dict[str, set[int]]
    needed: dict[str, set[int]]
    layers: set[str]
    needed_layers: set[str]
    generations: dict[str, int]
    idle_segments: list[str]  # index segments of which no pack is there


def survey(session: Session) -> Stored:
    """Read it all. The vault must be at rest."""
    store, keys = session.store, session.keys
    session.catalog.refresh()
    readers: dict[str, PackReader] = {}
    generations: dict[str, int] = {}
    for pack, names in session.shelf.all_packs():
        readers[pack.hex()] = read_table(store, keys, names[0])
        generations[pack.hex()] = len(names)
    needed: dict[str, set[int]] = defaultdict(set)
    layers: set[str] = set()
    for point in session.catalog.points():
        for disk in point.disks:
            layers |= {ref.name.hex() for ref in disk.layers}
            manifest = Manifest(store, keys, disk)
            for index in manifest.cells_with_segments():
                cell = manifest.cell(index)
                for row in np.flatnonzero(cell.kind == FillKind.DATA).tolist():
                    _need(readers, needed, cell.packs[cell.pack[row]].hex(), int(cell.slot[row]))
            manifest.close()
    found = Stored(
        held={pack: set(np.flatnonzero(r.table.codecs != Codec.EMPTY).tolist()) for pack, r in readers.items()},
        needed=dict(needed),
        layers=set(store.entries(LAYERS_FOLDER)),
        needed_layers=layers,
        generations=generations,
        idle_segments=[
            name
            for name in record_names(store, Kind.INDEX)
            if not readers.keys()
            & {p.hex() for p in decode_index(name, unseal_record(keys, Kind.INDEX, name, store.read(name))[0])[0]}
        ],
    )
    for reader in readers.values():
        reader.close()
    return found


def _need(readers: dict[str, PackReader], needed: dict[str, set[int]], pack: str, slot: int) -> None:
    """A slot, and what its block is a delta of."""
    while slot not in needed[pack]:
        needed[pack].add(slot)
        table = readers[pack].table
        if table.codecs[slot] != Codec.DELTA:
            return
        pack, slot = table.base_packs[table.base_pack[slot]].hex(), int(table.base_slot[slot])


def check_clean(session: Session, folder: Path, *, exact: bool) -> None:
    """After a prune beside which nobody worked: nothing is condemned, all that is needed is there, and no more.

    With `exact` not one block more; without it packs may hold some dead ones.
    """
    found = survey(session)
    assert found.layers == found.needed_layers
    assert found.held.keys() == found.needed.keys(), "packs that no point needs, or missing ones"
    for pack, slots in found.needed.items():
        assert slots <= found.held[pack], f"pack {pack} lacks slots {sorted(slots - found.held[pack])}"
        if exact:
            assert slots == found.held[pack], f"pack {pack} has dead slots {sorted(found.held[pack] - slots)}"
    assert set(found.generations.values()) <= {1}
    assert not found.idle_segments
    assert not (folder / "main/condemned").is_dir() or not list((folder / "main/condemned").iterdir())
    assert not (folder / "leases").is_dir() or not list((folder / "leases").iterdir())
    records = {path.name for path in (folder / "points").rglob("*") if path.is_file()}
    assert len(records) == len(session.catalog.points())
