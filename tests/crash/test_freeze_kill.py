"""The program is killed while guests and file systems stand still: they are thawed, and the next run is like any."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.guest_agent import FakeAgent
from helpers.program import Program

MIB = 1 << 20


def snapshot_killed_at(program: Program, place: str, *arguments: str) -> None:
    """Run `snapshot`, killed by itself where it comes to `place`."""
    ended = program.run("snapshot", *arguments, env={"BLOCKVAULT_FAILPOINT": f"{place}:kill"})
    assert ended.code == -signal.SIGKILL, ended.err


@pytest.mark.parametrize("place", ["hook.frozen", "snapshot.reflink.begun", "snapshot.reflink.cloned"])
def test_guests_are_thawed_when_a_backup_is_killed(
    reflink_path: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))
    program = Program(reflink_path)
    agents = {}
    try:
        for name in ("web01", "db01"):
            image = program.folder / f"{name}.img"
            image.write_bytes(os.urandom(MIB))
            program.run("snapshot", image, code=0)
            agents[name] = FakeAgent(tmp_path)
            program.run("item", "set", name, "--agent", agents[name].path, code=0)
        program.run("group", "create", "shop", "web01", "db01", code=0)
        snapshot_killed_at(program, place, "@shop", "--consistency", "fs")
        for agent in agents.values():
            assert agent.freezes == 1
            assert agent.thawed.wait(20)
            assert not agent.frozen
        assert len(program.run("points", "--json", code=0).document["points"]) == 2
        done = program.run("snapshot", "@shop", "--consistency", "fs", "--json", code=0)
        results = [document for document in done.documents if document.get("message_type") == "summary"]
        assert [result["consistency"] for result in results] == ["fs", "fs"]
        folders = list((program.folder / ".blockvault").rglob("*.img"))
        assert len(folders) == 4  # two points of each, and nothing of what was killed
    finally:
        for agent in agents.values():
            agent.close()


@pytest.mark.root
def test_a_file_system_is_thawed_when_a_backup_is_killed(
    reflink_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))
    program = Program(reflink_path)
    image, mount = program.folder / "data.img", tmp_path / "data"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        program.run("snapshot", image, code=0)
        program.run("item", "set", "data", "--freeze-mount", mount, code=0)
        snapshot_killed_at(program, "hook.frozen", "data", "--consistency", "fs")
        (mount / "written").write_bytes(b"x" * 100_000)  # waits until the watchdog has thawed it
        assert program.run("snapshot", "data", "--consistency", "fs", "--json", code=0).document["consistency"] == "fs"
    finally:
        subprocess.run(["umount", str(mount)], check=True)
