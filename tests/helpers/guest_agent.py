"""A guest agent to talk to: it keeps to the protocol as qemu-ga does, or does not, as the test says."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

Answer = Callable[[dict[str, Any]], bytes | None]


class FakeAgent:
    """Serves one client after the other, as QEMU does. `asked` has the commands in order, `frozen` its state.

    `answers` replaces what is said to a command: bytes as they are, or None for silence.
    """

    def __init__(self, folder: Path, *, version: str = "9.9.9", before: bytes = b"") -> None:
        self.path = str(folder / f"agent-{os.urandom(3).hex()}.sock")
        self.version = version
        self.before = before  # said to every client before anything was asked
        self.frozen = False
        self.freezes = 0
        self.asked: list[str] = []
        self.answers: dict[str, bytes | None] = {}
        self.on_freeze: Callable[[], None] = lambda: None
        self.can_freeze = True
        self._ending = False
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(4)
        self._clients: list[socket.socket] = []
        self.thawed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ending = True
        for end in (self._server, *self._clients):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join(10)
        assert not self._thread.is_alive()
        for end in (self._server, *self._clients):
            end.close()
        os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._ending:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            try:
                self._talk(client)
            except OSError:
                pass

    def _talk(self, client: socket.socket) -> None:
        client.sendall(self.before)
        data = b""
        while piece := client.recv(65536):
            data += piece
            while b"\n" in data:
                line, _, data = data.partition(b"\n")
                said = self._say(line.rpartition(b"\xff")[2])
                if said is not None:
                    client.sendall(said)

    def _say(self, line: bytes) -> bytes | None:
        request = json.loads(line)
        command = request["execute"]
        self.asked.append(command)
        if command in self.answers:
            return self.answers[command]
        if command == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"
        return json.dumps({"return": self._answer(command)}).encode() + b"\n"

    def _answer(self, command: str) -> Any:
        if command == "guest-info":
            names = ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-sync-delimited")
            commands = [{"name": name, "enabled": self.can_freeze} for name in names]
            return {"version": self.version, "supported_commands": commands}
        if command == "guest-fsfreeze-freeze":
            self.frozen = True
            self.freezes += 1
            self.thawed.clear()
            self.on_freeze()
            return 2
        if command == "guest-fsfreeze-thaw":
            was, self.frozen = self.frozen, False
            self.thawed.set()
            return 2 if was else 0
        if command == "guest-fsfreeze-status":
            return "frozen" if self.frozen else "thawed"
        raise AssertionError(command)
