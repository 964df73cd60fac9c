"""The next generation of a pack: the same name and slot numbers, some slots emptied or given another stored form.

Reclaim empties slots that nothing needs; healing gives a damaged slot a full block again. Whoever writes one
keeps this order, or a crash could lose a slot:

    next generation durable -> every slot that is needed read back from it -> older generations deleted

Invariants:
- A slot that is kept keeps number, id, codec, depth and base; one that is emptied keeps its id (runs are bound to it).
- Blocks are copied as they are stored; under encryption each is sealed anew, for key and name are the new object's.
- What cannot be read from the old generation is never written into the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.failpoints import reach
from blockvault.format.envelope import DIRECTORY_NUMBER, Kind, Sealer, damaged, footer, new_sealer, pack_frame
from blockvault.format.tables import NO_BASE, encode_table
from blockvault.ids import PackName
from blockvault.model import Codec, VaultKeys
from blockvault.store.local import LocalStore, device_error, read_at
from blockvault.store.packs import PackReader, generation_of, generations, pack_folder

COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class FullBlock:
    """A full block to be put into a slot, as `kernel.encode` made it: not yet sealed."""

    codec: Codec
    stored: bytes


def write_generation(
    store: LocalStore,
    keys: VaultKeys,
    reader: PackReader,
    *,
    keep: NDArray[np.bool_],
    replace: dict[int, FullBlock] | None = None,
) -> str:
    """Write the next generation of an open pack, durable; returns the object's name. Nothing is deleted.

    Args:
        store: the vault's.
        keys: the vault's.
        reader: the generation to copy from.
        keep: (slots,) which slots keep their block; the others are emptied unless they are in `replace`.
        replace: full blocks by slot; the slot's id must be that of the block's plain bytes.

    Raises:
        CorruptionError: a kept block cannot be read, or does not unseal (`vault.object-damaged`).
        DeviceError: the system refused.
    """
    table = reader.table
    fresh = replace or {}
    for slot in fresh:
        keep[slot] = False
    pack = PackName(bytes.fromhex(os.path.basename(reader.name).split(".")[0]))
    number = max(generation_of(entry) for entry in generations(store, pack)) + 1
    name = f"{pack_folder(pack)}/{pack.hex()}.{number}-{os.urandom(4).hex()}"
    sealer = new_sealer(keys, Kind.PACK, name)
    lengths = np.zeros(table.slot_count, dtype=np.uint32)
    codecs = np.full(table.slot_count, int(Codec.EMPTY), dtype=np.uint8)
    depths = np.zeros(table.slot_count, dtype=np.uint8)
    base_pack = np.full(table.slot_count, NO_BASE, dtype=np.uint32)
    base_slot = np.zeros(table.slot_count, dtype=np.uint32)
    kept = np.flatnonzero(keep & (table.codecs != Codec.EMPTY))
    codecs[kept], depths[kept] = table.codecs[kept], table.depths[kept]
    base_slot[kept] = table.base_slot[kept]
    base_names, base_pack[kept] = _only_used(table.base_packs, table.base_pack[kept])
    new = store.new_object(name)
    try:
        new.write(sealer.head)
        for first, blocks in _stretches(reader, kept, fresh):
            payload, sizes = _sealed(sealer, first, blocks)
            lengths[first : first + len(blocks)] = sizes
            new.write(payload)
        for slot, block in fresh.items():
            codecs[slot] = int(block.codec)
        end = new.size
        directory = encode_table(
            chunk_size=table.chunk_size,
            generation=number,
            base_packs=base_names,
            ids=table.ids,
            lengths=lengths,
            codecs=codecs,
            depths=depths,
            base_pack=base_pack,
            base_slot=base_slot,
        )
        stored = sealer.seal(DIRECTORY_NUMBER, pack_frame(directory))
        new.write(stored)
        new.write(footer(end, len(stored)))
        reach("generation.write")
        new.commit()
        reach("generation.written")
    finally:
        new.abort()
    return name


def _only_used(names: tuple[PackName, ...], column: NDArray[np.uint32]) -> tuple[list[PackName], NDArray[np.uint32]]:
    """The names that the column of a table still refers to, and the column for them."""
    used = [index for index in np.unique(column).tolist() if index != NO_BASE]
    position = np.full(len(names) + 1, NO_BASE, dtype=np.uint32)
    position[used] = np.arange(len(used), dtype=np.uint32)
    at = np.minimum(column, np.uint32(len(names)))  # "no base" is looked up in the last entry, which says the same
    return [names[index] for index in used], position[at]


def _stretches(
    reader: PackReader, kept: NDArray[np.int64], fresh: dict[int, FullBlock]
) -> Iterator[tuple[int, list[bytes]]]:
    """Plain stored blocks in order of slot, cut into rows of neighbouring slots of some MiB: (first slot, blocks)."""
    table = reader.table
    slots = sorted({*kept.tolist(), *fresh})
    row: list[bytes] = []
    row_first = size = 0
    for slot in slots:
        if row and (slot != row_first + len(row) or size >= COPY_BYTES):
            yield row_first, row
            row, size = [], 0
        if not row:
            row_first = slot
        block = fresh[slot].stored if slot in fresh else _stored(reader, slot, int(table.lengths[slot]))
        row.append(block)
        size += len(block)
    if row:
        yield row_first, row


def _stored(reader: PackReader, slot: int, length: int) -> bytes:
    """A block as it is stored, unsealed."""
    try:
        data = read_at(reader.fd, length, int(reader.table.offsets[slot]))
    except OSError as error:
        raise device_error(error, f"reading block {slot} of {reader.name} of the vault") from error
    if len(data) != length:
        raise damaged(reader.name, f"block {slot} is cut off")
    return reader.unseal(slot, data)


def _sealed(sealer: Sealer, first: int, blocks: list[bytes]) -> tuple[memoryview | bytes, NDArray[np.uint32]]:
    """Payload and stored lengths of neighbouring blocks under the new object's key."""
    payload = b"".join(blocks)
    sizes = np.array([len(block) for block in blocks], dtype=np.uint32)
    if not sealer.encrypted:
        return payload, sizes
    offsets = np.zeros(len(blocks) + 1, dtype=np.uint64)
    np.cumsum(sizes, dtype=np.uint64, out=offsets[1:])
    batch = kernel.encrypt(payload, offsets, key=sealer.key, associated=sealer.associated, first_slot=first)
    return batch.payload, np.diff(np.asarray(batch.offsets)).astype(np.uint32)
