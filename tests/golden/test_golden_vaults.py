"""Vaults written by every released version of the format restore byte for byte, for good.

`format-N.tar.xz` holds two vaults of format version N, `plain` and `keyed` (passphrase `golden passphrase`), each with
the four points of one disk: real files; small edits; random pages, growth to an odd size and zeros; shrunk. They were
made once, with `Vault.snapshot(..., keep=False)` and chunks of 16 KiB, and are never made anew: a version that cannot
read them has broken its users' vaults. A new version of the format adds a file here and a line to `GOLDEN`.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from blockvault import Secret, Vault
from blockvault.format.envelope import FORMAT_VERSION

FOLDER = Path(__file__).parent
PASSPHRASE = Secret(passphrase=b"golden passphrase")
POINTS = {
    1: "fc5564d6d75e45115382b1fb86ac35ea701237fce6540bc1f13b2632f6dae3c4",
    2: "13bc0c1f21484d6f28f13db9c355db1614820855cc3404123327252aa8d9fff1",
    3: "a74f1dbfc313172e8caed5188339d1091f2159b2ebcaa9db770aea2f2a87dd0a",
    4: "ba7ed966b802d6126b2db170352d5c2edaf757b14cf94506ce28cebd09d973b5",
}
GOLDEN = {1: POINTS}


def test_every_version_is_tested() -> None:
    assert sorted(GOLDEN) == list(range(1, FORMAT_VERSION + 1))
    assert {path.name for path in FOLDER.glob("*.tar.xz")} == {f"format-{version}.tar.xz" for version in GOLDEN}


@pytest.mark.parametrize("name", ["plain", "keyed"])
@pytest.mark.parametrize("version", sorted(GOLDEN))
def test_it_restores_and_verifies(tmp_path: Path, version: int, name: str) -> None:
    with tarfile.open(FOLDER / f"format-{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    secret = PASSPHRASE if name == "keyed" else None
    with Vault.open(str(tmp_path / name), state_dir=str(tmp_path / "state"), secret=secret) as vault:
        assert [info.number for info in vault.points()] == sorted(GOLDEN[version])
        assert vault.verify().damage == ()
        for info in vault.points():
            target = tmp_path / f"{info.number}.img"
            vault.restore(info.id, output=str(target))
            assert hashlib.sha256(target.read_bytes()).hexdigest() == GOLDEN[version][info.number]


def test_it_can_be_written_on(tmp_path: Path) -> None:
    """The newest golden vault takes another point of its disk, as a delta against what it has."""
    version = max(GOLDEN)
    with tarfile.open(FOLDER / f"format-{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with Vault.open(str(tmp_path / "plain"), state_dir=str(tmp_path / "state")) as vault:
        image = tmp_path / "disk.img"
        vault.restore(vault.points()[-1].id, output=str(image))
        vault.set_item("disk", disks={"disk": str(image)})
        made = vault.snapshot([str(image)], keep=False)
        assert made.number > max(GOLDEN[version])  # a new host of this vault never gives a number again
        assert made.statistics.changed_bytes == 0
