"""What systemd is told (sd_notify), and the units that run the daemon, or the timer that stands in for it.

    blockvault.service          the daemon, `Type=notify`, with a watchdog, hardened
    blockvault-once.service     `blockvault daemon --once`, and
    blockvault-once.timer       every few minutes: for those who want no daemon

Root gets system units, anybody else units of their own user manager. The protocol of notification is that of
sd_notify(3): lines of `KEY=VALUE` in one datagram to the socket that `$NOTIFY_SOCKET` names.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.errors import InvalidInputError
from blockvault.store.local import device_error, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_WATCHDOG_SECONDS = 3600.0
TIMER_MINUTES = 5
_NAMES = ("blockvault.service", "blockvault-once.service", "blockvault-once.timer")


class Notifier:
    """Tells systemd how the daemon is; silent where nobody listens."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        # For the processes that this one starts it is not meant.
        watched = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        usec = os.environ.get("WATCHDOG_USEC", "")
        # Half of what it waits, as sd_watchdog_enabled(3) advises.
        self.watchdog_seconds = int(usec) / 2e6 if watched and usec.isdigit() and int(usec) else _NO_WATCHDOG_SECONDS

    def ready(self) -> None:
        """The daemon has begun."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """The loop has turned; `status` is a line for people."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The daemon ends in good order."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
            try:
                stream.connect(address)
                stream.sendall(text.encode())
            except OSError:
                pass  # whoever started the daemon does not listen: it works all the same


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit file."""

    name: str
    text: str


_HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome={home}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
"""
# A user's own manager cannot take away what it does not have to give.
_HARDENED_USER = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077
"""


def unit_folder(*, system: bool) -> str:
    """Where unit files are put."""
    if system:
        return "/etc/systemd/system"
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, "systemd", "user")


def units(state_dir: str, *, system: bool, timer: bool, program: Sequence[str] = ()) -> list[Unit]:
    """The unit files of the daemon, or of the timer.

    Args:
        state_dir: the host's state folder.
        system: of the system's manager, else of the user's own.
        timer: a timer that runs `daemon --once`, instead of a daemon.
        program: the words that start BlockVault; none: this very Python.
    """
    words = list(program) or [sys.executable, "-m", "blockvault"]
    environment = f"Environment={_quoted(f'BLOCKVAULT_STATE_DIR={state_dir}')}\n"
    hardened = _HARDENED.format(home="no") if system else _HARDENED_USER
    wanted = "multi-user.target" if system else "default.target"
    made = "# Made by `blockvault service install`, which replaces it: changes go into a drop-in.\n"
    credentials = ""
    if system:
        credentials = (
            "# Passphrases: systemd-creds encrypt --name=blockvault.VAULT.password - FILE, then in a drop-in\n"
        )
        credentials += "# LoadCredentialEncrypted=blockvault.VAULT.password:FILE\n"
    if not timer:
        text = (
            f"{made}[Unit]\nDescription=BlockVault: scheduled backups of virtual machines and disk images\n"
            "After=local-fs.target network-online.target\nWants=network-online.target\n"
            "StartLimitIntervalSec=0\n\n[Service]\nType=notify\nNotifyAccess=main\n"
            f"ExecStart={_line([*words, 'daemon'])}\n{environment}{credentials}"
            "Restart=always\nRestartSec=1\nWatchdogSec=120\nTimeoutStopSec=120\nKillMode=process\n"
            f"OOMPolicy=continue\nNice=5\n{hardened}\n[Install]\nWantedBy={wanted}\n"
        )
        return [Unit("blockvault.service", text)]
    service = (
        f"{made}[Unit]\nDescription=BlockVault: all backups that are due\nAfter=local-fs.target\n\n[Service]\n"
        f"Type=oneshot\nExecStart={_line([*words, 'daemon', '--once'])}\n{environment}{credentials}"
        f"TimeoutStartSec=infinity\nKillMode=process\nNice=5\n{hardened}"
    )
    clock = (
        f"{made}[Unit]\nDescription=BlockVault: look every {TIMER_MINUTES} minutes what is due\n\n[Timer]\n"
        f"OnBootSec=2min\nOnUnitInactiveSec={TIMER_MINUTES}min\nAccuracySec=30s\n\n[Install]\nWantedBy=timers.target\n"
    )
    return [Unit("blockvault-once.service", service), Unit("blockvault-once.timer", clock)]


def installed(*, system: bool) -> list[str]:
    """The paths of the unit files that are there."""
    folder = unit_folder(system=system)
    return [path for name in _NAMES if os.path.lexists(path := os.path.join(folder, name))]


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install` did: the files, whether systemd runs them now, and the commands that are left to the user."""

    paths: tuple[str, ...]
    started: bool
    left: tuple[str, ...]


def install(made: Sequence[Unit], *, system: bool) -> Installed:
    """Write unit files, replace those that are there, and have systemd start the last.

    Raises:
        DeviceError: a file cannot be written.
    """
    folder = unit_folder(system=system)
    try:
        os.makedirs(folder, exist_ok=True)
        for path in installed(system=system):
            if os.path.basename(path) not in {unit.name for unit in made}:
                _systemctl(system, "disable", "--now", os.path.basename(path))
                os.unlink(path)
        for unit in made:
            replace_file(os.path.join(folder, unit.name), unit.text.encode())
            os.chmod(os.path.join(folder, unit.name), 0o644)
    except OSError as error:
        raise device_error(error, f"writing unit files into {folder}", kind="service.not-written") from error
    paths = tuple(os.path.join(folder, unit.name) for unit in made)
    commands = (("daemon-reload",), ("enable", "--now", made[-1].name))
    if all(_systemctl(system, *words) for words in commands):
        return Installed(paths, True, ())
    return Installed(paths, False, tuple(" ".join(_words(system, *words)) for words in commands))


def uninstall(*, system: bool) -> None:
    """Stop and remove the units. Raises `DeviceError` where a file cannot be removed."""
    for path in installed(system=system):
        _systemctl(system, "disable", "--now", os.path.basename(path))
        try:
            os.unlink(path)
        except OSError as error:
            raise device_error(error, f"removing {path}", kind="service.not-removed") from error
    _systemctl(system, "daemon-reload")


def _words(system: bool, *words: str) -> list[str]:
    return ["systemctl", *([] if system else ["--user"]), *words]


def _systemctl(system: bool, *words: str) -> bool:
    """Whether systemd is there and did it."""
    if not os.path.isdir("/run/systemd/system"):
        return False
    try:
        return subprocess.run(_words(system, *words), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _line(words: Sequence[str]) -> str:
    """A command as systemd reads it. Of a program's name it takes neither quotes nor `$`: `env` stands in front."""
    if any(sign in words[0] for sign in "\"'\\$"):
        if "=" in words[0]:
            raise InvalidInputError(
                "service.bad-program",
                f"systemd cannot start {words[0]}",
                why="its path has quotes, backslashes or dollar signs, and an equals sign",
                do="install BlockVault in another folder",
            )
        words = ["/usr/bin/env", *words]
    return " ".join([_quoted(words[0]), *(_quoted(word).replace("$", "$$") for word in words[1:])])


def _quoted(word: str) -> str:
    """A word as systemd reads it: quotes, backslashes and `%` are its own signs; `$` is one in a command alone."""
    word = word.replace("%", "%%")
    if any(sign in word for sign in " \t\"'\\;"):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word
