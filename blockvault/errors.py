"""The exceptions of BlockVault, grouped by what a handler would do about them.

    BlockVaultError
    ├── NotFoundError (KeyError)        no such vault, item or point: correct the name
    ├── AlreadyExistsError              something is in the way: choose another name, or `--force`
    ├── ConflictError                   someone else is at work: wait and try again
    ├── InvalidInputError (ValueError)  the request makes no sense: correct it
    ├── UnsupportedError                this build or this vault's version cannot do it
    ├── CorruptionError                 stored bytes are not what they must be: verify, repair
    ├── DeviceError (OSError)           the operating system refused: disk, permission, space
    ├── HookError                       less was reached than asked of a guest: a script, its agent, a freeze
    ├── TransportError                  the vault's store could not be reached
    ├── WrongKeyError                   the passphrase or key file does not open this vault
    ├── CancelledError                  stopped on request, nothing half done left behind
    └── InternalError                   a bug: an invariant of BlockVault did not hold

Every error carries a `kind`: a stable dotted string (`vault.locked`) that scripts may test; kinds are only ever
added, never renamed. The message says what failed and where in the user's nouns, `why` the reason, `do` the next step.
"""

from __future__ import annotations


class BlockVaultError(Exception):
    """Base of all errors that BlockVault raises on purpose.

    Args:
        kind: stable dotted identifier, e.g. ``point.not-found``.
        message: what failed and where, one line, no trailing period.
        why: the reason, one line.
        do: what the user can do about it, one line.
    """

    def __init__(self, kind: str, message: str, *, why: str | None = None, do: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return self.message


class NotFoundError(BlockVaultError, KeyError):
    """A vault, item, point or disk of that name does not exist."""


class AlreadyExistsError(BlockVaultError):
    """Something of that name is already there and was not overwritten."""


class ConflictError(BlockVaultError):
    """Another process holds what is needed, or changed it meanwhile."""


class InvalidInputError(BlockVaultError, ValueError):
    """The request is malformed or contradicts itself."""


class UnsupportedError(BlockVaultError):
    """This build, platform or vault version cannot do what was asked."""


class CorruptionError(BlockVaultError):
    """Stored bytes are torn, truncated, swapped or flipped."""


class DeviceError(BlockVaultError, OSError):
    """The operating system refused a read, a write, a permission or space.

    `errno` and `filename` carry the system's own values.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        why: str | None = None,
        do: str | None = None,
        errno: int | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(kind, message, why=why, do=do)
        self.errno = errno
        self.filename = filename


class HookError(BlockVaultError):
    """Less was reached than asked of a guest: a script, its agent or a freeze failed (`docs/consistency.md`)."""


class TransportError(BlockVaultError):
    """The vault's store could not be reached, or the connection broke."""


class WrongKeyError(BlockVaultError):
    """No key slot of the vault opens with what was given."""


class CancelledError(BlockVaultError):
    """The work was stopped on request; what was complete before is untouched."""


class InternalError(BlockVaultError):
    """An invariant did not hold: a bug in BlockVault, never the user's doing."""
