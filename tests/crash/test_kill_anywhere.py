"""A bounded part of `python -m tests.reliability`: kills at named steps and at random moments, ext4, xfs and btrfs.

The full count stands in `docs/reliability.md`. Here too: that the checks made after each kill find what is lost.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers.children import environment
from reliability import ground
from reliability.checks import Check, Findings
from reliability.operations import Command, Target, _snapshot
from reliability.run import reliability
from reliability.world import Template, World, digest

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 60


@pytest.mark.root
@pytest.mark.slow
def test_kills_at_steps_and_at_random_moments() -> None:
    lacking = ground.missing(("ext4", "xfs", "btrfs"))
    if lacking:
        pytest.skip(lacking)
    code, tally, told = reliability("--kills", KILLS, "--cuts", 0, "--seed", 1)
    assert (code, tally.failures) == (0, []), told
    assert tally.total("kill") >= KILLS
    assert tally.total("kill at a step") >= KILLS // 4
    assert len(tally.places) == 6, "every file system, plain and encrypted"
    assert tally.counts["restores compared"] > KILLS


# --- the checks themselves ---


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    made = Template(tmp_path_factory.mktemp("template") / "images")
    made.build(1)
    return made


@pytest.fixture
def world(tmp_path: Path, template: Template) -> World:
    """A world with two points of one item."""
    (tmp_path / "scratch").mkdir()
    made = World(tmp_path / "world", tmp_path / "scratch", template, encrypted=False, rng=random.Random(1))
    made.begin()
    for kind in (None, "random-pages"):
        if kind:
            made.change("alpha", kind)
        take(made)
    return made


def run(world: World, command: Command) -> None:
    program = [sys.executable, "-m", "blockvault", *command.argv]
    subprocess.run(program, env=environment(**world.environment()), check=True, capture_output=True)


def take(world: World) -> None:
    command = _snapshot(world, "alpha", "--no-keep")
    run(world, command)
    found = look(world, [command], acked=True)
    assert found.errors == []
    ((label, item),) = found.made.items()
    world.remember(label, item, command.makes[item])


def look(world: World, commands: list[Command], *, acked: bool, sample: int | None = None) -> Findings:
    return Check(world, commands, [acked] * len(commands), sample=sample).run()


def newest(world: World, pattern: str) -> Path:
    return max((path for path in world.vault.glob(pattern) if path.is_file()), key=lambda path: path.stat().st_mtime_ns)


def test_a_lost_point_is_found(world: World) -> None:
    newest(world, "points/*/*").unlink()
    assert "point 2 is lost" in look(world, [], acked=False).errors


def test_a_point_that_was_acknowledged_and_is_not_there_is_found(world: World) -> None:
    command = _snapshot(world, "alpha")
    assert look(world, [command], acked=False).errors == []
    (error,) = look(world, [command], acked=True).errors
    assert error == "the point of item alpha is lost, though its command had succeeded"


def test_a_point_that_nobody_made_is_found(world: World) -> None:
    world.forget("2")
    (error,) = look(world, [], acked=False).errors
    assert "nobody made it" in error


def test_wrong_bytes_are_found(world: World) -> None:
    world.points["1"] = {"alpha": "0" * 64}
    assert look(world, [], acked=False).errors == ["point 1, disk alpha, from the vault: the bytes are wrong"]


def test_damage_is_found_without_a_restore(world: World) -> None:
    pack = newest(world, "main/packs/*/*")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-1])
    (error,) = look(world, [], acked=False, sample=0).errors or [""]
    assert not error, "a look that samples nothing reads no old point"
    assert any("verify" in error for error in look(world, [], acked=False, sample=1).errors)


def test_half_a_target_is_found(world: World) -> None:
    target = world.root / "restored" / "disk.img"
    target.parent.mkdir()
    target.write_bytes(b"half")
    wanted = Command((), targets=(Target(target, before=None, after=world.points["1"]["alpha"]),))
    assert any("neither" in error for error in look(world, [wanted], acked=False).errors)
    (target.parent / ".disk.img.tmp").write_bytes(b"left")
    as_before = Command((), targets=(Target(target, before=digest(target), after="0"),))
    assert look(world, [as_before], acked=False).errors == ["beside the target lies .disk.img.tmp"]
    assert any("neither" in error for error in look(world, [as_before], acked=True).errors)


def test_what_no_point_names_is_counted_and_a_strange_file_is_an_error(world: World) -> None:
    for pattern, name in (("main/packs/*/*", f"{'ab' * 16}.0-{'cd' * 4}"), ("main/layers/*", "ab" * 16)):
        path = newest(world, pattern)
        shutil.copyfile(path, path.with_name(name))
    found = look(world, [], acked=False, sample=1)
    assert (found.counts["packs that no point names"], found.counts["layers that no point names"]) == (1, 1)
    assert not [error for error in found.errors if "none of the vault's" in error]
    (world.vault / "main" / "half").write_bytes(b"")
    assert "a file that is none of the vault's: main/half" in look(world, [], acked=False).errors


def test_a_vault_that_was_acknowledged_and_is_not_there_is_found(world: World) -> None:
    command = _snapshot(world, "alpha")
    world.begin()
    assert look(world, [command], acked=False).errors == []
    (error,) = look(world, [command], acked=True).errors
    assert "does not open" in error
