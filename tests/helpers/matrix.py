"""The damage matrix: a vault to be damaged, every kind of file that it has, every way to damage one.

`tests/damage` asserts what must hold in each case; `python -m tests.damage.table` writes down what a user sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blockvault.clock import utc_now
from blockvault.model import Mark, PointRef
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.vault import Vault
from helpers import forge
from helpers.children import ForkServer
from helpers.damage import flip, truncate, writable, zero
from helpers.files import noise, resize, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site
from helpers.survey import survey

SURVEY = "from helpers.survey import survey as work"


@dataclass
class Template:
    """A host with a vault that is copied for each case. Points 1, 2, 3 are of one item; 4 is of another.

    Point 2 has delta blocks against point 1 and a layer of its own; point 3 shares both.
    """

    site: Site
    image: Path
    changed: Path
    needs: dict[str, set[str]] = field(default_factory=dict)  # objects that each point needs
    then: Path = Path()  # the state folder as it was after point 2
    fork: Path = Path()  # and gone on with from there: another point 3 of the same name

    @property
    def key_file(self) -> str | None:
        secret = self.site.secret
        return secret.key_file.hex() if secret is not None and secret.key_file is not None else None


def make_template(root: Path, *, encrypted: bool) -> Template:
    site = Site(root, secret=KEY_FILE if encrypted else None)
    image = site.root / "disk.img"
    image.write_bytes(text(10 * CHUNK, 1) + noise(6 * CHUNK, 2))
    resize(image, 43 * CHUNK - 99)
    for chunk in range(20, 40, 2):
        write_at(image, chunk * CHUNK, noise(100, chunk))
    site.take(image)
    for name in ("gold", "silver"):
        site.vault.create_policy(Policy(name, Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=30)))
    for chunk in (3, 12, 22, 30):
        write_at(image, chunk * CHUNK + 40, b"edited")
    write_at(image, 5 * CHUNK, noise(CHUNK, 4))
    site.take(image)
    then = copied(site, root / "then")
    fork = copied(site, root / "fork")
    write_at(image, 8 * CHUNK, noise(CHUNK, 50))
    with Vault.open(state_dir=str(fork), secret=site.secret) as vault:
        assert vault.snapshot([str(image)], keep=False).number == 3
    subprocess.run(["cp", "--sparse=always", str(site.copies["2"]["disk"]), str(image)], check=True)
    write_at(image, 7 * CHUNK, noise(CHUNK, 5))
    site.take(image)
    other = site.root / "other.img"
    other.write_bytes(text(4 * CHUNK, 6))
    site.take(other)
    site.vault.set_item("other", comment="a second revision")
    opened = forge.session(site)
    opened.catalog.put_mark(PointRef(opened.origin, 4), Mark("example", utc_now()))
    changed = site.root / "changed.img"
    subprocess.run(["cp", "--sparse=always", str(image), str(changed)], check=True)
    write_at(changed, 3 * CHUNK + 80, b"edited again")
    write_at(changed, 14 * CHUNK, noise(CHUNK, 7))
    (site.folder / "leases" / ("ab" * 16)).write_bytes(b"of a writer that died")
    template = Template(site, image, changed, then=then, fork=fork)
    for label in site.copies:
        template.needs[label] = needed(site, label)
    assert len(forge.point(site, 3).disks[0].layers) >= 2
    assert template.needs["4"].isdisjoint(template.needs["1"])
    site.close()
    return template


def copied(site: Site, root: Path) -> Path:
    """The host's state with its vault as it is now: objects are linked, so that it is the same folder to the host."""
    site.close()
    copy_state(site.state, root)
    return root


def copy_state(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)
    vault = target / "vaults/default"
    written = [*vault.glob("lmdb/*"), *vault.glob("*.lock"), *vault.glob("leases/*"), *target.glob("audit.log*")]
    for path in [*written, *(target / "hosts").rglob("*"), *(target / "jobs").rglob("*")]:
        if path.is_file():
            own(path)
    # The host knows its LMDB store by the file's inode: the copy is meant to pass for it.
    inodes = {str((source / "vaults/default/lmdb/data.mdb").stat().st_ino): vault / "lmdb/data.mdb"}
    for note in (target / "hosts").glob("*/*"):
        words = note.read_bytes().split(b" ") if note.is_file() else []
        if len(words) == 2 and words[1].decode(errors="replace") in inodes:
            note.write_bytes(words[0] + b" %d" % inodes[words[1].decode()].stat().st_ino)


