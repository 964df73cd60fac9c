"""Units as systemd itself reads them, and the messages that it gets through a real socket."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from blockvault.daemon import service
from blockvault.daemon.service import Notifier, install, installed, uninstall, units

# Of systemd-analyze, from 0 (nothing is open) to 10. The daemon reads disks, writes anywhere that a restore is wanted
# and runs hooks: what is left open is that.
EXPOSURE_MAX = {True: 6.5, False: 9.0}
_NEEDS_SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program in a folder whose name has all that a unit file has to be careful with."""
    folder = tmp_path / "my \"own\" 100% $HOME folder; 'x'"
    folder.mkdir()
    path = folder / "block vault"
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    path.chmod(0o755)
    return str(path)


def written(folder: Path, program: str, *, system: bool, timer: bool) -> list[Path]:
    state = str(folder / 'the state, 50% "of it" $X')
    folder.mkdir()
    paths = []
    for unit in units(state, system=system, timer=timer, program=[program]):
        paths.append(folder / unit.name)
        paths[-1].write_text(unit.text)
    return paths


@_NEEDS_SYSTEMD
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("timer", [True, False])
def test_systemd_finds_nothing_wrong(tmp_path: Path, program: str, system: bool, timer: bool) -> None:
    for path in written(tmp_path / "units", program, system=system, timer=timer):
        words = ["systemd-analyze", "verify", "--man=no", *([] if system else ["--user"]), str(path)]
        ended = subprocess.run(words, capture_output=True, text=True)
        # What it says of other units of the machine is not ours.
        said = [line for line in ended.stderr.splitlines() if "blockvault" in line]
        assert said == []
        if "blockvault" not in ended.stderr and ended.returncode != 0 and not system:
            continue  # without a user manager some of its own units are missing
        assert ended.returncode == 0, ended.stderr


@_NEEDS_SYSTEMD
def test_systemd_would_find_what_is_wrong(tmp_path: Path, program: str) -> None:
    (path,) = written(tmp_path / "units", program, system=True, timer=False)
    path.write_text(path.read_text().replace("Type=notify", "Type=notified"))
    ended = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    assert "notified" in ended.stderr


@_NEEDS_SYSTEMD
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("timer", [True, False])
def test_the_hardening_is_what_it_was(tmp_path: Path, program: str, system: bool, timer: bool) -> None:
    path = written(tmp_path / "units", program, system=system, timer=timer)[0]
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
    ended = subprocess.run(words, capture_output=True, text=True)
    if "unrecognized option" in ended.stderr:
        pytest.skip("this systemd cannot look at a file")
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert level is not None, ended.stdout + ended.stderr
    assert float(level[1]) <= EXPOSURE_MAX[system]


@pytest.mark.parametrize("timer", [True, False])
def test_names_come_through_systemds_quoting(tmp_path: Path, program: str, timer: bool) -> None:
    """By the rules of systemd.syntax(7), read by a reader of our own."""
    (text,) = [path.read_text() for path in written(tmp_path / "units", program, system=True, timer=timer)[:1]]
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    words = _split(line.partition("=")[2])
    assert words[0] == "/usr/bin/env", "of a program's name systemd takes no quotes"
    assert [word.replace("$$", "$") for word in words[1:]] == [program, "daemon", *(["--once"] if timer else [])]
    line = next(line for line in text.splitlines() if line.startswith("Environment="))
    (word,) = _split(line.partition("=")[2])
    assert word == f'BLOCKVAULT_STATE_DIR={tmp_path}/units/the state, 50% "of it" $X'


def _split(text: str) -> list[str]:
    words, word, quote, at = [], "", "", 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            at += 1
            word += text[at]
        elif sign == "%":
            at += 1
            assert text[at] == "%", "a specifier"
            word += "%"
        elif sign == quote:
            quote = ""
        elif not quote and sign in "\"'" and not word:
            quote = sign
        elif sign == " " and not quote:
            words.append(word)
            word = ""
        else:
            word += sign
        at += 1
    return [*words, word]


def test_install_writes_and_uninstall_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    asked: list[tuple[str, ...]] = []

    def systemctl(_system: bool, *words: str) -> bool:
        asked.append(words)
        return False

    monkeypatch.setattr(service, "_systemctl", systemctl)  # this machine's systemd is left alone
    folder = tmp_path / "systemd" / "user"
    done = install(units("/state", system=False, timer=False), system=False)
    assert done.paths == (str(folder / "blockvault.service"),)
    assert not done.started
    assert done.left == ("systemctl --user daemon-reload", "systemctl --user enable --now blockvault.service")
    assert (folder / "blockvault.service").stat().st_mode & 0o777 == 0o644
    # A timer in its place: the daemon's unit goes, having been stopped.
    install(units("/state", system=False, timer=True), system=False)
    assert sorted(os.listdir(folder)) == ["blockvault-once.service", "blockvault-once.timer"]
    assert ("disable", "--now", "blockvault.service") in asked
    (folder / "other.service").write_text("[Unit]\n")
    uninstall(system=False)
    assert os.listdir(folder) == ["other.service"]
    assert installed(system=False) == []
    uninstall(system=False)


# --- sd_notify -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_by_datagrams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"\0blockvault-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        notifier = Notifier()
        notifier.ready()
        notifier.alive("2 at work, next look 2026-11-20T02:00:00Z")
        notifier.stopping()
        told = [listener.recv(4096).decode() for _ in range(3)]
    assert told == ["READY=1", "WATCHDOG=1\nSTATUS=2 at work, next look 2026-11-20T02:00:00Z", "STOPPING=1"]


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "gone"), "@gone"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        Notifier().ready()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("120000000", None, 60.0), ("120000000", "own", 60.0), ("120000000", "1", 3600.0), ("", None, 3600.0),
     ("nonsense", None, 3600.0), ("0", None, 3600.0)],
)  # fmt: skip
def test_the_watchdog_is_fed_in_half_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert Notifier().watchdog_seconds == seconds
