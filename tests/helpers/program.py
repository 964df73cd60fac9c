"""The command line as users run it: a process of its own, with a state folder and a working folder of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blockvault

PROGRAM = (sys.executable, "-m", "blockvault")
_SOURCE = str(Path(blockvault.__file__).parent.parent)
_OURS = (
    "BLOCKVAULT_VAULT",
    "BLOCKVAULT_PASSWORD",
    "BLOCKVAULT_PASSWORD_FILE",
    "BLOCKVAULT_PASSWORD_COMMAND",
    "BLOCKVAULT_CONFIG",
    "NO_COLOR",
)


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """The last JSON line of standard output: the document, the summary or the error."""
        return self.documents[-1]

    @property
    def kind(self) -> str:
        """The kind at the end of the error line on standard error."""
        line = next(line for line in self.err.splitlines() if line.startswith("error:"))
        return line.rsplit("[", 1)[1].rstrip("]")


class Program:
    """Runs `blockvault` in `folder` with the state folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.state = folder / "state"
        self.config = folder / "config"  # nothing of the machine's own configuration reaches into a test

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The caller's environment without what would reach into the test."""
        kept = {name: value for name, value in os.environ.items() if name not in _OURS}
        path = os.pathsep.join(filter(None, (_SOURCE, kept.get("PYTHONPATH"))))
        places = {"BLOCKVAULT_STATE_DIR": str(self.state), "BLOCKVAULT_CONFIG_DIR": str(self.config)}
        return {**kept, "PYTHONPATH": path, **places, **(extra or {})}

    def start(
        self, *arguments: str | Path, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command; its streams are pipes unless said otherwise."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*PROGRAM, *map(str, arguments)], cwd=self.folder, env=self.environment(env), **options)

    def run(self, *arguments: str | Path, env: dict[str, str] | None = None, code: int | None = None) -> Ended:
        """Run a command to its end; with `code` the exit code must be that."""
        process = self.start(*arguments, env=env)
        out, err = process.communicate(timeout=300)
        ended = Ended(process.returncode, out.decode(errors="surrogateescape"), err.decode(errors="surrogateescape"))
        assert code is None or ended.code == code, f"ended with {ended.code}\n{ended.out}\n{ended.err}"
        return ended

    def run_on_terminal(
        self, *arguments: str | Path, typed: str = "", env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command on a terminal of its own; what is `typed` is sent line by line, each at a prompt."""
        controller, terminal = pty.openpty()
        process = self.start(
            *arguments, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)
        lines = typed.splitlines(keepends=True)
        shown = b""
        answered = 0
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            ready, _, _ = select.select([controller], [], [], 0.1)
            if ready:
                try:
                    piece = os.read(controller, 65536)
                except OSError:  # EIO: the other side is closed
                    break
                if not piece:
                    break
                shown += piece
                if lines and shown[answered:].rstrip(b" ").endswith(b":"):
                    answered = len(shown)
                    os.write(controller, lines.pop(0).encode())
            elif process.poll() is not None:
                break
        code = process.wait(timeout=30)
        os.close(controller)
        return code, shown.decode(errors="replace")
