"""What a point says of its consistency is what was reached; guests stand still for the clones and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.guest_agent import FakeAgent
from helpers.site import Site

from blockvault.engine import guests
from blockvault.errors import (
    BlockVaultError,
    DeviceError,
    HookError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.model import Consistency, OnHookFailure, Phase2, SnapshotResult, Tier
from blockvault.monitor import Monitor

MIB = 1 << 20
FS, APP, CRASH = Consistency.FILE_SYSTEM, Consistency.APPLICATION, Consistency.CRASH
FAIL = OnHookFailure.FAIL


class World:
    """A site whose items have guest agents and scripts; `log` is what they did, in order."""

    def __init__(self, site: Site, folder: Path, set_hook: Callable[[Any], None]) -> None:
        self.site = site
        self.folder = folder
        self.agents: dict[str, FakeAgent] = {}
        self.log: list[str] = []
        self.script_log = folder / "scripts.log"
        self._set_hook = set_hook

    def watch(self) -> None:
        """Note what is frozen when the clones are made and when they are made durable."""

        def reached(name: str) -> None:
            if name in ("snapshot.reflink.begun", "snapshot.reflink.cloned", "snapshot.reflink.synced"):
                frozen = sorted(item for item, agent in self.agents.items() if agent.frozen)
                self.log.append(f"{name.rpartition('.')[2]} {','.join(frozen)}")

        self._set_hook(reached)

    def item(self, name: str, *, agent: bool = True, size: int = MIB) -> Path:
        """An item with a point of its own, and a guest agent."""
        image = self.site.image(name, size)
        self.site.take(image, name=name)
        if agent:
            self.agents[name] = FakeAgent(self.folder)
            self.site.vault.set_item(name, agent_socket=self.agents[name].path)
        return image

    def script(self, name: str, text: str = "", item: str = "") -> None:
        path = self.folder / "config" / "hooks.d" / item / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $1 $BLOCKVAULT_RESULT" >> {self.script_log}\n{text}\n')
        path.chmod(0o755)

    @property
    def scripts(self) -> list[str]:
        if not self.script_log.exists():
            return []
        return [line.strip() for line in self.script_log.read_text().splitlines()]

    @property
    def warned(self) -> list[str]:
        return [warning.kind for warning in self.site.monitor.warnings]

    def numbers(self) -> set[int]:
        return {info.number for info in self.site.vault.points()}


@pytest.fixture
def world(
    reflink_path: Path,
    tmp_path: Path,
    make_site: Callable[..., Site],
    hook: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))
    with Site(reflink_path / "site", keep=True) as site:
        made = World(site, tmp_path, hook)
        yield made
        for agent in made.agents.values():
            agent.close()


@pytest.fixture
def plain(tmp_path: Path, hook: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The same where files cannot be cloned."""
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))
    with Site(tmp_path / "site", keep=True) as site:
        made = World(site, tmp_path, hook)
        yield made
        for agent in made.agents.values():
            agent.close()


# -- one item ---------------------------------------------------------------------------------------------------


def test_a_guest_stands_still_for_the_clone_and_the_point_says_so(world: World) -> None:
    world.item("web01")
    world.watch()
    result = world.site.take("web01", consistency=FS)
    assert world.log == ["begun web01", "cloned web01", "synced "]
    assert (result.consistency, result.job_state, result.skew_ms) == (FS, "completed", None)
    assert result.freeze_ms is not None
    assert result.freeze_ms > 0
    world.site.reopen()
    info = world.site.vault.point(str(result.number))
    assert info.point is not None
    assert (info.point.consistency, info.point.freeze_ms) == (FS, result.freeze_ms)
    assert (info.consistency, info.freeze_ms) == (FS, result.freeze_ms)
    world.site.check(result.number)
    world.site.check(result.number, source="snapshot")


