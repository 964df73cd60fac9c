"""A host whose state cannot be written, or whose vault is full or read-only, reads all the same; writing is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.files import copy_tree, first_difference, noise, text, write_at
from helpers.program import Program
from helpers.site import CHUNK, Site

from blockvault.errors import BlockVaultError, DeviceError
from blockvault.vault import Vault

MIB = 1 << 20
pytestmark = pytest.mark.root
Mounted = Callable[[str, int], Path]


class Prepared:
    """Two points in a vault and a state folder that may lie on file systems of their own."""

    def __init__(self, root: Path, state: Path, vault: Path, *, keep: bool = True) -> None:
        self.root, self.state, self.folder = root, state, vault
        self.image = root / "disk.img"
        self.image.write_bytes(text(12 * CHUNK, 1) + noise(12 * CHUNK, 2))
        self.copies = {}
        Vault.create("home", path=str(vault), state_dir=str(state), chunk_size=CHUNK).close()
        with self.open() as opened:
            for number in (1, 2):
                opened.snapshot([str(self.image)], keep=keep)
                self.copies[number] = self.image.read_bytes()
                write_at(self.image, number * 3 * CHUNK, noise(CHUNK, 5 + number))

    def open(self) -> Vault:
        return Vault.open(str(self.folder), state_dir=str(self.state))

    def check_reading(self, *, sources: tuple[str, ...] = ("vault", "auto")) -> None:
        """Everything that only reads works and is right."""
        with self.open() as opened:
            assert [info.number for info in opened.points()] == [1, 2]
            for label in ("1", "2"):
                for source in sources:
                    target = self.root / f"out-{label}-{source}.img"
                    opened.restore(opened.points()[int(label) - 1].label, output=str(target), source=source)
                    assert target.read_bytes() == self.copies[int(label)]
                    target.unlink()
            assert opened.verify().damage == ()
            labels = [info.label for info in opened.points()]
            assert opened.diff(*labels).changed_bytes == CHUNK
            assert opened.diff(labels[1], str(self.image)).changed_bytes == CHUNK
            assert opened.plan_snapshot([str(self.image)]).changed_chunks == 1
            assert opened.usage().vault_bytes > 0
            assert [item.name for item in opened.items()] == ["disk"]

    def refusals(self) -> list[DeviceError]:
        """What the writing verbs say."""
        found = []
        with self.open() as opened:
            verbs: list[Callable[[], object]] = [
                lambda: opened.snapshot([str(self.image)]),
                opened.transfer,
                lambda: opened.set_item("disk", comment="new"),
            ]
            for verb in verbs:
                with pytest.raises(DeviceError) as caught:
                    verb()
                found.append(caught.value)
        return found


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """`read_only(folder)`: a bind mount over itself that nobody can write through."""
    mounts: list[Path] = []

    def make(folder: Path) -> None:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        mounts.append(folder)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)

    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    yield make
    for folder in reversed(mounts):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for piece in (MIB, 4096, 512):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue


def test_a_read_only_state_reads_and_is_told_when_something_writes(
    tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    ready = Prepared(tmp_path, tmp_path / "state", tmp_path / "vault")
    read_only(ready.state)
    ready.check_reading()
    for error in ready.refusals():
        assert error.kind == "host.read-only"
        assert str(ready.state) in error.message
        assert "restore" in str(error.do)
    ready.check_reading()


def test_a_host_without_any_state_and_no_place_for_it_reads(tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    """The vault of another machine, looked at from one that may write nothing."""
    ready = Prepared(tmp_path, tmp_path / "state", tmp_path / "vault")
    ready.state = tmp_path / "elsewhere"
    ready.state.mkdir()
    read_only(ready.state)
    origins = set((ready.folder / "origins").iterdir())
    ready.check_reading(sources=("vault",))
    assert {error.kind for error in ready.refusals()} == {"host.read-only"}
    assert set((ready.folder / "origins").iterdir()) == origins, (
        "an origin that cannot be kept is not told to the vault"
    )
    assert not list(ready.state.iterdir())


def test_a_state_and_a_vault_that_are_read_only(tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    ready = Prepared(tmp_path, tmp_path / "state", tmp_path / "vault")
    read_only(ready.state)
    read_only(ready.folder)
    ready.check_reading()
    assert {error.kind for error in ready.refusals()} == {"vault.read-only"}


def test_a_read_only_vault_and_a_state_that_can_be_written(tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    ready = Prepared(tmp_path, tmp_path / "state", tmp_path / "vault")
    read_only(ready.folder)
    ready.check_reading()
    assert {error.kind for error in ready.refusals()} == {"vault.read-only"}


@pytest.mark.parametrize("lost", ["nothing", "host.json", "lmdb", "locks"])
def test_a_full_file_system_under_state_and_vault(tmp_path: Path, mounted: Mounted, lost: str) -> None:
    """Not a byte is free; and something that opening would make anew is missing, too."""
    mount = mounted("ext4", 24 * MIB)
    ready = Prepared(tmp_path, mount / "state", mount / "vault")
    if lost == "lmdb":
        for path in (ready.folder / "lmdb").iterdir():
            path.unlink()
        (ready.folder / "lmdb").rmdir()
    elif lost == "locks":
        for path in mount.rglob("*lock*"):
            if path.is_file() and path.suffix != ".mdb":
                path.unlink()
    elif lost == "host.json":
        next(ready.state.rglob("host.json")).unlink()
    fill(mount)
    ready.check_reading(sources=("vault",) if lost == "host.json" else ("vault", "auto"))
    for error in ready.refusals():
        assert error.kind.endswith(".no-space"), error.kind
    ready.check_reading(sources=("vault",) if lost == "host.json" else ("vault", "auto"))
    (mount / "filler").unlink()
    with ready.open() as opened:
        result = opened.snapshot([str(ready.image)])
        assert result.number > 2
        target = tmp_path / "after.img"
        opened.restore(str(result.number), output=str(target), source="vault")
        assert first_difference(target, ready.image) is None
        assert opened.verify().damage == ()


def test_points_that_lmdb_has_no_room_for_are_listed(tmp_path: Path, mounted: Mounted) -> None:
    """Another host has added points; this one cannot copy their records into LMDB, and reads the objects."""
    mount = mounted("ext4", 24 * MIB)
    ready = Prepared(tmp_path, tmp_path / "state", mount / "vault")
    copy_tree(ready.folder / "lmdb", tmp_path / "older")
    with Vault.open(str(ready.folder), state_dir=str(tmp_path / "other")) as other:
        for _ in range(20):
            other.snapshot([str(ready.image)], keep=False, comment="x" * 3000)
    for path in (tmp_path / "older").iterdir():
        os.truncate(ready.folder / "lmdb" / path.name, 0)
        (ready.folder / "lmdb" / path.name).write_bytes(path.read_bytes())
    fill(mount)
    with ready.open() as opened:
        assert len(opened.points()) == 22
        assert opened.verify().damage == ()


def test_the_command_line_reads_and_refuses_with_the_right_codes(
    tmp_path: Path, read_only: Callable[[Path], None], mounted: Mounted
) -> None:
    program = Program(tmp_path)
    image = program.folder / "disk.img"
    image.write_bytes(text(12 * CHUNK, 1))
    program.run("snapshot", image, code=0)
    write_at(image, 0, b"changed")
    program.run("snapshot", image, code=0)
    read_only(program.state)
    program.run("points", code=0)
    program.run("restore", "--point", "2", "-o", "out.img", code=0)
    assert (program.folder / "out.img").read_bytes() == image.read_bytes()
    program.run("verify", code=0)
    program.run("diff", "1", "2", code=0)
    program.run("item", "list", code=0)
    program.run("usage", code=0)
    program.run("vault", "show", code=0)
    program.run("snapshot", "--dry-run", image, code=0)
    for words in (("snapshot", image), ("transfer",), ("item", "set", "disk", "--comment", "x")):
        ended = program.run(*words, code=1)
        assert ended.kind in {"host.read-only", "vault.read-only"}
        assert "why:" in ended.err
        assert "do:" in ended.err


def test_a_lock_is_held_on_a_full_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in its file is for messages; the lock itself needs no byte."""
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    site.take(image)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("blockvault.store.locks.os.pwrite", full)
        with site.vault._session.host.lock("a", kind="a.locked", subject="a"):  # noqa: SIM117
            with pytest.raises(BlockVaultError) as caught:
                site.vault._session.host.lock("a", kind="a.locked", subject="a").__enter__()
    assert caught.value.kind == "a.locked"
