"""Every error becomes three lines and a stable kind: what broke, why, what to do.

What BlockVault raises on purpose carries all three. What the operating system refuses without anyone having
foreseen it is put into words here; anything else is a bug and says so, with the traceback only for `-v`.
"""

from __future__ import annotations

import errno
import os
import traceback
from typing import Any

import click

from blockvault.errors import BlockVaultError, CancelledError, DeviceError, InternalError, InvalidInputError

_SYSTEM: dict[int, tuple[str, str, str]] = {
    errno.ENOSPC: (
        "host.no-space",
        "no space left",
        "free some space there, then run the same command again",
    ),
    errno.EDQUOT: (
        "host.no-space",
        "the disk quota is used up",
        "free some space, then run the same command again",
    ),
    errno.EFBIG: (
        "host.file-too-large",
        "a file grew beyond what is allowed",
        "raise the limit (`ulimit -f`)",
    ),
    errno.EIO: (
        "host.read-write-error",
        "the device reported a read or write error",
        "look at the kernel's log (`dmesg`) and at the health of the disk",
    ),
    errno.EACCES: ("host.permission", "permission denied", "run as a user who may, for example with sudo"),
    errno.EPERM: (
        "host.permission",
        "the operation is not permitted",
        "run as a user who may; see `lsattr` too",
    ),
    errno.EROFS: (
        "host.read-only",
        "the file system is read-only",
        "mount it writable, or use another place",
    ),
    errno.EMFILE: ("host.open-files", "too many open files", "raise the limit (`ulimit -n`)"),
    errno.ENFILE: (
        "host.open-files",
        "the system has too many open files",
        "end other programs, then try again",
    ),
    errno.ENOENT: ("host.not-found", "no such file or folder", "check the path"),
}


def explain(error: BaseException) -> BlockVaultError:
    """The error in BlockVault's words."""
    if isinstance(error, BlockVaultError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return CancelledError("job.cancelled", "stopped on request", why="interrupted")
    if isinstance(error, click.ClickException):
        return usage_error(error.format_message(), click.get_current_context().command_path)
    if isinstance(error, OSError):
        return _explain_system(error)
    if isinstance(error, MemoryError):
        do = "end other programs, then try again"
        return InternalError("host.no-memory", "the system has no memory left", do=do)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return InternalError(
        "internal.unexpected",
        f"something happened that should not: {text}",
        why="this is a fault of BlockVault, not yours; every completed point is untouched",
        do="run the command again with -v and report what it prints",
    )


def _explain_system(error: OSError) -> BlockVaultError:
    number = error.errno or 0
    fallback = ("host.refused", error.strerror or str(error) or type(error).__name__, "see the system's log")
    kind, message, do = _SYSTEM.get(number, fallback)
    where = error.filename
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    if not isinstance(where, str):
        where = None
    if where:
        message = f"{message}: {where}"
    why = f"the operating system says: {os.strerror(number)}" if number else None
    return DeviceError(kind, message, why=why, do=do, errno=number, filename=where)


def usage_error(message: str, command: str) -> InvalidInputError:
    """A command line that cannot be understood, in the same form as every other error."""
    message = message.strip().rstrip(".")
    return InvalidInputError("input.usage", message[:1].lower() + message[1:], do=f"see `{command} --help`")


def three_lines(error: BlockVaultError) -> list[tuple[str, str]]:
    """What is printed of an error, as (label, text)."""
    lines = [("error:", f"{error.message}   [{error.kind}]")]
    if error.why:
        lines.append(("why:  ", error.why))
    if error.do:
        lines.append(("do:   ", error.do))
    return lines


def as_fields(error: BlockVaultError, code: int) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "message_type": "exit_error",
        "schema": "blockvault.error/1",
        "code": int(code),
        "kind": error.kind,
        "message": error.message,
        "why": error.why,
        "do": error.do,
    }


def traceback_of(error: BaseException) -> str | None:
    """The traceback of an error that no one foresaw, for `-v`."""
    if isinstance(error, BlockVaultError | KeyboardInterrupt) and not isinstance(error, InternalError):
        return None
    return "".join(traceback.format_exception(error))
