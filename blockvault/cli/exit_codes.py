"""Exit codes: one table from what went wrong to the number that scripts see. Numbers never change."""

from __future__ import annotations

from enum import IntEnum

from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    CancelledError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    WrongKeyError,
)


class ExitCode(IntEnum):
    """What the process ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WARNING = 3  # completed-with-warning
    DAMAGE = 4
    NO_VAULT = 10
    LOCKED = 11
    WRONG_KEY = 12
    NOT_FOUND = 13
    NO_SPACE = 14
    SOURCE = 15  # the disk image is unreadable, in use or changed
    OUTSIDE_RPO = 20
    INTERRUPTED = 130
    TERMINATED = 143


# Kinds first: they say more than the class. The first row that fits decides.
_BY_KIND: tuple[tuple[str, ExitCode], ...] = (
    ("vault.not-found", ExitCode.NO_VAULT),
    ("vault.not-a-vault", ExitCode.NO_VAULT),
    ("*.locked", ExitCode.LOCKED),
    ("*.no-space", ExitCode.NO_SPACE),
    ("image.*", ExitCode.SOURCE),
)
_BY_CLASS: tuple[tuple[type[BlockVaultError], ExitCode], ...] = (
    (CorruptionError, ExitCode.DAMAGE),
    (WrongKeyError, ExitCode.WRONG_KEY),
    (NotFoundError, ExitCode.NOT_FOUND),
    (InvalidInputError, ExitCode.USAGE),
    (AlreadyExistsError, ExitCode.USAGE),
)
_SIGTERM = 15


def exit_code_of(error: BlockVaultError, signal_number: int | None = None) -> ExitCode:
    """The exit code of an error; a cancelled job's depends on the signal that asked for it."""
    if isinstance(error, CancelledError):
        return ExitCode.TERMINATED if signal_number == _SIGTERM else ExitCode.INTERRUPTED
    for pattern, code in _BY_KIND:
        if _fits(error.kind, pattern):
            return code
    for error_class, code in _BY_CLASS:
        if isinstance(error, error_class):
            return code
    return ExitCode.FAILED


def _fits(kind: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        return kind.endswith(pattern[1:])
    if pattern.endswith("*"):
        return kind.startswith(pattern[:-1])
    return kind == pattern
