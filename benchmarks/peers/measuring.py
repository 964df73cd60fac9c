"""The figures of one step: wall time, CPU, memory, for a tool's processes and all that they started.

- Wall: from the first process to the end of a `syncfs` of the file system, so that a tool that syncs and one that
  leaves that to the kernel are measured alike. What was dirty before is synced before the clock starts.
- CPU: user and system time from `wait4`, of each process and of all its descendants that were waited for.
- Memory: anonymous memory of the whole tree, sampled; page cache and mapped files are nobody's need. A tree that lives
  for less than one sample is not seen, and then the figure is None.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.measure import users_environment
from benchmarks.peers.tool import Command

SAMPLE_SECONDS = 0.02
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Figures:
    """What one step cost. `load` is the machine's load average of the minute before it."""

    seconds: float
    sync_seconds: float  # part of `seconds`: what the tool left to be written
    cpu_seconds: float
    anonymous_bytes: int | None
    load: float
    output: str


class StepFailedError(Exception):
    """A process ended with a bad exit code, or ran out of time."""


def measure(
    commands: Sequence[Command], environment: Mapping[str, str], synced: str, timeout: float | None = None
) -> Figures:
    """Run commands one after the other and take their figures; `synced` is a folder of the file system written to."""
    load = os.getloadavg()[0]
    sync_file_system(synced)
    sampler = _Sampler()
    cpu = 0.0
    outputs = []
    began = time.perf_counter()
    try:
        for each in commands:
            left = None if timeout is None else max(0.1, timeout - (time.perf_counter() - began))
            used, output = _run(each, {**users_environment(), **environment}, sampler, left)
            cpu += used
            outputs.append(output)
        ended = time.perf_counter()
        sync_file_system(synced)
        seconds = time.perf_counter() - began
    finally:
        peak = sampler.stop()
    return Figures(seconds, seconds - (ended - began), cpu, peak, load, "".join(outputs))


def sync_file_system(folder: str) -> None:
    """Write out all that is dirty on the file system of a folder."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        if _LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs failed", folder)
    finally:
        os.close(fd)


def _run(each: Command, environment: Mapping[str, str], sampler: _Sampler, timeout: float | None) -> tuple[float, str]:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        with ExitStack() as files:
            source = files.enter_context(open(each.input or os.devnull, "rb"))
            target = files.enter_context(open(each.output, "wb")) if each.output else said
            try:
                process = subprocess.Popen(
                    each.argv,
                    stdin=source,
                    stdout=target,
                    stderr=complained,
                    env=environment,
                    cwd=each.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise StepFailedError(f"{each.argv[0]}: {error.strerror}") from None
        sampler.watch(process.pid)
        late = threading.Event()
        timer = threading.Timer(timeout, _end, (process.pid, late)) if timeout else None
        if timer:
            timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C: no tool stays behind
            _end(process.pid, late)
            raise
        finally:
            if timer:
                timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        output, errors = said.read().decode(errors="replace"), complained.read().decode(errors="replace")
    if late.is_set():
        raise StepFailedError(f"{_shown(each)}: not done in time")
    if process.returncode not in each.good:
        last = [line for line in (errors or output).splitlines() if line.strip()][-1:] or ["no message"]
        raise StepFailedError(f"{_shown(each)}: exit {process.returncode}: {last[0].strip()[:300]}")
    return usage.ru_utime + usage.ru_stime, output


def _end(pid: int, late: threading.Event) -> None:
    late.set()
    try:
        os.killpg(pid, signal.SIGKILL)  # its own session, begun above: nothing but the tool and what it started
    except ProcessLookupError:
        pass


def _shown(each: Command) -> str:
    return " ".join(os.path.basename(word) for word in each.argv[:3])


class _Sampler(threading.Thread):
    """Sums the anonymous memory of a process and its descendants until told to stop; keeps the highest sum."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._pid: int | None = None
        self._peak: int | None = None
        self._stopped = threading.Event()
        self.start()

    def watch(self, pid: int) -> None:
        self._pid = pid

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            if self._pid is not None:
                found = [anonymous_bytes(pid) for pid in tree(self._pid)]
                if any(found):
                    self._peak = max(self._peak or 0, sum(found))

    def stop(self) -> int | None:
        self._stopped.set()
        self.join()
        return self._peak


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, pending = [], [pid]
    while pending:
        one = pending.pop()
        found.append(one)
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as children:
                    pending += [int(child) for child in children.read().split()]
        except OSError:
            continue  # it ended while it was looked at
    return found


def anonymous_bytes(pid: int) -> int:
    """A process's anonymous memory; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def stored_bytes(folder: str) -> int:
    """What all files under a folder take on disk, as `du` counts: blocks, folders too, a linked file once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total
