"""restic. Its chunker is not configurable (512 KiB to 8 MiB, 1 MiB on average), so its defaults are the setting."""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command, last_match


class Restic(Tool):
    """Defaults: format 2, compression auto."""

    name = "restic"
    program = "restic"
    settings = "defaults (content-defined chunks of 1 MiB on average, zstd)"
    encrypts = "always (AES-256-CTR, Poly1305)"
    note = "`prune` leaves up to 5% unused by default; versions before 0.14 do not compress"

    def version_command(self) -> Command:
        return command("restic", "version")

    def environment(self) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": self.repository,
            "RESTIC_CACHE_DIR": self.cache,
            "RESTIC_PASSWORD": "a passphrase to measure with",
        }

    def begin(self) -> list[Command]:
        return [command("restic", "init")]

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("restic", "backup", "--json", "--tag", label, image)]

    def id_in(self, output: str) -> str:
        return last_match(r'"snapshot_id":"([0-9a-f]+)"', output, "snapshot")

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("restic", "restore", self.ids[label], "--target", folder)]

    def restored(self, label: str, folder: str) -> str:
        # The whole path of the source lies under the target.
        return os.path.join(folder, os.path.abspath(self.points[label]).lstrip("/"))

    def verify(self) -> list[Command]:
        return [command("restic", "check", "--read-data")]

    def delete(self, label: str) -> list[Command]:
        return [command("restic", "forget", "--prune", self.ids[label])]
