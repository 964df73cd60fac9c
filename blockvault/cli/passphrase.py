"""Where a passphrase may come from: the environment, a file, a program, or a prompt on a terminal.

Never the command line: other users of the machine can read it there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from blockvault.errors import DeviceError, InvalidInputError, WrongKeyError
from blockvault.model import Secret

VARIABLE = "BLOCKVAULT_PASSWORD"
_HELP = f"set {VARIABLE}, {VARIABLE}_FILE or {VARIABLE}_COMMAND, or run on a terminal to be asked"


def secret_from_environment(key_file: str | None) -> Secret | None:
    """What the environment and `--key-file` give; None if nothing."""
    if key_file is not None:
        return Secret(key_file=_read_file(key_file, "the key file"))
    if VARIABLE in os.environ:
        return Secret(passphrase=_not_empty(os.environb[VARIABLE.encode()], f"{VARIABLE} is empty"))
    path = os.environ.get(f"{VARIABLE}_FILE")
    if path:
        line = _read_file(path, "the passphrase file").split(b"\n", 1)[0].rstrip(b"\r")
        return Secret(passphrase=_not_empty(line, f"the first line of {path} is empty"))
    command = os.environ.get(f"{VARIABLE}_COMMAND")
    if command:
        return Secret(passphrase=_from_command(command))
    return None


def can_ask() -> bool:
    """Whether someone sits at a terminal to be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_secret(vault_name: str, *, new: bool) -> Secret:
    """Ask on the terminal; a new passphrase twice."""
    import click

    if not can_ask():
        raise WrongKeyError(
            "key.missing",
            f"no passphrase for the vault '{vault_name}'",
            why="none is in the environment and there is no terminal to ask on",
            do=_HELP,
        )
    text: str = click.prompt(
        f"Passphrase for the vault '{vault_name}'",
        hide_input=True,
        err=True,
        confirmation_prompt="The same again" if new else False,
    )
    return Secret(passphrase=text.encode("utf-8", "surrogateescape"))


def _from_command(command: str) -> bytes:
    arguments = shlex.split(command)
    try:
        done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False)
    except (OSError, IndexError) as error:
        raise DeviceError(
            "input.passphrase-command",
            f"{VARIABLE}_COMMAND could not be run",
            why=str(error),
            do="correct it",
        ) from None
    if done.returncode:
        raise DeviceError(
            "input.passphrase-command",
            f"{VARIABLE}_COMMAND failed",
            why=f"it ended with exit code {done.returncode}",
            do=f"run it by hand: {command}",
        )
    return _not_empty(done.stdout.split(b"\n", 1)[0].rstrip(b"\r"), f"{VARIABLE}_COMMAND printed nothing")


def _read_file(path: str, noun: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise InvalidInputError(
            "input.key-file",
            f"{noun} {path} cannot be read",
            why=error.strerror,
            do="check the path and its rights",
        ) from None


def _not_empty(passphrase: bytes, complaint: str) -> bytes:
    if not passphrase:
        raise InvalidInputError("input.passphrase-empty", complaint, do=_HELP)
    return passphrase
