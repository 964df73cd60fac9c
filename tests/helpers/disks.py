"""Small disks and disk images of every kind, made by the tools that make real ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 1 << 20
GPT = """label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649
size=33MiB, type=uefi, name="esp"
type=linux, name="root data"
"""
MBR = """label: dos
size=8MiB, type=83
size=8MiB, type=82
type=5
size=8MiB, type=7
size=8MiB, type=83
"""
FILE_SYSTEMS = {
    "ext2": (16, ["mkfs.ext2", "-q", "-F", "-L", "label"]),
    "ext3": (16, ["mkfs.ext3", "-q", "-F", "-L", "label"]),
    "ext4": (16, ["mkfs.ext4", "-q", "-F", "-L", "label"]),
    "xfs": (320, ["mkfs.xfs", "-q", "-L", "label"]),
    "btrfs": (128, ["mkfs.btrfs", "-q", "-L", "label"]),
    "ntfs": (16, ["mkfs.ntfs", "-q", "-F", "-L", "label"]),
    "vfat": (16, ["mkfs.fat", "-n", "LABEL"]),
    "swap": (4, ["mkswap", "-L", "label"]),
    "LUKS": (32, ["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]),
}


def tool(name: str) -> str:
    """The tool's path; the test is skipped where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: str | Path, given: str = "") -> None:
    """Run a tool to its end."""
    command = [tool(str(words[0])), *map(str, words[1:])]
    ended = subprocess.run(command, input=given, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def sparse(path: Path, size: int) -> Path:
    """A file of that size that is one hole."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def partitioned(path: Path, script: str, size: int = 64 * MIB) -> Path:
    """A disk with a partition table that sfdisk writes."""
    run("sfdisk", "-q", sparse(path, size), given=script)
    return path


def formatted(path: Path, kind: str) -> Path:
    """A bare file system, or what else stands in `FILE_SYSTEMS`."""
    size, command = FILE_SYSTEMS[kind]
    sparse(path, size * MIB)
    if kind == "LUKS":
        run(*command, path, "-", given="not-a-secret")
    else:
        run(*command, path)
    return path


def with_file_system(path: Path) -> Path:
    """A GPT disk whose second partition holds a FAT32 file system."""
    partitioned(path, GPT)
    run("mkfs.fat", "-F32", "-n", "ESP", "--offset", "4096", path, "33000")
    return path


def convert(source: Path, target: Path, image_format: str, *options: str) -> Path:
    """The same disk in another format, by qemu-img."""
    run("qemu-img", "convert", "-f", "raw", "-O", image_format, *options, source, target)
    return target
