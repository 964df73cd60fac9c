"""Named places where a test can make the program die or the system refuse.

So crash safety is shown and not claimed. Code that keeps an order (write, fsync, rename, ...) calls
`reach(name)` between its steps; the names are dotted like error kinds (`snapshot.raw.listed`). Without the
environment variable this costs one comparison.

    BLOCKVAULT_FAILPOINT=name[:kill|enospc|eio|interrupt|pause[:count]]

`kill` (the default) is SIGKILL to oneself: nothing is flushed, no handler runs. `enospc` and `eio` raise the
`OSError` that a full or failing disk would; `interrupt` sends oneself SIGINT, as Ctrl-C does; `pause` waits
for some seconds, so that another process can do something meanwhile. `count` is the
number of the visit that fires, 1 if left out; it fires once. The variable is read once, at import.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable

Hook = Callable[[str], None]

_ACTIONS = ("kill", "enospc", "eio", "interrupt", "pause")
PAUSE_SECONDS = 8.0


def _hook_from(spec: str) -> Hook:
    name, _, rest = spec.partition(":")
    action, _, count = rest.partition(":")
    action = action or "kill"
    if action not in _ACTIONS:
        raise ValueError(f"BLOCKVAULT_FAILPOINT: '{action}' is none of {', '.join(_ACTIONS)}")
    remaining = int(count or 1)
    lock = threading.Lock()

    def fire(reached: str) -> None:
        nonlocal remaining
        if reached != name:
            return
        with lock:
            remaining -= 1
            if remaining != 0:
                return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif action == "pause":
            time.sleep(PAUSE_SECONDS)
        else:
            number = errno.ENOSPC if action == "enospc" else errno.EIO
            raise OSError(number, os.strerror(number), f"failpoint {reached}")

    return fire


_spec = os.environ.get("BLOCKVAULT_FAILPOINT")
_hook: Hook | None = _hook_from(_spec) if _spec else None


def reach(name: str) -> None:
    """Say that execution has come to the place `name`."""
    if _hook is not None:
        _hook(name)


def set_hook(hook: Hook | None) -> Hook | None:
    """Have `hook` called with every name reached (tests interleave so); returns the one before it."""
    global _hook  # noqa: PLW0603 - one process, one hook: that is what a failpoint is
    before = _hook
    _hook = hook
    return before
