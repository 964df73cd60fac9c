"""What `doctor` looks at. Each check looks, never mends, and says what to do about what it finds."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from blockvault.cli.failures import explain
from blockvault.clock import utc_now
from blockvault.config import default_state_dir
from blockvault.errors import BlockVaultError, NotFoundError
from blockvault.units import GIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.cli.call import Call
    from blockvault.vault import Vault

FREE_SHARE_MIN = 0.05
FREE_BYTES_MIN = GIB


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`."""

    level: Level
    check: str
    text: str
    do: str | None = None


def all_findings(call: Call, item: str | None) -> Iterator[Finding]:
    """Every check, from the ground up: program, machine, folders, vault, images."""
    yield check_kernel()
    yield check_lmdb()
    yield check_clock()
    try:
        files = call.settings.files
    except BlockVaultError as error:
        yield _failed("configuration", error)
        return  # where state and vaults lie is not known
    yield Finding(Level.OK, "configuration", ", ".join(files) or "no file; what is built in applies")
    state = default_state_dir()
    yield check_state_folder(state)
    yield check_space("state folder", state)
    yield from check_alerts(state)
    try:
        vault = call.open_vault()
    except NotFoundError as error:
        if error.kind == "vault.not-found" and item is None and call.vault_option is None:
            yield Finding(Level.OK, "vault", "none yet; the first `blockvault snapshot DISK` makes it")
        else:
            yield _failed("vault", error)
        return
    except (BlockVaultError, OSError) as error:
        yield _failed("vault", explain(error))
        return
    with vault:
        yield from check_vault(vault)
        yield from check_images(vault, item)
        if item is not None:
            yield from check_guest(vault, item)


def check_kernel() -> Finding:
    """Whether the compiled core is there and a release build."""
    try:
        from blockvault import kernel
    except BlockVaultError as error:
        return _failed("core", error)
    build = kernel.build_info()
    simd = " ".join(build["simd"]) or "no SIMD"
    text = f"{kernel.KERNEL} {build['version']}, {build['profile']} build, {simd}, {build['threads']} threads"
    if kernel.KERNEL != "native":
        return Finding(Level.WARN, "core", text, "unset BLOCKVAULT_KERNEL: the reference is many times slower")
    if build["profile"] != "release":
        return Finding(Level.WARN, "core", text, "install a release build: pip install .")
    return Finding(Level.OK, "core", text)


