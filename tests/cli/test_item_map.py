"""`item show` tells that an item's changed-block map is off, and a full point turns it on again."""

from __future__ import annotations

from pathlib import Path

from helpers.program import Program

from blockvault.ids import ItemId
from blockvault.store.audits import AuditBook, AuditState


def test_a_map_that_is_off_is_shown_and_comes_back(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    item = program.run("item", "show", "disk", "--json", code=0).document
    assert item["map_off"] is None
    assert "is scanned" not in program.run("item", "show", "disk").out
    (host,) = (program.state / "hosts").iterdir()
    AuditBook(str(host)).write(ItemId(item["id"]), AuditState(off="chunk 7 was not claimed"))
    assert program.run("item", "show", "disk", "--json").document["map_off"] == "chunk 7 was not claimed"
    shown = program.run("item", "set", "disk", "--comment", "x", code=0).out
    assert "off, every disk is scanned: chunk 7 was not claimed" in shown
    assert "blockvault snapshot disk --full" in shown
    program.run("snapshot", "disk", code=0)
    assert "chunk 7" in program.run("item", "show", "disk").out
    assert "is on again from the next point on" in program.run("snapshot", "disk", "--full", code=0).err
    assert program.run("item", "show", "disk", "--json").document["map_off"] is None
