"""QEMU's own guest agent, listening on a socket of this machine, freezes a real file system.

It freezes whatever it finds mounted. So it runs in a root of its own (a memory file system, with its libraries) under
which nothing is mounted but the test's file system; that is looked at before it is started, from inside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from blockvault.errors import HookError
from blockvault.hooks.freeze import Freeze
from blockvault.hooks.guest_agent import GuestAgent

pytestmark = pytest.mark.root


def mounts_seen_from(root: Path) -> list[tuple[str, str]]:
    """Source and place of every mount as a process sees them whose root that is."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.chroot(root)
        os.chdir("/")
        with open("/proc/self/mounts", "rb") as file:
            os.write(writing, file.read())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as file:
        lines = file.read().splitlines()
    os.waitpid(child, 0)
    return [(line.split()[0], line.split()[1]) for line in lines]


class Guest:
    """A root with an agent in it; its socket, and the file system that it finds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.socket = root / "agent.sock"
        self._writers: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def agent(self, *options: str) -> Iterator[None]:
        """The agent runs."""
        seen = [source for source, _ in mounts_seen_from(self.root) if source.startswith("/")]
        assert len(seen) == 1, seen
        assert seen[0].startswith("/dev/loop"), seen
        words = ["chroot", str(self.root), "/qemu-ga", "-m", "unix-listen", "-p", "/agent.sock", "-t", "/", *options]
        agent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for _ in range(500):
                if self.socket.exists() or agent.poll() is not None:
                    break
                time.sleep(0.01)
            assert agent.poll() is None, agent.communicate()[0]
            yield
        finally:
            agent.kill()
            agent.communicate()
            self.socket.unlink(missing_ok=True)

    def write_waits(self) -> bool:
        """Whether a write to the file system has to wait; it is left to end when it may."""
        child = subprocess.Popen(["sh", "-c", f"echo x > {self.data}/probe-{os.urandom(3).hex()}"])
        self._writers.append(child)
        try:
            child.wait(0.5)
        except subprocess.TimeoutExpired:
            return True
        return False


@pytest.fixture
def guest(tmp_path: Path, mounted: Callable[[str, int], Path]) -> Iterator[Guest]:
    program = shutil.which("qemu-ga") or shutil.which("qemu-ga", path="/usr/sbin")
    if os.geteuid() != 0 or program is None:
        pytest.skip("needs root and qemu-ga (Debian's qemu-guest-agent)")
    image = Path(str(mounted("ext4", 64 << 20)) + ".fs")
    with ExitStack() as stack:

        def mount(*words: str) -> None:
            subprocess.run(["mount", *words], check=True)
            stack.callback(subprocess.run, ["umount", "-l", words[-1]], check=True)

        root = tmp_path / "root"
        root.mkdir()
        mount("-t", "tmpfs", "tmpfs", str(root))
        for name in ("proc", "data", "dev", "tmp", "run"):
            (root / name).mkdir()
        shutil.copy(program, root / "qemu-ga")
        told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
        mount("-t", "proc", "proc", str(root / "proc"))
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(image.with_suffix(""))], capture_output=True, text=True, check=True
        ).stdout.strip()
        mount(device, str(root / "data"))
        made = Guest(root)
        yield made
        for writer in made._writers:
            writer.wait()
        made._writers.clear()


def test_the_agent_says_what_it_is(guest: Guest) -> None:
    with guest.agent():
        for _ in range(2):
            with GuestAgent(str(guest.socket)) as agent:
                info = agent.info()
                assert re.fullmatch(r"\d+\.\d+\.\d+", info.version)
                assert info.can_freeze
                assert not agent.is_frozen()


def test_what_another_left_half_said_is_no_matter(guest: Guest) -> None:
    with guest.agent():
        with GuestAgent(str(guest.socket)) as agent:
            agent.socket.sendall(b'{"execute": "guest-inf')
        with GuestAgent(str(guest.socket)) as agent:
            agent.socket.sendall(b'{"execute": "guest-info"}\n{"execute": [[[')
            agent.sync()
            assert agent.info().can_freeze


def test_it_freezes_and_thaws(guest: Guest) -> None:
    with guest.agent(), Freeze() as freeze:
        freeze.add_agent("item", str(guest.socket))
        freeze.watch()
        assert not guest.write_waits()
        assert freeze.freeze() == {}
        assert guest.write_waits()
        thawed = freeze.thaw()["item"]
        assert (thawed.held, thawed.unanswered) == (True, False)
        for writer in guest._writers:
            writer.wait()


def test_the_watchdog_thaws_it(guest: Guest) -> None:
    with guest.agent(), Freeze(limit_seconds=1) as freeze:
        freeze.add_agent("item", str(guest.socket))
        freeze.watch()
        assert freeze.freeze() == {}
        assert guest.write_waits()
        for writer in guest._writers:
            writer.wait()  # until the watchdog has thawed it
        assert not freeze.thaw()["item"].held


def test_one_that_may_not_freeze_is_told_by_its_name(guest: Guest) -> None:
    with guest.agent("-b", "guest-fsfreeze-freeze"), Freeze() as freeze:
        with pytest.raises(HookError) as caught:
            freeze.add_agent("item", str(guest.socket))
        assert caught.value.kind == "hook.agent-refused"
        with GuestAgent(str(guest.socket)) as agent, pytest.raises(HookError) as refused:
            agent.freeze()
        assert refused.value.kind == "hook.agent-refused"
