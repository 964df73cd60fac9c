"""Where a secret may come from. Never the command line: other users of the machine can read it there.

In this order, and the first that is there decides:

1. a key file that an option names (`--key-file`, `--new-key-file`)
2. BLOCKVAULT_PASSWORD            the passphrase itself
3. BLOCKVAULT_PASSWORD_FILE       a file; its first line is the passphrase
4. BLOCKVAULT_PASSWORD_COMMAND    a program; the first line that it prints is the passphrase
5. $CREDENTIALS_DIRECTORY/blockvault.NAME.password, then blockvault.password    what systemd's LoadCredential= gives
   a service, for the vault of that name and for any
6. the key file that the configuration names for the vault, `key_file` of `[vault.NAME]`
What has a terminal asks there when none of these is given (`cli/passphrase.py`).

A new secret for a vault that has one already comes from the same places under the names BLOCKVAULT_NEW_PASSWORD... and
blockvault.NAME.new-password, blockvault.new-password.

No message shows a secret, or the command that prints one.
"""

from __future__ import annotations

import os
import shlex
import subprocess

from blockvault.config import load_settings
from blockvault.errors import DeviceError, InvalidInputError
from blockvault.model import Secret

KEY_FILE_BYTES_MAX = 64 << 20
PASSPHRASE_BYTES_MAX = 64 << 10


def secret_from_environment(key_file: str | None, vault_name: str, *, new: bool = False) -> Secret | None:
    """What the option for a key file, the environment and the configuration give; None if nothing.

    Args:
        key_file: what the option names.
        vault_name: the vault's name, or its folder.
        new: the further secret of a vault that is opened with another.
    """
    variable = variable_of(new)
    if key_file is not None:
        return Secret(key_file=_read_file(key_file, "the key file", KEY_FILE_BYTES_MAX))
    if variable in os.environ:
        return Secret(passphrase=_not_empty(os.environb[variable.encode()], f"{variable} is empty", variable))
    path = os.environ.get(f"{variable}_FILE")
    if path:
        return _from_file(path, variable)
    command = os.environ.get(f"{variable}_COMMAND")
    if command:
        return Secret(passphrase=_from_command(command, variable))
    credential = _credential(vault_name, "new-password" if new else "password")
    if credential is not None:
        return _from_file(credential, variable)
    configured = "" if new else load_settings().vault(vault_name).key_file
    return Secret(key_file=_read_file(configured, "the key file", KEY_FILE_BYTES_MAX)) if configured else None


def variable_of(new: bool) -> str:
    """The variable that has the passphrase, or that for a new one."""
    return "BLOCKVAULT_NEW_PASSWORD" if new else "BLOCKVAULT_PASSWORD"


def help_of(variable: str) -> str:
    """What a user can do who gave no passphrase."""
    return f"set {variable}, {variable}_FILE or {variable}_COMMAND, or run on a terminal to be asked"


def _credential(vault_name: str, what: str) -> str | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    name = os.path.basename(os.path.normpath(vault_name))
    for file in (f"blockvault.{name}.{what}", f"blockvault.{what}"):
        path = os.path.join(folder, file)
        if os.path.exists(path):
            return path
    return None


def _from_file(path: str, variable: str) -> Secret:
    line = _first_line(_read_file(path, "the passphrase file", PASSPHRASE_BYTES_MAX))
    return Secret(passphrase=_not_empty(line, f"the first line of {path} is empty", variable))


def _from_command(command: str, variable: str) -> bytes:
    kind, do = "input.passphrase-command", f"run what {variable}_COMMAND says by hand and see"
    try:
        done = subprocess.run(shlex.split(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except (OSError, IndexError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no command line"
        raise DeviceError(kind, f"{variable}_COMMAND could not be run", why=why, do=do) from None
    if done.returncode:
        why = f"it ended with exit code {done.returncode}"
        raise DeviceError(kind, f"{variable}_COMMAND failed", why=why, do=do)
    return _not_empty(_first_line(done.stdout), f"{variable}_COMMAND printed nothing", variable)


def _first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[0].rstrip(b"\r")


def _read_file(path: str, noun: str, most: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise InvalidInputError(
            "input.key-file",
            f"{noun} {path} cannot be read",
            why=error.strerror,
            do="check the path and its rights",
        ) from None
    if len(data) > most:
        why = f"it has more than {most} bytes"
        raise InvalidInputError("input.key-file", f"{noun} {path} is too large", why=why, do="check the path")
    return data


def _not_empty(passphrase: bytes, complaint: str, variable: str) -> bytes:
    if not passphrase:
        raise InvalidInputError("input.passphrase-empty", complaint, do=help_of(variable))
    return passphrase
