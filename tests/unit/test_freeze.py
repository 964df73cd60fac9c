"""Freezing guests and real file systems, and that they are thawed whatever happens: by the program, or its watchdog."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.children import environment
from helpers.guest_agent import FakeAgent

from blockvault.errors import HookError
from blockvault.hooks import guest_agent, mounts, watchdog
from blockvault.hooks.freeze import Freeze

MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with FakeAgent(tmp_path) as made:
        yield made


def is_frozen(mount: Path) -> bool:
    """Whether a write to the file system blocks, tried by a child that is left waiting if it does."""
    child = os.fork()
    if not child:
        with open(mount / f"probe-{os.getpid()}", "w", encoding="ascii") as file:
            file.write("x")
        os._exit(0)
    for _ in range(100):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if Path(f"/proc/{child}/wchan").read_text() in ("percpu_rwsem_wait", "percpu_down_read", "__percpu_down_read"):
            break
        time.sleep(0.01)
    _waiting.append(child)
    return True


_waiting: list[int] = []


@pytest.fixture(autouse=True)
def _none_is_left_waiting() -> Iterator[None]:
    yield
    while _waiting:
        os.waitpid(_waiting.pop(), 0)  # each ends when what it waits for is thawed


def frozen_by(*agents: FakeAgent) -> Freeze:
    freeze = Freeze()
    for number, agent in enumerate(agents):
        freeze.add_agent(f"item-{number}", agent.path)
    freeze.watch()
    return freeze


def test_a_guest_stands_still_between_freeze_and_thaw(agent: FakeAgent) -> None:
    with frozen_by(agent) as freeze:
        assert not agent.frozen
        assert freeze.freeze() == {}
        assert agent.frozen
        thawed = freeze.thaw()["item-0"]
    assert not agent.frozen
    assert (thawed.held, thawed.lost, thawed.unanswered) == (True, None, False)
    assert thawed.freeze_ms > 0


def test_all_guests_are_frozen_before_any_is_thawed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        agents = [stack.enter_context(FakeAgent(tmp_path)) for _ in range(4)]
        with frozen_by(*agents) as freeze:
            assert freeze.freeze() == {}
            assert all(agent.frozen for agent in agents)
            assert sorted(freeze.thaw()) == ["item-0", "item-1", "item-2", "item-3"]
        assert not any(agent.frozen for agent in agents)


def test_a_guest_that_cannot_is_told_and_the_others_stand_still(tmp_path: Path) -> None:
    with FakeAgent(tmp_path) as well, FakeAgent(tmp_path) as ill:
        ill.answers["guest-fsfreeze-freeze"] = b'{"return": 0}\n'
        with frozen_by(well, ill) as freeze:
            problems = freeze.freeze()
            assert {owner: error.kind for owner, error in problems.items()} == {"item-1": "hook.freeze-failed"}
            assert well.frozen
            assert list(freeze.thaw()) == ["item-0"]


def test_a_freeze_without_an_answer_is_thawed(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest may have frozen although it did not say so."""
    monkeypatch.setattr(guest_agent.GuestAgent.freeze, "__defaults__", (0.2,))
    agent.frozen = True
    agent.answers["guest-fsfreeze-freeze"] = None
    with frozen_by(agent) as freeze:
        assert freeze.freeze()["item-0"].kind == "hook.agent-silent"
        assert not agent.frozen
        assert freeze.thaw() == {}


def test_a_guest_that_was_thawed_meanwhile_did_not_hold(agent: FakeAgent) -> None:
    with frozen_by(agent) as freeze:
        freeze.freeze()
        agent.frozen = False
        thawed = freeze.thaw()["item-0"]
    assert not thawed.held
    assert thawed.lost == f"{agent.path} was thawed before the capture had ended"


def test_the_watchdog_thaws_at_its_limit_and_the_freeze_did_not_hold(agent: FakeAgent) -> None:
    with Freeze(limit_seconds=0.3) as freeze:
        freeze.add_agent("item", agent.path)
        freeze.watch()
        freeze.freeze()
        assert agent.thawed.wait(20)
        assert not freeze.thaw()["item"].held


def test_a_guest_that_does_not_answer_the_thaw_is_left_to_the_watchdog(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "ASK_SECONDS", 0.2)
    with Freeze() as freeze:
        freeze.add_agent("item", agent.path)
        freeze._targets[0].agent._ask_seconds = 0.2  # type: ignore[union-attr]
        freeze.watch()
        freeze.freeze()
        agent.answers["guest-sync-delimited"] = None
        thawed = freeze.thaw()["item"]
        assert (thawed.unanswered, thawed.held) == (True, False)
        agent.thawed.clear()
        agent.frozen = True
    del agent.answers["guest-sync-delimited"]
    assert agent.thawed.wait(20)
    assert not agent.frozen


_CHILD = """
import os, signal, sys, time
from blockvault.hooks.freeze import Freeze
freeze = Freeze()
for word in sys.argv[2:]:
    if word.endswith(".sock"):
        freeze.add_agent("item", word)
    else:
        freeze.add_mount("item", word, protected=[], disks=[sys.argv[1]])
freeze.watch()
problems = freeze.freeze()
print("frozen" if not problems else problems, flush=True)
time.sleep(300)
"""


def freezing_child(disk: Path, *targets: str | Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _CHILD, str(disk), *map(str, targets)]
    child = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "frozen\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_guest_is_thawed_when_the_program_is_killed(agent: FakeAgent, tmp_path: Path, how: signal.Signals) -> None:
    child = freezing_child(tmp_path / "none", agent.path)
    assert agent.frozen
    os.killpg(child.pid, how)  # the whole group: the watchdog is in one of its own
    end(child)
    assert agent.thawed.wait(20)
    assert not agent.frozen