def test_scripts_run_around_the_freeze(world: World) -> None:
    world.item("web01")
    world.script("10-a")
    world.script("20-b", item="web01")
    world.watch()
    result = world.site.take("web01", consistency=APP)
    assert (result.consistency, result.warnings) == (APP, ())
    assert world.scripts == ["10-a pre", "20-b pre", "20-b post completed", "10-a post completed"]
    assert world.agents["web01"].freezes == 1
    assert world.log == ["begun web01", "cloned web01", "synced "]


def test_crash_consistent_points_ask_nobody(world: World) -> None:
    world.item("web01")
    world.script("10-a")
    result = world.site.take("web01")
    assert (result.consistency, result.freeze_ms, result.warnings) == (CRASH, None, ())
    assert world.scripts == []
    assert world.agents["web01"].asked == []


def test_without_a_pre_script_no_point_is_application_consistent(world: World) -> None:
    world.item("web01")
    assert world.site.take("web01", consistency=APP).consistency is FS
    assert world.warned == ["hook.no-script"]
    with pytest.raises(HookError, match="has no pre script"):
        world.site.take("web01", consistency=APP, on_hook_failure=FAIL)


def test_a_pre_script_that_fails_leaves_a_crash_consistent_point_or_none(world: World) -> None:
    world.item("web01")
    world.script("10-a")
    world.script("20-b", '[ "$1" = post ] || exit 7')
    result = world.site.take("web01", consistency=APP)
    assert (result.consistency, result.freeze_ms, result.job_state) == (CRASH, None, "completed-with-warning")
    assert world.warned == ["hook.script-failed"]
    assert "the pre script 20-b ended with 7" in result.warnings[0]
    assert world.scripts == ["10-a pre", "20-b pre", "20-b post completed", "10-a post completed"]
    assert world.agents["web01"].freezes == 0
    before = world.numbers()
    world.script_log.unlink()
    with pytest.raises(HookError) as caught:
        world.site.take("web01", consistency=APP, on_hook_failure=FAIL)
    assert caught.value.kind == "hook.script-failed"
    assert world.scripts == ["10-a pre", "20-b pre", "20-b post failed", "10-a post failed"]
    assert world.numbers() == before


def test_a_script_that_others_can_change_keeps_all_from_running(world: World) -> None:
    world.item("web01")
    world.script("10-a")
    world.script("20-b")
    (world.folder / "config" / "hooks.d" / "20-b").chmod(0o777)
    result = world.site.take("web01", consistency=APP)
    assert (result.consistency, world.warned, world.scripts) == (CRASH, ["hook.not-trusted"], [])


def test_a_post_script_that_fails_is_told_and_the_point_stands(world: World) -> None:
    world.item("web01")
    world.script("10-a", '[ "$1" = pre ] || exit 1')
    result = world.site.take("web01", consistency=APP, on_hook_failure=FAIL)
    assert (result.consistency, world.warned) == (APP, ["hook.post-failed"])


@pytest.mark.parametrize("command", ["guest-info", "guest-fsfreeze-freeze"])
@pytest.mark.parametrize("said", [b"garbage\n", b'{"error": {"desc": "no"}}\n'])
def test_an_agent_that_does_not_do_what_it_should(world: World, command: str, said: bytes) -> None:
    world.item("web01")
    agent = world.agents["web01"]
    agent.answers[command] = said
    result = world.site.take("web01", consistency=FS)
    assert (result.consistency, result.job_state) == (CRASH, "completed-with-warning")
    assert world.warned == ["hook.agent-garbled" if said.startswith(b"garbage") else "hook.agent-refused"]
    before = world.numbers()
    with pytest.raises(HookError):
        world.site.take("web01", consistency=FS, on_hook_failure=FAIL)
    assert world.numbers() == before
    assert not agent.frozen


