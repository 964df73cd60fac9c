"""The daemon wired together: `serve` until it is stopped, or `once` for a timer.

Invariants:
- One daemon works on a state folder: it holds the lock `<state>/daemon.lock` as long as it lives.
- SIGTERM and SIGINT stop it in good order: no new phase is begun, workers stop at their next batch, what they were at
  waits again.
- It is alive as far as systemd's watchdog is told only while its loop turns.
- What looks on beside (`Look`: alerts, metrics) can fail as it likes: it is told of, and the schedules go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from blockvault.clock import to_text, utc_now
from blockvault.credentials import secret_from_environment
from blockvault.daemon.control import Control
from blockvault.daemon.log import DaemonLog, Level
from blockvault.daemon.loop import Daemon, LoopSettings
from blockvault.daemon.service import Notifier
from blockvault.daemon.vaults import Vaults
from blockvault.daemon.workers import ProcessWorkers
from blockvault.errors import NotFoundError
from blockvault.model.job import Job, JobState, PhaseName, PhaseState
from blockvault.store.journal import Journal
from blockvault.store.locks import FileLock
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from types import FrameType

    from blockvault.daemon.vaults import VaultView


class Look(Protocol):
    """Looks on after every tick: cheap, since the loop waits for it."""

    def look(self, journal: Journal, views: Sequence[VaultView], now: datetime) -> None:
        """The daemon has ticked."""

    def close(self) -> None:
        """The daemon ends; what was begun is brought to its end."""


def serve(state_dir: str, settings: LoopSettings, log: DaemonLog, looks: Sequence[Look] = ()) -> int:
    """Run the daemon until a signal, or a request through its socket, stops it.

    Args:
        state_dir: the host's state folder.
        settings: see `LoopSettings`.
        log: told what happens.
        looks: look on.

    Raises:
        ConflictError: another daemon works on this state folder (`daemon.running`).
    """
    with _Running(state_dir, settings, log, looks) as running:
        running.serve()
    return 0


def once(state_dir: str, settings: LoopSettings, log: DaemonLog, looks: Sequence[Look] = ()) -> int:
    """Do all that is due, wait until it is done, and end: for a timer, where no daemon is wanted.

    What is held back for a later try is left for the next time.
    """
    with _Running(state_dir, settings, log, looks) as running:
        running.once()
    return 0


def opener(state_dir: str) -> Callable[[str], Vault]:
    """What opens a vault by its name, with the secret that the environment has for it."""
    return lambda name: Vault.open(name, state_dir=state_dir, secret=secret_from_environment(None, name))


class _Running:
    def __init__(self, state_dir: str, settings: LoopSettings, log: DaemonLog, looks: Sequence[Look]) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._settings = settings
        self._log = log
        self._looks = looks
        self._since = utc_now()
        self._stopping = threading.Event()
        self._stack = contextlib.ExitStack()
        self._told: dict[str, str] = {}
        self._failed: dict[int, str] = {}  # what was told of each look that fails
        self._at_work: dict[tuple[str, PhaseName], Job | None] = {}  # None: its end has been told
        self._control: Control | None = None

    def __enter__(self) -> Self:
        with self._stack:
            os.makedirs(self._state_dir, mode=0o700, exist_ok=True)
            self._stack.enter_context(
                FileLock(
                    os.path.join(self._state_dir, "daemon.lock"),
                    kind="daemon.running",
                    subject=f"another daemon works on {self._state_dir}",
                    now=self._since,
                )
            )
            self._catch_signals()  # until all below has ended: a second SIGTERM does not cut the end short
            self._journal = self._stack.enter_context(Journal(self._state_dir))
            if self._journal.set_aside:
                where = self._journal.set_aside
                text = f"the journal of jobs was damaged; it is in {where}, a new one was begun"
                self._log.event("journal.set-aside", text, Level.WARNING)
            self._workers = ProcessWorkers(self._state_dir)
            self._stack.callback(self._workers.stop)
            control = self._control = Control(self._state_dir, self._answer)
            self._stack.callback(control.close)
            vaults = Vaults(self._state_dir, opener(self._state_dir))
            self._daemon = Daemon(self._journal, vaults, self._workers, utc_now, self._settings)
            for look in self._looks:
                self._stack.callback(look.close)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _catch_signals(self) -> None:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopping.set()
            if self._control is not None:
                self._control.wake()

        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, stop)
            self._stack.callback(signal.signal, number, before)

    def serve(self) -> None:
        """Turn until it is stopped."""
        control = self._control
        assert control is not None
        notifier = Notifier()
        first = True
        while not self._stopping.is_set():
            wake = self._tick()
            at_work = len(self._workers.running())
            notifier.alive(f"{at_work} at work, next look {to_text(wake)[:19]}Z")
            if first:
                notifier.ready()
                self._log.event("daemon.started", f"the daemon runs on {self._state_dir} (pid {os.getpid()})")
                first = False
            seconds = min((wake - utc_now()).total_seconds(), notifier.watchdog_seconds)
            control.wait(seconds, self._workers.pids())
        notifier.stopping()
        self._log.event("daemon.stopping", "the daemon stops")

    def once(self) -> None:
        """Turn until nothing is at work and nothing waits that may start."""
        control = self._control
        assert control is not None
        while not self._stopping.is_set():
            self._tick()
            if not self._workers.running():
                return
            control.wait(1.0, self._workers.pids())

    def _tick(self) -> datetime:
        wake = self._daemon.tick()
        self._tell_problems()
        self._tell_work()
        for number, look in enumerate(self._looks):
            try:
                look.look(self._journal, self._daemon.views, utc_now())
            except Exception as error:  # noqa: BLE001 - whatever looks on does not end the daemon
                text = f"{type(look).__name__}: {error}"
                if self._failed.get(number) != text:
                    self._log.event("look.failed", text, Level.WARNING)
                self._failed[number] = text
            else:
                self._failed.pop(number, None)
        return wake

    def _tell_problems(self) -> None:
        """Say what the loop noticed, and what cannot be read of the vaults, once each time that it changes."""
        while self._daemon.notes:
            self._log.event("daemon.noticed", self._daemon.notes.pop(0), Level.WARNING)
        problems = {view.name: view.problem.message for view in self._daemon.views if view.problem is not None}
        for name, text in problems.items():
            if self._told.get(name) != text:
                self._log.event("vault.problem", f"vault '{name}': {text}", Level.WARNING, vault=name)
        for name in self._told.keys() - problems.keys():
            self._log.event("vault.readable", f"vault '{name}' can be read again", vault=name)
        self._told = problems

    def _tell_work(self) -> None:
        """Say which phases were begun and which have ended since the last tick."""
        running = self._workers.running()
        for key in self._at_work.keys() - running:
            job = self._at_work.pop(key)
            if job is not None:
                self._tell_ended(job, key[1])
        for key in running - self._at_work.keys():
            for earlier, job in self._at_work.items():
                # Its process may be there still for a moment; what comes after it was begun, so it has ended.
                if job is not None and earlier[0] == key[0]:
                    self._tell_ended(job, earlier[1])
                    self._at_work[earlier] = None
            job = self._at_work[key] = self._journal.get(key[0])
            text = f"{key[1]} of {job.operation} {job.id} of {job.item or job.vault} begins"
            self._log.event("phase.started", text, job=job.id, item=job.item, vault=job.vault)

    def _tell_ended(self, job: Job, name: PhaseName) -> None:
        try:
            job = self._journal.get(job.id)
        except NotFoundError:  # trimmed meanwhile
            return
        phase = job.phase(name)
        if phase is None:
            return
        text = f"{name} of {job.operation} {job.id} of {job.item or job.vault}: {phase.state}"
        if phase.problem is not None:
            text += f": {phase.problem.message}"
        bad = phase.problem is not None and phase.state is not PhaseState.SKIPPED
        failed = phase.state is PhaseState.FAILED
        level = Level.ERROR if failed else Level.WARNING if bad else Level.INFO
        self._log.event("phase.ended", text, level, job=job.id, item=job.item, vault=job.vault)
        if not job.is_open:
            level = Level.ERROR if job.state is JobState.FAILED else Level.INFO
            text = f"{job.operation} {job.id} of {job.item or job.vault}: {job.state}"
            self._log.event("job.ended", text, level, job=job.id, item=job.item, vault=job.vault)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "look":
                return {"done": True}
            case "status":
                return self._status()
            case "stop":
                self._stopping.set()
                return {"done": True}
        raise ValueError("a request does one of: look, status, stop")

    def _status(self) -> dict[str, Any]:
        jobs = self._journal.open_jobs()
        running = [
            {"job": job.id, "item": job.item, "vault": job.vault, "operation": job.operation, "phase": phase.name}
            for job in jobs
            if (phase := job.current) is not None and phase.state is PhaseState.IN_PROGRESS
        ]
        return {
            "pid": os.getpid(),
            "since": to_text(self._since),
            "state_dir": self._state_dir,
            "running": running,
            "waiting": len(jobs) - len(running),
            "vaults": [
                {
                    "vault": view.name,
                    "protected_items": len(view.items),
                    "problem": view.problem.message if view.problem else None,
                }
                for view in self._daemon.views
            ],
        }
