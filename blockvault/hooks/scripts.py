"""Pre and post scripts: which there are of an item, in what order they run, and how they came out.

    <config>/hooks.d/10-name           of every item
    <config>/hooks.d/ITEM/20-name      of one item

All of an item's scripts run in the order of their names, with `pre` before the capture and, in reverse order, with
`post` after it. What is run is only what nobody else can change (`trusted`).

Invariants:
- A post script runs for each pre script that was started, whatever came between: failure, exception, cancel.
- A script has a time limit; at its end its process group gets TERM, then KILL. So it does when the job is cancelled,
  in the pre phase only.
- A script sees an environment made for it, none of the caller's: no secret of a vault is in it.
- What it prints is passed on line by line and bounded.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import selectors
import signal
import stat
import subprocess
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.config import config_dir
from blockvault.errors import BlockVaultError, HookError
from blockvault.hooks.trusted import open_trusted

if TYPE_CHECKING:
    from blockvault.monitor import Monitor

HOOK_SECONDS_DEFAULT = 60
OUTPUT_BYTES_MAX = 16_384  # of one run that are passed on; the rest is counted
_NAME = re.compile(r"^[0-9]+-[A-Za-z0-9._-]+\Z")
_GRACE_SECONDS = 5.0  # between TERM and KILL
_DRAIN_SECONDS = 0.2  # for what a script that has ended left in its pipe
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HookPhase(StrEnum):
    """The word that a script is called with."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Hook:
    """A script of an item. `problem` says why it is not run, `do` what to do about that; None: it is fit."""

    name: str
    path: str
    for_all: bool
    problem: str | None = None
    do: str | None = None


@dataclass(frozen=True, slots=True)
class HookRun:
    """One run of a script. `exit_code` is minus the signal that ended it, None if it could not be started."""

    hook: Hook
    phase: HookPhase
    exit_code: int | None
    seconds: float
    timed_out: bool = False
    problem: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it ran to its end and said that all was well."""
        return self.exit_code == 0 and not self.timed_out


@dataclass(frozen=True, slots=True)
class HookFacts:
    """What a script is told of the capture, as `BLOCKVAULT_*`."""

    item: str
    disks: tuple[str, ...]
    point: int | None = None  # None: a test, no point is made
    job: str = ""


def hooks_dir() -> str:
    """`hooks.d` in the configuration's folder."""
    return os.path.join(config_dir(), "hooks.d")


def find_hooks(item: str) -> list[Hook]:
    """The scripts of an item in the order of their names; those that cannot be run are among them and say why.

    Raises:
        HookError: `hook.unreadable`: a folder is there and cannot be read: what it holds is not known.
    """
    top = hooks_dir()
    found = _in_folder(top, for_all=True) + _in_folder(os.path.join(top, item), for_all=False)
    return sorted(found, key=lambda hook: (hook.name, not hook.for_all))


def _in_folder(folder: str, *, for_all: bool) -> list[Hook]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HookError(
            "hook.unreadable",
            f"the folder of hooks {folder} cannot be read",
            why=error.strerror,
            do="run as a user who may read it, or remove it",
        ) from error
    hooks = []
    for name in names:
        path = os.path.join(folder, name)
        if not _NAME.match(name) or os.path.isdir(path):
            continue  # README, 10-x~, .disabled: as run-parts leaves them
        problem = do = None
        try:
            os.close(_open_hook(path))
        except HookError as error:
            problem, do = error.why or error.message, error.do
        except OSError as error:
            problem = f"it cannot be opened: {error.strerror}"
        hooks.append(Hook(name, path, for_all, problem, do))
    return hooks


def _open_hook(path: str) -> int:
    """A descriptor of an executable that is trusted. Raises `HookError` or `OSError`."""
    fd = open_trusted(path)
    try:
        status = os.fstat(fd)
        why = None
        if not stat.S_ISREG(status.st_mode):
            why = f"{path} is no file"
        elif not status.st_mode & 0o111:
            why = f"{path} is not executable"
        if why is not None:
            raise HookError("hook.not-executable", "a hook cannot be run", why=why, do=f"chmod +x {path}")
        if status.st_mode & 0o444 and os.access(f"/proc/self/fd/{fd}", os.R_OK):
            # A script's interpreter opens it again through this descriptor, and cannot through one of O_PATH.
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(fd)
            return readable
        return fd
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise


