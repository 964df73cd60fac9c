"""The daemon as systemd runs it: ready, alive, stopping, told through a real socket."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from helpers.program import Program

pytestmark = pytest.mark.no_bytes


def test_the_daemon_is_ready_alive_and_stops(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    address = program.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(60)
        process = program.start("daemon", env={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "1000000"})
        try:
            told = [listener.recv(4096).decode() for _ in range(5)]
            # The loop has turned once before it says that it is ready; then it turns in half the watchdog's time,
            # though nothing is due for a minute.
            assert told[0].startswith("WATCHDOG=1\nSTATUS=0 at work, next look ")
            assert told[1] == "READY=1"
            assert all(each.startswith("WATCHDOG=1\n") for each in told[2:])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0
        listener.setblocking(False)
        rest = []
        while True:
            try:
                rest.append(listener.recv(4096).decode())
            except BlockingIOError:
                break
        assert rest[-1] == "STOPPING=1"


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here: it would be asked to start it")
def test_install_and_uninstall_in_a_folder_of_its_own(program: Program) -> None:
    if os.geteuid() == 0:
        pytest.skip("root gets system units, in /etc")
    config = program.folder / "config"
    env = {"XDG_CONFIG_HOME": str(config)}
    done = program.run("service", "install", "--json", env=env, code=0).document
    assert done["written"] == [str(config / "systemd" / "user" / "blockvault.service")]
    assert done["started"] is False
    program.run("service", "uninstall", "--yes", env=env, code=0)
    assert os.listdir(config / "systemd" / "user") == []
