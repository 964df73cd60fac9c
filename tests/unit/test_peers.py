"""The comparison with peers: what is run, how it is read, what is told. BlockVault and `cp` are really run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import measuring, pictures, scenario, tables
from benchmarks.peers.backy2 import Backy2
from benchmarks.peers.benji import Benji
from benchmarks.peers.borg import Borg, BorgBuzhash
from benchmarks.peers.bup import Bup
from benchmarks.peers.casync import Casync
from benchmarks.peers.ceilings import Copy, QemuImg, Rsync, Zstd
from benchmarks.peers.kopia import Kopia
from benchmarks.peers.ours import BlockVault, BlockVaultEncrypted, BlockVaultSnapshot
from benchmarks.peers.restic import Restic
from benchmarks.peers.scenario import Step
from benchmarks.peers.tool import Command, Kind, Tool, command, last_match, version_in
from benchmarks.peers.zbackup import ZBackup

IMAGE = "/w/disk/disk.img"
UID = "bfef897e-eb28-11f1-8f49-02fc00000001"

# What each tool says after a backup, in its own words, and the name of the point in that.
SAID = {
    "restic": ('{"message_type":"status"}\n{"message_type":"summary","snapshot_id":"5f3c2a19"}\n', "5f3c2a19"),
    "kopia": (
        '{"id": "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "source": {"path": "/w/disk"}}',
        "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    ),
    "benji": ('{"versions": [{"uid": "first-8e0rrc", "volume": "first"}]}', "first-8e0rrc"),
    "backy2": (f"type|date|name\nversion|2026-11-28|first||16|67108864|{UID}|1|0|b_daily\n", UID),
    "blockvault": ('{"message_type": "status"}\n{"message_type": "summary", "item": "disk", "point": 7}\n', "7"),
}


def with_point(make: type[Tool], folder: str = "/t", label: str = "first") -> Tool:
    tool = make(folder)
    said = SAID.get(tool.name.split("-")[0], ("", ""))[0]
    tool.remember(label, IMAGE, said)
    return tool


def words(commands: list[Command] | None) -> list[list[str]]:
    return [list(each.argv) for each in commands or []]


@pytest.mark.parametrize("name", SAID)
def test_a_point_is_called_what_the_tool_calls_it(name: str) -> None:
    make = next(tool for tool in peers.TOOLS if tool.name == name)
    said, expected = SAID[name]
    assert with_point(make).ids == {"first": expected}
    assert said
    with pytest.raises(ValueError, match="no "):
        make("/t").remember("first", IMAGE, "something else\n")


@pytest.mark.parametrize("make", peers.TOOLS, ids=lambda tool: tool.name)
def test_every_tool_says_what_the_table_needs_and_stays_in_its_folder(make: type[Tool]) -> None:
    tool = with_point(make)
    assert tool.name
    assert tool.program
    assert tool.settings
    assert tool.repository.startswith("/t/")
    assert tool.cache.startswith("/t/")
    for variable, value in tool.environment().items():
        assert not value.startswith("/") or value.startswith("/t/"), variable
    ran = [
        *tool.begin(),
        *tool.backup(IMAGE, "second"),
        *tool.restore("first", "/r"),
        *(tool.verify_one("first") or []),
        *(tool.verify() or []),
        *(tool.delete("first") or []),
    ]
    paths = [
        word for each in ran for word in (*each.argv, each.input, each.output, each.cwd) if word and word[0] == "/"
    ]
    assert all(path.startswith(("/t/", "/w/", "/r")) or path == sys.executable for path in paths), paths
    assert tool.restored("first", "/r").startswith("/r/")
    assert tool.restored("first", "/r").endswith("disk.img")


def test_names_are_unique_and_who_keeps_points_can_delete_one() -> None:
    assert len({tool.name for tool in peers.TOOLS}) == len(peers.TOOLS)
    for make in peers.TOOLS:
        tool = with_point(make)
        assert (tool.delete("first") is None) == (tool.kind is Kind.CEILING), tool.name


def test_what_is_run_of_blockvault() -> None:
    tool = with_point(BlockVault)
    python = [sys.executable, "-m", "blockvault"]
    assert words(tool.begin()) == [[*python, "vault", "create", "peers", "--no-encryption", "--soft-delete-days", "0"]]
    assert words(tool.backup(IMAGE, "first")) == [[*python, "snapshot", IMAGE, "--no-keep", "--json"]]
    assert words(tool.restore("first", "/r")) == [[*python, "restore", "--point", "7", "-o", "/r/disk.img"]]
    assert words(tool.delete("first"))[-1] == [*python, "prune", "--yes"]
    assert "BLOCKVAULT_PASSWORD" in BlockVaultEncrypted("/t").environment()
    assert "--no-encryption" not in words(BlockVaultEncrypted("/t").begin())[0]
    assert "--no-keep" not in words(BlockVaultSnapshot("/t").backup(IMAGE, "first"))[0]


def test_what_is_run_of_the_peers() -> None:
    assert words(with_point(Restic).backup(IMAGE, "first")) == [["restic", "backup", "--json", "--tag", "first", IMAGE]]
    assert with_point(Restic).restored("first", "/r") == "/r/w/disk/disk.img"
    assert words(with_point(Restic).verify()) == [["restic", "check", "--read-data"]]
    borg = with_point(Borg).backup(IMAGE, "first")
    fixed = ["--chunker-params", "fixed,4194304", "--sparse"]
    assert words(borg) == [["borg", "create", *fixed, "::first", "disk.img"]]
    assert borg[0].cwd == "/w/disk"
    assert words(BorgBuzhash("/t").backup(IMAGE, "first")) == [["borg", "create", "::first", "disk.img"]]
    assert words(with_point(Borg).delete("first")) == [["borg", "delete", "::first"], ["borg", "compact"]]
    assert words(Kopia("/t").begin())[0][-2:] == ["--object-splitter", "FIXED-1M"]
    assert words(with_point(Kopia).backup(IMAGE, "first"))[0][-1] == "/w/disk"
    assert ZBackup("/t").backup(IMAGE, "first")[0].input == IMAGE
    assert with_point(ZBackup).restore("first", "/r")[0].output == "/r/disk.img"
    assert words(with_point(Bup).restore("first", "/r")) == [["bup", "join", "first"]]
    assert words(with_point(Benji).delete("first"))[-1][-1] == "cleanup"
    assert words(with_point(Backy2).verify())[0][-2:] == ["scrub", UID]
    assert words(with_point(Backy2).verify_one("first")) == [words(with_point(Backy2).verify())[0]]
    assert words(with_point(Benji).verify_one("first"))[0][-2] == "deep-scrub"
    assert with_point(Restic).verify_one("first") is None


def test_casync_keeps_the_chunks_of_every_other_point() -> None:
    tool = with_point(Casync)
    tool.remember("second", IMAGE, "")
    collect = words(tool.delete("first"))[-1]
    assert collect[:2] == ["casync", "gc"]
    assert [word for word in collect if word.endswith(".caibx")] == ["/t/repository/second.caibx"]


@pytest.mark.parametrize("make", [Copy, Zstd, QemuImg, Rsync], ids=lambda tool: tool.name)
def test_a_ceiling_has_one_copy_of_each_disk(make: type[Tool]) -> None:
    tool = make("/t")
    one, again = tool.backup(IMAGE, "first"), tool.backup(IMAGE, "second")
    other = tool.backup("/w/clone/disk.img", "clone")
    assert words(one) == words(again)
    assert words(one) != words(other)


def test_configuration_files_are_made_before_anything_is_run(tmp_path: Path) -> None:
    for make in (Benji, Backy2):
        tool = make(str(tmp_path / make.name))
        tool.prepare()
        (written,) = os.listdir(tool.cache)
        assert tool.repository in Path(tool.cache, written).read_text()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64", "0.14.0"),
        ("borg 1.2.4\n", "1.2.4"),
        ("casync 2\n", "2"),
        ("cp (GNU coreutils) 9.1\n", "9.1"),
        ("qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)", "7.2.22"),
        ("*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***", "1.5.4"),
        ("0.17.0-alpha0 build: 1a2b", "0.17.0-alpha0"),
        ("what?", "unknown"),
    ],
)
def test_versions_are_read(text: str, version: str) -> None:
    assert version_in(text) == version


def test_the_last_match_counts() -> None:
    assert last_match(r'"point": (\d+)', '"point": 1, "point": 22', "point") == "22"


def test_only_what_is_found_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "borg"
    fake.write_text("#!/bin/sh\necho borg 9.9.9\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Borg.is_here()
    assert Borg(str(tmp_path)).version() == "9.9.9"
    assert not Restic.is_here()
    assert BlockVault.is_here()  # needs no path


def test_the_steps_come_in_the_order_that_makes_them_honest() -> None:
    order = list(Step)
    assert scenario.BACKUPS[-1] is Step.SIMILAR
    assert order[0] is Step.FIRST is scenario.OLDEST
    assert order.index(Step.UNTOUCHED) < order.index(Step.NOTHING)  # the same bytes twice, first with the same time
    assert order.index(Step.RESTORE_OLDEST) < order.index(Step.RECLAIM) < order.index(Step.RESTORE_NEWEST)
    assert set(scenario.TITLES) == set(Step)


# --- measuring --------------------------------------------------------------------------------


def test_cpu_and_memory_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    grandchild = "a = bytearray(b'x' * (64 << 20)); import time; time.sleep(0.4)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    figures = measuring.measure([command(sys.executable, "-c", parent)], {}, str(tmp_path))
    assert figures.anonymous_bytes is not None
    assert figures.anonymous_bytes >= 64 << 20
    assert figures.seconds >= 0.4
    assert figures.cpu_seconds > 0


def test_input_output_folder_and_environment_reach_the_process(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"bytes")
    copy = command("cat", input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    tell = command("sh", "-c", "pwd; echo $WORD", cwd=str(tmp_path))
    figures = measuring.measure([copy, tell], {"WORD": "said"}, str(tmp_path))
    assert (tmp_path / "out").read_bytes() == b"bytes"
    assert figures.output.split() == [str(tmp_path), "said"]


def test_a_process_that_fails_or_hangs_fails_the_step(tmp_path: Path) -> None:
    with pytest.raises(measuring.StepFailedError, match="exit 3: no room"):
        measuring.measure([command("sh", "-c", "echo no room >&2; exit 3")], {}, str(tmp_path))
    measuring.measure([command("sh", "-c", "exit 3", good=(0, 3))], {}, str(tmp_path))
    with pytest.raises(measuring.StepFailedError, match="not done in time"):
        measuring.measure([command("sleep", "60")], {}, str(tmp_path), timeout=0.2)
    with pytest.raises(measuring.StepFailedError, match="No such file"):
        measuring.measure([command(str(tmp_path / "not there"))], {}, str(tmp_path))


def test_stored_bytes_are_what_the_disk_gives(tmp_path: Path) -> None:
    empty = measuring.stored_bytes(str(tmp_path))
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "data", tmp_path / "linked")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    measuring.sync_file_system(str(tmp_path))  # blocks are given when they are written out
    grown = measuring.stored_bytes(str(tmp_path)) - empty
    assert 100_000 <= grown < 200_000


def test_what_differs_anywhere_is_not_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(5 << 20))
    other.write_bytes(bytes((5 << 20) - 1) + b"x")
    assert not scenario.same_bytes(str(one), str(other))
    other.write_bytes(bytes(5 << 20))
    assert scenario.same_bytes(str(one), str(other))
    other.write_bytes(bytes(4 << 20))
    assert not scenario.same_bytes(str(one), str(other))
    assert not scenario.same_bytes(str(one), str(tmp_path / "not there"))


def test_new_data_is_new_and_leaves_free_what_is_free(tmp_path: Path) -> None:
    path = tmp_path / "image"
    data = os.urandom(4096) + b"real " * 819 + b"\0" + bytes(8192)  # two pages of data, two free
    path.write_bytes(data * 1024)  # 16 MiB
    changed = scenario.write_new_data(str(path), 1, 0.25)
    new = path.read_bytes()
    pages = {(data * 1024)[at : at + 4096] for at in range(0, len(new), 4096)}
    differing = [new[at : at + 4096] for at in range(0, len(new), 4096) if new[at : at + 4096] not in pages]
    assert len(new) == 16 << 20
    assert changed == 4096 * len(differing) == 4 << 20
    assert new.count(bytes(4096)) == 2048


# --- what is told --------------------------------------------------------------------------------


def outcome(seconds: float | None = None, failure: str | None = None, **figures: Any) -> dict[str, Any]:
    fields = {"sync_seconds", "cpu_seconds", "anonymous_bytes", "stored_bytes", "repository_bytes", "load"}
    return {"seconds": seconds, "failure": failure, **dict.fromkeys(fields), "load": 0.5, **figures}


def described(name: str, kind: Kind, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "version": "1.0", "settings": "s", "encrypts": "no", "note": "", "untested": False,
    } | more  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    own = {"first": outcome(2.0, stored_bytes=1000 << 20), "runs": outcome(1.0, stored_bytes=1 << 20)}
    fast = {"first": outcome(1.0, stored_bytes=2000 << 20), "runs": outcome(failure="exit 1: <broken>")}
    slow = {"first": outcome(9.0, stored_bytes=500 << 20), "runs": outcome(5.0, stored_bytes=2 << 20)}
    return {
        "schema": peers.SCHEMA,
        "when": "2026-11-28 12:00 UTC",
        "machine": {
            "processor": "P", "cores": 2, "memory_bytes": 8 << 30, "system": "S", "file_system": "ext4", "commit": "c",
        },
        "size": 4 << 30,
        "data_bytes": 3 << 30,
        "tools": [
            described("blockvault", Kind.OURS),
            described("fast", Kind.PEER),
            described("slow", Kind.PEER, untested=True),
            described("cp", Kind.CEILING),
        ],
        "absent": ["kopia"],
        "changed_bytes": {"runs": 31 << 20},
        "rounds": [
            {"blockvault": own, "fast": fast, "slow": slow, "cp": {"first": outcome(0.1)}},
            {"blockvault": {**own, "first": outcome(4.0, stored_bytes=1000 << 20)}, "fast": fast, "slow": slow},
        ],
    }  # fmt: skip


def test_medians_and_what_failed_once_has_none(results: dict[str, Any]) -> None:
    assert tables.value(results, "blockvault", Step.FIRST, "seconds") == 3.0
    assert tables.value(results, "fast", Step.RUNS, "seconds") is None
    assert tables.value(results, "blockvault", Step.VERIFY, "seconds") is None
    results["rounds"][1]["slow"] = {"first": outcome(failure="once")}
    assert tables.value(results, "slow", Step.FIRST, "seconds") is None


def test_losses_stand_as_plainly_as_wins(results: dict[str, Any]) -> None:
    text = tables.render(results)
    assert "| first point | 3.00 s : 1.00 s fast, **3.00** | 1000.0 MiB : 500 MiB slow, **2.00** |" in text.replace(
        tables.format_size(1000 << 20), "1000.0 MiB"
    )
    assert "| runs of pages, 1% | 1.00 s : 5.00 s slow, 0.20 | 1.00 MiB : 2.00 MiB slow, 0.50 |" in text
    assert "- first point: time: fast; stored: slow\n" in text
    assert "- runs of pages" not in text.split("the best first:")[1].split("### Time")[0]
    assert "cp," not in text.split("### BlockVault beside")[1].split("### Time")[0]  # a ceiling keeps no points


def test_a_failure_is_told_and_never_a_time(results: dict[str, Any]) -> None:
    text = tables.render(results)
    assert "| fast | 1.00 s | **FAILED** |" in text
    assert "- fast, runs of pages, 1%: exit 1: <broken>" in text
    assert "Not found on this machine, so not measured: kopia." in text
    assert "adapter written from the documentation" in text


def test_the_text_goes_between_its_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    tables.write_between(str(path), "one")
    assert path.read_text() == f"# BlockVault beside its peers\n\n{tables.BEGIN}\none\n{tables.END}\n"
    path.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\n\nafter\n")
    for _ in range(2):
        tables.write_between(str(path), "new\n")
        assert path.read_text() == f"before\n{tables.BEGIN}\nnew\n{tables.END}\n\nafter\n"
    path.write_text("no markers\n")
    tables.write_between(str(path), "new")
    assert path.read_text() == f"no markers\n\n{tables.BEGIN}\nnew\n{tables.END}\n"


def test_bars_are_as_long_as_what_they_stand_for(results: dict[str, Any], tmp_path: Path) -> None:
    drawing = ET.fromstring(pictures.picture(results, Step.FIRST))
    bars = [float(rect.get("width", "")) for rect in drawing.iter("{http://www.w3.org/2000/svg}rect") if rect.get("x")]
    own, fast, slow = bars[:3]
    assert own / fast == pytest.approx(3, rel=0.01)
    assert slow / fast == pytest.approx(9, rel=0.01)
    assert "FAILED" in pictures.picture(results, Step.RUNS)
    written = pictures.write_pictures(results, str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["peers-first.svg", "peers-runs.svg"]
    assert set(written) == {Step.FIRST, Step.RUNS}


def test_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--only", "resticc"])
    assert "no tool 'resticc'" in capsys.readouterr().err


# --- for real --------------------------------------------------------------------------------


def test_the_scenario_with_blockvault_and_cp(tmp_path: Path) -> None:
    told = tmp_path / "peers.json"
    page = tmp_path / "page.md"
    folder = str(tmp_path / "work")
    asked = ["--size", "16M", "--folder", folder, "--only", "blockvault,cp", "--json", str(told), "--write", str(page)]
    try:
        code = peers.main(asked)
    except SystemExit:
        pytest.skip("a debug build of the core is not measured")
    assert code == 0
    results = json.loads(told.read_text())
    own, copy = results["rounds"][0]["blockvault"], results["rounds"][0]["cp"]
    assert list(own) == list(Step)
    assert [step for step, found in {**own, **copy}.items() if found["failure"]] == []
    assert Step.RESTORE_OLDEST not in copy
    assert copy["random-pages"]["stored_bytes"] >= 16 << 20
    assert 0 < own["random-pages"]["stored_bytes"] < own["first"]["stored_bytes"] < 16 << 20
    assert own["nothing"]["stored_bytes"] < 1 << 20
    assert sorted(os.listdir(folder)) == [f"image-{16 << 20}-1.img", f"similar-{16 << 20}-1.img"]
    assert "restore of the oldest" in page.read_text()
    assert (tmp_path / "pictures" / "peers-first.svg").exists()
    results["rounds"][0].pop("cp")
    told.write_text(json.dumps(results))
    assert peers.main([*asked, "--resume"]) == 0
    again = json.loads(told.read_text())
    assert again["rounds"][0]["blockvault"] == own  # kept as it was
    assert again["rounds"][0]["cp"] != copy  # measured anew, on the same bytes: the digests agreed
    with pytest.raises(SystemExit):
        peers.main([*asked, "--resume", "--size", "32M"])


def test_a_restore_that_brings_other_bytes_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Copy):
        def restore(self, label: str, folder: str) -> list[Command]:
            return [command("truncate", "-s", "16M", self.restored(label, folder))]

    images = scenario.make_images(str(tmp_path), 16 << 20)
    outcomes = scenario.run_tool(Wrong, images, lambda _: None)
    assert outcomes[Step.RESTORE_NEWEST].failure == "what was restored is not what was backed up"
    assert outcomes[Step.RESTORE_NEWEST].seconds is None
    images.digests[Step.RUNS] = "other"
    with pytest.raises(scenario.NotTheSameError):
        scenario.run_tool(Copy, images, lambda _: None)
