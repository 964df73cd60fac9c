"""Spare copies of a chunk outside the vault: kept snapshots of its item, and the live image.

What is found counts only if its keyed BLAKE3 is the id that the vault has for the chunk: a copy that has changed since
is no copy. A source that cannot be opened or read is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from blockvault.errors import BlockVaultError
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource
from blockvault.model import ChunkState, VaultKeys
from blockvault.snapshots.tier import SnapshotTier


class SpareCopies:
    """Looks for chunks by identity; keeps what it opened until it is closed. Use from one thread at a time."""

    def __init__(self, tier: SnapshotTier, keys: VaultKeys, digests_folder: str, *, live: dict[str, str]) -> None:
        """`live` gives paths of live images, by `<item id>/<disk>`; empty: only snapshots are asked."""
        self._tier = tier
        self._keys = keys
        self._digests_folder = digests_folder
        self._live = live
        self._readers: dict[str, list[tuple[str, DiskReader]]] = {}

    def find(self, item_id: str, disk: str, chunk_size: int, chunk: int, block_id: bytes) -> tuple[bytes, str] | None:
        """The plain bytes of a chunk, padded, and where they were found; None if no copy has that id."""
        for where, reader in self._of(item_id, disk, chunk_size):
            if (chunk + 1) * chunk_size > -(-reader.size // chunk_size) * chunk_size:
                continue
            try:
                plain = reader.identify(
                    np.array([chunk], dtype=np.uint64), seed=0, id_key=self._keys.id_key, cancel=None
                )
            except (BlockVaultError, OSError):
                continue
            if int(plain.states[0]) == ChunkState.CHANGED and np.asarray(plain.ids)[0].tobytes() == block_id:
                return bytes(plain.chunk(0)), where
        return None

    def _of(self, item_id: str, disk: str, chunk_size: int) -> list[tuple[str, DiskReader]]:
        key = f"{item_id}/{disk}"
        if key not in self._readers:
            self._readers[key] = list(self._open(item_id, disk, chunk_size))
        return self._readers[key]

    def _open(self, item_id: str, disk: str, chunk_size: int) -> Iterator[tuple[str, DiskReader]]:
        records = [record for record in self._tier.records() if record.item_id == item_id]
        for record in sorted(records, key=lambda record: -record.number):
            if record.chunk_size != chunk_size or record.disk(disk) is None:
                continue
            try:
                folder = os.path.join(self._digests_folder, item_id)
                yield f"the snapshot of point {record.number}", self._tier.open_disk(record, disk, digests_dir=folder)
            except (BlockVaultError, OSError):
                continue
        path = self._live.get(f"{item_id}/{disk}")
        if path is not None:
            try:
                yield f"the disk image {path}", ImageSource.open(path, chunk_size)
            except (BlockVaultError, OSError):
                return

    def close(self) -> None:
        """Let go of snapshots and images."""
        for readers in self._readers.values():
            for _, reader in readers:
                reader.close()
        self._readers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
