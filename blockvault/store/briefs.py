"""Briefs of points in LMDB: what is asked of all points at once, so that nobody decodes every record to learn it.

Which point of an item was committed last, what `ITEM@latest` means, how old the records are: that takes a few fields of
every point. They lie together, those of 256 numbers of an origin in one value, so that 10,000 points are 40 values.

Invariants:
- A brief says what its point's record says; both are written in one transaction, and a record never changes.
- A block is sealed as an object is, under its own name: one of another place, or of a vault of other keys, does not
  unseal. Nothing in it is the only copy: what is not in it is read from the record.
- A brief whose record is gone from the vault says nothing: whoever asks goes by the names that are there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from blockvault.errors import BlockVaultError
from blockvault.format import jsontext
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.model import PointBrief, PointRef, VaultKeys
from blockvault.store.index import Index

BRIEFS_FOLDER = "briefs"
BLOCK_NUMBERS = 256


def block_name(point: PointBrief | PointRef) -> str:
    """The key of the block that has a point's brief."""
    return f"{BRIEFS_FOLDER}/{point.origin}/{point.number // BLOCK_NUMBERS:08d}"


def read_blocks(keys: VaultKeys, index: Index) -> list[PointBrief]:
    """All briefs that are kept. A block that does not read is as good as none."""
    return [brief for name, data in index.records(BRIEFS_FOLDER).items() for brief in decode_block(keys, name, data)]


def changed_blocks(
    keys: VaultKeys, index: Index, fresh: Iterable[PointBrief], gone: Iterable[PointRef]
) -> tuple[dict[str, bytes], list[str]]:
    """What is to be written, sealed, and what dropped, so that `fresh` are kept and those of `gone` are not."""
    by_block: dict[str, dict[int, PointBrief | None]] = {}
    for ref in gone:
        by_block.setdefault(block_name(ref), {})[ref.number] = None
    for brief in fresh:
        by_block.setdefault(block_name(brief), {})[brief.number] = brief
    before = index.records_named(by_block)
    put: dict[str, bytes] = {}
    for name, changes in by_block.items():
        known = {brief.number: brief for brief in decode_block(keys, name, before[name])} if name in before else {}
        kept = [brief for _, brief in sorted({**known, **changes}.items()) if brief is not None]
        if kept:
            put[name] = seal_record(keys, Kind.BRIEFS, name, jsontext.encode(kept))[0]
    return put, [name for name in by_block if name not in put]


def decode_block(keys: VaultKeys, name: str, data: bytes) -> list[PointBrief]:
    """The briefs of a block; none if it does not read, or has one of another block."""
    try:
        body, _ = unseal_record(keys, Kind.BRIEFS, name, data)
        found: list[PointBrief] = jsontext.decode(body, list[PointBrief])
    except (BlockVaultError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return found if all(block_name(brief) == name for brief in found) else []
