"""Benji: blocks of 4 MiB, its default, each a file; SQLite holds the versions.

zstd at level 1 is switched on, as the documentation's own configuration does; without a transform nothing is
compressed. Its database lies in the repository and counts as stored: nothing can be restored by name without it.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command, last_match

_CONFIGURATION = """\
configurationVersion: '1'
databaseEngine: sqlite:///{repository}/benji.sqlite
defaultStorage: main
disallowRemoveWhenYounger: 0
storages:
  - name: main
    storageId: 1
    module: file
    configuration:
      path: {repository}/data
      activeTransforms: [zstd]
transforms:
  - name: zstd
    module: zstd
    configuration:
      level: 1
ios:
  - name: file
    module: file
"""


class Benji(Tool):
    """Blocks of 4 MiB, zstd level 1, SQLite."""

    name = "benji"
    program = "benji"
    settings = "blocks of 4 MiB (the default), zstd 1, SQLite, no hints from a hypervisor"
    note = "`cleanup` waits an hour by design before it frees a block: what it frees shows only after that"

    def version_command(self) -> Command:
        return command("benji", "-c", self._configuration, "-m", "version-info")

    def prepare(self) -> None:
        super().prepare()
        os.makedirs(os.path.join(self.repository, "data"), exist_ok=True)
        with open(self._configuration, "w") as file:
            file.write(_CONFIGURATION.format(repository=self.repository))

    def begin(self) -> list[Command]:
        return [self._run("database-init")]

    def backup(self, image: str, label: str) -> list[Command]:
        return [self._run("backup", f"file:{image}", label)]

    def id_in(self, output: str) -> str:
        return last_match(r'"uid": "([^"]+)"', output, "version")

    def restore(self, label: str, folder: str) -> list[Command]:
        return [self._run("restore", "--sparse", self.ids[label], f"file:{self.restored(label, folder)}")]

    def verify(self) -> list[Command]:
        return [self._run("batch-deep-scrub")]

    def verify_one(self, label: str) -> list[Command]:
        return [self._run("deep-scrub", self.ids[label])]

    def delete(self, label: str) -> list[Command]:
        return [self._run("rm", "--force", self.ids[label]), self._run("cleanup")]

    @property
    def _configuration(self) -> str:
        return os.path.join(self.cache, "benji.yaml")

    def _run(self, *words: str) -> Command:
        return command("benji", "-m", "-c", self._configuration, *words)
