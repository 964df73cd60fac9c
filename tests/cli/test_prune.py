"""`prune` and the marks as a user runs them: output, JSON, exit codes, questions; a dry run changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.files import noise, write_at
from helpers.program import Ended, Program

KIB = 1 << 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Four points of item `disk` and one of `other`, in a vault without soft delete; copied for each test."""
    program = Program(tmp_path_factory.mktemp("made"))
    program.run("vault", "create", "default", "--no-encryption", "--soft-delete-days", "3", code=0)
    disk, other = program.folder / "disk.img", program.folder / "other.img"
    disk.write_bytes(noise(300 * KIB, 1))
    other.write_bytes(noise(100 * KIB, 2))
    for number in range(4):
        write_at(disk, number * 64 * KIB, noise(64 * KIB, 10 + number))
        program.run("snapshot", disk, "--no-keep", code=0)
    program.run("snapshot", other, "--no-keep", code=0)
    return program


@pytest.fixture
def ready(made: Program, tmp_path: Path) -> Program:
    program = Program(tmp_path)
    shutil.rmtree(program.folder)
    shutil.copytree(made.folder, program.folder)
    shutil.copytree(made.state, program.state, symlinks=True)
    program.run("points", code=3)  # says that the vault is a copy, once
    return program


# A copied folder gets a new origin, so labels are HOST:N there: points are named by their ids.


def points(program: Program, *options: str) -> dict[int, dict[str, object]]:
    found = program.run("points", "--json", *options, code=0).document["points"]
    return {point["point"]: point for point in found}


def ids(program: Program) -> dict[int, str]:
    return {number: str(point["id"]) for number, point in points(program, "--deleted").items()}


def names(program: Program) -> set[str]:
    """Every file of the vault, without the database that opening brings up."""
    top = program.state / "vaults" / "default"
    return {
        f"{path.relative_to(top)} {path.stat().st_size}"
        for path in top.rglob("*")
        if path.is_file() and not str(path.relative_to(top)).startswith(("lmdb", "origins"))
    }


def three_parts(ended: Ended) -> None:
    told = [line.split(":")[0] for line in ended.err.splitlines()]
    assert [part for part in told if part in ("error", "why", "do")][:3] == ["error", "why", "do"]


def test_a_dry_run_changes_nothing_and_says_what_would_be(ready: Program) -> None:
    points(ready)
    before = names(ready)
    ended = ready.run("prune", "--keep-last", "1", "--dry-run", "--explain", code=0)
    assert names(ready) == before
    assert "dry run: nothing was changed" in ended.out
    for word in ("keep", "expire", "because", "3 days"):
        assert word in ended.out
    plan = ready.run("prune", "--keep-last", "1", "--dry-run", "--json", code=0).document
    assert names(ready) == before
    assert plan["schema"] == "blockvault.prune-plan/1"
    assert {row["point"]: row["keep"] for row in plan["decisions"]} == {1: False, 2: False, 3: False, 4: True, 5: True}
    assert all(row["reasons"] for row in plan["decisions"])
    assert plan["soft_delete_days"] == 3
    assert set(points(ready)) == {1, 2, 3, 4, 5}


def test_prune_expires_and_undelete_brings_back(ready: Program) -> None:
    ended = ready.run("prune", "disk", "--keep-last", "2", code=0)
    assert "expired" in ended.out
    assert "3 days" in ended.out
    assert set(points(ready)) == {3, 4, 5}
    assert set(points(ready, "--deleted")) == {1, 2, 3, 4, 5}
    point = ids(ready)[1]
    refused = ready.run("restore", "--point", point, code=13)
    assert refused.kind == "point.deleted"
    three_parts(refused)
    assert "undelete" in refused.err
    ready.run("point", "undelete", point, code=0)
    assert set(points(ready)) == {1, 3, 4, 5}
    out = ready.folder / "out.img"
    ready.run("restore", "--point", point, "-o", out, code=0)
    again = ready.run("prune", "disk", "--keep-last", "2", "--json", code=0).document
    assert again["schema"] == "blockvault.prune/1"
    assert len(again["expired"]) == 1
    assert again["purged"] == []