def test_a_guest_that_is_off_is_captured_as_it_lies_there(world: World) -> None:
    image = world.item("web01", agent=False)
    world.site.vault.set_item("web01", agent_socket=str(world.folder / "none.sock"))
    world.script("10-a")
    result = world.site.take("web01", consistency=APP, on_hook_failure=FAIL)
    assert (result.consistency, result.warnings, result.freeze_ms) == (CRASH, (), None)
    assert world.scripts == []
    with image.open("r+b"):  # somebody runs from it: the agent should answer
        assert world.site.take("web01", consistency=FS).consistency is CRASH
        assert world.warned == ["hook.agent-unreachable"]


def test_a_freeze_that_did_not_hold_makes_no_more_than_a_crash_consistent_point(
    world: World, hook: Callable[[Any], None]
) -> None:
    world.item("web01")
    agent = world.agents["web01"]

    def thaw(name: str) -> None:
        if name == "snapshot.reflink.begun":
            agent.frozen = False

    hook(thaw)
    result = world.site.take("web01", consistency=FS)
    assert (result.consistency, world.warned) == (CRASH, ["hook.freeze-lost"])
    before, files = world.numbers(), clones(world)
    with pytest.raises(HookError) as caught:
        world.site.take("web01", consistency=FS, on_hook_failure=FAIL)
    assert caught.value.kind == "hook.freeze-lost"
    assert (world.numbers(), clones(world)) == (before, files)


def clones(world: World) -> set[Path]:
    """Files of snapshots that lie beside the images."""
    return set(world.site.root.rglob(".blockvault/**/*.img"))


@pytest.mark.parametrize("place", ["hook.frozen", "snapshot.reflink.begun", "snapshot.reflink.cloned"])
@pytest.mark.parametrize("what", [OSError(errno.EIO, "a fault"), KeyboardInterrupt(), MemoryError()])
def test_whatever_is_raised_all_is_thawed_and_the_post_scripts_run(
    world: World, hook: Callable[[Any], None], place: str, what: BaseException
) -> None:
    world.item("web01")
    world.script("10-a")
    before, files = world.numbers(), clones(world)

    def fail(name: str) -> None:
        if name == place:
            assert world.agents["web01"].frozen
            raise what

    hook(fail)
    with pytest.raises((type(what), DeviceError)):
        world.site.take("web01", consistency=APP)
    assert not world.agents["web01"].frozen
    assert world.scripts == ["10-a pre", "10-a post failed"]
    hook(None)
    assert (world.numbers(), clones(world)) == (before, files)
    assert world.site.take("web01", consistency=APP).consistency is APP


def test_nothing_to_freeze_is_told(world: World) -> None:
    world.item("web01", agent=False)
    world.script("10-a")
    result = world.site.take("web01", consistency=APP)
    assert (result.consistency, world.warned) == (CRASH, ["hook.nothing-to-freeze"])
    assert world.scripts == ["10-a pre", "10-a post completed"]
    with pytest.raises(HookError, match="nothing to freeze"):
        world.site.take("web01", consistency=APP, on_hook_failure=FAIL)
    assert len(world.scripts) == 2  # none ran in vain


def test_without_a_snapshot_nothing_is_frozen(world: World) -> None:
    world.item("web01")
    result = world.site.take("web01", consistency=FS, keep=False)
    assert (result.consistency, result.tier, world.warned) == (CRASH, Tier.VAULT, ["hook.copy-too-long"])
    point = world.site.vault.point(str(result.number)).point
    assert point is not None
    assert point.consistency is CRASH
    assert world.agents["web01"].freezes == 0


def test_a_snapshot_waits_and_its_point_says_what_was_reached(world: World) -> None:
    world.item("web01")
    taken = world.site.take("web01", consistency=FS, snapshot_only=True)
    (moved,) = world.site.vault.transfer("web01")
    point = world.site.vault.point(str(taken.number)).point
    assert point is not None
    assert (moved.consistency, point.consistency, point.freeze_ms) == (FS, FS, taken.freeze_ms)


# -- where files cannot be cloned -------------------------------------------------------------------------------


