"""BlockVault itself, at its defaults.

What counts as stored is the whole state folder: vault, LMDB, digest states and, where they are kept, snapshots.
Peers' caches are not counted, so this is against us and never for us.
"""

from __future__ import annotations

import sys

from benchmarks.peers.tool import Command, Kind, Tool, command, last_match


class BlockVault(Tool):
    """`snapshot --no-keep`: to the vault only, as a peer does it."""

    name = "blockvault"
    program = sys.executable
    kind = Kind.OURS
    settings = "defaults (64 KiB chunks, zstd -1, deltas); `snapshot --no-keep`"
    note = "stored counts the whole state folder, digest states too; reclaim leaves packs under 60% dead as they are"
    vault_options: tuple[str, ...] = ("--no-encryption",)
    snapshot_options: tuple[str, ...] = ("--no-keep",)

    def version_command(self) -> Command:
        return command(sys.executable, "-c", "from importlib.metadata import version; print(version('blockvault'))")

    def version(self) -> str:
        from blockvault.bench import release_build

        return str(release_build()["version"])

    def environment(self) -> dict[str, str]:
        return {"BLOCKVAULT_STATE_DIR": self.repository, "BLOCKVAULT_VAULT": "peers"}

    def begin(self) -> list[Command]:
        # No soft delete: a peer's delete has none, and nothing would be freed for 14 days.
        return [self._run("vault", "create", "peers", *self.vault_options, "--soft-delete-days", "0")]

    def backup(self, image: str, label: str) -> list[Command]:
        # 3 is completed-with-warning.
        return [self._run("snapshot", image, *self.snapshot_options, "--json", good=(0, 3))]

    def id_in(self, output: str) -> str:
        return last_match(r'"point": (\d+)', output, "point")

    def restore(self, label: str, folder: str) -> list[Command]:
        return [self._run("restore", "--point", self.ids[label], "-o", self.restored(label, folder))]

    def verify(self) -> list[Command]:
        return [self._run("verify", "--all")]

    def verify_one(self, label: str) -> list[Command]:
        return [self._run("verify", self.ids[label])]

    def delete(self, label: str) -> list[Command]:
        return [self._run("point", "delete", self.ids[label], "--purge", "--yes"), self._run("prune", "--yes")]

    def _run(self, *words: str, good: tuple[int, ...] = (0,)) -> Command:
        return command(sys.executable, "-m", "blockvault", *words, good=good)


class BlockVaultEncrypted(BlockVault):
    """The same under a passphrase: to be held against peers that always encrypt."""

    name = "blockvault-encrypted"
    settings = "defaults, vault under a passphrase; `snapshot --no-keep`"
    encrypts = "AES-256-GCM"
    vault_options = ()

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "BLOCKVAULT_PASSWORD": "a passphrase to measure with"}


class BlockVaultSnapshot(BlockVault):
    """With the local snapshot that a plain `snapshot` keeps: restores come from it."""

    name = "blockvault-snapshot"
    settings = "defaults; `snapshot`, which keeps a local snapshot (a reflink clone, else a raw copy)"
    note = "stored counts the local snapshot too; the newest point is restored from it"
    snapshot_options = ()

    def backup(self, image: str, label: str) -> list[Command]:
        return [self._run("snapshot", image, "--json", good=(0, 3))]
