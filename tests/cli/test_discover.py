"""`item discover`: what is found in folders, what is left out, and what is told of each image."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.disks import GPT, MIB, convert, partitioned, run, sparse
from helpers.program import Program

pytestmark = pytest.mark.no_bytes

NO_LIBVIRT = ("item", "discover", "--no-libvirt")


def images(program: Program, *words: str | Path) -> dict[str, dict[str, Any]]:
    """What was found, by path within the working folder."""
    found = program.run(*NO_LIBVIRT, program.folder, *words, "--json", code=0).document
    assert found["schema"] == "blockvault.discovery/1"
    return {os.path.relpath(image["path"], program.folder): image for image in found["images"]}


def test_what_is_found_and_what_is_left_out(program: Program, disk: Path) -> None:
    folder = program.folder
    deep = folder / "a/b/c/d"
    deep.mkdir(parents=True)
    shutil.copyfile(disk, deep / "no-suffix")
    (deep / "e").mkdir()
    shutil.copyfile(disk, deep / "e/too-deep.img")
    (folder / "packed.img").write_bytes(gzip.compress(os.urandom(MIB)))
    (folder / "small.img").write_bytes(disk.read_bytes()[:32768])
    (folder / "noise.img").write_bytes(os.urandom(MIB))
    sparse(folder / "blank.img", MIB)
    sparse(folder / "blank.txt", MIB)
    os.symlink(disk, folder / "link.img")
    os.symlink(folder, folder / "a/loop")
    os.mkfifo(folder / "fifo.img")
    program.run("snapshot", disk, "--vault", program.folder / "vault", code=10)
    program.run("vault", "create", "inside", "--path", folder / "vault", "--no-encryption", code=0)
    (folder / ".blockvault").mkdir()
    shutil.copyfile(disk, folder / ".blockvault/1.img")
    assert set(images(program)) == {"disk.img", "a/b/c/d/no-suffix", "blank.img"}
    assert "a/b/c/d/e/too-deep.img" in images(program, "--depth", "5")
    assert set(images(program, "--depth", "0")) == {"disk.img", "blank.img"}
    everything = images(program, "--all")
    assert {"noise.img", "packed.img", "blank.txt"} <= set(everything)
    assert everything["packed.img"]["not_a_disk"] == "compressed by gzip"


def test_what_is_told_of_an_image(program: Program, disk: Path) -> None:
    table = partitioned(program.folder / "table.img", GPT)
    base = convert(table, program.folder / "base.qcow2", "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", program.folder / "over.qcow2")
    found = images(program)
    image = found["table.img"]
    assert (image["format"], image["size_bytes"], image["table"]) == ("raw", 64 * MIB, "gpt")
    assert image["data_bytes"] < MIB
    assert [(part["number"], part["size_bytes"], part["type"]) for part in image["partitions"]] == [
        (1, MIB, "BIOS boot"),
        (2, 33 * MIB, "EFI system"),
        (3, 28 * MIB, "Linux"),
    ]
    assert found["over.qcow2"]["needs"] == [str(base)]
    assert found["base.qcow2"]["needed_by"] == [f"{program.folder}/over.qcow2"]
    shown = program.run(*NO_LIBVIRT, program.folder, "--partitions", code=0)
    assert "EFI system 'esp'" in shown.out
    assert f"over.qcow2 is no whole disk without {base}" in shown.err
    proposals = program.run(*NO_LIBVIRT, program.folder, "--json", code=0).document["proposals"]
    assert {each["item"]: each["disks"] for each in proposals} == {
        "disk": [f"disk={disk}"],
        "table": [f"table={table}"],
    }


def test_whose_an_image_is_also_in_an_encrypted_vault_and_who_has_it_open(program: Program, disk: Path) -> None:
    key = {"BLOCKVAULT_PASSWORD": "not-a-secret"}
    program.run("vault", "create", "sealed", env=key, code=0)
    program.run("item", "add", "web", disk, "--vault", "sealed", env=key, code=0)
    os.link(disk, program.folder / "hard.img")
    script = f"import sys; f = open({str(disk)!r}, 'r+b'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = images(program)
        child.communicate()
    for name in ("disk.img", "hard.img"):
        assert found[name]["items"] == [
            {"item": "web", "vault": "sealed", "vault_path": f"{program.state}/vaults/sealed"}
        ]
        (opener,) = found[name]["open_by"]
        assert (opener["pid"], opener["writes"]) == (child.pid, True)
    assert images(program)["disk.img"]["open_by"] == []
    assert program.run(*NO_LIBVIRT, program.folder, "--json", code=0).document["proposals"] == []


def test_nowhere_to_look(program: Program) -> None:
    ended = program.run(*NO_LIBVIRT, "missing", code=2)
    assert ended.kind == "discover.no-folder"
    if not os.path.isdir("/var/lib/libvirt/images"):
        assert program.run(*NO_LIBVIRT, code=2).kind == "discover.nowhere"
    assert "no disk image was found" in program.run(*NO_LIBVIRT, program.folder, code=0).err


@pytest.mark.root
def test_what_the_kernel_makes_up_is_not_walked(program: Program) -> None:
    found = program.run(*NO_LIBVIRT, "/proc", "--json", code=0).document
    assert found["images"] == []


def test_a_folder_that_cannot_be_looked_into_is_told(program: Program, disk: Path) -> None:
    from blockvault.discovery.folders import find_files

    locked = program.folder / "locked"
    locked.mkdir()
    files, notes = find_files([str(program.folder)], depth=4, mounts=[])
    assert (files, notes) == ([str(disk)], [])
    if os.geteuid() == 0:
        pytest.skip("root looks into every folder")
    locked.chmod(0)
    assert "locked cannot be looked into" in find_files([str(program.folder)], depth=4, mounts=[])[1][0]
    locked.chmod(0o700)