def test_a_short_copy_is_made_while_the_guest_stands_still(plain: World) -> None:
    plain.item("web01")
    result = plain.site.take("web01", consistency=FS, on_hook_failure=FAIL)
    assert (result.consistency, result.warnings) == (FS, ())
    record = next(r for r in plain.site.vault._session.tier.records() if r.number == result.number)
    assert (record.consistency, record.freeze_ms) == (FS, result.freeze_ms)
    plain.site.check(result.number)


def test_a_long_copy_is_not(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.item("web01")
    plain.script("10-a")
    monkeypatch.setattr(guests, "COPY_WHILE_FROZEN_BYTES", 1000)
    result = plain.site.take("web01", consistency=APP)
    assert (result.consistency, plain.warned) == (CRASH, ["hook.copy-too-long"])
    assert (plain.agents["web01"].freezes, plain.scripts) == (0, [])


_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_frozen_guest_that_has_its_disk_open_is_copied(plain: World) -> None:
    image = plain.item("web01")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DeviceError) as caught:
            plain.site.take("web01")
        assert caught.value.kind == "image.in-use"
        result = plain.site.take("web01", consistency=FS)
        assert (result.consistency, result.warnings) == (FS, ())
        before = plain.numbers()
        agent = plain.agents["web01"]
        agent.answers["guest-fsfreeze-status"] = b'{"return": "thawed"}\n'
        with pytest.raises(HookError) as lost:
            plain.site.take("web01", consistency=FS)
        assert lost.value.kind == "hook.freeze-lost"
        assert plain.numbers() == before
    finally:
        holder.communicate()
    plain.site.check(result.number)
    plain.agents["web01"].answers.clear()
    assert plain.site.take("web01", consistency=FS).consistency is FS


# -- a real file system -----------------------------------------------------------------------------------------


def needs_recovery(image: Path) -> bool:
    features = subprocess.run(["dumpe2fs", "-h", str(image)], capture_output=True, text=True, check=True).stdout
    return "needs_recovery" in features


@pytest.mark.root
def test_a_frozen_file_system_is_whole_in_the_point_and_an_unfrozen_one_is_not(world: World) -> None:
    image = world.site.root / "data.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount = world.folder / "data"
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        (mount / "first").write_bytes(os.urandom(100_000))
        world.site.vault.snapshot([str(image)], name="data", consistency=CRASH)
        world.site.vault.set_item("data", freeze_mounts=(str(mount),))
        written = os.urandom(300_000)
        (mount / "second").write_bytes(written)  # and not synced: the freeze does that
        world.script("10-a")
        frozen = world.site.vault.snapshot(["data"], consistency=APP)
        (mount / "third").write_bytes(b"after")  # it is thawed
        assert frozen.consistency is APP
        assert frozen.warnings == ()
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    crashed, whole = world.folder / "crashed.img", world.folder / "whole.img"
    world.site.vault.restore("1", output=str(crashed))
    world.site.vault.restore(str(frozen.number), output=str(whole))
    assert needs_recovery(crashed)
    assert not needs_recovery(whole)
    assert subprocess.run(["e2fsck", "-fn", str(whole)], capture_output=True).returncode == 0
    told = subprocess.run(["debugfs", "-R", "cat second", str(whole)], capture_output=True, check=True)
    assert told.stdout == written


@pytest.mark.root
def test_the_file_system_that_holds_the_images_is_not_frozen(world: World) -> None:
    """It would wait for itself: the clone is written there."""
    world.item("web01", agent=False)
    top = world.site.root
    while not os.path.ismount(top):
        top = top.parent
    world.site.vault.set_item("web01", freeze_mounts=(str(top),))
    assert world.site.take("web01", consistency=FS).consistency is CRASH
    assert world.warned == ["hook.mount-refused"]


# -- groups -----------------------------------------------------------------------------------------------------


