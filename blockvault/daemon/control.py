"""The socket through which the command line speaks with the daemon: `<state>/daemon.sock`.

One request a connection, one line of JSON each way:

    {"do": "look"}      something has changed: look now                {"done": true}
    {"do": "status"}    what the daemon is doing                        {"pid": 4211, "since": "...", ...}
    {"do": "stop"}      stop in good order                              {"done": true}

Invariants:
- Only the daemon's own user and root are answered; who asks is told by the kernel (SO_PEERCRED), not by the asker.
- A peer that says nothing, too much or nonsense is dropped within `PEER_SECONDS`, and the daemon goes on.
- Nothing needs the socket: the journal has all that is to be done, and the daemon looks there by itself too.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REQUEST_BYTES_MAX = 4096
PEER_SECONDS = 1.0
_PEER = struct.Struct("3i")


def socket_path(state_dir: str) -> str:
    """Where the daemon of a state folder listens."""
    return os.path.join(state_dir, "daemon.sock")


class Control:
    """The daemon's end.

    Args:
        state_dir: the host's state folder, in which the daemon holds its lock.
        answer: gets a request, returns its answer; raises `ValueError` for one that it does not know.
    """

    def __init__(self, state_dir: str, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._path = socket_path(state_dir)
        self._answer = answer
        self._listener = _bound(self._path)
        self._listener.listen(16)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, "woken")

    def wake(self) -> None:
        """End a `wait`; may be called from a signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"!")

    @property
    def waker_fd(self) -> int:
        """What `signal.set_wakeup_fd` takes, so that every signal ends a `wait`."""
        return self._waker.fileno()

    def wait(self, seconds: float, pids: Iterable[int] = ()) -> None:
        """Answer requests until one was answered, a process has ended, `wake` was called, or the time is over."""
        watched = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                watched.append(fd)
                self._selector.register(fd, selectors.EVENT_READ, "process")
        try:
            for key, _ in self._selector.select(max(0.0, seconds)):
                if key.data == "listener":
                    self._serve()
                elif key.data == "woken":
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
        finally:
            for fd in watched:
                self._selector.unregister(fd)
                os.close(fd)

    def _serve(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        with peer, contextlib.suppress(OSError):
            peer.settimeout(PEER_SECONDS)
            _pid, uid, _gid = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if uid not in (0, os.geteuid()):
                peer.sendall(b'{"error": "only the user of the daemon and root may ask it"}\n')
                return
            try:
                request = json.loads(_line(peer))
                answer = self._answer(request if isinstance(request, dict) else {})
            except (ValueError, RecursionError) as error:
                answer = {"error": str(error)}
            peer.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Listen no more; the path is removed."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._selector.close()
        for each in (self._listener, self._waker, self._woken):
            each.close()


def _bound(path: str) -> socket.socket:
    """A listener at the path, for this user alone; what a dead daemon left there is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            # By the folder: the path itself may be longer than the 107 bytes that an address has room for.
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
        finally:
            os.umask(before)
    except BaseException:
        listener.close()
        raise
    return listener


def _line(peer: socket.socket) -> bytes:
    data = b""
    deadline = time.monotonic() + PEER_SECONDS
    while b"\n" not in data:
        if len(data) > REQUEST_BYTES_MAX or time.monotonic() > deadline:
            raise ValueError("a request is one line of JSON")
        piece = peer.recv(REQUEST_BYTES_MAX)
        if not piece:
            break
        data += piece
    return data.partition(b"\n")[0]


def ask(state_dir: str, do: str, seconds: float = 5.0, **arguments: Any) -> dict[str, Any] | None:
    """Ask the daemon of a state folder; None: none runs there, or it does not answer."""
    path = socket_path(state_dir)
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(seconds)
            peer.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            peer.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            with peer.makefile("rb") as stream:
                answer = json.loads(stream.readline(1 << 20) or b"null")
    except (OSError, ValueError):
        return None
    finally:
        os.close(folder)
    return answer if isinstance(answer, dict) else None