def test_purge_and_prune_free_space(ready: Program) -> None:
    point = ids(ready)[2]
    refused = ready.run("point", "delete", point, "--purge", code=2)
    assert refused.kind == "input.needs-yes"
    three_parts(refused)
    dry = ready.run("point", "delete", point, "--purge", "--dry-run", code=0)
    assert "would be deleted" in dry.out
    assert set(points(ready, "--deleted")) == {1, 2, 3, 4, 5}
    ended = ready.run("point", "delete", point, "--purge", "--yes", code=0)
    assert "for good" in ended.out
    assert set(points(ready, "--deleted")) == {1, 3, 4, 5}
    ready.run("point", "delete", ids(ready)[5], "--purge", "--yes", code=0)
    freed = ready.run("prune", "--max-dead", "0%", "--json", code=0).document
    assert freed["freed_bytes"] > 50 * KIB
    assert freed["deleted_packs"] >= 1
    for number in (1, 3, 4):
        ready.run("restore", "--point", ids(ready)[number], "-o", ready.folder / f"{number}.img", code=0)
    ready.run("verify", "--all", code=0)


def test_a_hold_beats_the_rules(ready: Program) -> None:
    point = ids(ready)[1]
    held = ready.run("point", "hold", point, "--reason", "the auditors ask", code=0)
    assert "is held" in held.out
    shown = ready.run("point", "show", point, code=0)
    assert "the auditors ask" in shown.out
    refused = ready.run("point", "delete", point, "--yes", code=2)
    assert refused.kind == "point.held"
    three_parts(refused)
    assert "the auditors ask" in refused.err
    ready.run("prune", "disk", "--keep-last", "1", code=0)
    assert set(points(ready)) == {1, 4, 5}
    ready.run("point", "unhold", point, code=0)
    assert ready.run("point", "unhold", point, code=2).kind == "point.not-held"
    ready.run("prune", "disk", "--keep-last", "1", code=0)
    assert set(points(ready)) == {4, 5}


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("prune", "--keep-last", "0"), 2, None),
        (("prune", "--keep-daily", "0"), 2, None),
        (("prune", "--keep-yearly", "-1"), 2, None),
        (("prune", "--keep-daily", "3", "--zone", "Nowhere/Land"), 2, None),
        (("prune", "--max-dead", "5"), 2, "input.usage"),
        (("prune", "--max-dead", "105%"), 2, "input.usage"),
        (("prune", "--max-dead", "-1%"), 2, "input.usage"),
        (("prune", "--max-dead", "nan%"), 2, "input.usage"),
        (("prune", "no-such-item"), 13, "item.not-found"),
        (("point", "hold", "99"), 13, "point.not-found"),
        (("point", "delete", "99"), 13, "point.not-found"),
        (("point", "undelete", "disk@latest"), 2, "point.not-deleted"),
    ],
)
def test_bad_input(ready: Program, arguments: tuple[str, ...], code: int, kind: str | None) -> None:
    before = names(ready)
    ended = ready.run(*arguments, code=code)
    assert kind in (None, ended.kind)
    assert "error:" in ended.err
    assert "Traceback" not in ended.err
    assert names(ready) == before
    as_json = ready.run(*arguments, "--json", code=code)
    assert as_json.document["message_type"] == "exit_error" or "kind" in as_json.document


def test_the_last_point_is_asked_for(ready: Program) -> None:
    point = ids(ready)[5]
    refused = ready.run("point", "delete", point, code=2)
    assert refused.kind == "input.needs-yes"
    assert "last" in refused.err
    assert 5 in points(ready)
    code, shown = ready.run_on_terminal("point", "delete", point, typed="n\n")
    assert code != 0, shown
    assert "[y/N]" in shown
    assert 5 in points(ready)


def test_on_a_terminal_yes_is_an_answer(ready: Program) -> None:
    point = ids(ready)[5]
    code, shown = ready.run_on_terminal("point", "delete", point, typed="y\n")
    assert code == 0, shown
    assert "last one of the item" in shown
    assert 5 not in points(ready)


def test_soft_delete_days_of_a_vault(program: Program) -> None:
    program.run("vault", "create", "brief", "--no-encryption", "--soft-delete-days", "0", code=0)
    assert program.run("vault", "show", "brief", "--json", code=0).document["soft_delete_days"] == 0
    for days in ("-1", "3651", "many"):
        ended = program.run("vault", "create", "odd", "--no-encryption", "--soft-delete-days", days, code=2)
        assert "error:" in ended.err
    disk = program.folder / "disk.img"
    disk.write_bytes(noise(100 * KIB, 1))
    for number in range(2):
        write_at(disk, 0, noise(KIB, number))
        program.run("snapshot", disk, "--no-keep", "--vault", "brief", code=0)
    refused = program.run("point", "delete", "1", "--vault", "brief", code=2)
    assert refused.kind == "input.needs-yes"
    assert "for good" in refused.err
    ended = program.run("prune", "--keep-last", "1", "--vault", "brief", "--json", code=0).document
    assert (ended["expired"], ended["purged"]) == (["1"], ["1"])
    assert program.run("points", "--deleted", "--vault", "brief", "--json", code=0).document["points"][0]["point"] == 2
