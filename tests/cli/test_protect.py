"""`protect`, `unprotect`, `resume`: all or none, no point taken, nothing deleted unless asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.program import Program
from helpers.site import Site

from blockvault.clock import utc_now
from blockvault.engine.in_place import check_whole
from blockvault.errors import ConflictError, InvalidInputError, NotFoundError
from blockvault.model import Protection

pytestmark = pytest.mark.no_bytes

MakeDisk = Callable[[str], Path]


def protection(program: Program) -> dict[str, tuple[str | None, str]]:
    items = program.run("item", "list", "--json", code=0).document["items"]
    return {item["item"]: (item["policy"], item["protection"]) for item in items}


def points(program: Program, *words: str) -> list[Any]:
    found: list[Any] = program.run("points", "--json", *words, code=0).document["points"]
    return found


def test_disks_names_and_patterns_are_protected_and_no_point_is_taken(program: Program, make_disk: MakeDisk) -> None:
    for name in ("web1", "web2", "db"):
        program.run("item", "add", name, make_disk(f"{name}.img"), code=0)
    new = make_disk("mail.img")
    before = utc_now()
    done = program.run("protect", "web*", "db", "mail.img", "--policy", "default", "--json", code=0).document
    assert done["schema"] == "blockvault.protect/1"
    assert [item["item"] for item in done["items"]] == ["web1", "web2", "db", "mail"]
    for item in done["items"]:
        next_run = datetime.fromisoformat(item["next_run"])
        assert before < next_run < before + timedelta(days=1, minutes=31)
    assert protection(program) == dict.fromkeys(("db", "mail", "web1", "web2"), ("default", "protected"))
    assert points(program) == []
    ended = program.run("protect", new, "--policy", "default", code=0)  # again: nothing changes
    assert "item 'mail' is protected by policy 'default'; next run " in ended.out
    assert "stopped" not in program.run("item", "list", code=0).out


def test_where_one_cannot_be_protected_none_is(program: Program, make_disk: MakeDisk) -> None:
    program.run("item", "add", "good", make_disk("good.img"), code=0)
    gone = make_disk("gone.img")
    program.run("item", "add", "gone", gone, code=0)
    gone.unlink()
    text = program.folder / "notes.txt"
    text.write_text("not a disk\n" * 99)
    fresh = make_disk("fresh.img")
    before = protection(program)
    cases = [
        (("good", "nobody"), 13, "item.not-found"),
        (("good", "no*"), 13, "item.not-found"),
        (("good", "gone"), 15, "image.not-found"),
        (("good", fresh, "./missing.img"), 15, "image.not-found"),
        (("good", fresh, text), 15, "image.not-a-disk"),
        (("good", "gone", "nobody", text), 2, "protect.refused"),
    ]
    for words, code, kind in cases:
        ended = program.run("protect", *words, "--policy", "default", code=code)
        assert ended.kind == kind
        assert protection(program) == before
    told = program.run("protect", "gone", "nobody", text, "--policy", "default", code=2).err
    for problem in ("no disk image at", "no item 'nobody'", "notes.txt is no disk image"):
        assert problem in told
    assert program.run("protect", "good", "--policy", "nightly", code=13).kind == "policy.not-found"
    assert program.run("protect", "--policy", "default", code=2).kind == "input.usage"
    assert protection(program) == before


def test_a_dry_run_changes_nothing(program: Program, make_disk: MakeDisk) -> None:
    program.run("item", "add", "web", make_disk("web.img"), code=0)
    new = make_disk("new.img")
    plan = program.run("protect", "web", new, "--policy", "default", "--dry-run", "--json", code=0).document
    assert (plan["items"], plan["new"]) == (["web"], [{"item": "new", "disks": [str(new)]}])
    assert protection(program) == {"web": (None, "none")}


def test_a_disk_of_several_is_not_protected_alone(program: Program, make_disk: MakeDisk) -> None:
    first, second = make_disk("a.img"), make_disk("b.img")
    program.run("item", "add", "vm", first, second, code=0)
    ended = program.run("protect", first, "--policy", "default", code=2)
    assert (ended.kind, "of item 'vm'" in ended.err) == ("item.several-disks", True)
    copy = make_disk("sub/vm.img")  # its stem is taken
    program.run("protect", copy, "--policy", "default", code=0)
    assert set(protection(program)) == {"vm", "vm-2"}


def test_what_discovery_proposes_is_protected(program: Program, make_disk: MakeDisk) -> None:
    for name in ("one", "two"):
        make_disk(f"{name}.img")
    answer = program.run("item", "discover", program.folder, "--no-libvirt", "--json", code=0)
    file = program.folder / "found.json"
    file.write_text(answer.out)
    program.run("protect", "--from-discovery", file, "--policy", "default", code=0)
    assert protection(program) == dict.fromkeys(("one", "two"), ("default", "protected"))
    program.run("protect", "--from-discovery", file, "--policy", "default", code=0)  # known again by their disks
    assert len(protection(program)) == 2
    for text in ("", "[]", "{}", '{"schema": "blockvault.points/1"}', "[" * 9999, json.dumps({"schema": 1})):
        file.write_text(text)
        ended = program.run("protect", "--from-discovery", file, "--policy", "default", code=2)
        assert ended.kind == "protect.bad-discovery"
    two = [{"item": "x", "disks": [str(make_disk("x.img"))]}, {"item": "y", "disks": [str(program.folder / "x.img")]}]
    file.write_text(json.dumps({"schema": "blockvault.discovery/1", "proposals": two}))
    assert program.run("protect", "--from-discovery", file, "--policy", "default", code=2).kind == "item.disk-taken"


def test_unprotect_keeps_the_points_and_resume_goes_on(program: Program, disk: Path) -> None:
    program.run("protect", disk, "--policy", "default", code=0)
    program.run("snapshot", "disk", code=0)
    ended = program.run("unprotect", "disk", code=0)
    assert ended.out == "the protection of item 'disk' is stopped; all of its points are kept\n"
    assert protection(program) == {"disk": ("default", "stopped")}
    assert len(points(program)) == 1
    assert "default (stopped)" in program.run("item", "show", "disk", code=0).out
    program.run("snapshot", "disk", code=0)  # by hand it can be backed up all the same
    # The policy keeps one point a day: going on ends the other of today.
    assert program.run("resume", "disk", code=2).kind == "policy.would-expire"
    done = program.run("resume", "disk", "--yes", "--json", code=3).document
    assert (done["items"][0]["policy"], done["items"][0]["protection"]) == ("default", "protected")
    assert program.run("resume", "disk", code=2).kind == "item.not-stopped"


def test_unprotect_deletes_the_points_only_when_that_is_confirmed(program: Program, disk: Path) -> None:
    program.run("protect", disk, "--policy", "default", code=0)
    program.run("snapshot", "disk", code=0)
    program.run("snapshot", "disk", "--snapshot-only", code=0)
    plan = program.run("unprotect", "disk", "--delete-data", "--dry-run", "--json", code=0).document
    assert (plan["deleted_points"], plan["deleted_snapshots"], plan["dry_run"]) == (["1"], [2], True)
    assert program.run("unprotect", "disk", "--delete-data", code=2).kind == "input.needs-yes"
    for typed, code in (("no\n", 130), ("y\n", 130)):
        assert program.run_on_terminal("unprotect", "disk", "--delete-data", typed=typed)[0] == code
    assert (len(points(program)), protection(program)["disk"][1]) == (2, "protected")
    program.run("point", "hold", "1", code=0)
    assert program.run("unprotect", "disk", "--delete-data", "--yes", code=2).kind == "point.held"
    assert protection(program)["disk"][1] == "protected"
    program.run("point", "unhold", "1", code=0)
    code, shown = program.run_on_terminal("unprotect", "disk", "--delete-data", typed="disk\n")
    assert code == 0, shown
    assert points(program) == []
    assert protection(program) == {"disk": ("default", "stopped")}
    program.run("point", "undelete", "1", code=0)
    copy = program.folder / "copy"
    shutil.copyfile(disk, copy)
    program.run("restore", "--point", "1", "-o", "back.img", code=0)
    assert (program.folder / "back.img").read_bytes() == copy.read_bytes()


def test_points_under_an_earlier_name_are_deleted_too(program: Program, disk: Path) -> None:
    program.run("protect", disk, "--policy", "default", code=0)
    program.run("snapshot", "disk", code=0)
    program.run("item", "set", "disk", "--name", "renamed", code=0)
    program.run("snapshot", "renamed", code=0)
    program.run("unprotect", "renamed", "--delete-data", "--yes", code=0)
    assert points(program) == []


def test_an_item_that_never_was_protected(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    assert program.run("unprotect", "disk", code=2).kind == "item.not-protected"
    program.run("unprotect", "disk", "--delete-data", "--yes", code=0)
    assert points(program) == []
    assert protection(program) == {"disk": (None, "none")}


# --- time passes: a clock of the test's own ---


def test_while_protection_is_stopped_no_rule_expires_a_point_and_resuming_says_what_will(site: Site) -> None:
    start = utc_now() - timedelta(days=100)
    image = site.root / "disk.img"
    image.write_bytes(os.urandom(131072))
    vault = site.vault
    vault.add_item("web", [str(image)], now=start)
    vault.protect(vault.plan_protection(["web"], "default"), now=start)
    for minute in range(4):
        vault.snapshot(["web"], keep=False, now=start + timedelta(minutes=minute))
    vault.unprotect(vault.plan_unprotect(["web"]), now=start + timedelta(days=4))
    later = start + timedelta(days=90)
    assert [each.keep for each in vault.plan_prune(now=later).decisions] == [True] * 4
    with pytest.raises(InvalidInputError) as raised:
        vault.resume("web", now=later)
    assert raised.value.kind == "policy.would-expire"
    assert vault.item("web").protection is Protection.STOPPED
    vault.resume("web", confirmed=True, now=later)
    assert vault.item("web").protection is Protection.PROTECTED


def test_deleted_points_are_purged_when_their_days_are_over_and_then_the_item_can_go(site: Site) -> None:
    start = utc_now() - timedelta(days=30)
    image = site.root / "disk.img"
    image.write_bytes(os.urandom(65536))
    vault = site.vault
    vault.add_item("web", [str(image)], now=start)
    vault.snapshot(["web"], keep=False, now=start)
    vault.unprotect(vault.plan_unprotect(["web"], delete_data=True), now=start + timedelta(days=1))
    with pytest.raises(InvalidInputError, match="has points"):
        vault.remove_item("web")
    vault.prune(vault.plan_prune(now=start + timedelta(days=16)), confirmed=True)
    vault.remove_item("web")
    assert vault.items() == []
    with pytest.raises(NotFoundError):
        vault.item("web")


def test_an_item_that_is_removed_while_its_capture_begins_gets_no_point(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(os.urandom(65536))
    vault = site.vault
    found = vault.add_item("web", [str(image)])
    vault.set_item("web", comment="changed meanwhile")
    check_whole(vault._session, found)  # a change alone stands in nobody's way
    with vault._session.item_lock(found, "capture"), pytest.raises(ConflictError, match="is being captured"):
        vault.remove_item("web")
    vault.remove_item("web")
    with pytest.raises(NotFoundError) as raised:
        check_whole(vault._session, found)
    assert raised.value.kind == "item.removed"


def test_an_item_has_no_more_disks_than_its_record_has_room_for(site: Site) -> None:
    disks = []
    for number in range(257):
        path = site.root / f"d{number}.img"
        path.write_bytes(bytes(4096))
        disks.append(str(path))
    vault = site.vault
    for attempt in (lambda: vault.add_item("many", disks), lambda: vault.snapshot(disks, name="many", keep=False)):
        with pytest.raises(InvalidInputError) as raised:
            attempt()
        assert raised.value.kind == "item.too-many-disks"
    vault.add_item("many", disks[:256])
    with pytest.raises(InvalidInputError, match="257 disks"):
        vault.set_item("many", add_disks=disks[256:])
    site.lose_index()
    assert len(site.vault.item("many").disks) == 256
