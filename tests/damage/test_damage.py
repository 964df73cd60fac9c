"""Every kind of file x every kind of damage x what is done next.

Damage is named, by an error or by `verify`, or it is harmless: never a wrong byte restored without a word, never an
exception that is not BlockVault's own. Points that do not need the damaged thing restore, and backup goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.children import ForkServer
from helpers.matrix import (
    HOSTS,
    KEEPERS,
    LEASE,
    LMDB_SHAPES,
    OLDER,
    RECORDS,
    SHAPES,
    SWAPPED,
    Case,
    Template,
    harm,
    layer,
    make_template,
    named,
)

EVERY = [*SHAPES, SWAPPED, OLDER]
# What one run in CI looks at; BLOCKVAULT_DAMAGE=all looks at every shape, plain and encrypted.
SOME = ["flip in the middle", "flip before the footer", "cut in half", "zeros at the start", "deleted", SWAPPED, OLDER]
ALL = EVERY if os.environ.get("BLOCKVAULT_DAMAGE") == "all" else SOME
ENCRYPTED = RECORDS if ALL is EVERY else ("newest point of the item", "newest layer", "pack of full blocks")
OBJECTS = [("plain", what, shape) for what in RECORDS for shape in ALL]
OBJECTS += [("encrypted", what, shape) for what in ENCRYPTED for shape in ALL]


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


@pytest.fixture
def case(request: pytest.FixtureRequest, templates: dict[str, Template], tmp_path: Path) -> Case:
    return Case(templates[getattr(request, "param", "plain")], templates["stranger"], tmp_path)


def check_points(case: Case, found: dict[str, Any], damaged: set[str], paths: list[Path]) -> None:
    """No wrong byte; points that need nothing damaged are right; errors name it; a repair makes nothing worse."""
    for when in ("points", "after"):
        for label, outcome in found.get(when, {}).items():
            assert outcome != "wrong", f"point {label}"
            if not case.template.needs[label] & damaged:
                assert outcome == "right", f"point {label} does not need {damaged}"
            elif outcome != "right":
                assert found["points"][label] != "right", "a repair makes nothing worse"
                deleted = outcome[0] == "point.not-found" and not paths[0].exists()
                assert deleted or named(outcome, paths), f"point {label}: {outcome} names none of {damaged}"


def test_the_survey_of_a_whole_vault(case: Case, children: ForkServer) -> None:
    """The other side: nothing is damaged, and everything is right, in this process and in a child."""
    for found in (case.survey(), case.survey(children)):
        assert found["open"] is None
        assert set(found["points"].values()) == {"right"}
        assert (found["damage"], found["next"], found["full"], found["warnings"]) == ([], "right", "right", [])


@pytest.mark.slow
@pytest.mark.parametrize(("case", "what", "shape"), OBJECTS, indirect=["case"])
def test_an_object(case: Case, what: str, shape: str) -> None:
    paths = harm(case, RECORDS[what](case), shape)
    names = {str(path.relative_to(case.folder)) for path in paths}

    found = case.survey(level="repair")

    assert found["open"] is None, "a damaged object does not keep the vault from being opened"
    check_points(case, found, names, paths)
    spoiled = {label for label, outcome in found["points"].items() if outcome != "right"}
    gone = shape == "deleted" and "pack" not in what and "layer" not in what
    if not gone:
        # A block that no point reads through may be what was hit: then nothing was spoiled and nothing is named.
        assert any(path.name.split(".")[0] in object_ for path in paths for object_ in found["damage"]) or (
            "pack" in what and not spoiled
        ), f"verify names {names}"
    assert found["next"] == found["full"] == "right", "what verify has found damaged is stored anew (R15)"
    assert set(found["quick"]) <= set(found["damage"])
    assert set(found["check"]) <= set(found["damage"])
    if spoiled and not gone and not ("pack" in what and "middle" in shape):
        assert found["quick"], "all but the bytes of a block is found without reading one"
    if "pack" not in what and "layer" not in what and shape != "deleted":
        # Another record of that name, sealed as it must be, is not replaced: it is named, and a person decides.
        assert found["records"] or shape == OLDER
    assert isinstance(found["left"], list)
    for label, outcome in found["after"].items():
        if outcome != "right":
            assert found["left"] or shape == "deleted", f"point {label} is not whole, and the repair says nothing"


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
@pytest.mark.parametrize("shape", [shape for shape in ALL if shape != OLDER])
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
