"""Descriptions of virtual machines: what is read of them, and that hostile ones do nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvault.discovery import libvirt
from blockvault.discovery.libvirt import DomainDisk, find_domains, parse_domain, read_domain
from blockvault.errors import DeviceError, NotFoundError, UnsupportedError

RECORDED = Path(__file__).parents[1] / "helpers/libvirt"


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.xml").read_bytes()


def test_a_running_machine_with_an_agent() -> None:
    domain = parse_domain(recorded("web01"))
    assert (domain.name, domain.uuid) == ("web01", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0")
    assert domain.disks == (
        DomainDisk("vda", "", "file", "raw"),  # @FOLDER@ is no absolute path
        DomainDisk("vdb", "", "file", "qcow2"),
    )
    assert domain.agent_socket == "/run/libvirt/qemu/channel/3-web01/org.qemu.guest_agent.0"
    placed = parse_domain(recorded("web01").replace(b"@FOLDER@", b"/srv"))
    assert [disk.path for disk in placed.disks] == ["/srv/web01.img", "/srv/web01-data.qcow2"]


def test_devices_and_what_a_cluster_shares() -> None:
    domain = parse_domain(recorded("node2"))
    assert domain.name == "node 2 & more"
    assert domain.disks == (
        DomainDisk("vda", "/dev/vg0/node2", "block", "raw"),
        DomainDisk("sda", "/dev/disk/by-id/wwn-0x5000", "block", "raw", shareable=True),
        DomainDisk("vdc", "/var/lib/libvirt/images/golden.img", "file", "raw", read_only=True),
    )
    assert domain.agent_socket == ""


def test_disks_that_are_elsewhere() -> None:
    domain = parse_domain(recorded("remote"))
    assert [(disk.name, disk.kind, disk.path) for disk in domain.disks] == [
        ("vda", "network", ""),
        ("vdb", "volume", ""),
        ("vde", "nvme", ""),
        ("vdd", "file", ""),
    ]
    assert domain.volumes == (("vdb", "default", "remote-data.img"),)


BOMB = b"""<?xml version="1.0"?><!DOCTYPE domain [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><domain><name>&c;</name></domain>"""
FILE = b'<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/passwd">]><domain><name>&f;</name></domain>'


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        FILE,
        b'<!DOCTYPE domain SYSTEM "http://127.0.0.1:9/x.dtd"><domain/>',
        b"<domain><name>&undeclared;</name></domain>",
        b"<domain>" + b"<a>" * 100 + b"</a>" * 100 + b"</domain>",
        b"<pool/>",
        b"<domain>",
        b"",
        b"\x00\xff",
        b'<?xml version="1.0" encoding="no-such"?><domain/>',
        b"<domain><devices><disk type='file'><source file='/x'/><target dev='../x'/></disk></devices></domain>",
        b"<domain><devices><disk type='file'><source file='/x'/></disk></devices></domain>",
        b"<domain><devices>" + b"<disk type='file'><target dev='vda'/></disk>" * 2 + b"</devices></domain>",
    ],
)
def test_what_is_no_description_of_a_machine_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedError) as raised:
        parse_domain(data)
    assert raised.value.kind == "libvirt.bad-description"
    assert "root:" not in str(raised.value.why)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f"<domain>{text}</domain>".encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    kinds = {None, "libvirt.bad-description"}
    kind = None
    try:
        parse_domain(data)
    except UnsupportedError as error:
        kind = error.kind
    assert kind in kinds


@pytest.fixture
def fake_virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `virsh` of shell that prints files of a folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "virsh"
    script.write_text(
        "#!/bin/sh\n"
        f'cd "{tmp_path}" || exit 9\n'
        'echo "$@" >> asked\n'
        '[ "$1 $2" = "--readonly --quiet" ] || exit 8\n'
        "shift 2\n"
        'case "$1 $2" in\n'
        "  'list --all') cat all ;;\n"
        "  'list --name') cat running ;;\n"
        '  \'dumpxml --domain\') if [ -e "$3.xml" ]; then cat "$3.xml"; else\n'
        '    echo "error: failed to get domain" >&2; exit 1; fi ;;\n'
        "  'vol-path --pool') echo \"$PWD/$5\" ;;\n"
        "  *) exit 7 ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("web01", "remote"):
        (tmp_path / f"{name}.xml").write_bytes(recorded(name).replace(b"@FOLDER@", str(tmp_path).encode()))
    (tmp_path / "all").write_text("web01\nremote\ngone\n\n")
    (tmp_path / "running").write_text("web01\n\n")
    return tmp_path


def test_all_machines_are_asked_for_and_one_that_fails_is_told(fake_virsh: Path) -> None:
    (fake_virsh / "remote-data.img").write_bytes(b"x")
    domains, notes = find_domains()
    assert [(domain.name, domain.running) for domain in domains] == [("web01", True), ("remote", False)]
    assert domains[1].disks[1].path == f"{fake_virsh}/remote-data.img"
    assert notes == ["the virtual machine 'gone' was passed over: failed to get domain"]
    assert all(line.startswith("--readonly --quiet ") for line in (fake_virsh / "asked").read_text().splitlines())


def test_one_machine(fake_virsh: Path) -> None:
    assert read_domain("web01").running
    with pytest.raises(NotFoundError) as raised:
        read_domain("web02")
    assert (raised.value.kind, raised.value.why) == ("libvirt.no-domain", "it has: web01, remote, gone")


def test_a_virsh_that_fails_hangs_or_is_not_there(fake_virsh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    virsh = fake_virsh / "bin/virsh"
    virsh.write_text("#!/bin/sh\necho 'error: Failed to connect socket' >&2\nexit 1\n")
    assert find_domains() == ([], ["libvirt was not asked: Failed to connect socket"])
    virsh.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(libvirt, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(DeviceError, match="does not answer"):
        read_domain("web01")
    virsh.chmod(stat.S_IRUSR)
    monkeypatch.setenv("PATH", str(fake_virsh / "bin"))
    with pytest.raises(NotFoundError) as raised:
        read_domain("web01")
    assert raised.value.kind == "libvirt.not-there"
