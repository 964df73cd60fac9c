"""Kopia. Written from its documentation; where this was written it could not be had, so it was never run there.

Its maintainers say that fixed splitters suit disk images and should be small; `FIXED-1M` is the smallest of the list
(`repo/splitter`). Compression is off by default and its documentation tells to choose one; `zstd-fastest` is the level
that the others here use.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Tool, command, last_match


class Kopia(Tool):
    """A fixed splitter of 1 MiB, zstd."""

    name = "kopia"
    program = "kopia"
    settings = "`--object-splitter FIXED-1M`, policy `--compression zstd-fastest`"
    encrypts = "always (AES-256-GCM)"
    untested = True
    note = "full maintenance with `--safety=none`, as nothing else is at work; without it nothing is freed for hours"

    def environment(self) -> dict[str, str]:
        return {
            "KOPIA_PASSWORD": "a passphrase to measure with",
            "KOPIA_CONFIG_PATH": os.path.join(self.cache, "repository.config"),
            "KOPIA_CACHE_DIRECTORY": os.path.join(self.cache, "cache"),
            "KOPIA_LOG_DIR": os.path.join(self.cache, "logs"),
            "KOPIA_CHECK_FOR_UPDATES": "false",
        }

    def begin(self) -> list[Command]:
        create = ("repository", "create", "filesystem", "--path", self.repository, "--object-splitter", "FIXED-1M")
        return [
            command("kopia", *create),
            command("kopia", "policy", "set", "--global", "--compression", "zstd-fastest"),
        ]

    def backup(self, image: str, label: str) -> list[Command]:
        # A folder is what it takes snapshots of; each disk image of the scenario has one of its own.
        return [command("kopia", "snapshot", "create", "--json", os.path.dirname(image))]

    def id_in(self, output: str) -> str:
        return last_match(r'"id":\s*"([0-9a-f]{16,})"', output, "snapshot")

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("kopia", "snapshot", "restore", self.ids[label], folder)]

    def verify(self) -> list[Command]:
        return [command("kopia", "snapshot", "verify", "--verify-files-percent", "100")]

    def delete(self, label: str) -> list[Command]:
        return [
            command("kopia", "snapshot", "delete", self.ids[label], "--delete"),
            command("kopia", "maintenance", "run", "--full", "--safety", "none"),
        ]
