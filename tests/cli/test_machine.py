"""doctor, version, completion, demo, bench."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.program import Program

from blockvault import kernel
from blockvault.cli import checks
from blockvault.cli.app import GROUPS
from blockvault.cli.checks import Level

pytestmark = pytest.mark.no_bytes


def test_doctor_before_and_after_the_first_point(program: Program, disk: Path) -> None:
    before = program.run("doctor", "--json").document
    assert before["schema"] == "blockvault.doctor/1"
    checked = {finding["check"] for finding in before["findings"]}
    assert {"core", "LMDB", "clock", "state folder", "vault"} <= checked
    assert not program.state.exists()  # it looks, it does not make
    program.run("snapshot", disk, code=0)
    after = program.run("doctor", "disk", "--json").document
    [image] = [finding for finding in after["findings"] if finding["check"] == "disk/disk"]
    assert image["level"] == "ok"
    assert str(disk) in image["text"]


def test_doctor_says_what_to_do_and_its_exit_code_is_the_worst(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    disk.unlink()
    ended = program.run("doctor")
    assert ended.code == 3
    assert "warn  disk/disk:" in ended.out
    assert "do: blockvault item set disk --disk disk=PATH" in ended.out
    header = program.state / "vaults" / "default" / "vault.json"
    header.unlink()
    assert program.run("doctor", code=1).out.count("fail  ") == 1
    assert program.run("doctor", "no-such-item", code=1).out.count("fail  ") == 1


def test_doctor_warns_of_others_who_may_write(program: Program) -> None:
    program.state.mkdir()
    program.state.chmod(0o777)
    finding = checks.check_state_folder(str(program.state))
    assert finding.level is Level.WARN
    assert "chmod" in (finding.do or "")
    program.state.chmod(0o700)
    assert checks.check_state_folder(str(program.state)).level is Level.OK


def test_doctor_knows_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert checks.check_space("vault", str(tmp_path)).level is Level.WARN


def test_reflink_is_tried_not_guessed(reflink_path: Path, tmp_path: Path) -> None:
    assert checks.can_reflink(str(reflink_path))
    assert os.listdir(reflink_path) == []


def test_version_names_the_kernel_and_its_build(program: Program) -> None:
    document = program.run("version", "--json", code=0).document
    assert document["schema"] == "blockvault.version/1"
    assert document["kernel"]["name"] == kernel.KERNEL
    assert {"profile", "simd", "version"} <= set(document["kernel"])
    assert {"lmdb", "numpy", "zstandard"} <= set(document["parts"])
    assert document["version"] in program.run("version", code=0).out.splitlines()[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(program: Program, shell: str) -> None:
    source = program.run("completion", shell, code=0).out
    assert "_BLOCKVAULT_COMPLETE" in source
    assert program.run("completion", shell, "--json", code=0).document["source"].strip() == source.strip()
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=source.encode()).returncode == 0


def test_completion_completes(program: Program) -> None:
    given = {"_BLOCKVAULT_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    names = program.run(env={**given, "COMP_WORDS": "blockvault s"}).out.split()
    assert names == ["plain,snapshot", "plain,service"]
    names = program.run(env={**given, "COMP_WORDS": "blockvault vault ", "COMP_CWORD": "2"}).out.split()
    assert names == [f"plain,{name}" for name in GROUPS["vault"]]
    assert "plain,create" in names


def test_demo_shows_everything_and_cleans_up(program: Program, tmp_path: Path) -> None:
    place = {"TMPDIR": str(tmp_path)}
    before = sorted(os.listdir(tmp_path))
    ended = program.run("demo", env=place, code=0)
    assert ended.out.count("every byte is the same") == 2
    assert "from the vault" in ended.out
    assert "from the snapshot" in ended.out
    assert "blockvault snapshot disk.img" in ended.out.splitlines()[-1]
    for figure in ("read", "changed", "unique", "stored", "sent"):
        assert ended.out.count(f"\n  {figure} ") == 2
    assert sorted(os.listdir(tmp_path)) == before
    assert not program.state.exists()


def test_demo_keeps_when_told(program: Program, tmp_path: Path) -> None:
    document = program.run("demo", "--keep", "--json", env={"TMPDIR": str(tmp_path)}, code=0).document
    assert document["good"] is True
    assert [restore["source"] for restore in document["restores"]] == ["vault", "snapshot"]
    kept = Path(document["folder"])
    assert kept.parent == tmp_path
    assert (kept / "restored-point-1.img").read_bytes() == (kept / "disk-as-at-point-1.img").read_bytes()


def test_demo_finds_a_wrong_byte(tmp_path: Path) -> None:
    from blockvault.demo import same_bytes

    left, right = tmp_path / "left", tmp_path / "right"
    left.write_bytes(bytes(9 << 20))
    right.write_bytes(bytes(9 << 20))
    assert same_bytes(str(left), str(right))
    with right.open("r+b") as file:
        file.seek((9 << 20) - 1)
        file.write(b"x")
    assert not same_bytes(str(left), str(right))
    right.write_bytes(bytes((9 << 20) + 1))
    assert not same_bytes(str(left), str(right))


@pytest.mark.slow
def test_bench_measures_beside_ceilings_or_refuses(program: Program, tmp_path: Path) -> None:
    ended = program.run("bench", "--quick", "--json", env={"TMPDIR": str(tmp_path)})
    if kernel.build_info()["profile"] != "release":
        assert ended.code == 1
        assert ended.kind == "bench.debug-build"
        return
    assert ended.code == 0, ended.err
    document = ended.document
    assert document["schema"] == "blockvault.bench/1"
    assert len(document["rows"]) == 4
    assert all(row["ratio"] > 0 for row in document["rows"])
    assert 0 < document["stored_per_changed"] < 6
    assert [name for name in os.listdir(tmp_path) if "bench" in name] == []
