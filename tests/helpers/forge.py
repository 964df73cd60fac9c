"""A writer with a bug: objects that are sealed as they must be and say the wrong thing.

Flipped bytes are found by tags; what these make is found only by the rules that bind objects to each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from blockvault.engine.naming import point_id
from blockvault.format.envelope import DIRECTORY_NUMBER, HEAD_BYTES, Kind, footer, new_sealer, pack_frame
from blockvault.format.layers import ENTRY_SEGMENT, Segment
from blockvault.format.tables import PackTable, encode_table
from blockvault.ids import PackName
from blockvault.model import Codec, LayerRef, Point, PointDisk, PointRef
from blockvault.store.layers import LayerReader, LayerWriter
from blockvault.store.manifest import Manifest
from blockvault.store.packs import pack_folder, read_table
from helpers.site import Site


def session(site: Site):
    return site.vault._session


def point(site: Site, label: str | int) -> Point:
    found = site.vault.point(str(label)).point
    assert found is not None
    return found


def segments(site: Site, disk: PointDisk, layer: int = 0) -> dict[int, Segment]:
    """What one layer of a disk says, by cell."""
    opened = session(site)
    reader = LayerReader(opened.store, opened.keys, disk.layers[layer], disk.chunk_size)
    try:
        return {int(entry["cell"]): reader.segment(entry) for entry in reader.entries if entry["kind"] == ENTRY_SEGMENT}
    finally:
        reader.close()


def last_cell(site: Site, disk: PointDisk) -> int:
    """The last cell of which the newest layer of a disk says anything."""
    opened = session(site)
    reader = LayerReader(opened.store, opened.keys, disk.layers[0], disk.chunk_size)
    try:
        return max(int(entry["cell"]) + int(entry["span"]) for entry in reader.entries) - 1
    finally:
        reader.close()


def write_layer(site: Site, disk: PointDisk, cells: dict[int, Segment]) -> LayerRef:
    opened = session(site)
    writer = LayerWriter(opened.store, opened.keys, chunk_size=disk.chunk_size, chunk_count=disk.chunk_count)
    try:
        for cell, segment in sorted(cells.items()):
            writer.add_segment(cell, segment)
        return writer.finish()
    finally:
        writer.abort()


def commit_as_next(site: Site, model: Point, disks: tuple[PointDisk, ...]) -> str:
    """Commit a point like `model` with other disks; returns its label."""
    opened = session(site)
    number = opened.host.allocate_number(max(opened.catalog.newest_numbers().values()))
    ref = PointRef(opened.origin, number)
    opened.catalog.commit_point(
        replace(model, ref=ref, id=point_id(opened.keys.vault_id, opened.origin, number), disks=disks)
    )
    return str(number)


def point_with(site: Site, label: str | int, change: Callable[[dict[int, Segment]], dict[int, Segment]]) -> str:
    """A new point whose only layer is the changed newest layer of another's only disk."""
    model = point(site, label)
    (disk,) = model.disks
    forged = write_layer(site, disk, change(segments(site, disk)))
    return commit_as_next(site, model, (replace(disk, layers=(forged,)),))


def packs(site: Site) -> list[PackName]:
    return [name for name, _ in session(site).shelf.all_packs()]


def table(site: Site, pack: PackName) -> PackTable:
    opened = session(site)
    reader = read_table(opened.store, opened.keys, opened.shelf.names(pack, refresh=True)[0])
    try:
        return reader.table
    finally:
        reader.close()


def write_generation(
    site: Site,
    pack: PackName,
    *,
    order: list[int] | None = None,
    source: PackName | None = None,
    base_slots: dict[int, int] | None = None,
    empty: list[int] | None = None,
) -> str:
    """The next generation of an unencrypted pack, slots in another order, or blocks of another pack.

    `base_slots` gives delta blocks another base in the same base pack; `empty` names slots that reclaim emptied.
    """
    opened = session(site)
    old_name = opened.shelf.names(source or pack, refresh=True)[0]
    reader = read_table(opened.store, opened.keys, old_name)
    old = reader.table
    rows = np.array(order if order is not None else range(old.slot_count), dtype=np.int64)
    offsets = old.offsets.astype(np.int64)
    codecs, lengths = old.codecs[rows].copy(), old.lengths[rows].copy()
    blocks = [os.pread(reader.fd, int(offsets[row + 1] - offsets[row]), int(offsets[row])) for row in rows]
    reader.close()
    base_slot = old.base_slot[rows].copy()
    for slot, other in (base_slots or {}).items():
        base_slot[slot] = other
    for slot in empty or []:
        blocks[slot], codecs[slot], lengths[slot] = b"", Codec.EMPTY, 0
    plain = encode_table(
        chunk_size=old.chunk_size,
        generation=1,
        base_packs=list(old.base_packs),
        ids=old.ids[rows],
        lengths=lengths,
        codecs=codecs,
        depths=old.depths[rows],
        base_pack=old.base_pack[rows],
        base_slot=base_slot,
    )
    name = f"{pack_folder(pack)}/{pack.hex()}.1-{os.urandom(4).hex()}"
    sealer = new_sealer(opened.keys, Kind.PACK, name)
    payload = b"".join(blocks)
    stored = sealer.seal(DIRECTORY_NUMBER, pack_frame(plain))
    opened.store.put_new(name, sealer.head + payload + stored + footer(HEAD_BYTES + len(payload), len(stored)))
    return name


def pack_path(site: Site, pack: PackName) -> Path:
    """The file of a pack's newest generation."""
    return site.folder / session(site).shelf.names(pack, refresh=True)[0]


def places(site: Site, label: str | int, chunks: list[int]) -> list[tuple[PackName, int]]:
    """Where the blocks of a one-disk point's chunks lie (chunks of the first cell)."""
    opened = session(site)
    (disk,) = point(site, label).disks
    manifest = Manifest(opened.store, opened.keys, disk)
    try:
        cell = manifest.cell(0)
        return [(cell.packs[cell.pack[chunk]], int(cell.slot[chunk])) for chunk in chunks]
    finally:
        manifest.close()


def codecs(site: Site, label: str | int, chunks: list[int]) -> list[Codec]:
    return [Codec(int(table(site, pack).codecs[slot])) for pack, slot in places(site, label, chunks)]