def check_lmdb() -> Finding:
    """Which LMDB keeps the index."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding(Level.OK, "LMDB", f"lmdb {version('lmdb')}")
    except PackageNotFoundError:
        return Finding(Level.FAIL, "LMDB", "the package lmdb is not installed", "pip install lmdb")


def check_clock() -> Finding:
    """Whether the clock can be believed: points are named and kept by it."""
    now = utc_now()
    text = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now.year < 2025:
        return Finding(Level.FAIL, "clock", f"{text} cannot be", "set the clock, then keep it right with NTP")
    tool = shutil.which("timedatectl")
    if tool:
        done = subprocess.run(
            [tool, "show", "-p", "NTPSynchronized", "--value"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip() == "no":
            return Finding(Level.WARN, "clock", f"{text}, not kept by NTP", "timedatectl set-ntp true")
        if done.returncode == 0 and done.stdout.strip() == "yes":
            text += ", kept by NTP"
    return Finding(Level.OK, "clock", text)


def check_alerts(state: str) -> Iterator[Finding]:
    """Whether somebody looks at what is due, and what is wrong that nobody has acknowledged."""
    from blockvault.cli.alerts import known_alerts
    from blockvault.model.alert import AlertState
    from blockvault.reports.alerts import heartbeat, silence

    beat, silent = heartbeat(state), silence(state, utc_now())
    if silent is not None:
        yield Finding(Level.WARN, "daemon", silent.text, silent.do)
    elif beat is not None:
        yield Finding(Level.OK, "daemon", f"it looked at what is due at {beat[0]:%Y-%m-%d %H:%M} UTC")
    try:
        found = [alert for alert in known_alerts() if alert.state is AlertState.OPEN and alert.finding != silent]
    except BlockVaultError as error:
        yield _failed("alerts", error)
        return
    if found:
        do = "see `blockvault alert list`"
        yield Finding(Level.WARN, "alerts", f"{len(found)} open, the worst: {found[0].finding.text}", do)


def check_state_folder(folder: str) -> Finding:
    """Whether the state folder can be used, and by its owner alone."""
    nearest = _nearest_folder(folder)
    if nearest != folder:
        if os.access(nearest, os.W_OK | os.X_OK):
            return Finding(Level.OK, "state folder", f"{folder} will be made")
        return Finding(
            Level.FAIL,
            "state folder",
            f"{folder} cannot be made",
            f"allow writing in {nearest}, or set BLOCKVAULT_STATE_DIR",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            Level.FAIL, "state folder", f"{folder} is not yours to write", f"chown it, or use sudo: {folder}"
        )
    if stat.S_IMODE(os.stat(folder).st_mode) & 0o022:
        return Finding(Level.WARN, "state folder", f"{folder} can be written by others", f"chmod go-w {folder}")
    return Finding(Level.OK, "state folder", folder)


def check_space(name: str, folder: str) -> Finding:
    """Whether there is room where a folder lies."""
    usage = shutil.disk_usage(_nearest_folder(folder))
    text = f"{format_size(usage.free)} of {format_size(usage.total)} free at {folder}"
    if usage.free < FREE_BYTES_MIN or usage.free < FREE_SHARE_MIN * usage.total:
        return Finding(Level.WARN, f"space, {name}", text, "free some space: a job that finds none fails")
    return Finding(Level.OK, f"space, {name}", text)


def check_vault(vault: Vault) -> Iterator[Finding]:
    """An opened vault: its records, its room, and points from the future."""
    points = vault.points()
    kind = "encrypted" if vault.encrypted else "not encrypted"
    yield Finding(Level.OK, "vault", f"'{vault.name}' opens: {kind}, {len(points)} points, {vault.path}")
    if os.stat(vault.path).st_dev != os.stat(_nearest_folder(default_state_dir())).st_dev:
        yield check_space("vault", vault.path)
    if vault.encrypted:
        yield check_keys(vault)
    newest = max((info.taken for info in points), default=None)
    if newest is not None and newest > utc_now() + timedelta(minutes=5):
        yield Finding(
            Level.WARN, "points", f"the newest was taken in the future: {newest:%Y-%m-%d %H:%M} UTC", "check the clock"
        )


def check_keys(vault: Vault) -> Finding:
    """The ways into an encrypted vault: whether each can be read."""
    slots = vault.keys.slots()
    damaged = [f"keys/{slot.slot}" for slot in slots if slot.damage]
    if damaged:
        do = "add a key and remove these (`blockvault vault key`), or put them back from a copy of the vault"
        return Finding(Level.WARN, "keys", f"damaged key slots: {', '.join(damaged)}", do)
    count = "one key slot opens it" if len(slots) == 1 else f"{len(slots)} key slots open it"
    return Finding(
        Level.OK, "keys", f"{count}; `blockvault vault key export` prints one for the day when these are lost"
    )


def check_images(vault: Vault, name: str | None) -> Iterator[Finding]:
    """The disk images of one item, or of all: there, readable, and whether snapshots are instant."""
    try:
        items = vault.items() if name is None else [vault.item(name)]
    except NotFoundError as error:
        yield _failed("item", error)
        return
    for item in items:
        for disk in item.disks:
            label = f"{item.name}/{disk.name}"
            if not os.path.exists(disk.path):
                yield Finding(
                    Level.WARN,
                    label,
                    f"{disk.path} is not there",
                    f"blockvault item set {item.name} --disk {disk.name}=PATH",
                )
            elif not os.access(disk.path, os.R_OK):
                yield Finding(
                    Level.FAIL, label, f"{disk.path} is not readable", "run as a user who may, for example with sudo"
                )
            else:
                yield Finding(Level.OK, label, f"{disk.path}: {_snapshot_manner(disk.path, item.snapshot_dir)}")


def check_guest(vault: Vault, name: str) -> Iterator[Finding]:
    """What makes an item's points more than crash-consistent: its guest agent, its scripts."""
    from blockvault.cli.commands.item_show import agent_text

    try:
        item = vault.item(name)
        hooks = vault.hooks(name)
    except NotFoundError:
        return  # told with its images
    except BlockVaultError as error:
        yield _failed("hooks", error)
        return
    agent = vault.agent_state(item)
    if agent is not None:
        good = agent.answers and agent.can_freeze
        do = agent.do or "allow guest-fsfreeze-freeze and -thaw in the guest"
        level = Level.OK if good else Level.WARN
        yield Finding(level, "guest agent", agent_text(agent), None if good else do)
    for mount, problem in vault.mount_problems(item).items():
        if problem is None:
            yield Finding(Level.OK, "frozen mount", mount)
        else:
            yield Finding(
                Level.WARN, "frozen mount", problem.message + f": {problem.why}" * bool(problem.why), problem.do
            )
    for hook in hooks:
        if hook.problem:
            yield Finding(Level.FAIL, f"hook {hook.name}", f"it is not run: {hook.problem}", hook.do)
        else:
            yield Finding(Level.OK, f"hook {hook.name}", hook.path)
    if agent is None and not item.freeze_mounts:
        yield Finding(Level.OK, "consistency", "crash-consistent: the item names no guest agent and no mount to freeze")


def _snapshot_manner(image: str, snapshot_dir: str | None) -> str:
    if not os.path.isfile(image):
        return "a device: snapshots are copies of what changed"
    folder = _nearest_folder(snapshot_dir or os.path.dirname(image))
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} is not writable: snapshots go to the state folder"
    if can_reflink(folder):
        return "snapshots are reflinks: instant, without copying"
    return "the file system cannot reflink: snapshots are copies of what changed"


def can_reflink(folder: str) -> bool:
    """Whether files in the folder can share their extents, tried on two tiny files."""
    from blockvault.image.system import clone

    try:
        with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
            source.write(bytes(4096))
            source.flush()
            clone(source.fileno(), target.fileno())
    except OSError:
        return False
    return True


def _nearest_folder(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _failed(check: str, error: BlockVaultError) -> Finding:
    text = error.message + (f": {error.why}" if error.why else "")
    return Finding(Level.FAIL, check, text, error.do)
