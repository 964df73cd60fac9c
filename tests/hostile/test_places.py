"""What lies in a vault's folder in the place of its folders and files: links, pipes, devices.

None leads out of the vault, and none hangs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from blockvault.errors import CorruptionError, UnsupportedError
from blockvault.vault import Vault
from hostile import fuzz
from hostile.targets import work_through
from hostile.world import World

FOLDERS = ["main", "main/packs", "main/layers", "main/index", "points", "items", "policies", "marks", "origins",
           "config", "leases", "tmp", "lmdb"]  # fmt: skip
UNOPENED = ["vault.json", "config/000000"]  # without these there is no vault


def lay(world: World, root: Path) -> tuple[Path, Path, Path]:
    """A copy of the vault, a state folder, and a folder for restores."""
    (root / "out").mkdir()
    return world.copy(root / "vault"), root / "state", root / "out"


def harmless(vault: Path, state: Path, out: Path, image: Path | None = None) -> list[str]:
    """Work through the vault; the kinds of what was refused. Fails for what no fuzzer may find either."""
    kinds: list[str] = []
    target = fuzz.Target("place", lambda _: kinds.extend(work_through(vault, state, out, image)), [])
    outcome = fuzz.judge(target, b"")
    assert not outcome.finding, outcome.finding
    return kinds


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_not_followed(world: World, fast_path: Path, name: str) -> None:
    vault, state, out = lay(world, fast_path)
    outside = fast_path / "outside"
    if (vault / name).is_dir():
        shutil.move(vault / name, outside)
    else:
        outside.mkdir()
    victim = outside / ("ab" * 16)  # named as a dead lease would be
    victim.write_bytes(b"precious")
    (vault / name).parent.mkdir(parents=True, exist_ok=True)
    (vault / name).symlink_to(outside)
    before = everything(outside)
    kinds = harmless(vault, state, out, world.image)
    assert everything(outside) == before
    if name != "lmdb":  # a link there is removed, and a folder made
        assert "vault.not-a-plain-file" in kinds


@pytest.mark.parametrize("make", ["link", "pipe", "folder", "device", "socket", "self"])
def test_an_object_that_is_no_plain_file_is_refused(world: World, fast_path: Path, make: str) -> None:
    for at, name in enumerate([*world.names, "vault.json"]):
        root = fast_path / str(at)
        root.mkdir()
        vault, state, out = lay(world, root)
        path = vault / name
        content = path.read_bytes()
        path.unlink()
        if make == "link":
            (root / "elsewhere").write_bytes(content)
            path.symlink_to(root / "elsewhere")
        elif make == "self":
            path.symlink_to(path.name)
        elif make == "pipe":
            os.mkfifo(path)
        elif make == "folder":
            path.mkdir()
        elif make == "device":
            if os.geteuid() != 0:
                pytest.skip("needs root: device nodes")
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            import socket

            with socket.socket(socket.AF_UNIX) as server:
                here = os.open(path.parent, os.O_RDONLY)
                try:
                    server.bind(f"/proc/self/fd/{here}/{path.name}")
                finally:
                    os.close(here)
        kinds = harmless(vault, state, out)
        with (
            Vault.open(str(vault), state_dir=str(state)) if name not in UNOPENED else contextlib.nullcontext() as opened
        ):
            if opened is None:
                assert kinds == ["vault.not-a-plain-file"]
            else:
                touched = {damage.object for damage in opened.verify().damage}
                assert any(name.startswith(found.split(".")[0]) for found in touched)
        if name.startswith("points"):
            with Vault.open(str(vault), state_dir=str(state)) as opened:
                assert len(opened.points()) == 1
        shutil.rmtree(root)


@pytest.mark.parametrize("name", ["lmdb.lock", "lmdb/data.mdb", "lmdb/lock.mdb"])
@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_file_that_is_written_is_never_another_one(world: World, fast_path: Path, name: str, link: str) -> None:
    vault, state, out = lay(world, fast_path)
    victim = fast_path / "victim"
    victim.write_bytes(b"precious")
    (vault / name).parent.mkdir(exist_ok=True)
    if link == "symbolic":
        (vault / name).symlink_to(victim)
    else:
        os.link(victim, vault / name)
    harmless(vault, state, out, world.image)
    assert victim.read_bytes() == b"precious"
    assert victim.stat().st_size == 8


def test_junk_among_the_objects_is_passed_over(world: World, fast_path: Path) -> None:
    vault, state, out = lay(world, fast_path)
    origin = Path(world.named("points")[0]).parent
    for folder in (origin, "points", "main/packs", "main/packs/00", "main/layers", "main/condemned", "leases", "keys"):
        (vault / folder).mkdir(parents=True, exist_ok=True)
        for at in range(2000):
            (vault / folder / f"junk-{at}").touch()
        for name in ("9" * 200, "x" * 255, "\n", "\x1b[2J", "-rf", "\udcff", "0" * 9, "0" * 11):
            (vault / folder / name).touch()
    with Vault.open(str(vault), state_dir=str(state)) as opened:
        assert len(opened.points()) == 2
        assert opened.verify().damage == ()
    assert harmless(vault, state, out, world.image) == ["point.no-parent"]  # a diff of the first point


@pytest.mark.parametrize(("folder", "name", "used_up"), [
    ("points", "9999999999", True), ("points", "9" * 40, False), ("marks", "9999999999", True),
])  # fmt: skip
def test_numbers_that_are_used_up_are_told_and_nothing_is_lost(
    world: World, fast_path: Path, folder: str, name: str, used_up: bool
) -> None:
    """A number with one digit more than names have would make a point that no listing shows."""
    vault, state, _ = lay(world, fast_path)
    with Vault.open(str(vault), state_dir=str(state)) as opened:
        origin = opened.origin
    (vault / folder / origin).mkdir(parents=True)
    (vault / folder / origin / name).touch()
    with Vault.open(str(vault), state_dir=str(state)) as opened:
        before = len(opened.points())
        if used_up:
            with pytest.raises(UnsupportedError, match="has no number left") as error:
                opened.snapshot([str(world.image)], keep=False)
            assert error.value.kind == "vault.numbers-used-up"
        else:
            assert opened.snapshot([str(world.image)], keep=False).number == 3
        assert len(opened.points()) == before + (not used_up)


def test_the_lmdb_store_of_a_stranger_is_never_opened(world: World, fast_path: Path) -> None:
    """Its pages may end the process: it is made anew. What this host made itself is used again."""
    vault, state, _ = lay(world, fast_path)
    (vault / "lmdb").mkdir()
    (vault / "lmdb" / "data.mdb").write_bytes(b"\xff" * (1 << 20))
    with Vault.open(str(vault), state_dir=str(state)) as opened:
        assert len(opened.points()) == 2
    made = (vault / "lmdb" / "data.mdb").stat().st_ino
    with Vault.open(str(vault), state_dir=str(state)):
        assert (vault / "lmdb" / "data.mdb").stat().st_ino == made
    with Vault.open(str(vault), state_dir=str(fast_path / "another host")):
        assert (vault / "lmdb" / "data.mdb").stat().st_ino != made
    shutil.copytree(vault, fast_path / "copy")
    copied = (fast_path / "copy" / "lmdb" / "data.mdb").stat().st_ino
    with Vault.open(str(fast_path / "copy"), state_dir=str(state)) as opened:
        assert (fast_path / "copy" / "lmdb" / "data.mdb").stat().st_ino != copied
        assert len(opened.points()) == 2


def test_a_link_is_told_with_what_to_do(world: World, fast_path: Path) -> None:
    vault, state, _ = lay(world, fast_path)
    shutil.move(vault / "main", fast_path / "elsewhere")
    (vault / "main").symlink_to(fast_path / "elsewhere")
    with pytest.raises(CorruptionError) as refused:
        Vault.open(str(vault), state_dir=str(state))
    assert refused.value.message == "the folder main of the vault is not what it must be"
    assert "symbolic link" in str(refused.value.why)
    assert refused.value.do
