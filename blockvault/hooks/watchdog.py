"""A process of its own that thaws what the program froze, when the program is gone or its limit is over.

It is run as a script, with nothing but the standard library, so that it is there in a moment and owes nothing to the
program's state. It holds the descriptors of the mount points and the sockets of the guest agents, so it can thaw
without opening anything, and a pipe from the program: when that is closed, by `kill -9` too, it thaws what is armed.

    python watchdog.py CONTROL READY SECONDS KIND:FD...      KIND is `mount` or `agent`

On CONTROL come lines: `arm N` before target N is frozen, `disarm N` when it is known to be thawed. SECONDS run from the
first `arm`. It ends when CONTROL is closed and nothing is armed any more, or after `GIVE_UP_SECONDS` of trying.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

_FITHAW = 0xC0045878
GIVE_UP_SECONDS = 600.0
_TRY_SECONDS = 2.0


def main(arguments: list[str]) -> None:
    """See above."""
    control, ready, limit = int(arguments[0]), int(arguments[1]), float(arguments[2])
    targets = [(kind, int(fd)) for kind, _, fd in (word.partition(":") for word in arguments[3:])]
    # Whoever ends the program by its group or its terminal does not end what must outlive it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.write(ready, b"r")
    os.close(ready)
    armed: set[int] = set()
    deadline: float | None = None
    partial = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([control], [], [], wait)
        if not readable:
            break  # the limit is over
        data = os.read(control, 4096)
        if not data:
            break  # the program has ended, or is done
        *lines, partial = (partial + data).split(b"\n")
        for line in lines:
            verb, _, number_text = line.partition(b" ")
            if verb == b"arm":
                armed.add(int(number_text))
                deadline = deadline or time.monotonic() + limit
            elif verb == b"disarm":
                armed.discard(int(number_text))
        if not armed:
            deadline = None
    _thaw_all([targets[number] for number in sorted(armed, reverse=True)])


def _thaw_all(targets: list[tuple[str, int]]) -> None:
    """Thaw each, latest frozen first, until each said so; those that do not answer are tried again."""
    gives_up = time.monotonic() + GIVE_UP_SECONDS
    left = list(targets)
    while left and time.monotonic() < gives_up:
        left = [target for target in left if not _thaw(*target)]
        if left:
            time.sleep(0.2)


def _thaw(kind: str, fd: int) -> bool:
    if kind == "mount":
        try:
            fcntl.ioctl(fd, _FITHAW, 0)
        except InterruptedError:
            return False
        except OSError:
            return True  # it was not frozen any more
        return True
    return _thaw_guest(fd)


def _thaw_guest(fd: int) -> bool:
    """Ask the agent to thaw. True when it answered, or when there is nobody to answer any more."""
    number = int.from_bytes(os.urandom(4), "big")
    asked = b"\xff" + json.dumps({"execute": "guest-sync-delimited", "arguments": {"id": number}}).encode() + b"\n"
    asked += json.dumps({"execute": "guest-fsfreeze-thaw"}).encode() + b"\n"
    end = socket.socket(fileno=os.dup(fd))
    ends = time.monotonic() + _TRY_SECONDS
    heard = b""
    with contextlib.closing(end):
        try:
            end.settimeout(_TRY_SECONDS)
            end.sendall(asked)
            while (left := ends - time.monotonic()) > 0:
                end.settimeout(left)
                piece = end.recv(65536)
                if not piece:
                    return True  # the guest, or its agent's channel, is gone
                heard = (heard + piece)[-(1 << 20) :]
                synced = heard.rfind(b"\xff")
                if synced >= 0 and heard[synced:].count(b"\n") >= 2:
                    return True  # it answered both: it is thawed, or cannot be by us
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
