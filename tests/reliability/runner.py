"""Child processes that run one command line, or one piece of work, and may be killed or stopped in the middle.

A child is a fork of this process, which has every module loaded and no threads: what is killed is the work and not
Python's start. It opens the vault itself and shares nothing of it with others, as a process of its own does.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import pkgutil
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

import blockvault
from blockvault import cli, failpoints
from blockvault.cli import app
from reliability import syncs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = (0, 3)  # exit codes of a command that did its work: done, completed with a warning
_FAILED = 70
_NO_CONTEXT: Any = None  # the program's groups know their commands without one


class UndisturbedError(Exception):
    """A command failed, or a check after it, though nothing disturbed it: what came before has done harm."""


def load_program() -> None:
    """Import every module of it: children need not, and what changes on disk meanwhile does not reach them."""
    for module in pkgutil.walk_packages(blockvault.__path__, "blockvault."):
        if module.name.rpartition(".")[2] not in ("__main__", "_native"):
            import_module(module.name)
    gc.collect()
    gc.freeze()  # children leave alone what they share with this process


def exists(words: tuple[str, ...]) -> bool:
    """Whether the program has this command (`("vault", "repair")`)."""
    command: Any = app.make_app()
    for word in words:
        command = command.get_command(_NO_CONTEXT, word) if isinstance(command, click.Group) else None
    return command is not None


def fork(work: Callable[[], int]) -> int:
    """Run `work` in a child; its answer is the exit code. Returns the child's pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = _FAILED
    try:
        code = work()
    except BaseException:  # noqa: BLE001 - nothing may run on in the child
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child of its own; a child that dies is an error."""
    read, write = os.pipe()

    def told() -> int:
        os.close(read)
        data = pickle.dumps(work())
        while data:
            data = data[os.write(write, data) :]
        return 0

    pid = fork(told)
    os.close(write)
    pieces = []
    while piece := os.read(read, 1 << 20):
        pieces.append(piece)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a check died: status {os.waitstatus_to_exitcode(status)}")
    return pickle.loads(b"".join(pieces))


@dataclass(frozen=True)
class Order:
    """A command line to be run. `failpoint` as in `blockvault.failpoints`; `stops`: at each sync.

    `sabotage`: the program's own syncs do nothing, which the checks must find.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    folder: Path  # for its output
    failpoint: str | None = None
    stops: bool = False
    sabotage: bool = False

    def start(self) -> int:
        """Start it; returns its pid."""
        return fork(self._work)

    def _work(self) -> int:
        out = os.open(self.folder / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(self.environment)
        reached: dict[str, int] = {}
        fire = failpoints._hook_from(self.failpoint) if self.failpoint else lambda _: None

        def hook(name: str) -> None:
            reached[name] = reached.get(name, 0) + 1
            fire(name)

        failpoints.set_hook(hook)
        if self.sabotage:
            os.fsync = os.fdatasync = lambda _fd: None
        if self.stops:
            syncs.arm()
        code = cli.main(list(self.argv))
        (self.folder / "reached").write_text(json.dumps(reached))
        return code

    def output(self) -> str:
        """What it printed so far."""
        try:
            return (self.folder / "out").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def reached(self) -> dict[str, int]:
        """How often it came to each failpoint; only after an end of its own."""
        found: dict[str, int] = json.loads((self.folder / "reached").read_text())
        return found


def wait(pid: int) -> int:
    """The child's exit code, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
