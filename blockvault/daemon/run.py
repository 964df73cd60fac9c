"""The daemon wired together: `serve` until it is stopped, or `once` for a timer.

Invariants:
- One daemon works on a state folder: it holds the lock `<state>/daemon.lock` as long as it lives.
- SIGTERM and SIGINT stop it in good order: no new phase is begun, workers stop at their next batch, what they were at
  waits again.
- It is alive as far as systemd's watchdog is told only while its loop turns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from blockvault.clock import to_text, utc_now
from blockvault.credentials import secret_from_environment
from blockvault.daemon.control import Control
from blockvault.daemon.loop import Daemon, LoopSettings
from blockvault.daemon.service import Notifier
from blockvault.daemon.vaults import Vaults
from blockvault.daemon.workers import ProcessWorkers
from blockvault.model.job import PhaseState
from blockvault.store.journal import Journal
from blockvault.store.locks import FileLock
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def serve(state_dir: str, settings: LoopSettings, say: Callable[[str], None]) -> int:
    """Run the daemon until a signal, or a request through its socket, stops it.

    Args:
        state_dir: the host's state folder.
        settings: see `LoopSettings`.
        say: told what happens, a line each.

    Raises:
        ConflictError: another daemon works on this state folder (`daemon.running`).
    """
    with _Running(state_dir, settings, say) as running:
        running.serve()
    return 0


def once(state_dir: str, settings: LoopSettings, say: Callable[[str], None]) -> int:
    """Do all that is due, wait until it is done, and end: for a timer, where no daemon is wanted.

    What is held back for a later try is left for the next time.
    """
    with _Running(state_dir, settings, say) as running:
        running.once()
    return 0


class _Running:
    def __init__(self, state_dir: str, settings: LoopSettings, say: Callable[[str], None]) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._settings = settings
        self._say = say
        self._since = utc_now()
        self._stopping = threading.Event()
        self._stack = contextlib.ExitStack()
        self._told: dict[str, str] = {}
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
                self._say(f"the journal of jobs was damaged; it is in {self._journal.set_aside}, a new one was begun")
            self._workers = ProcessWorkers(self._state_dir)
            self._stack.callback(self._workers.stop)
            control = self._control = Control(self._state_dir, self._answer)
            self._stack.callback(control.close)
            vaults = Vaults(self._state_dir, self._open)
            self._daemon = Daemon(self._journal, vaults, self._workers, utc_now, self._settings)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _open(self, name: str) -> Vault:
        return Vault.open(name, state_dir=self._state_dir, secret=secret_from_environment(None, name))

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
            wake = self._daemon.tick()
            self._tell_problems()
            at_work = len(self._workers.running())
            notifier.alive(f"{at_work} at work, next look {to_text(wake)[:19]}Z")
            if first:
                notifier.ready()
                self._say(f"the daemon runs on {self._state_dir} (pid {os.getpid()})")
                first = False
            seconds = min((wake - utc_now()).total_seconds(), notifier.watchdog_seconds)
            control.wait(seconds, self._workers.pids())
        notifier.stopping()
        self._say("the daemon stops")

    def once(self) -> None:
        """Turn until nothing is at work and nothing waits that may start."""
        control = self._control
        assert control is not None
        while not self._stopping.is_set():
            self._daemon.tick()
            self._tell_problems()
            if not self._workers.running():
                return
            control.wait(1.0, self._workers.pids())

    def _tell_problems(self) -> None:
        """Say what the loop noticed, and what cannot be read of the vaults, once each time that it changes."""
        while self._daemon.notes:
            self._say(self._daemon.notes.pop(0))
        problems = {view.name: view.problem.message for view in self._daemon.views if view.problem is not None}
        for name, text in problems.items():
            if self._told.get(name) != text:
                self._say(f"vault '{name}': {text}")
        self._told = problems

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


def say_on_stderr(text: str) -> None:
    """A line for the journal of the system."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
