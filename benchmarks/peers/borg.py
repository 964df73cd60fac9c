"""BorgBackup 1.x, twice: with the chunker its notes recommend for disk images, and with its default one.

"Additional Notes, --chunker-params" calls `fixed,4194304` more efficient than the default for block devices and raw
disk images. The default finds what moved, which the fixed one cannot. Compression stays lz4, the default.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command


class Borg(Tool):
    """Fixed chunks of 4 MiB, as the project recommends for disk images."""

    name = "borg"
    program = "borg"
    settings = "`--chunker-params fixed,4194304 --sparse`, lz4 (the default), `--encryption none`"
    chunker: tuple[str, ...] = ("--chunker-params", "fixed,4194304", "--sparse")

    def environment(self) -> dict[str, str]:
        return {
            "BORG_REPO": self.repository,
            "BORG_BASE_DIR": self.cache,
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
        }

    def begin(self) -> list[Command]:
        return [command("borg", "init", "--encryption", "none")]

    def backup(self, image: str, label: str) -> list[Command]:
        folder, name = os.path.split(image)
        return [command("borg", "create", *self.chunker, f"::{label}", name, cwd=folder)]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("borg", "extract", "--sparse", f"::{label}", cwd=folder)]

    def verify(self) -> list[Command]:
        return [command("borg", "check", "--verify-data")]

    def delete(self, label: str) -> list[Command]:
        return [command("borg", "delete", f"::{label}"), command("borg", "compact")]


class BorgBuzhash(Borg):
    """Content-defined chunks of 2 MiB on average."""

    name = "borg-buzhash"
    settings = "defaults (content-defined chunks of 2 MiB on average, lz4), `--encryption none`"
    chunker = ()
