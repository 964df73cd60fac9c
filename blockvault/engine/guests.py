"""What is asked of the guests of a capture, and what they really reached.

    guests = Guests(session, request, monitor)
    guests.add(...)                    # each item of the capture
    with guests.readied():             # pre scripts ... post scripts
        ...                            # what takes time before the capture
        with guests.frozen():          # freeze ... thaw
            ...                        # the capture and nothing else
        guests.reached(item_id)        # what its point may say

File-system-consistent is a point whose guest, or whose file systems, stood still from before the first clone until
after the last. Application-consistent it is if the item has pre scripts and all of them succeeded besides. Where less
was reached than was asked the request decides (`OnHookFailure`): the point is crash-consistent and says so, with a
warning, or there is none. After a pre script that failed nothing is frozen: what the script left is not known.

A guest that is off asks for nothing: its agent does not answer and nobody has its disks open to write. It is captured
crash-consistent, as it lies on its disks, and that is no shortfall.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import blockvault
from blockvault.errors import HookError
from blockvault.failpoints import reach
from blockvault.hooks.freeze import Freeze, Thawed
from blockvault.hooks.guest_agent import GuestAgent
from blockvault.hooks.mounts import standard_streams
from blockvault.hooks.scripts import HOOK_SECONDS_DEFAULT, Hook, HookFacts, HookRun, HookRunner, find_hooks
from blockvault.model import Consistency, Item, OnHookFailure, SnapshotKind
from blockvault.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.engine.session import Session
    from blockvault.ids import ItemId
    from blockvault.image.source import ImageSource
    from blockvault.model import SnapshotRequest
    from blockvault.monitor import Monitor
    from blockvault.snapshots.place import Place

# Without reflinks a snapshot is a copy, and a guest that is frozen for it waits for the whole of it: at the 50 MB/s of
# a slow disk this much takes five seconds, half of what a Windows guest endures and far below the watchdog's limit.
COPY_WHILE_FROZEN_BYTES = 256 * MIB

_ASKS = (Consistency.FILE_SYSTEM, Consistency.APPLICATION)


@dataclass(frozen=True, slots=True)
class Reached:
    """What a capture of an item reached, and for how long its guest stood still (None: it did not)."""

    consistency: Consistency
    freeze_ms: float | None = None


@dataclass(slots=True)
class _Guest:
    item: Item
    number: int
    sources: list[ImageSource]
    place: Place
    runner: HookRunner | None = None
    short: bool = False  # of what was asked
    is_off: bool = False
    ran_scripts: bool = False
    thawed: Thawed | None = None
    is_frozen: bool = field(default=False)


class Guests:
    """The guests of one capture; used once."""

    def __init__(self, session: Session, request: SnapshotRequest, monitor: Monitor) -> None:
        self._session = session
        self._request = request
        self._monitor = monitor
        self._guests: list[_Guest] = []

    def add(self, item: Item, number: int, sources: list[ImageSource], place: Place) -> None:
        """Take an item into the capture, of which `place` says how it is made."""
        self._guests.append(_Guest(item, number, sources, place))

    def reached(self, item_id: ItemId) -> Reached:
        """What the point of that item may say; after `frozen`."""
        guest = self._guest(item_id)
        asked = self._request.consistency
        if asked not in _ASKS:
            return Reached(asked)
        freeze_ms = guest.thawed.freeze_ms if guest.thawed is not None else None
        if guest.short or guest.is_off or guest.thawed is None or not guest.thawed.held:
            return Reached(Consistency.CRASH, freeze_ms)
        return Reached(Consistency.APPLICATION if guest.ran_scripts else Consistency.FILE_SYSTEM, freeze_ms)

    def is_frozen(self, item_id: ItemId) -> bool:
        """Whether that guest stands still now."""
        return self._guest(item_id).is_frozen

    def was_lost(self, item_id: ItemId) -> bool:
        """Whether that guest was frozen and did not stand still to the end."""
        thawed = self._guest(item_id).thawed
        return thawed is not None and not thawed.held

    def _guest(self, item_id: ItemId) -> _Guest:
        return next(guest for guest in self._guests if guest.item.id == item_id)

    # -- scripts ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def readied(self) -> Iterator[None]:
        """The pre scripts before, the post scripts after, whatever is raised inside or between."""
        captured = False
        try:
            if self._request.consistency in _ASKS:
                for guest in self._guests:
                    self._ready(guest)
            yield
            captured = True
        finally:
            for guest in reversed(self._guests):
                if guest.runner is not None:
                    for run in guest.runner.post(captured=captured):
                        self._monitor.warn("hook.post-failed", f"item '{guest.item.name}': {script_failed(run)}")

    def _ready(self, guest: _Guest) -> None:
        """Look whether the guest can do what is asked, and run its pre scripts."""
        item = guest.item
        try:
            if item.agent_socket and not self._answers(guest):
                guest.is_off = True
                self._monitor.note(
                    f"item '{item.name}': its guest is off (no agent answers, and nobody has its disks open to write): "
                    "it is captured as it lies there"
                )
                return
            can_freeze = bool(item.agent_socket or item.freeze_mounts)
            if can_freeze and guest.place.kind is not SnapshotKind.REFLINK:
                self._check_short_copy(guest)
            if not can_freeze and self._request.on_hook_failure is OnHookFailure.FAIL:
                raise nothing_to_freeze(item)  # before a script runs in vain
            if self._request.consistency is Consistency.APPLICATION:
                self._run_scripts(guest)
            if not can_freeze:
                raise nothing_to_freeze(item)
        except HookError as error:
            self._fall_short(guest, error)

    def _answers(self, guest: _Guest) -> bool:
        """Whether the agent answers; False: it does not, for the guest is off. Raises `HookError` if it should."""
        try:
            GuestAgent(guest.item.agent_socket).close()
        except HookError as error:
            if error.kind == "hook.agent-garbled" or not all(source.is_at_rest() for source in guest.sources):
                raise
            return False
        return True

    @staticmethod
    def _check_short_copy(guest: _Guest) -> None:
        data = sum(source.data_bytes() for source in guest.sources)
        if guest.place.folder is None or data > COPY_WHILE_FROZEN_BYTES:
            how = "read into the vault" if guest.place.folder is None else f"copied to {guest.place.folder}"
            raise HookError(
                "hook.copy-too-long",
                "the guest is not frozen",
                why=f"its disks would be {how} meanwhile, {format_size(data)}: it would stand still for too long "
                f"({format_size(COPY_WHILE_FROZEN_BYTES)} are allowed)",
                do="keep snapshots, and place the disk images on xfs or btrfs, where a snapshot takes milliseconds",
            )

    def _run_scripts(self, guest: _Guest) -> None:
        item = guest.item
        hooks = find_hooks(item.name)
        bad = next((hook for hook in hooks if hook.problem), None)
        if bad is not None:
            raise HookError(
                "hook.not-trusted", f"the hook {bad.path} is not run, and so none is", why=bad.problem, do=bad.do
            )
        if not hooks:
            raise HookError(
                "hook.no-script",
                "it has no pre script, so no more than file-system-consistent can be reached",
                do=f"see `blockvault hook list {item.name}`, or ask for --consistency fs",
            )
        guest.runner = runner_of(item, hooks, self._monitor, number=guest.number, job=self._request.job)
        failed = guest.runner.pre()
        if failed is not None:
            raise HookError(
                "hook.script-timeout" if failed.timed_out else "hook.script-failed",
                script_failed(failed),
                do=f"see what it printed, and try it with `blockvault hook test {item.name}`",
            )
        guest.ran_scripts = True

    def not_kept(self, item_id: ItemId) -> None:
        """No snapshot could be made after all: the point is read from the live image, which does not stand still."""
        guest = self._guest(item_id)
        if self._request.consistency in _ASKS and not guest.short and not guest.is_off:
            self._fall_short(
                guest,
                HookError(
                    "hook.no-snapshot",
                    "no snapshot could be kept to be frozen for",
                    do="see the warning before this one, and make room",
                ),
            )
        guest.thawed = None

    def _fall_short(self, guest: _Guest, error: HookError) -> None:
        """Less was reached than asked: end the job, or warn and go on to a point that says so."""
        name = guest.item.name
        if self._request.on_hook_failure is OnHookFailure.FAIL:
            raise HookError(
                error.kind,
                f"no point of item '{name}' is taken: {error.message}",
                why=error.why,
                do=error.do,
            ) from error
        only_files = error.kind == "hook.no-script"
        guest.short = guest.short or not only_files
        reached = "file-system-consistent at most" if only_files else "crash-consistent only"
        why = f" ({error.why})" if error.why else ""
        self._monitor.warn(error.kind, f"item '{name}': {error.message}{why}: its point is {reached}")

    # -- the freeze -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All guests that can stand still do, from here on; they are thawed at the end, whatever is raised inside."""
        if self._request.consistency not in _ASKS:
            yield
            return
        with Freeze() as freeze:
            for guest in self._guests:
                if not guest.short and not guest.is_off:
                    self._add(freeze, guest)
            try:
                if freeze.owners:
                    self._start(freeze)
                yield
            finally:
                thawed = freeze.thaw()
                for guest in self._guests:
                    guest.is_frozen = False
                    guest.thawed = thawed.get(guest.item.id)
        self._look_back()

    def _start(self, freeze: Freeze) -> None:
        frozen = [guest for guest in self._guests if guest.item.id in freeze.owners]
        try:
            freeze.watch()
        except HookError as error:
            for guest in frozen:
                self._fall_short(guest, error)
            return
        self._monitor.check()
        problems = freeze.freeze()
        for guest in frozen:
            guest.is_frozen = guest.item.id not in problems
        for guest in frozen:
            if not guest.is_frozen:
                self._fall_short(guest, problems[guest.item.id])
        reach("hook.frozen")

    def _add(self, freeze: Freeze, guest: _Guest) -> None:
        item = guest.item
        try:
            if item.agent_socket:
                freeze.add_agent(item.id, item.agent_socket)
            for mount in item.freeze_mounts:
                freeze.add_mount(item.id, mount, protected=self._protected(), disks=[disk.path for disk in item.disks])
        except HookError as error:
            freeze.drop(item.id)
            self._fall_short(guest, error)

    def _protected(self) -> list[str]:
        """What this program, or the system under it, writes to while a guest stands still."""
        folders = [folder for guest in self._guests for folder in (guest.place.folder, *guest.place.folders) if folder]
        disks = [disk.path for guest in self._guests for disk in guest.item.disks]
        return protected_paths(self._session, [*folders, *disks])

    def _look_back(self) -> None:
        """Whether what was frozen stood still to the end; and whether a guest is left that did not say so."""
        for guest in self._guests:
            thawed = guest.thawed
            if thawed is None:
                continue
            if thawed.unanswered:
                self._monitor.warn(
                    "hook.thaw-unanswered",
                    f"item '{guest.item.name}': its guest did not say that it was thawed: a watchdog goes on asking it "
                    "for ten minutes",
                )
            if not thawed.held and not guest.short:
                self._fall_short(
                    guest,
                    HookError(
                        "hook.freeze-lost",
                        "its guest did not stand still to the end of the capture",
                        why=thawed.lost,
                        do="look in the guest who thaws it, and at how long its freeze takes",
                    ),
                )