def own(path: Path) -> Path:
    """The file, no longer shared with another folder."""
    data, status = path.read_bytes(), path.stat()
    if status.st_nlink == 1:
        return path
    path.unlink()
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o777)
    return path


def needed(site: Site, label: str) -> set[str]:
    """Names of the record, layers and packs that a point cannot be restored without."""
    session = forge.session(site)
    point = forge.point(site, label)
    (disk,) = point.disks
    found = {f"points/{point.ref.origin}/{point.ref.number:010d}"}
    found |= {f"main/layers/{ref.name.hex()}" for ref in disk.layers}
    for layer in range(len(disk.layers)):
        for segment in forge.segments(site, disk, layer).values():
            found |= {session.shelf.names(pack)[0] for pack in segment.packs}
    return found


class Case:
    """A copy of a template, its objects linked (so that the vault's folder is the same folder), the rest copied."""

    def __init__(self, template: Template, stranger: Template, root: Path) -> None:
        self.template = template
        self.stranger = stranger
        self.state = root / "state"
        copy_state(template.site.state, self.state)

    @property
    def folder(self) -> Path:
        return self.state / "vaults" / "default"

    @property
    def host(self) -> Path:
        (host,) = (self.state / "hosts").iterdir()
        return host

    def own(self, path: Path) -> Path:
        """The file, no longer shared with the template."""
        return own(path)

    def older(self, path: Path) -> bytes | None:
        """What lay under that name when point 2 was the newest, or lies there where the same number was used again."""
        relative = path.relative_to(self.state)
        for top in (self.template.then, self.template.fork):
            other = top / relative
            if other.is_file() and other.read_bytes() != path.read_bytes():
                return other.read_bytes()
        return None

    def survey(self, children: ForkServer | None = None, level: str = "all") -> dict[str, Any]:
        template = self.template
        subprocess.run(
            ["cp", "--sparse=always", str(template.site.copies["3"]["disk"]), str(template.image)], check=True
        )
        copies = {label: str(next(iter(disks.values()))) for label, disks in template.site.copies.items()}
        arguments = (str(self.state), str(template.image), copies, str(template.changed), template.key_file, level)
        if children is None:
            return survey(*arguments)
        answer = children.run(SURVEY, *arguments)
        assert answer["status"] == 0, "a damaged file never ends the process"
        found: dict[str, Any] = answer["answer"]
        return found


# --- what is damaged ---

Finder = Callable[[Case], Path]


def nth(prefix: str, index: int) -> Finder:
    def find(case: Case) -> Path:
        return sorted(path for path in (case.folder / prefix).rglob("*") if path.is_file())[index]

    return find


def pack(index: int) -> Finder:
    """Packs in the order they were made: of points 1 to 4."""

    def find(case: Case) -> Path:
        return sorted((path for path in (case.folder / "main/packs").rglob("*.*")), key=lambda path: path.name)[index]

    return find


def layer(index: int) -> Finder:
    """The newest or oldest layer of point 3."""

    def find(case: Case) -> Path:
        names = [ref.name.hex() for ref in forge.point(case.template.site, 3).disks[0].layers]
        case.template.site.close()
        return case.folder / "main/layers" / names[index]

    return find


def host(pattern: str) -> Finder:
    def find(case: Case) -> Path:
        return min(case.host.glob(pattern))

    return find


def quarantine_record(case: Case) -> Path:
    """A block of point 1 in quarantine, though nothing is wrong with it: that costs space, nothing else."""
    secret = case.template.site.secret
    with Vault.open(state_dir=str(case.state), secret=secret) as vault:
        pack, slot = forge.places(case.template.site, 1, [9])[0]
        case.template.site.close()
        for entry in (slot, slot + 1):
            vault._session.quarantine.note(pack, entry, "an example")
    return nth("main/quarantine", 0)(case)


