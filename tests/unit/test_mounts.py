"""Which mount a path lies on, and when two paths are one disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from blockvault.image.identity import NOBODY, disk_identity
from blockvault.image.mounts import Mount, mount_of, read_mounts

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
30 22 0:40 / /srv/images rw,relatime - nfs4 nas:/export rw,vers=4.2
31 30 0:41 / /srv/images/local rw - xfs /dev/sdb rw
32 22 0:42 / /mnt/with\040space ro - fuse.sshfs user@host:/ rw
33 22 8:16 / /srv/images rw - btrfs /dev/sdc rw
34 22 0:50 / /mnt/win rw - cifs //nas/share rw
broken line
"""


def test_mounts_are_read_and_the_deepest_and_last_counts(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    mounts = read_mounts(str(tmp_path / "mountinfo"))
    assert len(mounts) == 7
    found = {
        path: mount_of(path, mounts)
        for path in ("/srv/imagesx/a", "/srv/images/a", "/srv/images/local/a", "/mnt/with space/a", "/mnt/win/a", "/")
    }
    kinds = {path: (mount.kind, mount.is_network) for path, mount in found.items() if mount}
    assert kinds == {
        "/srv/imagesx/a": ("ext4", False),
        "/srv/images/a": ("btrfs", False),  # mounted over the other
        "/srv/images/local/a": ("xfs", False),
        "/mnt/with space/a": ("fuse.sshfs", True),
        "/mnt/win/a": ("cifs", True),
        "/": ("ext4", False),
    }
    assert mounts[1].is_pseudo
    assert mount_of("/x", []) is None
    assert read_mounts(str(tmp_path / "missing")) == []


def test_kinds_that_are_other_machines() -> None:
    assert all(
        Mount("/", kind, "").is_network for kind in ("nfs", "nfs4", "cifs", "9p", "fuse", "fuse.glusterfs", "ceph")
    )
    assert not any(Mount("/", kind, "").is_network for kind in ("ext4", "fuseblk", "fusectl", "tmpfs", "overlay"))


def test_the_kernels_own_list_is_understood(tmp_path: Path) -> None:
    mount = mount_of("/proc/self/status", read_mounts())
    assert mount is not None
    assert (mount.kind, mount.is_pseudo) == ("proc", True)


def test_links_lead_to_one_disk(tmp_path: Path) -> None:
    image, other = tmp_path / "a", tmp_path / "b"
    for path in (image, other):
        path.write_bytes(b"x")
    os.link(image, tmp_path / "hard")
    os.symlink(image, tmp_path / "soft")
    own = disk_identity(str(image))
    assert own
    assert own == disk_identity(str(tmp_path / "hard")) == disk_identity(str(tmp_path / "soft"))
    assert not own & disk_identity(str(other))
    assert disk_identity(str(tmp_path / "missing")) == disk_identity(str(tmp_path)) == NOBODY


@pytest.mark.root
def test_a_bind_mount_leads_to_one_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    for name in ("real", "bound"):
        (tmp_path / name).mkdir()
    (tmp_path / "real/a").write_bytes(b"x")
    done = subprocess.run(["mount", "--bind", tmp_path / "real", tmp_path / "bound"], capture_output=True)
    if done.returncode:
        pytest.skip("cannot mount")
    try:
        assert disk_identity(str(tmp_path / "real/a")) == disk_identity(str(tmp_path / "bound/a"))
    finally:
        subprocess.run(["umount", tmp_path / "bound"], check=True)


@pytest.mark.root
def test_a_loop_device_is_the_file_under_it_and_another_node_the_same_device(
    loop_device: Callable[[int], Path], tmp_path: Path
) -> None:
    device = loop_device(1 << 20)
    backing = subprocess.run(
        ["losetup", "--noheadings", "--output", "BACK-FILE", str(device)], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert disk_identity(str(device)) & disk_identity(backing)
    node = tmp_path / "node"
    os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
    assert disk_identity(str(node)) == disk_identity(str(device))
