"""bup: a git repository of chunks of 8 KiB on average. `split` and `join` are its way with a single big file.

Each point is a branch of its own, so that one can be removed; chunks are shared between branches.
"""

from __future__ import annotations

from benchmarks.peers.tool import Command, Tool, command


class Bup(Tool):
    """Defaults: zlib level 1."""

    name = "bup"
    program = "bup"
    settings = "defaults (content-defined chunks of 8 KiB on average, zlib 1); `split`, `join`"
    note = "`rm` and `gc` ask for `--unsafe`; `gc` leaves packs with less than 10% garbage"

    def environment(self) -> dict[str, str]:
        return {"BUP_DIR": self.repository}

    def begin(self) -> list[Command]:
        return [command("bup", "init")]

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("bup", "split", "-n", label, image)]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("bup", "join", label, output=self.restored(label, folder))]

    def verify(self) -> list[Command]:
        return [command("bup", "fsck")]

    def delete(self, label: str) -> list[Command]:
        return [command("bup", "rm", "--unsafe", label), command("bup", "gc", "--unsafe")]
