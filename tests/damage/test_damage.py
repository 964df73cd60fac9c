"""Every kind of file x every kind of damage x what is done next.

Damage is named, by an error or by `verify`, or it is harmless: never a wrong byte restored without a word, never an
exception that is not BlockVault's own. Points that do not need the damaged thing restore, and backup goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
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
    for chunk in (3, 12, 22, 30):
        write_at(image, chunk * CHUNK + 40, b"edited")
    write_at(image, 5 * CHUNK, noise(CHUNK, 4))
    site.take(image)
    write_at(image, 7 * CHUNK, noise(CHUNK, 5))
    site.take(image)
    other = site.root / "other.img"
    other.write_bytes(text(4 * CHUNK, 6))
    site.take(other)
    site.vault.set_item("other", comment="a second revision")
    changed = site.root / "changed.img"
    subprocess.run(["cp", "--sparse=always", str(image), str(changed)], check=True)
    write_at(changed, 3 * CHUNK + 80, b"edited again")
    write_at(changed, 14 * CHUNK, noise(CHUNK, 7))
    (site.folder / "leases" / ("ab" * 16)).write_bytes(b"of a writer that died")
    template = Template(site, image, changed)
    for label in site.copies:
        template.needs[label] = needed(site, label)
    assert len(forge.point(site, 3).disks[0].layers) >= 2
    assert template.needs["4"].isdisjoint(template.needs["1"])
    site.close()
    return template


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


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """The vault to be damaged, plain and encrypted, and a stranger to swap files with."""
    root = tmp_path_factory.mktemp("templates")
    return {
        "plain": make_template(root / "plain", encrypted=False),
        "encrypted": make_template(root / "encrypted", encrypted=True),
        "stranger": make_template(root / "stranger", encrypted=False),
    }


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


class Case:
    """A copy of a template, its objects linked (so that the vault's folder is the same folder), the rest copied."""

    def __init__(self, template: Template, stranger: Template, root: Path) -> None:
        self.template = template
        self.stranger = stranger
        self.state = root / "state"
        shutil.copytree(template.site.state, self.state, symlinks=True, copy_function=os.link)
        for path in [*self.folder.glob("lmdb/*"), *(self.state / "hosts").rglob("*")]:
            if path.is_file():
                self.own(path)

    @property
    def folder(self) -> Path:
        return self.state / "vaults" / "default"

    @property
    def host(self) -> Path:
        (host,) = (self.state / "hosts").iterdir()
        return host

    def own(self, path: Path) -> Path:
        """The file, no longer shared with the template."""
        data, status = path.read_bytes(), path.stat()
        path.unlink()
        path.write_bytes(data)
        path.chmod(status.st_mode & 0o777)
        return path

    def survey(self, children: ForkServer | None = None) -> dict[str, Any]:
        template = self.template
        subprocess.run(
            ["cp", "--sparse=always", str(template.site.copies["3"]["disk"]), str(template.image)], check=True
        )
        copies = {label: str(next(iter(disks.values()))) for label, disks in template.site.copies.items()}
        arguments = (str(self.state), str(template.image), copies, str(template.changed), template.key_file)
        if children is None:
            return survey(*arguments)
        answer = children.run(SURVEY, *arguments)
        assert answer["status"] == 0, "a damaged file never ends the process"
        found: dict[str, Any] = answer["answer"]
        return found


@pytest.fixture
def case(request: pytest.FixtureRequest, templates: dict[str, Template], tmp_path: Path) -> Case:
    return Case(templates[getattr(request, "param", "plain")], templates["stranger"], tmp_path)


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


RECORDS: dict[str, Finder] = {
    "oldest point": nth("points", 0),
    "newest point of the item": nth("points", 2),
    "item": nth("items", 0),
    "newest layer": layer(0),
    "oldest layer": layer(-1),
    "pack of full blocks": pack(0),
    "pack of deltas": pack(1),
    "pack of the other item": pack(3),
    "index segment": nth("main/index", 0),
    "origin": nth("origins", 0),
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
    if shape == "swapped":
        return put_in_place(case, path)
    SHAPES[shape](path)
    return [path]


def check_points(case: Case, found: dict[str, Any], damaged: set[str], paths: list[Path]) -> None:
    """No wrong byte; points that do not need what is damaged are right; errors name it."""
    for label, outcome in found["points"].items():
        assert outcome != "wrong", f"point {label}"
        if not case.template.needs[label] & damaged:
            assert outcome == "right", f"point {label} does not need {damaged}"
        elif outcome != "right":
            deleted = outcome[0] == "point.not-found" and not paths[0].exists()
            assert deleted or named(outcome, paths), f"point {label}: {outcome} names none of {damaged}"


ALL = [*SHAPES, "swapped"]


def test_the_survey_of_a_whole_vault(case: Case, children: ForkServer) -> None:
    """The other side: nothing is damaged, and everything is right, in this process and in a child."""
    for found in (case.survey(), case.survey(children)):
        assert found["open"] is None
        assert set(found["points"].values()) == {"right"}
        assert (found["damage"], found["next"], found["full"], found["warnings"]) == ([], "right", "right", [])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "encrypted"], indirect=True)
