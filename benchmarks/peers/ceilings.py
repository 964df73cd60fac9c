"""What only copies or compresses: no points, no dedup, no check. What a machine can do at best.

Each keeps the newest copy of a disk and nothing older, so a point costs the whole copy each time.
"""

from __future__ import annotations

import os

from benchmarks.peers.tool import Command, Kind, Tool, command


class Ceiling(Tool):
    """The newest copy of each disk, named after the folder that its image lies in."""

    kind = Kind.CEILING
    suffix = ""

    def copy_of(self, image: str) -> str:
        """Where the copy of a disk image lies."""
        return os.path.join(self.repository, os.path.basename(os.path.dirname(image)) + self.suffix)


class Copy(Ceiling):
    """`cp`: every byte read, every byte written."""

    name = "cp"
    program = "cp"
    settings = "`cp --sparse=never --reflink=never`"
    suffix = ".img"

    def backup(self, image: str, label: str) -> list[Command]:
        return [_copy(image, self.copy_of(image))]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [_copy(self.copy_of(self.points[label]), self.restored(label, folder))]


def _copy(source: str, target: str) -> Command:
    return command("cp", "--sparse=never", "--reflink=never", source, target)


class Zstd(Ceiling):
    """`zstd -1`, BlockVault's own level, on all cores."""

    name = "zstd"
    program = "zstd"
    settings = "`zstd -1` on all cores (`-T0`)"
    suffix = ".img.zst"

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("zstd", "-1", "-T0", "-q", "-f", image, "-o", self.copy_of(image))]

    def restore(self, label: str, folder: str) -> list[Command]:
        copy = self.copy_of(self.points[label])
        return [command("zstd", "-d", "-q", copy, "-o", self.restored(label, folder))]

    def verify(self) -> list[Command]:
        return [command("zstd", "-t", "-q", *sorted({self.copy_of(image) for image in self.points.values()}))]


class QemuImg(Ceiling):
    """`qemu-img convert -c`: a compressed qcow2, the hypervisor's own way."""

    name = "qemu-img"
    program = "qemu-img"
    settings = "`qemu-img convert -c -O qcow2` (zlib, clusters of 64 KiB)"
    suffix = ".qcow2"

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", image, self.copy_of(image))]

    def restore(self, label: str, folder: str) -> list[Command]:
        copy = self.copy_of(self.points[label])
        return [command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", copy, self.restored(label, folder))]


class Rsync(Ceiling):
    """`rsync --inplace`: reads both sides and writes what differs. Without `--no-whole-file` it would copy all."""

    name = "rsync"
    program = "rsync"
    settings = "`rsync -t --inplace --no-whole-file`"
    note = "skips a file whose size and time are as they were"
    suffix = ".img"

    def backup(self, image: str, label: str) -> list[Command]:
        return [command("rsync", "-t", "--inplace", "--no-whole-file", image, self.copy_of(image))]

    def restore(self, label: str, folder: str) -> list[Command]:
        return [command("rsync", "-t", "--inplace", self.copy_of(self.points[label]), self.restored(label, folder))]