RECORDS: dict[str, Finder] = {
    "oldest point": nth("points", 0),
    "newest point of the item": nth("points", 2),
    "item": nth("items", 0),
    "policy": nth("policies", 0),
    "newest layer": layer(0),
    "oldest layer": layer(-1),
    "pack of full blocks": pack(0),
    "pack of deltas": pack(1),
    "pack of the other item": pack(3),
    "index segment": nth("main/index", 0),
    "origin": nth("origins", 0),
    "mark": nth("marks", 0),
    "quarantine": quarantine_record,
}
KEEPERS: dict[str, Finder] = {
    "vault.json": lambda case: case.folder / "vault.json",
    "config": nth("config", 0),
}
HOSTS: dict[str, Finder] = {
    "host.json": host("host.json"),
    "digest head": host("digests/*/*/point.head"),
    "digest cells": host("digests/*/*/*.cells"),
}
LEASE: dict[str, Finder] = {"lease": nth("leases", 0)}


# --- how ---

Damage = Callable[[Path], None]
SHAPES: dict[str, Damage] = {
    "flip at the start": lambda path: flip(path, 3),
    "flip in the head": lambda path: flip(path, min(40, path.stat().st_size - 1), 5),
    "flip in the middle": lambda path: flip(path, path.stat().st_size // 2, 2),
    "flip at the end": lambda path: flip(path, path.stat().st_size - 1, 7),
    "flip before the footer": lambda path: flip(path, max(0, path.stat().st_size - 30), 1),
    "cut to nothing": lambda path: truncate(path, 0),
    "cut in half": lambda path: truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: truncate(path, path.stat().st_size - 1),
    "zeros at the start": lambda path: zero(path, 0),
    "zeros at the end": lambda path: zero(path, max(0, path.stat().st_size - 4096)),
    "deleted": lambda path: path.unlink(),
}


def other_of_its_kind(case: Case, path: Path) -> Path:
    """Another file that could be taken for this one: of the same vault if it has one, else of another vault."""
    mine, theirs = case.folder, case.stranger.site.folder
    if path.is_relative_to(case.host):
        mine, theirs = case.host, case.stranger.site.host
    parts = path.relative_to(mine).parts
    kind = "/".join(parts[:2] if parts[0] == "main" else parts[:1])
    for top in (mine / kind, theirs / kind):
        files = [top] if top.is_file() else sorted(file for file in top.rglob("*") if file.is_file())
        others = [file for file in files if file != path and file.suffix[:2] == path.suffix[:2]]
        if others:
            return case.own(others[0]) if top == mine / kind else others[0]
    raise AssertionError(f"there is no other {kind}")


def put_in_place(case: Case, path: Path) -> list[Path]:
    """Give `path` the bytes of another of its kind, and that one its; of a stranger only take."""
    other = other_of_its_kind(case, path)
    mine, theirs = path.read_bytes(), other.read_bytes()
    writable(path).write_bytes(theirs)
    if other.is_relative_to(case.state):
        writable(other).write_bytes(mine)
        return [path, other]
    return [path]


def named(error: object, paths: list[Path]) -> bool:
    """Whether an error's words name one of the damaged files."""
    return isinstance(error, list) and any(path.name.split(".")[0] in error[1] for path in paths)


def harm(case: Case, path: Path, shape: str) -> list[Path]:
    path = case.own(path)
    if shape == SWAPPED:
        return put_in_place(case, path)
    if shape == OLDER:
        data = case.older(path)
        if data is None:
            pytest.skip("it is never changed: there is no older version of it")
        writable(path).write_bytes(data)
        return [path]
    SHAPES[shape](path)
    return [path]


SWAPPED, OLDER = "swapped", "older version put back"
LMDB_SHAPES = {
    **SHAPES,
    "zeros in page 2": lambda path: zero(path, 2 * 4096),
    "zeros in page 5": lambda path: zero(path, 5 * 4096),
    "zeros in the last page": lambda path: zero(path, path.stat().st_size - 4096),
    "flip in the second meta page": lambda path: flip(path, 4096 + 30),
    "cut to the meta pages": lambda path: truncate(path, 2 * 4096),
    "cut by a page": lambda path: truncate(path, path.stat().st_size - 4096),
    "cut inside a page": lambda path: truncate(path, path.stat().st_size - 5000),
    "longer": lambda path: path.write_bytes(path.read_bytes() + noise(8192, 1)),
    "all noise": lambda path: path.write_bytes(noise(path.stat().st_size, 1)),
}
