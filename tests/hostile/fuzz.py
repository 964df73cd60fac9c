"""The fuzzer: inputs that reach new lines of the readers are kept and changed further; each is judged.

What an input may lead to: success, or a `BlockVaultError` that is no `InternalError`, within `SECONDS_MAX` and with
less than `MEMORY_MAX` more memory. Anything else is a finding.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockvault.errors import BlockVaultError, InternalError
from hostile.mutate import mutated

SEEDS = Path(__file__).parent / "seeds"
SECONDS_MAX = 5.0
MEMORY_MAX = 256 << 20
CORPUS_MAX = 400
_FOLLOWED = tuple(f"{part}.py" for part in (
    "envelope", "index", "jsontext", "records", "tables", "layers", "keys", "folder", "manifest", "packs", "catalog",
    "digests", "host", "session", "blocks", "verify", "restore", "restoring", "diff", "local", "render", "views",
    "structure", "briefs",
))  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One reader: `run` takes an input, `seeds` are good ones; `slow` ones are not followed line by line."""

    name: str
    run: Callable[[bytes], object]
    seeds: list[bytes]
    slow: bool = False


class Hang(Exception):
    """An input took too long; no reader catches it."""


@dataclass
class Outcome:
    """What became of one input; `finding` is empty if it was allowed."""

    finding: str = ""
    error: BlockVaultError | None = None
    lines: set[tuple[str, int]] = field(default_factory=set)


def _peak_bytes(*, anew: bool = False) -> int:
    """The most memory that the process had, or with `anew` has now: the peak is measured from here on."""
    try:
        if anew:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) << 10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(target: Target, data: bytes, *, follow: bool = False, seconds: float = SECONDS_MAX) -> Outcome:
    """Run one input and say whether what it led to is allowed."""
    outcome = Outcome()
    before = _peak_bytes(anew=True)

    def trace(frame: Any, event: str, _: object) -> Any:
        if event == "call" and not frame.f_code.co_filename.endswith(_FOLLOWED):
            return None
        outcome.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    try:
        with _limited(seconds * (4 if follow else 1)):
            if follow:
                sys.settrace(trace)
            target.run(data)
    except BlockVaultError as error:
        outcome.error = error
        if isinstance(error, InternalError):
            outcome.finding = f"InternalError {error.kind}: {error}\n{traceback.format_exc()}"
    except Hang:
        outcome.finding = f"more than {seconds} s\n{traceback.format_exc()}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome.finding = f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc()[-3000:]}"
    finally:
        sys.settrace(None)
    grown = _peak_bytes() - before
    if not outcome.finding and grown > MEMORY_MAX:
        outcome.finding = f"{grown >> 20} MiB of memory"
    return outcome


def fast_folder() -> str | None:
    """A folder in memory where there is one: vaults are synced often, and a fuzzer makes thousands."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def kept(name: str) -> list[tuple[str, bytes]]:
    """The inputs of a target that are kept in the repository, crashes of the past among them."""
    folder = SEEDS / name
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())] if folder.is_dir() else []


@dataclass
class Report:
    """What a run of one target came to."""

    executions: int = 0
    seconds: float = 0.0
    refused: int = 0
    lines: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)
    corpus: list[bytes] = field(default_factory=list)


def run(
    target: Target, *, seed: int, seconds: float | None = None, examples: int | None = None, stop_at: int = 20
) -> Report:
    """Fuzz one target for so long, or for so many examples; every example follows from `seed`."""
    rng = random.Random(f"{seed} {target.name}")
    report = Report(corpus=[*target.seeds, *(data for _, data in kept(target.name))])
    seen: set[tuple[str, int]] = set()
    begun = time.monotonic()
    for data in list(report.corpus):
        seen |= judge(target, data, follow=not target.slow).lines
    while len(report.findings) < stop_at:
        report.seconds = time.monotonic() - begun
        if (seconds is not None and report.seconds >= seconds) or report.executions == examples:
            break
        parent = rng.choice(report.corpus) if rng.random() < 0.7 else rng.choice(target.seeds)
        data = mutated(parent, rng, report.corpus)
        outcome = judge(target, data, follow=not target.slow and rng.random() < 0.25)
        report.executions += 1
        report.refused += outcome.error is not None
        if outcome.finding:
            where = outcome.finding.splitlines()[-3:-1]
            report.findings.setdefault(f"{outcome.finding.splitlines()[0][:120]} @ {' '.join(where)[:200]}", data)
        elif not outcome.lines <= seen:
            seen |= outcome.lines
            if len(report.corpus) < CORPUS_MAX:
                report.corpus.append(data)
    report.lines = len(seen)
    return report


def save(folder: Path, target: Target, data: bytes) -> Path:
    """Write an input down under a name made of its content."""
    (folder / target.name).mkdir(parents=True, exist_ok=True)
    path = folder / target.name / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path