@dataclass(slots=True)
class HookRunner:
    """The scripts around one capture: `pre` once, then `post` once, whatever happened between.

    `runs` has what ran, in order.
    """

    hooks: list[Hook]
    facts: HookFacts
    limit_seconds: float
    monitor: Monitor
    runs: list[HookRun] = field(default_factory=list)
    _started: list[Hook] = field(default_factory=list)

    def pre(self) -> HookRun | None:
        """Run the pre scripts until one fails; that one, or None if all succeeded.

        Raises:
            CancelledError: the job was cancelled; `post` is still to be called.
        """
        for hook in self.hooks:
            self.monitor.check()
            run = self._run(hook, HookPhase.PRE, "")
            if not run.succeeded:
                return run
        self.monitor.check()
        return None

    def post(self, *, captured: bool) -> list[HookRun]:
        """Run the post scripts of what was started, in reverse order, all of them; those that failed."""
        failed = []
        while self._started:
            run = self._run(self._started.pop(), HookPhase.POST, "completed" if captured else "failed")
            if not run.succeeded:
                failed.append(run)
        return failed

    def _run(self, hook: Hook, phase: HookPhase, result: str) -> HookRun:
        begun = time.monotonic()
        try:
            fd = _open_hook(hook.path)
        except (BlockVaultError, OSError) as error:
            told = (error.why or error.message) if isinstance(error, BlockVaultError) else str(error)
            return self._note(HookRun(hook, phase, None, 0.0, problem=told))
        if phase is HookPhase.PRE:
            self._started.append(hook)  # before it runs: an interrupt may come at any time
        try:
            process = subprocess.Popen(
                [hook.path, phase],
                executable=f"/proc/self/fd/{fd}",
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(hook, phase, result),
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            reason = f"it cannot be started: {error.strerror}"
            return self._note(HookRun(hook, phase, None, 0.0, problem=reason))
        finally:
            os.close(fd)
        timed_out = False
        try:
            timed_out = not self._watch(process, hook, phase, begun + self.limit_seconds)
        finally:
            if process.poll() is None:
                _end(process)
            assert process.stdout is not None
            process.stdout.close()
        problem = f"it was ended after {self.limit_seconds:g} s" if timed_out else None
        return self._note(HookRun(hook, phase, process.returncode, time.monotonic() - begun, timed_out, problem))

    def _note(self, run: HookRun) -> HookRun:
        self.runs.append(run)
        self.monitor.count("hooks_run", 1)
        return run

    def _watch(self, process: subprocess.Popen[bytes], hook: Hook, phase: HookPhase, deadline: float) -> bool:
        """Pass on what the script prints until it ends; False: it has not by the deadline."""
        output = _Output(self.monitor, f"hook {hook.name} {phase}: ")
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            is_open = True
            while process.poll() is None:
                if phase is HookPhase.PRE:
                    self.monitor.check()
                if time.monotonic() >= deadline:
                    output.close()
                    return False
                if not is_open:
                    time.sleep(0.02)
                elif selector.select(0.05):
                    is_open = _take(pipe, output)
            # What it started in the background may hold the pipe for as long as it likes: that is not waited for.
            ends = time.monotonic() + _DRAIN_SECONDS
            while is_open and time.monotonic() < ends and selector.select(0.01):
                is_open = _take(pipe, output)
        output.close()
        return True

    def _environment(self, hook: Hook, phase: HookPhase, result: str) -> dict[str, str]:
        user = pwd.getpwuid(os.geteuid())
        facts = self.facts
        made = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": "/bin/sh",
            "BLOCKVAULT_ITEM": facts.item,
            "BLOCKVAULT_POINT": "" if facts.point is None else str(facts.point),
            "BLOCKVAULT_PHASE": phase,
            "BLOCKVAULT_JOB": facts.job,
            "BLOCKVAULT_DISKS": "\n".join(facts.disks),
            "BLOCKVAULT_HOOK": hook.path,
        }
        if phase is HookPhase.POST:
            made["BLOCKVAULT_RESULT"] = result
        return made


def _take(pipe: int, output: _Output) -> bool:
    """Read what is there; False at the end."""
    try:
        data = os.read(pipe, 65536)
    except BlockingIOError:
        return True
    output.add(data)
    return bool(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """TERM to the whole process group, then KILL; the leader is reaped last, so that the group is its own till then."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    ends = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < ends:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Output:
    """A script's output, line by line to the monitor, bounded."""

    def __init__(self, monitor: Monitor, prefix: str) -> None:
        self._monitor = monitor
        self._prefix = prefix
        self._partial = b""
        self._left = OUTPUT_BYTES_MAX
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Take what was read."""
        kept = data[: self._left]
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)
        *lines, self._partial = (self._partial + kept).split(b"\n")
        for line in lines:
            self._tell(line)

    def close(self) -> None:
        """Tell the last line, and how much was not told."""
        if self._partial:
            self._tell(self._partial)
            self._partial = b""
        if self._dropped:
            self._monitor.note(f"{self._prefix}({self._dropped} more bytes are not shown)")
            self._dropped = 0

    def _tell(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._monitor.note(self._prefix + text)
