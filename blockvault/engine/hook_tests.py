"""Looking at an item's hooks, trying them, and asking its guest agent; nothing is captured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.engine.guests import nothing_to_freeze, protected_paths, runner_of
from blockvault.errors import CancelledError, HookError
from blockvault.hooks.freeze import Freeze, Thawed
from blockvault.hooks.guest_agent import GuestAgent
from blockvault.hooks.scripts import Hook, HookRun, find_hooks

if TYPE_CHECKING:
    from blockvault.engine.session import Session
    from blockvault.model import Item
    from blockvault.monitor import Monitor

LOOK_SECONDS = 1.0  # a guest that is well answers at once


@dataclass(frozen=True, slots=True)
class AgentState:
    """Whether an item's guest agent answers. `problem` says why not."""

    socket: str
    answers: bool
    version: str = ""
    can_freeze: bool = False
    problem: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class HookTest:
    """What a try of an item's hooks came to. `frozen` is set if a freeze was tried, `problem` if it went wrong."""

    hooks: tuple[Hook, ...]
    runs: tuple[HookRun, ...]
    frozen: Thawed | None = None
    problem: HookError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether a point of the item could be what its hooks are for."""
        if self.problem is not None or any(hook.problem for hook in self.hooks):
            return False
        return all(run.succeeded for run in self.runs) and (self.frozen is None or self.frozen.held)


def agent_state(item: Item) -> AgentState | None:
    """What an item's guest agent says of itself; None if it names none."""
    if not item.agent_socket:
        return None
    try:
        with GuestAgent(item.agent_socket, ask_seconds=LOOK_SECONDS) as agent:
            info = agent.info()
    except HookError as error:
        return AgentState(item.agent_socket, False, problem=error.why or error.message, do=error.do or "")
    return AgentState(item.agent_socket, True, info.version, info.can_freeze)


def try_hooks(session: Session, item: Item, monitor: Monitor, *, freeze: bool) -> HookTest:
    """Run an item's pre and post scripts as a capture would, and freeze its guest for a moment if `freeze` says so.

    A hook that others could change is not run, and then none is.
    """
    hooks = find_hooks(item.name)
    if any(hook.problem for hook in hooks):
        return HookTest(tuple(hooks), ())
    runner = runner_of(item, hooks, monitor)
    frozen = problem = None
    succeeded = False
    try:
        succeeded = runner.pre() is None
        if succeeded and freeze:
            frozen = _freeze(session, item)
    except CancelledError:
        raise
    except HookError as error:
        problem = error
    finally:
        runner.post(captured=succeeded and problem is None)
    return HookTest(tuple(hooks), tuple(runner.runs), frozen, problem)


def mount_problems(session: Session, item: Item) -> dict[str, HookError | None]:
    """For each mount that an item names, why it could not be frozen now; None: it could. Nothing is frozen."""
    found: dict[str, HookError | None] = {}
    for mount in item.freeze_mounts:
        with Freeze() as freeze:
            try:
                _add_mount(freeze, session, item, mount)
                found[mount] = None
            except HookError as error:
                found[mount] = error
    return found


def _add_mount(freeze: Freeze, session: Session, item: Item, mount: str) -> None:
    disks = [disk.path for disk in item.disks]
    folders = [os.path.dirname(disk) for disk in disks]
    protected = protected_paths(session, [*folders, *disks, *filter(None, [item.snapshot_dir])])
    freeze.add_mount(item.id, mount, protected=protected, disks=disks)


def _freeze(session: Session, item: Item) -> Thawed:
    """Freeze and thaw at once."""
    with Freeze() as frozen:
        if item.agent_socket:
            frozen.add_agent(item.id, item.agent_socket)
        for mount in item.freeze_mounts:
            _add_mount(frozen, session, item, mount)
        if not frozen.owners:
            raise nothing_to_freeze(item)
        frozen.watch()
        try:
            problems = frozen.freeze()
            if problems:
                raise problems[item.id]
        finally:
            thawed = frozen.thaw()
    return thawed[item.id]