def test_nothing_is_frozen_without_a_watchdog(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "__file__", "/nowhere/watchdog.py")
    with Freeze() as freeze:
        freeze.add_agent("item", agent.path)
        with pytest.raises(HookError) as caught:
            freeze.watch()
    assert caught.value.kind == "hook.no-watchdog"
    assert agent.freezes == 0


def test_a_watchdog_that_was_killed_stops_the_freeze(agent: FakeAgent) -> None:
    with Freeze() as freeze:
        freeze.add_agent("item", agent.path)
        freeze.watch()
        assert freeze._dog is not None
        os.kill(freeze._dog.pid, signal.SIGKILL)
        freeze._dog.wait()
        assert freeze.freeze()["item"].kind == "hook.no-watchdog"
    assert agent.freezes == 0


# -- real file systems ------------------------------------------------------------------------------------------


def disk_of(mount: Path) -> Path:
    """The image that a test's file system lies in."""
    return mount.parent / f"{mount.name}.fs"


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs"])
def test_a_file_system_is_frozen_and_thawed(mounted: Callable[[str, int], Path], kind: str) -> None:
    mount = mounted(kind, 320 * MIB)
    with Freeze() as freeze:
        freeze.add_mount("item", str(mount), protected=["/", "/tmp"], disks=[str(disk_of(mount))])
        freeze.watch()
        assert not is_frozen(mount)
        assert freeze.freeze() == {}
        assert is_frozen(mount)
        thawed = freeze.thaw()["item"]
    assert thawed.held
    assert not is_frozen(mount)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_file_system_is_thawed_when_the_program_is_killed(mounted: Callable[[str, int], Path], kind: str) -> None:
    mount = mounted(kind, 320 * MIB)
    child = freezing_child(disk_of(mount), mount)
    assert is_frozen(mount)
    child.kill()
    end(child)
    while _waiting:
        os.waitpid(_waiting.pop(), 0)  # what waited goes on: it was thawed
    assert not is_frozen(mount)


@pytest.mark.root
def test_what_another_has_frozen_is_left_to_them(mounted: Callable[[str, int], Path]) -> None:
    mount = mounted("ext4", 64 * MIB)
    subprocess.run(["fsfreeze", "--freeze", str(mount)], check=True)
    try:
        with Freeze() as freeze:
            freeze.add_mount("item", str(mount), protected=[], disks=[str(disk_of(mount))])
            freeze.watch()
            error = freeze.freeze()["item"]
            assert (error.kind, error.why) == ("hook.freeze-failed", "somebody else has frozen it")
            assert freeze.thaw() == {}
        assert is_frozen(mount)
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(mount)], check=True)


def refusal(mount: Path | str, *, protected: list[str], disks: list[str]) -> str:
    with Freeze() as freeze, pytest.raises(HookError) as caught:
        freeze.add_mount("item", str(mount), protected=protected, disks=disks)
    return caught.value.kind


@pytest.mark.root
def test_what_this_program_writes_to_is_never_frozen(mounted: Callable[[str, int], Path], tmp_path: Path) -> None:
    mount = mounted("xfs", 320 * MIB)
    disk = [str(disk_of(mount))]
    for needed in (mount, mount / "state" / "not" / "yet", mount / "a"):
        assert refusal(mount, protected=["/", str(needed)], disks=disk) == "hook.mount-refused"
    # What lies on it lies on it through a loop device too.
    inner = mount / "inner.fs"
    with inner.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(inner)], check=True)
    deep = tmp_path / "deep"
    deep.mkdir()
    subprocess.run(["mount", "-o", "loop", str(inner), str(deep)], check=True)
    try:
        assert refusal(mount, protected=[str(deep)], disks=disk) == "hook.mount-refused"
        assert refusal(mount, protected=[str(deep / "x" / "y")], disks=disk) == "hook.mount-refused"
    finally:
        subprocess.run(["umount", str(deep)], check=True)


@pytest.mark.root
def test_a_subvolume_is_its_file_system(mounted: Callable[[str, int], Path]) -> None:
    """Each subvolume of btrfs has a device number of its own, and is frozen with all others."""
    mount = mounted("btrfs", 320 * MIB)
    subprocess.run(["btrfs", "subvolume", "create", str(mount / "sub")], check=True, stdout=subprocess.DEVNULL)
    assert os.stat(mount / "sub").st_dev != os.stat(mount).st_dev
    assert refusal(mount, protected=[str(mount / "sub")], disks=[str(disk_of(mount))]) == "hook.mount-refused"


@pytest.mark.root
def test_a_file_system_that_is_on_no_disk_of_the_item_says_nothing(
    mounted: Callable[[str, int], Path], tmp_path: Path
) -> None:
    mount = mounted("ext4", 64 * MIB)
    other = tmp_path / "other.img"
    other.write_bytes(bytes(4096))
    assert refusal(mount, protected=[], disks=[str(other), "/nowhere"]) == "hook.other-file-system"


@pytest.mark.parametrize("name", ["folder", "none", "file"])
def test_what_is_no_mount_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / name, protected=[], disks=[]) == "hook.not-a-mount"


def test_the_root_is_refused() -> None:
    assert refusal("/", protected=["/tmp"], disks=[]) == "hook.mount-refused"


def test_a_mounts_name_may_have_blanks() -> None:
    assert mounts._unescaped(r"/srv/a\040b\011c\134d") == "/srv/a b\tc\\d"
