"""File systems that are really full, at any fill: vault, host's state, snapshot folder and target.

What is free is stepped through, so that the space ends in a pack, a layer, a record, LMDB, a digest state, wherever it
happens to end. Every time the job says so or does without, all earlier points stay, and with space again all goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.files import names_under, noise, text, write_at
from helpers.site import CHUNK

from blockvault.cli.exit_codes import exit_code_of
from blockvault.errors import BlockVaultError
from blockvault.monitor import Monitor
from blockvault.vault import Vault

MIB, KIB = 1 << 20, 1 << 10
FREE = [0, 8, 24, 64, 128, 192, 256, 384, 640]  # KiB
pytestmark = [pytest.mark.root, pytest.mark.slow]
Mounted = Callable[[str, int], Path]


def leave_free(mount: Path, free_bytes: int) -> None:
    """Fill up a file system until so much is left, and not more."""
    filler = mount / "filler"
    filler.unlink(missing_ok=True)
    os.sync()
    with filler.open("wb", buffering=0) as file:
        for piece in (MIB, 64 * KIB, 4 * KIB):
            try:
                while True:
                    status = os.fstatvfs(file.fileno())
                    if status.f_bavail * status.f_frsize < free_bytes + piece:
                        break
                    if file.write(bytes(piece)) != piece:
                        break
            except OSError:
                continue


class Ready:
    """A vault and its host, somewhere; and what each point must restore to."""

    def __init__(self, root: Path, state: Path, folder: Path, snapshots: Path | None = None) -> None:
        self.root, self.state, self.folder = root, state, folder
        self.image = root / "disk.img"
        self.image.write_bytes(text(24 * CHUNK, 1).ljust(24 * CHUNK) + noise(24 * CHUNK, 2))
        self.copies: dict[int, bytes] = {}
        self.codes: list[int] = []
        self.keep = snapshots is not None
        Vault.create("home", path=str(folder), state_dir=str(state), chunk_size=CHUNK).close()
        assert self.take() == []
        if snapshots is not None:
            with self.open() as vault:
                vault.set_item("disk", snapshot_dir=str(snapshots))
            assert self.take() == []

    def open(self) -> Vault:
        return Vault.open(str(self.folder), state_dir=str(self.state))

    def change(self, seed: int) -> None:
        write_at(self.image, (seed % 40) * CHUNK, noise(6 * CHUNK, 50 + seed))
        write_at(self.image, ((seed + 11) % 47) * CHUNK + 9, b"edit %d" % seed)

    def take(self) -> list[str]:
        """A point; warnings of the job. Raises as the vault does."""
        monitor = Monitor()
        with self.open() as vault:
            number = vault.snapshot([str(self.image)], keep=self.keep, monitor=monitor).number
        self.copies[number] = self.image.read_bytes()
        return [warning.kind for warning in monitor.warnings]

    def try_to_take(self) -> str | None:
        """The error's kind, which has to say that there is no space; None if the point was made."""
        warnings, failed = None, None
        try:
            warnings = self.take()
        except BlockVaultError as error:
            failed = error
        if failed is None:
            self.codes.append(3 if warnings else 0)
            return None
        assert exit_code_of(failed) == 14, f"{failed.kind}: {failed.message}, {failed.why}"
        assert failed.do
        self.codes.append(14)
        return failed.kind

    def check(self, *numbers: int) -> None:
        """The points restore (None named: all), no other is there, and nothing is damaged."""
        with self.open() as vault:
            infos = {info.number: info for info in vault.points()}
            waiting = {number for number, info in infos.items() if info.point is None}
            assert set(infos) - waiting == set(self.copies)
            for number in numbers or self.copies:
                target = self.root / "out.img"
                vault.restore(infos[number].label, output=str(target), source="vault", force=True)
                assert target.read_bytes() == self.copies[number]
            assert vault.verify(quick=bool(numbers)).damage == ()

    def go_through(self, mount: Path) -> None:
        """A job at each fill, and after each one with room again."""
        for seed, free in enumerate(FREE):
            self.change(seed)
            leave_free(mount, free * KIB)
            before = max(self.copies)
            self.try_to_take()
            self.check(1, before)
            (mount / "filler").unlink()
            if seed % 3 == 2:
                self.transfer_what_waits()
                self.change(1000 + seed)
                assert self.take() == []
                self.check(1, max(self.copies))
        self.transfer_what_waits()
        assert self.take() == []
        self.check()

    def transfer_what_waits(self) -> None:
        """Points that were captured and found no room in the vault: their snapshots go there now."""
        with self.open() as vault:
            for result in vault.transfer():
                target = self.root / "waited.img"
                vault.restore(str(result.number), output=str(target), source="vault", force=True)
                again = self.root / "waited-snapshot.img"
                vault.restore(str(result.number), output=str(again), source="snapshot", force=True)
                assert target.read_bytes() == again.read_bytes()
                self.copies[result.number] = target.read_bytes()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_vault(tmp_path: Path, mounted: Mounted, kind: str) -> None:
    mount = mounted(kind, 24 * MIB if kind == "ext4" else 320 * MIB)
    ready = Ready(tmp_path, tmp_path / "state", mount / "vault")
    ready.go_through(mount)
    assert {0, 14} <= set(ready.codes), "it was full at times, and at times there was room"
    assert not list((ready.folder / "tmp").iterdir())


def test_the_hosts_state(tmp_path: Path, mounted: Mounted) -> None:
    mount = mounted("ext4", 24 * MIB)
    ready = Ready(tmp_path, mount / "state", tmp_path / "vault")
    for _ in range(3):  # what the host keeps is a few blocks, and ext4 may free as many behind the filler's back
        ready.go_through(mount)
        if {3, 14} & set(ready.codes):
            break
    assert 0 in ready.codes
    assert {3, 14} & set(ready.codes), "what has no room there is a warning after the commit, else an error"


def test_the_snapshot_folder(tmp_path: Path, mounted: Mounted) -> None:
    """There the job does without a snapshot, and says so."""
    mount = mounted("ext4", 24 * MIB)
    ready = Ready(tmp_path, tmp_path / "state", tmp_path / "vault", mount / "kept")
    ready.go_through(mount)
    assert set(ready.codes) == {0, 3}


def test_everything_on_one_file_system(tmp_path: Path, mounted: Mounted) -> None:
    """As with the zero set-up: vault, state and snapshots fill up together."""
    mount = mounted("ext4", 32 * MIB)
    ready = Ready(tmp_path, mount / "state", mount / "vault", mount / "kept")
    ready.go_through(mount)
    assert {0, 14} <= set(ready.codes)


@pytest.mark.parametrize("source", ["vault", "snapshot"])
def test_the_target(tmp_path: Path, mounted: Mounted, source: str) -> None:
    mount = mounted("ext4", 16 * MIB)
    ready = Ready(tmp_path, tmp_path / "state", tmp_path / "vault", tmp_path / "kept")
    number = max(ready.copies)
    codes = []
    with ready.open() as vault:
        for free in (0, 16, 128, 512, 700, 740, 760, 780, 800, 820, 840, 900, 1200):
            leave_free(mount, free * KIB)
            target = mount / "out.img"
            failed = None
            try:
                vault.restore(str(number), output=str(target), source=source)
            except BlockVaultError as error:
                failed = error
            codes.append(exit_code_of(failed) if failed else 0)
            if failed is not None:
                assert failed.kind == "target.no-space"
                assert str(target) in failed.message
                assert not target.exists()
            else:
                assert target.read_bytes() == ready.copies[number]
                target.unlink()
            assert names_under(mount) - {str(mount / "filler")} == set()
    assert {0, 14} == set(codes)
