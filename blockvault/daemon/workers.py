"""Processes that carry out one phase of one job each.

A process and not a thread: what one job takes in memory or breaks goes with it, it can be given a lower priority, and
it can be killed. When the daemon dies its workers die with it (the kernel sees to that), so that the next daemon finds
the locks of their jobs free and begins again where they were.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blockvault.model.job import Job, Phase, PhaseName

STOP_SECONDS = 60.0  # a worker stops at its next batch; one that does not is killed
_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_WHO_PROCESS = 1


class IoPriority(StrEnum):
    """How the disk serves the daemon's work beside that of others."""

    IDLE = "idle"
    BEST_EFFORT = "best-effort"


class ProcessWorkers:
    """Starts workers, and sees when they have ended.

    Args:
        state_dir: the host's state folder.
        log_folder: where what a worker says besides its job's log is kept.
        environment: what it gets of the environment.
    """

    def __init__(self, state_dir: str, environment: Mapping[str, str] | None = None) -> None:
        self._state_dir = state_dir
        self._environment = dict(os.environ if environment is None else environment)
        self._processes: dict[tuple[str, PhaseName], subprocess.Popen[bytes]] = {}

    def start(self, job: Job, phase: Phase) -> None:
        """Begin a phase; returns at once."""
        words = [sys.executable, "-m", "blockvault.daemon.worker", self._state_dir, job.id, phase.name.value]
        self._processes[(job.id, phase.name)] = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**self._environment, "BLOCKVAULT_STATE_DIR": self._state_dir, PARENT: str(os.getpid())},
            start_new_session=True,  # Ctrl-C at the daemon's terminal is the daemon's to handle
        )

    def ended(self) -> int:
        """How many have ended since the last call."""
        gone = [key for key, process in self._processes.items() if process.poll() is not None]
        for key in gone:
            del self._processes[key]
        return len(gone)

    def running(self) -> set[tuple[str, PhaseName]]:
        """The phases at work."""
        return set(self._processes)

    def pids(self) -> list[int]:
        """Of the processes at work."""
        return [process.pid for process in self._processes.values()]

    def stop(self) -> None:
        """Ask all to stop, and wait until they have: what they were at waits again."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


PARENT = "BLOCKVAULT_DAEMON_PID"


def die_with_parent() -> None:
    """In a worker: be killed when the daemon ends, however it ends. Every step of the work stands a kill."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        os.kill(os.getpid(), signal.SIGKILL)  # it ended before this process could ask


def set_io_priority(priority: IoPriority) -> bool:
    """Give this process its place at the disk; False where this machine does not know how."""
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is None:
        return False
    value = 3 << 13 if priority is IoPriority.IDLE else (2 << 13) | 7
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, value)) == 0
