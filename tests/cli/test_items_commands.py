"""`item add|set|remove`: what may become an item's disk, what is refused and what is told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.disks import MIB, convert, run, sparse
from helpers.program import Ended, Program

pytestmark = pytest.mark.no_bytes

MakeDisk = Callable[[str], Path]


def add(program: Program, *words: str | Path, code: int = 0) -> dict[str, object]:
    document: dict[str, object] = program.run("item", "add", *words, "--json", code=code).document
    return document


def test_an_item_of_two_disks_and_no_point(program: Program, make_disk: MakeDisk) -> None:
    first, second = make_disk("root.img"), make_disk("data/root.img")
    item = add(
        program, "web01", first, second, f"vdc={make_disk('third.img')}", "--chunk-size", "128K", "--comment", "x"
    )
    assert item["schema"] == "blockvault.item/1"
    assert item["disks"] == [
        {"disk": "root", "path": str(first)},
        {"disk": "root-2", "path": str(second)},
        {"disk": "vdc", "path": str(program.folder / "third.img")},
    ]
    assert (item["chunk_bytes"], item["comment"]) == (131072, "x")
    assert program.run("points", "--json", code=0).document["points"] == []
    program.run("snapshot", "web01", code=0)
    for disk in ("root", "root-2", "vdc"):
        program.run("restore", "--point", "1", "--disk", disk, "-o", f"{disk}.out", code=0)
        assert (program.folder / f"{disk}.out").read_bytes() == first.read_bytes()


def test_what_cannot_be_an_item_leaves_nothing_behind(program: Program, disk: Path, make_disk: MakeDisk) -> None:
    program.run("vault", "create", "default", "--no-encryption", code=0)
    (program.folder / "notes.txt").write_text("not a disk\n" * 99)
    bad = [
        (("web", "missing.img"), 15, "image.not-found"),
        (("web", "."), 15, "image.is-folder"),
        (("web", "notes.txt"), 15, "image.not-a-disk"),
        (("no spaces", disk), 2, "item.bad-name"),
        (("web",), 2, "item.no-disk"),
        (("web", disk, "--chunk-size", "100K"), 2, "input.chunk-size"),
        (("web", disk, disk), 2, "item.disk-twice"),
        (("web", f"vda={disk}", f"vda={make_disk('b.img')}"), 2, "item.disk-twice"),
        (("web", "--domain", "vm"), 13, "libvirt.not-there"),
    ]
    for words, code, kind in bad:
        path = str(program.folder / "bin")  # no virsh there
        ended = program.run("item", "add", *words, env={"PATH": path}, code=code)
        assert ended.kind == kind
    assert program.run("item", "list", "--json", code=0).document["items"] == []


def test_a_disk_is_known_by_what_it_is_and_not_by_its_path(program: Program, disk: Path) -> None:
    add(program, "web", disk)
    os.link(disk, program.folder / "hard.img")
    os.symlink(disk, program.folder / "soft.img")
    for path in (disk, program.folder / "hard.img", program.folder / "soft.img"):
        ended = program.run("item", "add", "other", path, code=2)
        assert ended.kind == "item.disk-taken"
        assert "item 'web'" in ended.err
    ended = program.run("item", "add", "other", "hard.img", "--shared", code=3)
    assert "[disk.shared]" in ended.err
    assert program.run("item", "add", "web", "hard.img", "--shared", code=2).kind == "item.name-taken"


def test_a_disk_of_another_vault_is_refused_and_the_vault_is_named(program: Program, disk: Path) -> None:
    key = {"BLOCKVAULT_PASSWORD": "not-a-secret"}
    program.run("vault", "create", "sealed", env=key, code=0)
    program.run("vault", "create", "second", "--no-encryption", code=0)
    add_there = program.run("item", "add", "web", disk, "--vault", "sealed", env=key, code=0)
    assert add_there.err == ""
    ended = program.run("item", "add", "web", disk, "--vault", "second", code=2)  # without the key of the other
    assert ended.kind == "item.in-other-vault"
    assert f"item 'web' of the vault 'sealed' ({program.state}/vaults/sealed) has it" in ended.err
    assert (
        program.run("protect", disk, "--policy", "default", "--vault", "second", code=2).kind == "item.in-other-vault"
    )
    # An item that registers itself is not refused, but told.
    ended = program.run("snapshot", disk, "--vault", "second", code=0)
    assert "is a disk of item 'web' of the vault 'sealed'" in ended.err
    program.run("snapshot", disk, "--vault", "second", code=0)


def test_a_vault_that_is_not_there_is_told_of(program: Program, disk: Path) -> None:
    program.run("vault", "create", "away", "--no-encryption", code=0)
    add(program, "web", disk, "--vault", "away")
    (program.state / "vaults/away").rename(program.state / "unplugged")
    ended = program.run("item", "add", "web", disk, code=3)
    assert "vault 'away'" in ended.err
    assert "which is not there now" in ended.err


def test_formats_that_are_kept_as_files_are_told_and_halves_of_them_refused(program: Program, disk: Path) -> None:
    base = convert(disk, program.folder / "base.qcow2", "qcow2")
    over = program.folder / "over.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over)
    assert "[image.whole-file]" in program.run("item", "add", "base", base, code=3).err
    program.run("item", "remove", "base", "--yes", code=0)
    ended = program.run("item", "add", "over", over, code=15)
    assert ended.kind == "image.incomplete"
    assert f"is no whole disk without {base}" in ended.err
    ended = program.run("item", "add", "alone", over, "--as-is", code=3)
    assert "[image.incomplete]" in ended.err
    program.run("item", "remove", "alone", "--yes", code=0)
    ended = program.run("item", "add", "chain", over, base, code=3)
    assert "[image.incomplete]" not in ended.err
    program.run("snapshot", "chain", code=0)
    program.run("restore", "--point", "1", "-o", "out", code=0)
    assert (program.folder / "out/over.img").read_bytes() == over.read_bytes()


def test_half_of_a_disk_that_registers_itself_is_told(program: Program, disk: Path) -> None:
    base = convert(disk, program.folder / "base.qcow2", "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", program.folder / "over.qcow2")
    ended = program.run("snapshot", "over.qcow2", code=3)
    assert "[image.incomplete]" in ended.err


def test_disks_are_added_moved_and_removed(program: Program, make_disk: MakeDisk) -> None:
    first, second = make_disk("a.img"), make_disk("b.img")
    add(program, "web", first)
    program.run("snapshot", "web", code=0)
    item = program.run("item", "set", "web", "--add-disk", f"vdb={second}", "--json", code=0).document
    assert [each["disk"] for each in item["disks"]] == ["a", "vdb"]
    program.run("snapshot", "web", code=0)
    second.rename(program.folder / "moved.img")
    item = program.run("item", "set", "web", "--disk", "vdb=moved.img", "--remove-disk", "a", "--json", code=0).document
    assert item["disks"] == [{"disk": "vdb", "path": str(program.folder / "moved.img")}]
    program.run("snapshot", "web", code=0)
    disks = [
        [each["disk"] for each in program.run("point", "show", number, "--json", code=0).document["disks"]]
        for number in ("1", "2", "3")
    ]
    assert disks == [["a"], ["a", "vdb"], ["vdb"]]
    program.run("restore", "--point", "3", "-o", "third.out", code=0)
    assert (program.folder / "third.out").read_bytes() == first.read_bytes()
    refused = [
        (("--remove-disk", "vdb"), 2, "item.no-disk"),
        (("--remove-disk", "vdz"), 13, "disk.not-found"),
        (("--add-disk", "moved.img"), 2, "item.disk-twice"),
        (("--add-disk", f"vdb={first}"), 2, "item.disk-twice"),
        (("--disk", "vdb=missing.img"), 15, "image.not-found"),
    ]
    for words, code, kind in refused:
        assert program.run("item", "set", "web", *words, code=code).kind == kind
    assert program.run("item", "show", "web", "--json", code=0).document["disks"] == item["disks"]


def test_an_item_with_points_is_not_removed(program: Program, disk: Path) -> None:
    add(program, "web", disk)
    program.run("snapshot", "web", "--snapshot-only", code=0)
    ended = program.run("item", "remove", "web", "--yes", code=2)
    assert ended.kind == "item.has-points"
    assert "1 as snapshots only" in ended.err
    program.run("transfer", code=0)
    program.run("item", "set", "web", "--name", "web-2", code=0)
    assert "1 in the vault" in program.run("item", "remove", "web-2", "--dry-run", code=2).err
    program.run("point", "delete", "1", "--yes", code=0)
    assert "1 deleted, but not yet purged" in program.run("item", "remove", "web-2", "--yes", code=2).err
    program.run("point", "delete", "1", "--purge", "--yes", code=0)
    assert program.run("item", "remove", "web-2", "--dry-run", "--json", code=0).document["removed"] is False
    assert program.run("item", "remove", "web-2", code=2).kind == "input.needs-yes"
    assert program.run("item", "remove", "web-2", "--yes", "--json", code=0).document["removed"] is True
    assert program.run("item", "list", "--json", code=0).document["items"] == []
    assert program.run("item", "show", "web-2", code=13).kind == "item.not-found"
    # The name and the disk are free again, and the new item is another.
    program.run("item", "add", "web-2", disk, code=0)
    program.run("snapshot", "web-2", code=0)
    program.run("verify", code=0)
    program.run("vault", "check", code=0)


def test_a_removed_item_stays_removed_when_lmdb_is_made_anew(program: Program, disk: Path, make_disk: MakeDisk) -> None:
    add(program, "web", disk)
    add(program, "db", make_disk("db.img"))
    program.run("item", "remove", "web", "--yes", code=0)
    shutil.rmtree(program.state / "vaults/default/lmdb")
    assert [item["item"] for item in program.run("item", "list", "--json", code=0).document["items"]] == ["db"]


def test_a_blank_disk_is_one_and_unknown_bytes_are_told(program: Program) -> None:
    assert program.run("item", "add", "blank", sparse(program.folder / "blank", MIB), code=0).err.count("warning") == 0
    (program.folder / "noise").write_bytes(os.urandom(MIB))
    assert "[image.unknown]" in program.run("item", "add", "noise", "noise", code=3).err


@pytest.fixture
def node(program: Program, make_disk: MakeDisk) -> Callable[..., Ended]:
    """Real `virsh` with the test driver of libvirt, which has the machines of a file."""
    if shutil.which("virsh") is None:
        pytest.skip("virsh is not installed")
    root, data = make_disk("web.img"), make_disk("web-data.img")
    (program.folder / "node.xml").write_text(
        "<node><domain type='test'><name>web 01</name><memory>1024</memory><os><type>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><source file='{root}'/><target dev='vda' bus='virtio'/></disk>"
        f"<disk type='file' device='disk'><source file='{data}'/><target dev='vdb' bus='virtio'/><shareable/></disk>"
        "</devices></domain><domain type='test'><name>remote</name><memory>1024</memory><os><type>hvm</type></os>"
        "<devices>"
        "<disk type='network' device='disk'><source protocol='rbd' name='p/x'><host name='h'/></source>"
        "<target dev='vda' bus='virtio'/></disk></devices></domain></node>"
    )
    env = {"LIBVIRT_DEFAULT_URI": f"test://{program.folder}/node.xml", "XDG_CACHE_HOME": str(program.folder / "cache")}
    return lambda *words, code: program.run(*words, env=env, code=code)


def test_the_disks_of_a_virtual_machine(program: Program, node: Callable[..., Ended]) -> None:
    ended = node("item", "add", "web01", "--domain", "web 01", code=3)
    assert "[disk.cluster]" in ended.err
    item = program.run("item", "show", "web01", "--json", code=0).document
    assert item["disks"] == [
        {"disk": "vda", "path": str(program.folder / "web.img")},
        {"disk": "vdb", "path": str(program.folder / "web-data.img")},
    ]
    assert node("item", "add", "r", "--domain", "remote", code=2).kind == "libvirt.disk-elsewhere"
    assert node("item", "add", "n", "--domain", "nobody", code=13).kind == "libvirt.no-domain"


def test_discovery_finds_virtual_machines_and_proposes_them(program: Program, node: Callable[..., Ended]) -> None:
    found = node("item", "discover", "--json", code=0).document
    assert {domain["domain"]: len(domain["disks"]) for domain in found["domains"]} == {"web 01": 2, "remote": 1}
    assert {image["path"] for image in found["images"]} == {
        str(program.folder / n) for n in ("web.img", "web-data.img")
    }
    assert found["proposals"] == [
        {"item": "web-01", "disks": [f"vda={program.folder}/web.img", f"vdb={program.folder}/web-data.img"]}
    ]
    (program.folder / "found.json").write_text(json.dumps(found))
    program.run("protect", "--from-discovery", "found.json", "--policy", "default", code=0)
    again = node("item", "discover", program.folder, "--json", code=0).document
    assert again["proposals"] == []
    assert {image["path"]: [i["item"] for i in image["items"]] for image in again["images"]} == {
        str(program.folder / "web.img"): ["web-01"],
        str(program.folder / "web-data.img"): ["web-01"],
    }
    assert "web-01 (default)" in node("item", "discover", program.folder, code=0).out
