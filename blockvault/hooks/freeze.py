"""Freezing all that belongs to a capture, and thawing it whatever happens.

    with Freeze() as freeze:
        freeze.add_agent("web01", "/run/web01.agent")
        freeze.watch()
        try:
            problems = freeze.freeze()
            ...                                     # the capture, and nothing else
        finally:
            thawed = freeze.thaw()

Invariants:
- Nothing is frozen before a watchdog holds what is needed to thaw it, and has been told.
- Whatever a freeze ended with, it is thawed: an agent that did not answer may still carry the command out.
- A freeze held only if what was frozen still was when it was thawed, within the limit.

It does not promise that a guest thaws that has stopped answering: the watchdog goes on asking it for ten minutes.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from blockvault.errors import HookError
from blockvault.hooks import watchdog
from blockvault.hooks.guest_agent import GuestAgent
from blockvault.hooks.mounts import check_freezable, freeze_mount, open_mount, sync_file_system, thaw_mount

if TYPE_CHECKING:
    from collections.abc import Callable

FREEZE_LIMIT_SECONDS = 30.0
_READY_SECONDS = 15.0
_OWNERS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Thawed:
    """How a freeze of one owner ended: how long it was, from its first command to its last answer, and whether it held.

    `lost` says why it did not hold; `unanswered` that the watchdog goes on asking.
    """

    freeze_ms: float
    lost: str | None = None
    unanswered: bool = False

    @property
    def held(self) -> bool:
        """Whether all stood still from before the capture until after it."""
        return self.lost is None


class _Target:
    """A guest or a mount. `number` is its place among those that the watchdog was given."""

    def __init__(self, owner: str, path: str, agent: GuestAgent | None, fd: int) -> None:
        self.owner = owner
        self.path = path
        self.agent = agent
        self.fd = fd
        self.number = -1
        self.armed = False
        self.frozen = False

    def freeze(self) -> None:
        if self.agent is None:
            freeze_mount(self.fd, self.path)
        elif self.agent.freeze() == 0:
            raise HookError(
                "hook.freeze-failed",
                f"the guest agent at {self.path} froze nothing",
                why="it found no file system that can be frozen",
                do="look at `fsfreeze` and the agent's log in the guest",
            )
        self.frozen = True

    def thaw(self) -> bool:
        """Whether it was frozen still. Raises `HookError` or `OSError` where that did not come to an end."""
        if self.agent is None:
            return thaw_mount(self.fd)
        self.agent.sync()
        still = None
        with contextlib.suppress(HookError):
            still = self.agent.is_frozen()
        count = self.agent.thaw()
        return count > 0 if still is None else still

    def close(self) -> None:
        if self.agent is not None:
            self.agent.close()
        elif self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Freeze:
    """What is frozen for one capture, of one or more owners (items); see the module."""

    def __init__(self, *, limit_seconds: float = FREEZE_LIMIT_SECONDS) -> None:
        self._limit_seconds = limit_seconds
        self._targets: list[_Target] = []
        self._dog: subprocess.Popen[bytes] | None = None
        self._control = -1
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}

    # -- before -----------------------------------------------------------------------------------------------

    def add_agent(self, owner: str, path: str) -> None:
        """Have a guest frozen by its agent.

        Raises:
            HookError: it does not answer (`hook.agent-*`), or may not freeze.
        """
        agent = GuestAgent(path)
        try:
            if not agent.info().can_freeze:
                raise HookError(
                    "hook.agent-refused",
                    f"the guest agent at {path} may not freeze",
                    why="guest-fsfreeze-freeze or guest-fsfreeze-thaw is not among the commands that it allows",
                    do="allow them in the guest (`blacklist` or `allow-rpcs` of qemu-ga)",
                )
        except BaseException:
            agent.close()
            raise
        self._targets.append(_Target(owner, path, agent, agent.socket.fileno()))

    def add_mount(self, owner: str, path: str, *, protected: list[str], disks: list[str]) -> None:
        """Have a mounted file system frozen (`mounts.check_freezable` says which may be)."""
        fd = open_mount(path)
        try:
            check_freezable(fd, path, protected=protected, disks=disks)
        except BaseException:
            os.close(fd)
            raise
        self._targets.append(_Target(owner, path, None, fd))

    def drop(self, owner: str) -> None:
        """Leave an owner out after all; before `watch`."""
        for target in [target for target in self._targets if target.owner == owner]:
            target.close()
            self._targets.remove(target)

    @property
    def owners(self) -> list[str]:
        """Who has something to be frozen, in the order of adding."""
        return list(dict.fromkeys(target.owner for target in self._targets))

    def watch(self) -> None:
        """Start the watchdog, and write what is dirty on mounts. Raises `HookError` (`hook.no-watchdog`)."""
        for number, target in enumerate(self._targets):
            target.number = number
        reading, self._control = os.pipe()
        ready, told = os.pipe()
        told_targets = [f"{'mount' if target.agent is None else 'agent'}:{target.fd}" for target in self._targets]
        limit = str(self._limit_seconds)
        try:
            self._dog = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, str(reading), str(told), limit, *told_targets],
                pass_fds=(reading, told, *(target.fd for target in self._targets)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
            os.close(told)
            told = -1
            readable, _, _ = select.select([ready], [], [], _READY_SECONDS)
            if not readable or os.read(ready, 1) != b"r":
                raise HookError("hook.no-watchdog", "the watchdog did not start", do="nothing was frozen; try again")
        except OSError as error:
            raise HookError(
                "hook.no-watchdog", "the watchdog could not be started", why=error.strerror, do="nothing was frozen"
            ) from error
        finally:
            os.close(reading)
            os.close(ready)
            if told >= 0:
                os.close(told)
        for target in self._targets:
            if target.agent is None:
                sync_file_system(target.fd)

    # -- the freeze -------------------------------------------------------------------------------------------

    def freeze(self) -> dict[str, HookError]:
        """Freeze all; the owners of which something could not be, each thawed again, with the reason."""
        problems: dict[str, HookError] = {}

        def freeze_owner(owner: str) -> None:
            self._begun[owner] = time.monotonic()
            try:
                for target in self._of(owner):
                    self._freeze_target(target)
            except HookError as error:
                problems[owner] = error
                self._thaw_owner(owner)

        self._each(self.owners, freeze_owner)
        return problems

    def _freeze_target(self, target: _Target) -> None:
        self._arm(target)
        try:
            target.freeze()
        except HookError:
            if target.agent is None:
                self._disarm(target)  # the system said no: it is not frozen, or by somebody else, who thaws it
            raise

    def thaw(self) -> dict[str, Thawed]:
        """Thaw all that may be frozen; how it was, by owner. Safe to call whatever was raised before."""
        thawed: dict[str, Thawed] = {}

        def thaw_owner(owner: str) -> None:
            thawed[owner] = self._thaw_owner(owner)

        self._each([owner for owner in self.owners if any(t.armed for t in self._of(owner))], thaw_owner)
        return thawed

    def _thaw_owner(self, owner: str) -> Thawed:
        lost: str | None = None
        unanswered = False
        for target in reversed(self._of(owner)):
            if not target.armed:
                continue
            try:
                if not target.thaw() and target.frozen:
                    lost = f"{target.path} was thawed before the capture had ended"
            except (HookError, OSError) as error:
                # It stays armed: when the pipe is closed the watchdog takes over, and goes on asking.
                unanswered = True
                if target.frozen:
                    lost = f"{target.path}: {error.message if isinstance(error, HookError) else error.strerror}"
                continue
            self._disarm(target)
        seconds = time.monotonic() - self._begun.get(owner, time.monotonic())
        if lost is None and seconds > self._limit_seconds:
            lost = f"it took longer than {self._limit_seconds:g} s, and the watchdog thawed it"
        return Thawed(round(seconds * 1000, 3), lost, unanswered)

    def _of(self, owner: str) -> list[_Target]:
        return [target for target in self._targets if target.owner == owner]

    @staticmethod
    def _each(owners: list[str], work: Callable[[str], None]) -> None:
        """All owners at once: a guest that takes its time keeps no other frozen for longer."""
        if len(owners) < 2:
            for owner in owners:
                work(owner)
            return
        with ThreadPoolExecutor(min(_OWNERS_AT_ONCE, len(owners))) as pool:
            for done in [pool.submit(work, owner) for owner in owners]:
                done.result()

    def _arm(self, target: _Target) -> None:
        target.armed = True
        try:
            self._tell(f"arm {target.number}\n")
        except OSError as error:
            target.armed = False
            raise HookError(
                "hook.no-watchdog",
                "the watchdog is gone",
                why=error.strerror,
                do="look who ends processes of this service, and run the command again",
            ) from error

    def _disarm(self, target: _Target) -> None:
        target.armed = False
        with contextlib.suppress(OSError):  # it has thawed by itself and ended
            self._tell(f"disarm {target.number}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            os.write(self._control, line.encode())

    # -- after ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the watchdog go; what is not known to be thawed is left to it. Safe to call again."""
        left = any(target.armed for target in self._targets)
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        if self._dog is not None:
            dog, self._dog = self._dog, None
            if left:
                threading.Thread(target=dog.wait, daemon=True).start()
            else:
                dog.wait()
        for target in self._targets:
            target.close()
        self._targets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
