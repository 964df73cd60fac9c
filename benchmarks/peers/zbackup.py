"""ZBackup: a rolling hash at each byte over chunks of up to 64 KiB, LZMA bundles. Its defaults.

It has no command that reads everything back: what it restores is compared with a digest of the whole.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command


class ZBackup(Tool):
    """Defaults, not encrypted."""

    name = "zbackup"
    program = "zbackup"
    settings = "defaults (rolling hash, chunks up to 64 KiB, LZMA), `--non-encrypted`"

    def version_command(self) -> Command:
        return command("zbackup", "--help")

    def begin(self) -> list[Command]:
        return [self._run("init", self.repository)]

    def backup(self, image: str, label: str) -> list[Command]:
        # From standard input, as its manual shows: naming the file fails in the version that Debian 12 has.
        return [self._run("backup", self._point(label), input=image)]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [self._run("restore", self._point(label), output=self.restored(label, folder))]

    def delete(self, label: str) -> list[Command]:
        # The default gc drops whole bundles only; `deep` writes those again that are partly dead.
        return [command("rm", self._point(label)), self._run("gc", "deep", self.repository)]

    def _point(self, label: str) -> str:
        return os.path.join(self.repository, "backups", label)

    def _run(self, *words: str, input: str | None = None, output: str | None = None) -> Command:  # noqa: A002
        return command("zbackup", "--silent", "--non-encrypted", *words, input=input, output=output)
