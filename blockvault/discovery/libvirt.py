"""The virtual machines of libvirt, asked through its `virsh`, where that is installed. Read-only: nothing is changed.

A domain's description is XML that others may have written: it is read by expat without any document type, so no entity
is expanded and nothing outside is fetched, and within bounds of size and depth.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from blockvault.errors import BlockVaultError, DeviceError, NotFoundError, UnsupportedError
from blockvault.ids import DISK_NAME

TIMEOUT_SECONDS = 20
XML_BYTES_MAX = 4 << 20
XML_DEPTH_MAX = 64
DOMAINS_MAX = 10_000
AGENT_CHANNEL = "org.qemu.guest_agent.0"


@dataclass(frozen=True, slots=True)
class DomainDisk:
    """One disk of a domain.

    Args:
        name: what the guest's disk is called, `vda`.
        path: its file or device here; empty: it is neither.
        kind: of its source: `file`, `block`, `volume`, `network`, ...
        format: what libvirt says it is: `raw`, `qcow2`.
        shareable: other domains may write to it at the same time: a cluster's disk.
        read_only: the guest cannot write to it.
    """

    name: str
    path: str
    kind: str
    format: str = ""
    shareable: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Domain:
    """A virtual machine. `agent_socket` is where its guest agent is spoken to; empty: libvirt does not say."""

    name: str
    uuid: str
    disks: tuple[DomainDisk, ...]
    agent_socket: str = ""
    running: bool = False
    volumes: tuple[tuple[str, str, str], ...] = ()  # disks that are named by pool and volume: disk, pool, volume


def is_there() -> bool:
    """Whether there is a `virsh` to ask."""
    return shutil.which("virsh") is not None


def find_domains() -> tuple[list[Domain], list[str]]:
    """All domains, and what went wrong where one, or libvirt itself, could not be asked."""
    try:
        names = [line for line in _virsh("list", "--all", "--name").splitlines() if line.strip()]
        running = set(_virsh("list", "--name").splitlines())
    except BlockVaultError as error:
        return [], [f"libvirt was not asked: {error.why or error.message}"]
    domains, notes = [], []
    for name in names[:DOMAINS_MAX]:
        try:
            domains.append(_read(name, running=name in running))
        except BlockVaultError as error:
            notes.append(f"the virtual machine '{name}' was passed over: {error.why or error.message}")
    if len(names) > DOMAINS_MAX:
        notes.append(f"of {len(names)} virtual machines only {DOMAINS_MAX} were looked at")
    return domains, notes


def read_domain(name: str) -> Domain:
    """One domain.

    Raises:
        NotFoundError: there is none of that name (`libvirt.no-domain`), or no `virsh` (`libvirt.not-there`).
        UnsupportedError: its description cannot be read (`libvirt.bad-description`).
        DeviceError: libvirt does not answer (`libvirt.failed`).
    """
    if not is_there():
        raise NotFoundError(
            "libvirt.not-there",
            "libvirt cannot be asked for its virtual machines",
            why="there is no program `virsh`",
            do="install it (libvirt-clients), or name the disks themselves",
        )
    names = _virsh("list", "--all", "--name").splitlines()
    if name not in names:
        raise NotFoundError(
            "libvirt.no-domain",
            f"libvirt has no virtual machine '{name}'",
            why=f"it has: {', '.join(filter(None, names[:8])) or 'none'}",
            do="see `virsh list --all`; another user's machines are seen with LIBVIRT_DEFAULT_URI=qemu:///system",
        )
    return _read(name, running=name in _virsh("list", "--name").splitlines())


def parse_domain(data: bytes) -> Domain:
    """A domain from what `virsh dumpxml` prints. Raises `UnsupportedError` (`libvirt.bad-description`)."""
    root = _parse(data)
    if root.tag != "domain":
        raise _bad(f"it describes no domain but a {root.tag[:40]}")
    disks: list[DomainDisk] = []
    volumes: list[tuple[str, str, str]] = []
    for node in root.findall("devices/disk"):
        if node.get("device", "disk") not in ("disk", "lun"):
            continue  # a CD or floppy disk is a medium, not the machine's own
        source, target, driver = node.find("source"), node.find("target"), node.find("driver")
        name = _attribute(target, "dev")
        if not DISK_NAME.match(name) or any(disk.name == name for disk in disks):
            raise _bad("it has a disk without a name, or two of one name")
        kind = node.get("type", "")
        path = _attribute(source, {"file": "file", "block": "dev"}.get(kind, ""))
        if kind == "volume":
            volumes.append((name, _attribute(source, "pool"), _attribute(source, "volume")))
        disks.append(
            DomainDisk(
                name,
                path if os.path.isabs(path) and "\0" not in path else "",
                kind[:40],
                _attribute(driver, "type")[:40],
                shareable=node.find("shareable") is not None,
                read_only=node.find("readonly") is not None,
            )
        )
    agent = ""
    for channel in root.findall("devices/channel"):
        if channel.get("type") == "unix" and _attribute(channel.find("target"), "name") == AGENT_CHANNEL:
            agent = _attribute(channel.find("source"), "path")
    name = (root.findtext("name") or "").strip()
    uuid = (root.findtext("uuid") or "").strip()
    return Domain(name, uuid[:40], tuple(disks), agent if os.path.isabs(agent) else "", volumes=tuple(volumes))


def _read(name: str, *, running: bool) -> Domain:
    domain = parse_domain(_virsh("dumpxml", "--domain", name).encode("utf-8", "surrogateescape"))
    paths = {}
    for disk, pool, volume in domain.volumes:
        try:
            path = _virsh("vol-path", "--pool", pool, "--vol", volume).strip()
        except BlockVaultError:
            continue
        paths[disk] = path if os.path.isabs(path) and os.path.exists(path) else ""
    disks = tuple(
        DomainDisk(disk.name, paths.get(disk.name, disk.path), disk.kind, disk.format, disk.shareable, disk.read_only)
        for disk in domain.disks
    )
    return Domain(name, domain.uuid, disks, domain.agent_socket, running)


def _virsh(*words: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["virsh", "--readonly", "--quiet", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"`virsh {words[0]}` did not answer within {TIMEOUT_SECONDS} seconds"
        raise DeviceError(
            "libvirt.failed", "libvirt does not answer", why=why, do="look at libvirt's service"
        ) from None
    except OSError as error:
        why = f"`virsh` could not be run: {error.strerror}"
        raise DeviceError("libvirt.failed", "libvirt does not answer", why=why, do="look at its rights") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1].removeprefix("error: ")[:200] if lines else f"`virsh {words[0]}` ended with {done.returncode}"
        raise DeviceError("libvirt.failed", "libvirt does not answer", why=why, do="see whether `virsh list` works")
    if len(done.stdout) > XML_BYTES_MAX:
        raise _bad("it is too long")
    return done.stdout.decode("utf-8", "surrogateescape")


def _parse(data: bytes) -> Element:
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > XML_DEPTH_MAX:
            raise _bad("it is nested too deeply")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise _bad("it declares a document type, which libvirt's never do")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _bad(str(error)) from None
    return builder.close()


def _attribute(node: Element | None, name: str) -> str:
    return node.get(name, "") if node is not None and name else ""


def _bad(reason: str) -> UnsupportedError:
    return UnsupportedError(
        "libvirt.bad-description",
        "libvirt's description of a virtual machine cannot be read",
        why=reason,
        do="look at it with `virsh dumpxml`, or name the disks themselves",
    )
