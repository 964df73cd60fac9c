"""The QEMU guest agent, spoken to through its unix socket: JSON, one object a line.

The socket may hold the rest of someone else's talk, and the guest may be anything: it answers late, garbage, or not at
all. So each talk begins with the byte 0xFF, which ends whatever the agent was reading, and `guest-sync-delimited`,
whose answer comes after a 0xFF too and carries our number: what comes before it is thrown away.

Invariants:
- Nothing waits longer than its limit, and no answer is taken in that is longer than `ANSWER_BYTES_MAX`.
- Only one talk at a time: QEMU serves one client of such a socket.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Self

from blockvault.errors import HookError

ANSWER_BYTES_MAX = 1 << 20
ASK_SECONDS = 3.0  # for what a guest that is well answers at once
FREEZE_SECONDS = 20.0  # for a freeze: the guest writes its dirty pages first
_SUN_PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What `guest-info` says: the agent's version, and whether it can freeze."""

    version: str
    can_freeze: bool


class GuestAgent:
    """One talk with a guest agent; close it, or use it in a `with` statement."""

    def __init__(self, path: str, *, ask_seconds: float = ASK_SECONDS) -> None:
        """Connect and come into step.

        Raises:
            HookError: `hook.agent-unreachable`, `hook.agent-silent`, `hook.agent-garbled`.
        """
        self.path = path
        self._ask_seconds = ask_seconds
        self._buffer = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.socket.settimeout(ask_seconds)
            try:
                _connect(self.socket, path)
            except TimeoutError:
                raise self._silent("to be connected to: somebody else may be talking to it") from None
            except OSError as error:
                raise HookError(
                    "hook.agent-unreachable",
                    f"the guest agent cannot be reached at {path}",
                    why=error.strerror or str(error),
                    do="start the guest, give it a channel org.qemu.guest_agent.0, and name its socket",
                ) from error
            self.sync()
        except BaseException:
            self.socket.close()
            raise

    def sync(self) -> None:
        """Throw away whatever is under way and come into step with the agent."""
        number = int.from_bytes(os.urandom(4), "big")
        deadline = time.monotonic() + self._ask_seconds
        self._send(b"\xff" + _line("guest-sync-delimited", {"id": number}), deadline)
        taken = 0
        while True:
            taken += len(self._read_until(b"\xff", deadline))
            line = self._read_until(b"\n", deadline)
            taken += len(line)
            if taken > ANSWER_BYTES_MAX:
                raise self._garbled("it talks without end")
            try:
                answer = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict) and answer.get("return") == number:
                return

    def ask(self, command: str, arguments: dict[str, Any] | None = None, *, seconds: float | None = None) -> Any:
        """The answer to one command.

        Raises:
            HookError: `hook.agent-refused` with the agent's reason, `hook.agent-silent`, `hook.agent-garbled`.
        """
        deadline = time.monotonic() + (self._ask_seconds if seconds is None else seconds)
        self._send(_line(command, arguments), deadline)
        line = self._read_until(b"\n", deadline).lstrip(b"\xff")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise self._garbled(f"to {command} it said what is no JSON") from None
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise HookError(
                "hook.agent-refused",
                f"the guest agent at {self.path} refused {command}",
                why=str(answer["error"].get("desc") or answer["error"])[:500],
                do="look at the agent's log in the guest, and at what it is allowed to do",
            )
        if not isinstance(answer, dict) or "return" not in answer:
            raise self._garbled(f"to {command} it said what is no answer")
        return answer["return"]

    def info(self) -> AgentInfo:
        """Its version and whether it can freeze."""
        answer = self.ask("guest-info")
        if not isinstance(answer, dict) or not isinstance(answer.get("version"), str):
            raise self._garbled("guest-info tells no version")
        commands = answer.get("supported_commands")
        listed = commands if isinstance(commands, list) else []
        able = {entry.get("name"): entry.get("enabled") for entry in listed if isinstance(entry, dict)}
        can_freeze = all(able.get(name) is True for name in ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw"))
        return AgentInfo(answer["version"][:100], can_freeze)

    def freeze(self, seconds: float = FREEZE_SECONDS) -> int:
        """Freeze all file systems of the guest; how many it froze."""
        return self._count("guest-fsfreeze-freeze", seconds)

    def thaw(self, seconds: float = ASK_SECONDS) -> int:
        """Thaw them; how many were thawed, 0 if none was frozen any more."""
        return self._count("guest-fsfreeze-thaw", seconds)

    def is_frozen(self) -> bool:
        """Whether the guest says that it is frozen."""
        return bool(self.ask("guest-fsfreeze-status") == "frozen")

    def _count(self, command: str, seconds: float) -> int:
        answer = self.ask(command, seconds=seconds)
        if type(answer) is not int or answer < 0:
            raise self._garbled(f"to {command} it said {str(answer)[:80]!r}, which is no count")
        return answer

    def close(self) -> None:
        """End the talk; safe to call again."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- bytes ----------------------------------------------------------------------------------------------

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            self.socket.sendall(data)
        except TimeoutError:
            raise self._silent("to take a command") from None
        except OSError as error:
            raise self._gone(error) from error

    def _read_until(self, end: bytes, deadline: float) -> bytes:
        while end not in self._buffer:
            if len(self._buffer) > ANSWER_BYTES_MAX:
                raise self._garbled("its answer does not end")
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._silent("for an answer")
            try:
                self.socket.settimeout(left)
                piece = self.socket.recv(65536)
            except TimeoutError:
                raise self._silent("for an answer") from None
            except OSError as error:
                raise self._gone(error) from error
            if not piece:
                raise self._gone(None)
            self._buffer += piece
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _silent(self, what: str) -> HookError:
        return HookError(
            "hook.agent-silent",
            f"the guest agent at {self.path} does not answer",
            why=f"it was waited {what}",
            do="look whether the guest is up and qemu-guest-agent runs in it",
        )

    def _gone(self, error: OSError | None) -> HookError:
        return HookError(
            "hook.agent-silent",
            f"the guest agent at {self.path} has ended the talk",
            why=error.strerror if error is not None else "its socket was closed",
            do="look whether the guest is up",
        )

    def _garbled(self, why: str) -> HookError:
        return HookError(
            "hook.agent-garbled",
            f"what answers at {self.path} is no guest agent, or not well",
            why=why,
            do="look whether this is the socket of the channel org.qemu.guest_agent.0",
        )


def _line(command: str, arguments: dict[str, Any] | None) -> bytes:
    request: dict[str, Any] = {"execute": command}
    if arguments is not None:
        request["arguments"] = arguments
    return json.dumps(request).encode() + b"\n"


def _connect(end: socket.socket, path: str) -> None:
    """Connect, also to a path that is longer than a socket's address may be."""
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        end.connect(os.fsencode(path))
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end.connect(b"/proc/self/fd/%d/%s" % (folder, os.fsencode(os.path.basename(path))))
    finally:
        os.close(folder)
