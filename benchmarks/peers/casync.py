"""casync: one index a point over one store of compressed chunks. Its defaults: 64 KiB chunks on average, zstd.

It has no command that checks a store: a chunk is compared with its name when it is extracted.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command


class Casync(Tool):
    """Defaults."""

    name = "casync"
    program = "casync"
    settings = "defaults (content-defined chunks of 64 KiB on average, zstd), each a file"

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("casync", "make", *self._store(), self._index(label), image)]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("casync", "extract", *self._store(), self._index(label), self.restored(label, folder))]

    def delete(self, label: str) -> list[Command]:
        kept = [self._index(other) for other in self.points if other != label]
        return [command("rm", self._index(label)), command("casync", "gc", *self._store(), *kept)]

    def _store(self) -> tuple[str, ...]:
        return (f"--store={self.repository}/default.castr",)

    def _index(self, label: str) -> str:
        return os.path.join(self.repository, f"{label}.caibx")
