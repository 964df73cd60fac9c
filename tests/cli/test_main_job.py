"""The main job, with no set-up: snapshot, change, snapshot, list, restore; what is printed, and where."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.program import Ended, Program

from blockvault.workload import Churn, apply_churn

FIGURES = ("read_bytes", "changed_bytes", "unique_bytes", "stored_bytes", "sent_bytes")


def same(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes()


def taken(ended: Ended) -> dict[str, object]:
    assert ended.code == 0, ended.err
    assert ended.document["message_type"] == "summary"
    return ended.document


def test_first_use_makes_the_vault_and_prints_the_restore_command_that_works(program: Program, disk: Path) -> None:
    first = program.run("snapshot", "disk.img", code=0)
    assert first.err.splitlines()[0] == f"made vault 'default' in {program.state}/vaults/default (not encrypted)"
    lines = {line.split()[0]: line for line in first.out.splitlines()[1:]}
    assert first.out.splitlines()[0] == "point 1 of item 'disk': completed"
    assert {"read", "changed", "unique", "stored", "sent", "churn", "tier", "consistency", "time"} <= set(lines)
    command = next(line for line in first.out.splitlines() if "restore with" in line).split("restore with")[1].split()
    assert command[0] == "blockvault"
    restored = program.run(*command[1:], code=0)
    assert str(program.folder / "disk-point-1.img") in restored.out
    assert same(disk, program.folder / "disk-point-1.img")
    again = program.run("snapshot", "disk.img", code=0)
    assert "made vault" not in again.err


def test_both_points_come_back_from_both_tiers(program: Program, disk: Path) -> None:
    states = {}
    for number in (1, 2):
        summary = taken(program.run("snapshot", disk, "--json"))
        assert summary["point"] == number
        states[number] = disk.read_bytes()
        apply_churn(str(disk), Churn.RANDOM_PAGES, seed=number, fraction=0.02)
    for number, state in states.items():
        for tier in ("vault", "snapshot"):
            out = program.folder / f"{number}-{tier}.img"
            result = program.run(
                "restore", "--point", str(number), "--from", tier, "-o", out, "--json", code=0
            ).document
            assert result["source"] == tier
            assert result["verified"] is True
            assert result["paths"] == [str(out)]
            assert out.read_bytes() == state


def test_summary_fields_and_figures(program: Program, disk: Path) -> None:
    first = taken(program.run("snapshot", disk, "--json"))
    assert first["schema"] == "blockvault.snapshot/1"
    assert (first["item"], first["point"], first["vault_created"]) == ("disk", 1, True)
    assert first["tier"] == "snapshot+vault"
    assert first["consistency"] == "crash"
    assert first["churn_source"] == "initial"
    assert all(isinstance(first[name], int) for name in FIGURES)
    assert first["changed_bytes"] >= first["unique_bytes"] > first["stored_bytes"] > 0
    assert isinstance(first["seconds"], float)
    assert first["restore_command"] == "blockvault restore --point 1"
    second = taken(program.run("snapshot", disk, "--json"))
    assert second["churn_source"] == "scan"
    assert second["changed_bytes"] == second["unique_bytes"] == 0
    assert second["vault_created"] is False
    churn = apply_churn(str(disk), Churn.SMALL_EDITS, seed=1)
    third = taken(program.run("snapshot", disk, "--json"))
    assert 0 < third["changed_bytes"] <= churn.pages_changed * 65_536
    assert third["stored_bytes"] < first["stored_bytes"]


def test_points_lists_what_the_interface_promises(program: Program, disk: Path) -> None:
    program.run(
        "snapshot", disk, "--tag", "why=test", "--comment", "before the upgrade", "--retain-until", "30d", code=0
    )
    document = program.run("points", "--json", code=0).document
    assert document["schema"] == "blockvault.points/1"
    [point] = document["points"]
    assert {"point", "id", "item", "taken", "tier", "size_bytes"} <= set(point)
    assert (point["point"], point["label"], point["item"]) == (1, "1", "disk")
    assert point["size_bytes"] == disk.stat().st_size
    assert point["tags"] == {"why": "test"}
    assert point["comment"] == "before the upgrade"
    assert point["kept_by"] == "retain-until"
    assert point["taken"].endswith("Z")
    text = program.run("ls", code=0).out.splitlines()
    assert text[0].split() == [
        "point",
        "item",
        "taken",
        "tier",
        "consistency",
        "size",
        "churn",
        "stored",
        "kept",
        "until",
    ]
    assert text[1].split()[:2] == ["1", "disk"]
    shown = program.run("point", "show", point["id"][:8], "--json", code=0).document
    assert shown["schema"] == "blockvault.point/1"
    assert shown["id"] == point["id"]
    assert shown["disks"][0]["path"] == str(disk)
    assert "before the upgrade" in program.run("point", "show", "disk@latest", code=0).out


def test_several_disks_make_one_point(program: Program, make_disk: Callable[[str], Path]) -> None:
    disks = [make_disk("vm/system.img"), make_disk("vm/data.img")]
    apply_churn(str(disks[1]), Churn.RUNS, seed=4, fraction=0.3)
    summary = taken(program.run("snapshot", *disks, "--name", "web01", "--json"))
    assert summary["item"] == "web01"
    program.run("restore", "--point", "1", code=0)
    for disk in disks:
        assert same(disk, program.folder / "web01-point-1" / disk.name)
    program.run("restore", "--point", "1", "--disk", "data", "-o", "only-data.img", code=0)
    assert same(disks[1], program.folder / "only-data.img")
    by_name = taken(program.run("snapshot", "web01", "--json"))
    assert (by_name["point"], by_name["item"], by_name["changed_bytes"]) == (2, "web01", 0)


def test_a_second_file_of_the_same_stem_is_another_item_and_is_told(
    program: Program, make_disk: Callable[[str], Path]
) -> None:
    program.run("snapshot", make_disk("a/disk.img"), code=0)
    ended = program.run("snapshot", make_disk("b/disk.img"), "--json")
    assert ended.document["item"] == "disk-2"
    assert "disk-2" in ended.err
    names = [item["item"] for item in program.run("item", "list", "--json", code=0).document["items"]]
    assert names == ["disk", "disk-2"]


def test_dry_run_writes_nothing_even_before_there_is_a_vault(program: Program, disk: Path) -> None:
    plan = program.run("snapshot", disk, "--dry-run", "--json", code=0).document
    assert plan["schema"] == "blockvault.snapshot-plan/1"
    assert plan["parent"] is None
    assert plan["changed_bytes"] > 0
    assert not program.state.exists()
    program.run("snapshot", disk, code=0)
    apply_churn(str(disk), Churn.RANDOM_PAGES, seed=1)
    before = sorted(str(path) for path in program.state.rglob("*") if "lmdb" not in str(path))
    plan = program.run("snapshot", disk, "--dry-run", "--json", code=0).document
    assert plan["parent"] == 1
    assert 0 < plan["changed_bytes"] < disk.stat().st_size
    assert "nothing was written" in program.run("snapshot", disk, "--dry-run", code=0).out
    after = sorted(str(path) for path in program.state.rglob("*") if "lmdb" not in str(path))
    assert after == before
    assert len(program.run("points", "--json").document["points"]) == 1


def test_restore_dry_run_writes_nothing(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    before = sorted(os.listdir(program.folder))
    ended = program.run("restore", "--point", "1", "--dry-run", code=0)
    assert "nothing was written" in ended.out
    assert sorted(os.listdir(program.folder)) == before


def test_snapshot_only_waits_for_transfer(program: Program, disk: Path) -> None:
    first = taken(program.run("snapshot", disk, "--snapshot-only", "--json"))
    assert first["tier"] == "snapshot"
    state = disk.read_bytes()
    apply_churn(str(disk), Churn.RANDOM_PAGES, seed=1)
    done = program.run("transfer", "--json", code=0).document
    assert done["schema"] == "blockvault.transfer/1"
    assert [entry["point"] for entry in done["transfers"]] == [1]
    program.run("restore", "--point", "1", "--from", "vault", "-o", "back.img", code=0)
    assert (program.folder / "back.img").read_bytes() == state
    nothing = program.run("transfer", code=0)
    assert nothing.out == ""
    assert "nothing waits" in nothing.err


def test_no_keep_leaves_no_snapshot(program: Program, disk: Path) -> None:
    summary = taken(program.run("snapshot", disk, "--no-keep", "--json"))
    assert summary["tier"] == "vault"
    assert summary["snapshot_folder"] is None
    assert program.run("restore", "--point", "1", "--from", "snapshot").code == 13


def test_diff_names_extents_and_draws_the_churn(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    assert program.run("diff", "1", disk, "--exit-code").code == 0
    apply_churn(str(disk), Churn.RANDOM_PAGES, seed=1)
    assert program.run("diff", "1", disk, "--exit-code").code == 1
    program.run("snapshot", disk, code=0)
    document = program.run("diff", "2", "--json", code=0).document
    assert document["schema"] == "blockvault.diff/1"
    assert document["changed_bytes"] == sum(extent["byte_count"] for extent in document["extents"]) > 0
    assert len(document["pictures"]["disk"]) == 64
    text = program.run("diff", "1", "2", code=0, env={"PYTHONIOENCODING": "ascii"}).out
    picture = next(line for line in text.splitlines() if "|" in line).split("|")[1]
    assert len(picture) == 64
    assert set(picture) - {" "}


def test_verify_usage_items_and_vaults_speak_json_and_text(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    for words, schema in (
        (("verify",), "verify"),
        (("verify", "--quick"), "verify"),
        (("verify", "1"), "verify"),
        (("verify", "--all"), "verify"),
        (("usage",), "usage"),
        (("usage", "--by", "tier"), "usage"),
        (("item", "list"), "items"),
        (("item", "show", "disk"), "item"),
        (("vault", "list"), "vaults"),
        (("vault", "show"), "vault"),
        (("vault", "show", "default"), "vault"),
    ):
        assert program.run(*words, "--json", code=0).document["schema"] == f"blockvault.{schema}/1"
        assert program.run(*words, code=0).out.strip()


def test_item_set_changes_what_is_named_and_nothing_else(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    changed = program.run("item", "set", "disk", "--name", "web01", "--snapshot-days", "5", "--json", code=0).document
    assert (changed["item"], changed["snapshot_days"], changed["comment"]) == ("web01", 5, "")
    program.run("item", "set", "web01", "--comment", "the web server", code=0)
    shown = program.run("item", "show", "web01", "--json", code=0).document
    assert (shown["snapshot_days"], shown["comment"]) == (5, "the web server")
    moved = disk.rename(disk.with_name("moved.img"))
    program.run("item", "set", "web01", "--disk", f"disk={moved}", code=0)
    summary = taken(program.run("snapshot", "web01", "--json"))
    assert (summary["item"], summary["changed_bytes"]) == ("web01", 0)


def test_vaults_of_ones_own_are_named_in_the_restore_command(
    program: Program, disk: Path, make_disk: Callable[[str], Path]
) -> None:
    program.run("vault", "create", "site-1", "--no-encryption", "--chunk-size", "128K", code=0)
    where = program.folder / "elsewhere"
    program.run("vault", "create", "outside", "--no-encryption", "--path", where, code=0)
    summary = taken(program.run("snapshot", disk, "--vault", "site-1", "--json"))
    assert summary["restore_command"] == "blockvault restore --point 1 --vault site-1"
    by_folder = taken(program.run("snapshot", make_disk("other.img"), "--vault", where, "--json"))
    assert by_folder["restore_command"] == f"blockvault restore --point 1 --vault {where}"
    by_environment = program.run("points", "--json", env={"BLOCKVAULT_VAULT": "outside"}, code=0).document
    assert len(by_environment["points"]) == 1
    vaults = program.run("vault", "list", "--json", code=0).document["vaults"]
    assert {vault["name"] for vault in vaults} == {"site-1", "outside"}
    assert program.run("vault", "show", "site-1", "--json", code=0).document["chunk_bytes"] == 131_072


@pytest.mark.parametrize("words", [("snapshot", "disk.img"), ("restore", "--point", "1", "-o", "x.img"), ("verify",)])
def test_quiet_jobs_print_nothing_when_all_is_well(program: Program, disk: Path, words: tuple[str, ...]) -> None:
    program.run("snapshot", disk, code=0)
    ended = program.run(*words, "-q", code=0)
    assert (ended.out, ended.err) == ("", "")


def test_verbose_counts_the_work(program: Program, disk: Path) -> None:
    assert "count: " in program.run("snapshot", disk, "-v", code=0).err


def test_json_stays_json_from_the_first_byte_to_the_last(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    for words in (
        ("snapshot", "disk.img"),
        ("restore", "--point", "1", "-o", "x.img"),
        ("verify",),
        ("diff", "1", "disk.img"),
    ):
        ended = program.run(*words, "--json", code=0)
        for line in ended.out.splitlines():
            assert json.loads(line)["message_type"] in {"status", "warning", "summary"}
        assert ended.document["message_type"] == "summary"