def group(world: World, **options: Any) -> list[SnapshotResult]:
    world.site.monitor = Monitor()
    results = world.site.vault.snapshot_group("shop", monitor=world.site.monitor, **options)
    for result in results:
        world.site.remember(str(result.number))
    return results


def test_a_group_is_captured_at_one_instant(world: World) -> None:
    for name in ("web01", "db01", "cache01"):
        world.item(name)
        world.script("10-a", item=name)
    world.site.vault.create_group("shop", ["web01", "db01", "cache01"])
    world.watch()
    results = group(world, consistency=APP, on_hook_failure=FAIL)
    assert world.log == [
        "begun cache01,db01,web01",
        "cloned cache01,db01,web01",
        "synced ",
        "synced ",
        "synced ",
    ]
    assert [result.item for result in results] == ["cache01", "db01", "web01"]
    assert {result.consistency for result in results} == {APP}
    assert len({result.skew_ms for result in results}) == 1
    assert len({result.number for result in results}) == 3
    world.site.reopen()
    for result in results:
        point = world.site.vault.point(str(result.number)).point
        assert point is not None
        assert (point.group, point.skew_ms, point.freeze_ms) == ("shop", result.skew_ms, result.freeze_ms)
        assert point.skew_ms is not None
        assert point.freeze_ms is not None
        assert 0 < point.skew_ms <= point.freeze_ms
        assert point.taken == world.site.vault.point(str(results[0].number)).taken
        world.site.check(result.number)


def test_each_item_of_a_group_says_what_it_reached(world: World) -> None:
    for name in ("web01", "db01"):
        world.item(name)
    world.site.vault.create_group("shop", ["web01", "db01"])
    world.agents["db01"].answers["guest-fsfreeze-freeze"] = b'{"return": 0}\n'
    results = group(world, consistency=FS)
    assert {result.item: result.consistency for result in results} == {"web01": FS, "db01": CRASH}
    assert world.warned == ["hook.freeze-failed"]
    assert {result.item: len(result.warnings) for result in results} == {"web01": 0, "db01": 1}
    assert {result.item: result.job_state for result in results}["web01"] == "completed"
    before = world.numbers()
    with pytest.raises(HookError, match="no point of item 'db01'"):
        group(world, consistency=FS, on_hook_failure=FAIL)
    assert world.numbers() == before
    assert not any(agent.frozen for agent in world.agents.values())


@pytest.mark.parametrize("visit", [1, 2, 3])
def test_all_items_of_a_group_are_captured_or_none(world: World, hook: Callable[[Any], None], visit: int) -> None:
    for name in ("web01", "db01", "cache01"):
        world.item(name)
    world.site.vault.create_group("shop", ["web01", "db01", "cache01"])
    before, files = world.numbers(), clones(world)
    visits = 0

    def fail(name: str) -> None:
        nonlocal visits
        if name == "snapshot.reflink.synced":
            visits += 1
            if visits == visit:
                raise OSError(errno.EIO, "a fault")

    hook(fail)
    with pytest.raises(DeviceError):
        group(world)
    hook(None)
    assert (world.numbers(), clones(world)) == (before, files)
    assert len(group(world)) == 3


def test_a_group_that_cannot_be_transferred_stays_snapshots(world: World, hook: Callable[[Any], None]) -> None:
    for name in ("web01", "db01"):
        world.item(name)
        image = world.site.root / f"{name}.img"
        with image.open("r+b") as file:
            file.write(os.urandom(100_000))
    world.site.vault.create_group("shop", ["web01", "db01"])
    broken = iter([True])

    def fail(name: str) -> None:
        if name.startswith("transfer.") and next(broken, False):
            raise OSError(errno.EIO, "a fault")

    hook(fail)
    results = group(world)
    assert [result.tier for result in results] == [Tier.SNAPSHOT, Tier.BOTH]
    assert "transfer.failed" in world.warned
    hook(None)
    (moved,) = world.site.vault.transfer()
    assert moved.number == results[0].number
    for result in results:
        world.site.check(result.number)


