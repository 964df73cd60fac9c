"""Running and timing: processes, turns against a ceiling, memory, folder sizes."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PROGRAM = (sys.executable, "-m", "blockvault")


@dataclass(frozen=True)
class Finished:
    """A process that ended well: how long it ran, its CPU seconds and its highest anonymous memory."""

    seconds: float
    cpu_seconds: float
    anonymous_bytes: int
    output: str


def users_environment() -> dict[str, str]:
    """The environment as a user has it: a program that is installed runs from cached bytecode.

    Where that is switched off, as in some containers, every process compiles what it imports: 0.3 s of each figure.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: Sequence[str], *, state: str | None = None, sample_memory: bool = False) -> Finished:
    """Run a command to its end; raises if it does not end with 0 or 3 (completed-with-warning)."""
    environment = users_environment()
    if state is not None:
        environment["BLOCKVAULT_STATE_DIR"] = state
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sampler = _Sampler(process.pid) if sample_memory else None
    output, errors = process.communicate()
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Finished(seconds, cpu, sampler.stop() if sampler else 0, output)


def blockvault(*arguments: str, state: str, sample_memory: bool = False) -> Finished:
    """Run a command of the program under test with a state folder of its own."""
    return run((*PROGRAM, *arguments), state=state, sample_memory=sample_memory)


class _Sampler(threading.Thread):
    """Reads a process's anonymous memory every 10 ms until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._path = f"/proc/{pid}/status"
        self._peak = 0
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(0.01):
            try:
                with open(self._path) as status:
                    for line in status:
                        if line.startswith("RssAnon:"):
                            self._peak = max(self._peak, int(line.split()[1]) * 1024)
            except OSError:
                return

    def stop(self) -> int:
        self._stopped.set()
        self.join()
        return self._peak


def in_turns(
    benchmark: Any,
    ours: Callable[[], object],
    ceiling: Callable[[], object],
    *,
    ceiling_name: str,
    byte_count: int,
    rounds: int,
    prepare: Callable[[], object] | None = None,
    goal: str | None = None,
    slowdown: bool = False,
) -> float:
    """Measure `ours` and its ceiling in turns; the median of the rounds' ratios goes into the result.

    The ratio is that of the rates (1 is as fast as the ceiling, less is slower), or with `slowdown` that of the times.
    """
    ceiling_seconds: list[float] = []

    def before_round() -> None:
        if prepare:
            prepare()
        began = time.perf_counter()
        ceiling()
        ceiling_seconds.append(time.perf_counter() - began)

    benchmark.pedantic(ours, setup=before_round, rounds=rounds, iterations=1)
    seconds = list(benchmark.stats.stats.data)
    ratios = [limit / own for limit, own in zip(ceiling_seconds, seconds, strict=True)]
    if slowdown:
        ratios = [1 / ratio for ratio in ratios]
    ratio = statistics.median(ratios)
    benchmark.extra_info.update(
        seconds=statistics.median(seconds),
        bytes=byte_count,
        ceiling=ceiling_name,
        ceiling_seconds=statistics.median(ceiling_seconds),
        ratio=ratio,
        ratio_of="times" if slowdown else "rates",
        ratios=ratios,
        goal=goal,
    )
    return ratio


def once(benchmark: Any, work: Callable[[], Any]) -> Any:
    """Run something once, recorded as a benchmark of one round."""
    return benchmark.pedantic(work, rounds=1, iterations=1)


def folder_sizes(folder: str) -> tuple[int, int]:
    """All files under a folder: the sum of their sizes, and of what they take on disk."""
    sizes = blocks = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            sizes += status.st_size
            blocks += status.st_blocks * 512
    return sizes, blocks