def nothing_to_freeze(item: Item) -> HookError:
    """The error for an item whose guest nobody can ask to stand still."""
    return HookError(
        "hook.nothing-to-freeze",
        "there is nothing to freeze",
        why="the item names no guest agent and no mount",
        do=f"blockvault item set {item.name} --agent SOCKET, or --freeze-mount PATH",
    )


def runner_of(
    item: Item, hooks: list[Hook], monitor: Monitor, *, number: int | None = None, job: str = ""
) -> HookRunner:
    """What runs the scripts of an item."""
    facts = HookFacts(item.name, tuple(disk.path for disk in item.disks), number, job)
    return HookRunner(hooks, facts, item.hook_seconds or HOOK_SECONDS_DEFAULT, monitor)


def script_failed(run: HookRun) -> str:
    """What went wrong with a script, in one phrase."""
    name = f"the {run.phase} script {run.hook.name}"
    if run.problem is not None:
        return f"{name} failed: {run.problem}"
    assert run.exit_code is not None
    if run.exit_code < 0:
        return f"{name} was ended by signal {-run.exit_code}"
    return f"{name} ended with {run.exit_code}"


def protected_paths(session: Session, more: list[str]) -> list[str]:
    """What must stay writable while something is frozen: the system's root, and all that this program writes to."""
    places = ["/", "/tmp", tempfile.gettempdir(), session.state_dir, session.path]  # noqa: S108 - where others write
    return [*places, "/proc/self/cwd", os.path.dirname(blockvault.__file__), *standard_streams(), *more]
