"""What is mounted where: which file system a file lies on, and whether that is another machine's, or none at all."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "ocfs2", "gfs2", "lustre", "virtiofs"],
)
# File systems that the kernel makes up: no disk image lies there, and reading what lies there may do something.
PSEUDO = frozenset(
    [
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "securityfs",
        "debugfs",
        "tracefs",
        "configfs",
        "pstore",
        "bpf",
        "mqueue",
        "hugetlbfs",
        "efivarfs",
        "autofs",
        "binfmt_misc",
        "fusectl",
        "nsfs",
        "rpc_pipefs",
    ]
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where, of which kind, and of what."""

    folder: str
    kind: str
    source: str

    @property
    def is_network(self) -> bool:
        """Whether the bytes lie elsewhere, as far as the kind tells; `fuse` may be anything and is taken for it."""
        return self.kind in NETWORK or self.kind == "fuse" or self.kind.startswith("fuse.")

    @property
    def is_pseudo(self) -> bool:
        """Whether there are no stored bytes at all."""
        return self.kind in PSEUDO


def read_mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """All mounts that this process sees, in order; none where the kernel does not say."""
    mounts = []
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(tail) > 1:
            mounts.append(Mount(_plain(fields[4]), tail[0], _plain(tail[1])))
    return mounts


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that a path lies on: of those whose folder it begins with the deepest, and of these the last."""
    path = os.path.realpath(path)
    best = None
    for mount in mounts:
        top = mount.folder.rstrip("/") + "/"
        if (path + "/").startswith(top) and (best is None or len(mount.folder) >= len(best.folder)):
            best = mount
    return best


def _plain(text: str) -> str:
    r"""The kernel writes a space as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