def test_phase_two_of_a_group_may_come_later(world: World) -> None:
    for name in ("web01", "db01"):
        world.item(name)
    world.site.vault.create_group("shop", ["web01", "db01"])
    results = group(world, phase2=Phase2.LATER)
    assert [result.tier for result in results] == [Tier.SNAPSHOT] * 2
    assert {moved.number for moved in world.site.vault.transfer()} == {result.number for result in results}


def test_disks_of_one_item_are_cloned_in_one_window(world: World) -> None:
    images = [world.site.image(name) for name in ("system", "data")]
    world.site.take(*images, name="web01")
    world.agents["web01"] = FakeAgent(world.folder)
    world.site.vault.set_item("web01", agent_socket=world.agents["web01"].path)
    world.watch()
    result = world.site.take("web01", consistency=FS)
    assert world.log == ["begun web01", "cloned web01", "synced "]
    assert result.skew_ms is not None
    assert result.freeze_ms is not None
    assert 0 < result.skew_ms <= result.freeze_ms


def test_items_that_cannot_be_cloned_are_of_no_one_instant(plain: World) -> None:
    for name in ("web01", "db01"):
        plain.item(name)
    plain.site.vault.create_group("shop", ["web01", "db01"])
    before = plain.numbers()
    with pytest.raises(UnsupportedError) as caught:
        group(plain)
    assert caught.value.kind == "group.cannot-clone"
    assert plain.numbers() == before


def test_groups_are_names_on_their_items(site: Site) -> None:
    for name in ("web01", "db01", "cache01"):
        site.take(site.image(name), name=name)
    vault = site.vault
    vault.create_group("shop", ["web01", "db01"])
    assert {name: [item.name for item in items] for name, items in vault.groups().items()} == {
        "shop": ["db01", "web01"]
    }
    vault.set_group("shop", ["db01", "cache01"])
    assert [vault.item(name).group for name in ("web01", "db01", "cache01")] == ["", "shop", "shop"]
    vault.set_item("web01", group="shop")
    assert len(vault.groups()["shop"]) == 3
    vault.remove_group("shop")
    assert vault.groups() == {}


@pytest.mark.parametrize(
    ("verb", "arguments", "kind"),
    [
        ("create_group", ("shop", ["web01"]), "group.exists"),
        ("create_group", ("other", ["web01"]), "group.other"),
        ("create_group", ("other", []), "group.empty"),
        ("create_group", ("no blanks", ["db01"]), "item.bad-name"),
        ("create_group", ("other", ["db01", "db01"]), "item.twice"),
        ("set_group", ("none", ["db01"]), "group.not-found"),
        ("remove_group", ("none",), "group.not-found"),
        ("snapshot_group", ("none",), "group.not-found"),
        ("snapshot_group", ([],), "item.none"),
        ("snapshot_group", (["web01", "web01"],), "item.twice"),
        ("snapshot_group", (["web01", "none"],), "item.not-found"),
    ],
)
def test_what_a_group_cannot_be(site: Site, verb: str, arguments: tuple[Any, ...], kind: str) -> None:
    for name in ("web01", "db01"):
        site.take(site.image(name), name=name)
    site.vault.create_group("shop", ["web01"])
    with pytest.raises(BlockVaultError) as caught:
        getattr(site.vault, verb)(*arguments)
    assert caught.value.kind == kind
    assert isinstance(caught.value, (NotFoundError, InvalidInputError, BlockVaultError))


def test_an_item_that_keeps_no_snapshots_is_in_no_capture_of_several(world: World) -> None:
    for name in ("web01", "db01"):
        world.item(name)
    world.site.vault.set_item("db01", snapshot_days=0)
    with pytest.raises(InvalidInputError) as caught:
        world.site.vault.snapshot_group(["web01", "db01"])
    assert caught.value.kind == "group.needs-snapshots"
