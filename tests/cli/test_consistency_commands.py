"""Hooks, groups and consistency as a user meets them on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.guest_agent import FakeAgent
from helpers.program import Program

pytestmark = pytest.mark.no_bytes


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with FakeAgent(tmp_path, version="7.2.0") as made:
        yield made


def script(config: Path, name: str, text: str, mode: int = 0o755) -> Path:
    path = config / "hooks.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(mode)
    return path


def test_a_point_reaches_what_is_asked_and_says_so(
    program: Program, disk: Path, config: Path, agent: FakeAgent
) -> None:
    program.run("snapshot", disk, code=0)
    shown = program.run("item", "set", "disk", "--agent", agent.path, "--hook-timeout", "5", code=0).out
    assert "answers, version 7.2.0" in shown
    assert "scripts have  5 s" in shown
    script(config, "10-db", 'echo "$1 of $BLOCKVAULT_ITEM"')
    ended = program.run("snapshot", "disk", "--consistency", "app", code=0)
    assert "consistency   application-consistent" in ended.out
    assert "frozen for" in ended.out
    assert "hook 10-db pre: pre of disk" in ended.err
    assert "hook 10-db post: post of disk" in ended.err
    text = program.run("point", "show", "2", code=0).out
    assert "application-consistent" in text
    assert "frozen for" in text
    point = program.run("point", "show", "2", "--json", code=0).document
    assert point["consistency"] == "app"
    assert point["freeze_ms"] > 0
    listed = program.run("points", "--json", code=0).document["points"]
    assert [each["consistency"] for each in listed] == ["crash", "app"]
    assert listed[0]["freeze_ms"] is None


def test_less_than_was_asked_is_a_warning_or_a_failure(program: Program, disk: Path, config: Path) -> None:
    program.run("snapshot", disk, code=0)
    script(config, "10-db", '[ "$1" = post ] || exit 1')
    ended = program.run("snapshot", "disk", "--consistency", "app", "--json", code=3)
    assert ended.document["consistency"] == "crash"
    assert ended.document["job_state"] == "completed-with-warning"
    kinds = [each["kind"] for each in ended.documents if each["message_type"] == "warning"]
    assert kinds == ["hook.script-failed"]
    failed = program.run("snapshot", "disk", "--consistency", "fs", "--on-hook-failure", "fail", code=1)
    assert failed.kind == "hook.nothing-to-freeze"
    assert "do:    blockvault item set disk --agent SOCKET" in failed.err
    assert len(program.run("points", "--json").document["points"]) == 2


def test_hooks_are_listed_and_tried(program: Program, disk: Path, config: Path) -> None:
    program.run("snapshot", disk, code=0)
    none = program.run("hook", "list", "disk", code=0)
    assert (none.out, "no scripts" in none.err) == ("", True)
    script(config, "20-db", 'echo "$1 $BLOCKVAULT_POINT $BLOCKVAULT_RESULT"')
    script(config, "10-first", "exit 0")
    rows = [line.split()[:4] for line in program.run("hook", "list", "disk", code=0).out.splitlines()[1:]]
    assert rows == [["10-first", "all", "items", "ok"], ["20-db", "all", "items", "ok"]]
    tried = program.run("hook", "test", "disk", code=0)
    rows = [line.split()[:3] for line in tried.out.splitlines()[1:]]
    assert rows == [["10-first", "pre", "0"], ["20-db", "pre", "0"], ["20-db", "post", "0"], ["10-first", "post", "0"]]
    assert "hook 20-db post: post  completed" in tried.err
    script(config, "15-bad", "exit 4")
    tried = program.run("hook", "test", "disk", "--json", code=1)
    runs = [(run["hook"], run["phase"], run["exit_code"]) for run in tried.document["runs"]]
    assert runs == [("10-first", "pre", 0), ("15-bad", "pre", 4), ("15-bad", "post", 4), ("10-first", "post", 0)]
    assert tried.document["succeeded"] is False
    script(config, "15-bad", "exit 0", mode=0o777)
    assert "can be written by its group or by others" in program.run("hook", "list", "disk", code=3).out
    refused = program.run("hook", "test", "disk", "--json", code=1).document
    assert refused["runs"] == []
    assert refused["hooks"][1]["do"].startswith("chmod go-w")
    assert len(program.run("points", "--json", code=0).document["points"]) == 1


def test_a_freeze_is_tried(program: Program, disk: Path, agent: FakeAgent) -> None:
    program.run("snapshot", disk, code=0)
    assert "hook.nothing-to-freeze" in program.run("hook", "test", "disk", "--freeze", code=1).err
    program.run("item", "set", "disk", "--agent", agent.path, code=0)
    assert "frozen for" in program.run("hook", "test", "disk", "--freeze", code=0).out
    assert (agent.freezes, agent.frozen) == (1, False)


def test_doctor_and_item_show_tell_whether_the_agent_answers(program: Program, disk: Path, tmp_path: Path) -> None:
    program.run("snapshot", disk, code=0)
    assert program.run("item", "show", "disk", "--json", code=0).document["agent"] is None
    with FakeAgent(tmp_path, version="8.1") as agent:
        program.run("item", "set", "disk", "--agent", agent.path, code=0)
        state = program.run("item", "show", "disk", "--json", code=0).document["agent"]
        assert (state["answers"], state["version"], state["can_freeze"]) == (True, "8.1", True)
        assert "guest agent: answers, version 8.1" in program.run("doctor", "disk").out
        agent.can_freeze = False
        assert "but may not freeze" in program.run("doctor", "disk").out
    state = program.run("item", "show", "disk", "--json", code=0).document["agent"]
    assert (state["answers"], state["version"]) == (False, "")
    assert "does not answer" in program.run("item", "show", "disk", code=0).out
    findings = program.run("doctor", "disk", "--json").document["findings"]
    (found,) = [finding for finding in findings if finding["check"] == "guest agent"]
    assert (found["level"], found["text"]) == ("warn", "does not answer (No such file or directory)")
    program.run("item", "set", "disk", "--freeze-mount", "/nowhere", code=0)
    findings = program.run("doctor", "disk", "--json").document["findings"]
    (found,) = [finding for finding in findings if finding["check"] == "frozen mount"]
    assert found["level"] == "warn"
    assert found["text"].startswith("/nowhere is not where a file system is mounted")
    program.run("item", "set", "disk", "--freeze-mount", "", code=0)
    assert program.run("item", "show", "disk", "--json", code=0).document["freeze_mounts"] == []
    program.run("item", "set", "disk", "--agent", "", code=0)
    assert program.run("item", "show", "disk", "--json", code=0).document["agent_socket"] is None


def test_groups_are_made_changed_and_captured(program: Program, reflink_path: Path) -> None:
    program = Program(reflink_path)
    for name in ("web01", "db01", "cache01"):
        image = program.folder / f"{name}.img"
        image.write_bytes(name.encode() * 100_000)
        program.run("snapshot", image, code=0)
    assert "no groups yet" in program.run("group", "list", code=0).err
    assert program.run("group", "create", "shop", "web01", "db01", code=0).out == "group 'shop' is made: web01, db01\n"
    assert program.run("group", "create", "shop", "cache01", code=2).kind == "group.exists"
    program.run("group", "set", "shop", "db01", "cache01", code=0)
    document = program.run("group", "list", "--json", code=0).document
    assert document == {"schema": "blockvault.groups/1", "groups": [{"group": "shop", "items": ["cache01", "db01"]}]}
    assert program.run("group", "list", code=0).out.splitlines()[1].split() == ["shop", "2", "cache01,", "db01"]
    program.run("item", "set", "web01", "--group", "shop", code=0)
    ended = program.run("snapshot", "@shop", "--json", code=0)
    results = [document for document in ended.documents if document["message_type"] == "summary"]
    assert [(result["item"], result["group"]) for result in results] == [
        ("cache01", "shop"),
        ("db01", "shop"),
        ("web01", "shop"),
    ]
    assert {result["point"] for result in results} == {4, 5, 6}
    text = program.run("point", "show", "5", code=0).out
    assert "shop: captured at one instant" in text
    assert "of each other" in text
    program.run("snapshot", "--group", "shop", "--snapshot-only", code=0)
    assert "these items are in none: cache01, db01, web01" in program.run("group", "remove", "shop", code=0).out
    assert program.run("group", "list", "--json", code=0).document["groups"] == []
