"""backy2: blocks of 4 MiB, which its configuration recommends, each a file and not compressed; SQLite holds them.

Only whole versions can be scrubbed, so all are, one after the other. Its database counts as stored.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command, last_match

_CONFIGURATION = """\
[DEFAULTS]
logfile: {cache}/backy.log
block_size: 4194304
hash_function: sha512
disallow_rm_when_younger_than_days: 0
lock_dir: {cache}
process_name: backy2
[MetaBackend]
type: backy2.meta_backends.sql
engine: sqlite:///{repository}/backy.sqlite
[DataBackend]
type: backy2.data_backends.file
path: {repository}/data
simultaneous_writes: 5
simultaneous_reads: 5
[NBD]
cachedir: {cache}
[io_file]
simultaneous_reads: 5
[io_rbd]
simultaneous_reads: 5
"""


class Backy2(Tool):
    """Blocks of 4 MiB, SQLite."""

    name = "backy2"
    program = "backy2"
    settings = "blocks of 4 MiB (recommended), five readers and writers, SQLite, no hints; does not compress"
    note = "`cleanup` waits an hour by design before it frees a block: what it frees shows only after that"

    def version_command(self) -> Command:
        return command("backy2", "-V")

    def prepare(self) -> None:
        super().prepare()
        os.makedirs(os.path.join(self.repository, "data"), exist_ok=True)
        with open(self._configuration, "w") as file:
            file.write(_CONFIGURATION.format(repository=self.repository, cache=self.cache))

    def begin(self) -> list[Command]:
        return [self._run("initdb")]

    def backup(self, image: str, label: str) -> list[Command]:
        # `backup` does not print the version's uid; `ls` by name does, and costs little.
        return [self._run("backup", f"file://{image}", label), self._run("ls", label)]

    def id_in(self, output: str) -> str:
        return last_match(r"\|([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\|", output, "version")

    def restore(self, label: str, folder: str) -> list[Command]:
        return [self._run("restore", "--sparse", self.ids[label], f"file://{self.restored(label, folder)}")]

    def verify(self) -> list[Command]:
        return [self._run("scrub", version) for version in self.ids.values()]

    def verify_one(self, label: str) -> list[Command]:
        return [self._run("scrub", self.ids[label])]

    def delete(self, label: str) -> list[Command]:
        return [self._run("rm", "--force", self.ids[label]), self._run("cleanup")]

    @property
    def _configuration(self) -> str:
        return os.path.join(self.cache, "backy.cfg")

    def _run(self, *words: str) -> Command:
        return command("backy2", "-m", "-c", self._configuration, *words)