@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("what", RECORDS)
def test_an_object(case: Case, what: str, shape: str) -> None:
    paths = harm(case, RECORDS[what](case), shape)
    names = {str(path.relative_to(case.folder)) for path in paths}

    found = case.survey()

    assert found["open"] is None, "a damaged object does not keep the vault from being opened"
    check_points(case, found, names, paths)
    spoiled = {label for label, outcome in found["points"].items() if outcome != "right"}
    gone = shape == "deleted" and "pack" not in what and "layer" not in what
    if not gone:
        # A block that no point reads through may be what was hit: then nothing was spoiled and nothing is named.
        assert any(path.name.split(".")[0] in object_ for path in paths for object_ in found["damage"]) or (
            "pack" in what and not spoiled
        ), f"verify names {names}"
    assert found["next"] != "wrong"
    if isinstance(found["next"], list):
        assert named(found["next"], paths), found["next"]
    if "pack" in what and "middle" in shape:
        # A block's own bytes: they are read by `verify` and restore, not by a compare, which goes by ids.
        assert found["full"] == "right" or named(found["full"], paths) or "a delta of" in found["full"][1]
    else:
        assert found["full"] == "right", "a full compare stores anew what is missing"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "encrypted"], indirect=True)
@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("what", KEEPERS)
def test_what_a_vault_is_opened_by(case: Case, what: str, shape: str) -> None:
    """Without it the vault does not open, and says which file; put back, everything is as it was."""
    path = KEEPERS[what](case)
    whole = path.read_bytes()
    harm(case, path, shape)
    found = case.survey()
    if found["open"] is None:
        assert set(found["points"].values()) == {"right"}
    else:
        # Of a header and a configuration that contradict each other, both sealed, either may be the stranger.
        assert any(name in found["open"][1] for name in ({what} if shape != "swapped" else KEEPERS)), found["open"]
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    again = case.survey()
    assert again["open"] is None
    assert set(again["points"].values()) == {"right"}
    assert again["next"] == again["full"] == "right"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["encrypted"], indirect=True)
@pytest.mark.parametrize("shape", ALL)
def test_a_key_slot(case: Case, shape: str) -> None:
    path = case.folder / "keys/0"
    whole = path.read_bytes()
    path = case.own(path)
    if shape == "swapped":
        path.write_bytes(whole.replace(b'"slot":0', b'"slot":1'))
    else:
        SHAPES[shape](path)
    found = case.survey()
    if found["open"] is not None:
        assert found["open"][0] in ("key.wrong", "key.slots-damaged")
    else:
        assert set(found["points"].values()) == {"right"}
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    assert set(case.survey()["points"].values()) == {"right"}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("what", HOSTS)
def test_the_hosts_state(case: Case, what: str, shape: str) -> None:
    """Points are never touched by it. Damage costs time, or the file is named; without the file all is well."""
    path = HOSTS[what](case)
    harm(case, path, shape)
    found = case.survey()
    if found["open"] is not None:
        assert what == "host.json"
        assert str(path) in found["open"][1]
        path.unlink()
        found = case.survey()
    assert found["open"] is None
    listed = {label.rsplit(":", 1)[-1] for label in found["listed"]}
    assert listed == {"1", "2", "3", "4"}
    assert "wrong" not in found["points"].values()
    assert found["damage"] == []
    assert found["next"] == found["full"] == "right"


@pytest.mark.parametrize("shape", ALL[:-1])
def test_a_lease(case: Case, shape: str) -> None:
    """What a writer that died left is for messages only."""
    harm(case, LEASE["lease"](case), shape)
    found = case.survey()
    assert found["open"] is None
    assert set(found["points"].values()) == {"right"}
    assert (found["damage"], found["next"], found["full"]) == ([], "right", "right")
    assert list((case.folder / "leases").iterdir()) == []


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


@pytest.mark.slow
@pytest.mark.parametrize("shape", [*LMDB_SHAPES, "swapped"])
@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_the_lmdb_store(case: Case, children: ForkServer, name: str, shape: str) -> None:
    """It is only what objects rebuild: whatever happens to it, everything is right."""
    path = case.own(case.folder / "lmdb" / name)
    if shape == "swapped":
        path.write_bytes((case.stranger.site.folder / "lmdb" / name).read_bytes())
    else:
        LMDB_SHAPES[shape](path)
    found = case.survey(children)
    assert found["open"] is None
    assert set(found["points"].values()) == {"right"}
    assert (found["damage"], found["next"], found["full"]) == ([], "right", "right")


def test_a_vault_without_its_lmdb_folder(case: Case, children: ForkServer) -> None:
    shutil.rmtree(case.folder / "lmdb")
    found = case.survey(children)
    assert set(found["points"].values()) == {"right"}
    assert (found["damage"], found["next"], found["full"]) == ([], "right", "right")


def test_descriptors_are_given_back(case: Case) -> None:
    """However often a damaged vault is looked at: files opened on the way to the damage are closed."""
    harm(case, layer(-1)(case), "flip at the end")
    case.survey()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        case.survey()
    assert len(os.listdir("/proc/self/fd")) <= before
