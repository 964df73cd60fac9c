"""What a backup tool is to this comparison: command lines, and what must be known to write them.

Invariants:
- A tool works only under its own folder: `repository` is what counts as stored, `cache` is what it could do without.
- A method that returns commands runs nothing; the runner runs and measures them, so each tool is measured alike.
- No command asks anything (its standard input is a file or nothing), and none talks to a network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.measure import users_environment


class Kind(StrEnum):
    """How a tool takes part."""

    OURS = "ours"
    PEER = "peer"
    CEILING = "ceiling"  # keeps only the newest copy of each disk: what a machine can do at best


@dataclass(frozen=True)
class Command:
    """One process: what is run, where its input comes from and its output goes, which exit codes are good."""

    argv: tuple[str, ...]
    input: str | None = None  # a file that is standard input
    output: str | None = None  # a file that standard output becomes
    cwd: str | None = None
    good: tuple[int, ...] = (0,)


def command(
    *argv: str,
    input: str | None = None,  # noqa: A002 - the word that subprocess has for it
    output: str | None = None,
    cwd: str | None = None,
    good: tuple[int, ...] = (0,),
) -> Command:
    """A command, its words one by one."""
    return Command(argv, input, output, cwd, good)


class Tool(ABC):
    """The base of all: a name, settings with their reason, and the command lines of every step."""

    name = ""
    program = ""
    kind = Kind.PEER
    settings = ""  # what was chosen, for the table of tools
    encrypts = "no"
    untested = False  # written from the documentation, never run where it was written
    note = ""  # what a reader of the figures has to know

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.repository = os.path.join(folder, "repository")
        self.cache = os.path.join(folder, "cache")
        self.points: dict[str, str] = {}  # label -> the disk image it was taken of
        self.ids: dict[str, str] = {}  # label -> the tool's own name of the point

    @classmethod
    def is_here(cls) -> bool:
        """Whether the program is found on the path."""
        return shutil.which(cls.program) is not None

    def version_command(self) -> Command:
        """What prints the version."""
        return command(self.program, "--version")

    def version(self) -> str:
        """The first thing in the tool's own answer that looks like a version."""
        asked = self.version_command()
        try:
            done = subprocess.run(
                asked.argv,
                env={**users_environment(), **self.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        return version_in(done.stdout + done.stderr)

    def environment(self) -> dict[str, str]:
        """Variables added for each of this tool's processes."""
        return {}

    def prepare(self) -> None:
        """Make folders and configuration files; not measured."""
        os.makedirs(self.repository, exist_ok=True)
        os.makedirs(self.cache, exist_ok=True)

    def begin(self) -> list[Command]:
        """Make the repository."""
        return []

    @abstractmethod
    def backup(self, image: str, label: str) -> list[Command]:
        """Take a point of `image`."""

    def remember(self, label: str, image: str, output: str) -> None:
        """Learn from a backup's output what the tool calls the point."""
        self.points[label] = image
        self.ids[label] = self.id_in(output) or label

    def id_in(self, output: str) -> str | None:
        """The tool's own name of a point, out of the output of its backup; None where it goes by the label."""
        return None

    @abstractmethod
    def restore(self, label: str, folder: str) -> list[Command]:
        """Bring a point back into an empty folder."""

    def restored(self, label: str, folder: str) -> str:
        """Where `restore` puts the disk image."""
        return os.path.join(folder, os.path.basename(self.points[label]))

    def verify(self) -> list[Command] | None:
        """Check every stored byte of all points; None if the tool has no command that does."""
        return None

    def verify_one(self, label: str) -> list[Command] | None:
        """Check every byte of one point; None if the tool can check only all of them."""
        return None

    def delete(self, label: str) -> list[Command] | None:
        """Delete a point and free what no other needs; None if the tool cannot."""
        return None


def version_in(text: str) -> str:
    """The first number with a dot in a text, else the first number."""
    found = re.search(r"\d+(?:\.\d+)+[\w.+~-]*", text) or re.search(r"\b\d+\b", text)
    return found.group(0).rstrip(".,") if found else "unknown"


def last_match(pattern: str, text: str, what: str) -> str:
    """The first group of the last match; raises if there is none: what a changed output meant is not guessed."""
    found = re.findall(pattern, text)
    if not found:
        raise ValueError(f"no {what} in the output: {text[-300:]!r}")
    return str(found[-1])
