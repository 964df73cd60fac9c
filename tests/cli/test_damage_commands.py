"""`verify --budget`, `vault check`, `vault repair`: what they say, how they end, text and JSON."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.damage import flip
from helpers.program import Program

MIB = 1 << 20


@pytest.fixture
def ready(program: Program, make_disk: Callable[[str], Path]) -> Program:
    """A vault with one point, not kept as a snapshot."""
    make_disk("disk.img")
    program.run("snapshot", "disk.img", "--no-keep", code=0)
    return program


def vault_of(program: Program) -> Path:
    return program.state / "vaults/default"


def spoil(program: Program) -> Path:
    (pack,) = (path for path in (vault_of(program) / "main/packs").rglob("*") if path.is_file())
    flip(pack, pack.stat().st_size // 2)
    return pack


def test_verify_with_a_budget_tells_how_far_it_came(ready: Program) -> None:
    found = ready.run("verify", "--budget", "30m", "--json", code=0).document
    assert found["complete"] is True
    coverage = found["coverage"]
    assert coverage["within_days"] == 30
    assert coverage["needed_bytes"] == coverage["verified_bytes"] == found["stored_bytes"] > 0
    assert coverage["never_bytes"] == 0
    assert coverage["oldest"] == coverage["newest"]
    text = ready.run("verify", "--budget", "100%", "--within", "7d", code=0).out
    assert "verified" in text
    assert "100% of" in text
    assert "within 7 days" in text
    shown = ready.run("vault", "show", "--json", code=0).document["verified"]
    assert shown["verified_bytes"] == shown["needed_bytes"]
    assert "100% of" in ready.run("vault", "show", code=0).out


def test_a_vault_that_was_never_verified_says_so(ready: Program) -> None:
    assert "never, as far as this machine knows" in ready.run("vault", "show", code=0).out
    assert ready.run("vault", "show", "--json", code=0).document["verified"]["counted"] is None


@pytest.mark.parametrize("budget", ["soon", "0%", "101%", "-1", "30 minutes"])
def test_a_budget_that_is_none_is_refused(ready: Program, budget: str) -> None:
    assert ready.run("verify", f"--budget={budget}", code=2).kind == "input.budget"


@pytest.mark.parametrize("words", [("1", "--budget", "1m"), ("--quick", "--budget", "1m")])
def test_a_budget_is_for_all_blocks(ready: Program, words: tuple[str, ...]) -> None:
    assert ready.run("verify", *words, code=2).kind == "input.usage"


def test_check_of_a_sound_vault(ready: Program) -> None:
    for words in ((), ("--quick",)):
        found = ready.run("vault", "check", *words, "--json", code=0).document
        assert (found["schema"], found["damage"], found["leftovers"]) == ("blockvault.check/1", [], [])
        assert found["points"] == found["packs"] == found["layers"] == 1
        assert bool(found["index_entries"]) is not words
        assert found["index_stale"] == 0
    assert "check: no damage found" in ready.run("vault", "check", code=0).out


def test_damage_is_checked_healed_and_told(ready: Program) -> None:
    pack = spoil(ready)
    assert ready.run("vault", "check", code=0), "the bytes of a block are what verify reads"
    assert "quarantined" in ready.run("verify", code=4).out
    assert "quarantine" in ready.run("vault", "check", code=0).out
    plan = ready.run("vault", "repair", "--dry-run", code=0).out
    assert "can be healed:" in plan
    assert "repair: all can be healed" in plan
    assert pack.exists()
    found = ready.run("vault", "repair", "--json", code=0).document
    assert found["schema"] == "blockvault.repair/1"
    assert [block["source"] for block in found["healed"]] == [f"the disk image {ready.folder / 'disk.img'}"]
    assert (found["released"], found["left"]) == (1, [])
    assert not pack.exists()
    ready.run("verify", code=0)
    assert "nothing is damaged any more" in ready.run("vault", "repair", code=0).out


def test_what_cannot_be_healed_is_named(ready: Program) -> None:
    spoil(ready)
    disk = ready.folder / "disk.img"
    disk.write_bytes(bytes(12 * MIB))
    ended = ready.run("vault", "repair", code=4)
    assert "point 1 of item 'disk', disk disk: " in ended.out
    assert "1 cannot be healed" in ended.out
    assert "take a point of each item named above" in ended.out
    assert len(ready.run("vault", "repair", "--json", code=4).document["left"]) == 1
    assert ready.run("restore", "--point", "1", code=4).kind == "vault.block-damaged"


def test_repair_makes_the_index_anew(ready: Program) -> None:
    shutil.rmtree(vault_of(ready) / "lmdb")
    found = ready.run("vault", "repair", "--index", "--json", code=0).document
    assert found["index_rebuilt"] is True
    assert ready.run("vault", "check", "--json", code=0).document["index_entries"]


def test_leftovers_are_counted_and_no_damage(ready: Program) -> None:
    (point,) = (vault_of(ready) / "points").rglob("000*")
    copy = point.read_bytes()
    point.unlink()
    told = ready.run("vault", "check", "--json").documents
    found = next(one for one in told if "leftovers" in one)  # that a record is gone is a warning of its own
    assert {one["what"]: one["count"] for one in found["leftovers"]} == {
        "packs that no point names": 1,
        "layers that no point names": 1,
    }
    assert found["damage"] == []
    point.write_bytes(copy)
    (vault_of(ready) / "leases").mkdir(exist_ok=True)
    (vault_of(ready) / "leases" / ("ab" * 16)).write_bytes(b"of a writer that died")
    text = ready.run("vault", "check").out
    assert "1 leases of processes that died" in text
