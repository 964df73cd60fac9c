"""Acts that are noted in the host's audit log: the decorator that methods of the library's front door carry.

    @audited("point.delete", "point", "reason", "purge")
    def delete_point(self, point: str, *, reason: str = "", purge: bool = False) -> PointState: ...

Every act on a vault that takes something away, or that changes what will be, comes through a method of `Vault` or of
`Vault.keys`, whoever asks for it: a command, the daemon, a program. So it is noted there and nowhere else, and a test
goes over all methods: each is noted, or stands in the list of those that take nothing away.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

from blockvault.errors import BlockVaultError
from blockvault.store.audit_log import AuditLog

P = ParamSpec("P")
T = TypeVar("T")
Arguments = dict[str, Any]


def audited(
    act: str,
    *names: str,
    told: Callable[[Arguments], Arguments] | None = None,
    when: Callable[[Arguments], bool] | None = None,
    frees_space: bool = False,
    is_rescue: bool = False,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a method's calls noted.

    Args:
        act: what it is called in the log, `point.delete`.
        names: arguments that are noted as they are.
        told: further details, from all arguments by name.
        when: whether a call is an act at all; one that only looks is not.
        frees_space: it is done also where a full disk leaves no room for the log: it is what makes room again.
        is_rescue: it is done whatever is wrong with the log: nobody who needs a restore is sent away for that.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = {**bound.arguments, **bound.arguments.get("changes", {})}
            if when is not None and not when(arguments):
                return method(*args, **kwargs)
            session = arguments["self"]._session  # noqa: SLF001 - it decorates the classes that have one
            details = {name: arguments[name] for name in names if arguments[name] not in (False, None)}
            details |= told(arguments) if told is not None else {}
            acting = AuditLog(session.state_dir).acting(act, details, vault=session.name, vault_id=session.vault_id)
            with ExitStack() as stack:
                try:
                    stack.enter_context(acting)
                except BlockVaultError as error:
                    if not is_rescue and not (frees_space and error.kind == "store.no-space"):
                        raise
                    monitor = arguments.get("monitor")
                    if monitor is not None:
                        monitor.note(f"the audit log lacks this: {error.message}")
                return method(*args, **kwargs)

        run.audited_as = act  # type: ignore[attr-defined]
        return run

    return decorate
